;; Writes 1 MiB at a time to a file in its folder (descriptor 3) that it has removed, forever, and ignores errors.
;; Exits 10 if there is no folder.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 32)
  (data (i32.const 0) "\00\00\01\00\00\00\10\00")
  (data (i32.const 16) "out")
  (func (export "_start")
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 3) (i32.const 1)
          (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 100))
      (then (call $proc_exit (i32.const 10))))
    (drop (call $path_unlink_file (i32.const 3) (i32.const 16) (i32.const 3)))
    (loop $more
      (drop (call $fd_write (i32.load (i32.const 100)) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $more))))
