;; Makes 20 folders with names of 250 bytes in its folder (descriptor 3), each in the one before it, so that the path of the
;; last one is longer than a path may be. Writes 1 MiB at a time to a file there, forever, and ignores errors. If there is
;; anything on stdin, it removes the file first. Exits 10 if there is no folder, 11 if something can't be made.
(module
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 32)
  (data (i32.const 0) "\00\00\01\00\00\00\10\00")
  (data (i32.const 16) "out")
  (func (export "_start") (local $folder i32) (local $left i32)
    (if (call $fd_prestat_get (i32.const 3) (i32.const 200)) (then (call $proc_exit (i32.const 10))))
    (memory.fill (i32.const 1024) (i32.const 100) (i32.const 250))
    (local.set $folder (i32.const 3))
    (local.set $left (i32.const 20))
    (loop $deeper
      (if (call $path_create_directory (local.get $folder) (i32.const 1024) (i32.const 250))
        (then (call $proc_exit (i32.const 11))))
      (if (call $path_open (local.get $folder) (i32.const 0) (i32.const 1024) (i32.const 250) (i32.const 2)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100))
        (then (call $proc_exit (i32.const 11))))
      (local.set $folder (i32.load (i32.const 100)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $deeper (local.get $left)))
    (if (call $path_open (local.get $folder) (i32.const 0) (i32.const 16) (i32.const 3) (i32.const 1)
          (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 100))
      (then (call $proc_exit (i32.const 11))))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.load (i32.const 8))
      (then (drop (call $path_unlink_file (local.get $folder) (i32.const 16) (i32.const 3)))))
    (loop $more
      (drop (call $fd_write (i32.load (i32.const 100)) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $more))))
