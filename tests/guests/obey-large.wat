;; Reads stdin. Writes it to stdout if it is a single byte, and 1 MiB otherwise. Exits 0.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 18)
  ;; 0: iovec (address, length), 8: count, 65536: buffer
  (func (export "_start") (local $left i32)
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 65536))
    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
    (local.set $left (select (i32.const 1) (i32.const 16) (i32.eq (i32.load (i32.const 8)) (i32.const 1))))
    (if (i32.eq (local.get $left) (i32.const 1)) (then (i32.store (i32.const 4) (i32.const 1))))
    (loop $again
      (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))))
