;; In the folder that it is given (descriptor 3): reads `in`, copies it to stdout, and tries to make `out`.
;; Exits 0 if it could write, 10 if there is no folder, 11 if `in` can't be read, 12 if `out` can't be made,
;; 13 if it got out of the folder by `..`.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "in")
  (data (i32.const 32) "out")
  (data (i32.const 48) "../secret")
  ;; 100: descriptor, 0: iovec
  (func (export "_start")
    (if (call $fd_prestat_get (i32.const 3) (i32.const 200)) (then (call $proc_exit (i32.const 10))))
    (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 48) (i32.const 9) (i32.const 0)
          (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100)))
      (then (call $proc_exit (i32.const 13))))
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 2) (i32.const 0)
          (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100))
      (then (call $proc_exit (i32.const 11))))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 1024))
    (drop (call $fd_read (i32.load (i32.const 100)) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    ;; oflags: create (1); rights: write (64)
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 3) (i32.const 1)
          (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 100))
      (then (call $proc_exit (i32.const 12))))))
