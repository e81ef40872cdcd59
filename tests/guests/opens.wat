;; Opens the file that its stdin names in the folder that it is given (descriptor 3). Writes "opening" to stderr before.
;; Exits 10 if there is no folder, 11 if the file can't be opened.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\00\04\00\00\00\01\00\00")
  (data (i32.const 16) "\20\00\00\00\08\00\00\00")
  (data (i32.const 32) "opening\n")
  ;; 0: iovec of 256 bytes at 1024, 16: iovec of the word
  (func (export "_start")
    (if (call $fd_prestat_get (i32.const 3) (i32.const 200)) (then (call $proc_exit (i32.const 10))))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $fd_write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 12)))
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.load (i32.const 8)) (i32.const 0)
          (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100))
      (then (call $proc_exit (i32.const 11))))))
