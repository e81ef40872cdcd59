;; Asks for 128 MiB of randomness at once.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") 2100)
  (func (export "_start") (drop (call $random_get (i32.const 0) (i32.const 134217728)))))
