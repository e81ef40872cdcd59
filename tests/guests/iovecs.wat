;; Hands over an array of 20 million empty buffers to write. Exits with the error number that it gets.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2600)
  (func (export "_start")
    (call $proc_exit (call $fd_write (i32.const 1) (i32.const 64) (i32.const 20000000) (i32.const 8)))))
