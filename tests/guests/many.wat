;; Makes empty files in its folder (descriptor 3), forever, and ignores errors. Exits 10 if there is no folder.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $count i32)
    (if (call $fd_prestat_get (i32.const 3) (i32.const 200)) (then (call $proc_exit (i32.const 10))))
    (loop $more
      ;; The name is the count in letters from A to P, its lowest digit first.
      (i64.store (i32.const 16) (i64.const 0x4141414141414141))
      (i32.store8 (i32.const 16) (i32.add (i32.const 65) (i32.and (local.get $count) (i32.const 15))))
      (i32.store8 (i32.const 17)
        (i32.add (i32.const 65) (i32.and (i32.shr_u (local.get $count) (i32.const 4)) (i32.const 15))))
      (i32.store8 (i32.const 18)
        (i32.add (i32.const 65) (i32.and (i32.shr_u (local.get $count) (i32.const 8)) (i32.const 15))))
      (i32.store8 (i32.const 19)
        (i32.add (i32.const 65) (i32.and (i32.shr_u (local.get $count) (i32.const 12)) (i32.const 15))))
      (i32.store8 (i32.const 20)
        (i32.add (i32.const 65) (i32.and (i32.shr_u (local.get $count) (i32.const 16)) (i32.const 15))))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 8) (i32.const 1)
            (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 100)))
        (then (drop (call $fd_close (i32.load (i32.const 100))))))
      (br $more))))
