;; In the folder that it is given (descriptor 3): makes `big` and sets its size to 1 GiB.
;; Exits 0 if it could, 10 if the file can't be made, 20 if its size can't be set.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "big")
  (func (export "_start")
    ;; oflags: create (1); rights: write (64) and set the size (4194304)
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 3) (i32.const 1)
          (i64.const 4194368) (i64.const 0) (i32.const 0) (i32.const 100))
      (then (call $proc_exit (i32.const 10))))
    (if (call $set_size (i32.load (i32.const 100)) (i64.const 1073741824))
      (then (call $proc_exit (i32.const 20))))))
