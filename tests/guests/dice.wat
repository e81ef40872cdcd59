;; Writes what differs between two runs: 64 random bytes, both clocks, and a NaN that the processor made.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\00\04\00\00\60\00\00\00")
  (func (export "_start")
    (drop (call $random_get (i32.const 1024) (i32.const 64)))
    (drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 1088)))
    (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1096)))
    (f64.store (i32.const 1104) (f64.div (f64.const 0) (f64.load (i32.const 2048))))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
