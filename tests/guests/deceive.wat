;; Writes to stderr, as one line, what could make a terminal show something else: a carriage return, a zero byte, a
;; bidirectional override, a colour and a control character of two bytes. Exits 0.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\21\00\00\00")
  (data (i32.const 16) "evil\0dgood\00nul\e2\80\aertl\1b[31mred\c2\9bcsi\0a")
  (func (export "_start")
    (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))
