;; Imports a function that preview 1 does not have.
(module (import "wasi_snapshot_preview1" "sock_connect" (func (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))
