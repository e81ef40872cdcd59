;; Writes the name of the folder that it is given (descriptor 3) and the file `message.json` in it to stdout.
;; Exits 0; 11 if there is no such file, 12 if it can be written to, 13 if another file can be made.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $fd_prestat_dir_name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "message.json")
  (data (i32.const 32) "out")
  ;; Opens a path in the folder, with these flags and rights; 100: descriptor.
  (func $open (param $path i32) (param $length i32) (param $oflags i32) (param $rights i64) (result i32)
    (call $path_open (i32.const 3) (i32.const 0) (local.get $path) (local.get $length) (local.get $oflags)
      (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 100)))
  ;; 0: iovec
  (func $write (param $from i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $from))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (if (call $open (i32.const 16) (i32.const 12) (i32.const 0) (i64.const 2)) (then (call $proc_exit (i32.const 11))))
    (if (i32.eqz (call $open (i32.const 32) (i32.const 3) (i32.const 1) (i64.const 64)))
      (then (call $proc_exit (i32.const 13))))
    (if (call $fd_prestat_dir_name (i32.const 3) (i32.const 200) (i32.const 3)) (then unreachable))
    (call $write (i32.const 200) (i32.const 3))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 65536))
    (if (call $fd_read (i32.load (i32.const 100)) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
    (call $write (i32.const 1024) (i32.load (i32.const 8)))
    ;; Rights: write (64).
    (if (i32.eqz (call $open (i32.const 16) (i32.const 12) (i32.const 0) (i64.const 64)))
      (then (call $proc_exit (i32.const 12))))))
