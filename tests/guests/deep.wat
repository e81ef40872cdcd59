;; Recurses until the stack is used up.
(module (memory (export "memory") 1)
  (func $down (param i32) (result i32) (i32.add (i32.const 1) (call $down (local.get 0))))
  (func (export "_start") (drop (call $down (i32.const 0)))))
