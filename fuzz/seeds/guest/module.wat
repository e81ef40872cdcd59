(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory (export "memory") 1 4)
  (func (export "_start") (call 0 (i32.const 3))) (data (i32.const 0) "abc"))
