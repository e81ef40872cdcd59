;; Makes 19,000 folders in its folder (descriptor 3), each in the one before it. Exits 10 if there is no folder, 11 if one
;; can't be made. Writes `nested` to stderr, and then, if there is anything on stdin, runs forever.
(module
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\80\00\00\00\07\00\00\00")
  (data (i32.const 16) "d")
  (data (i32.const 128) "nested\n")
  (func (export "_start") (local $folder i32) (local $left i32)
    (if (call $fd_prestat_get (i32.const 3) (i32.const 200)) (then (call $proc_exit (i32.const 10))))
    (local.set $folder (i32.const 3))
    (local.set $left (i32.const 19000))
    (loop $more
      (if (call $path_create_directory (local.get $folder) (i32.const 16) (i32.const 1))
        (then (call $proc_exit (i32.const 11))))
      (if (call $path_open (local.get $folder) (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 2)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100))
        (then (call $proc_exit (i32.const 11))))
      (if (i32.ne (local.get $folder) (i32.const 3)) (then (drop (call $fd_close (local.get $folder)))))
      (local.set $folder (i32.load (i32.const 100)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left)))
    (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.load (i32.const 8)) (then (loop $for_ever (br $for_ever))))))
