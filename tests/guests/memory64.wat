;; Has a memory of 64-bit addresses beside the one that WASI uses, and grows it forever.
(module
  (memory (export "memory") 1)
  (memory $large i64 1)
  (func (export "_start")
    (loop $again
      (if (i64.eq (memory.grow $large (i64.const 16)) (i64.const -1)) (then (unreachable)))
      (i64.store $large (i64.sub (i64.mul (memory.size $large) (i64.const 65536)) (i64.const 8)) (i64.const 1))
      (br $again))))
