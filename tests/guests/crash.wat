;; Calls a function that calls a function that traps. Their names are in the name section, one of them as Rust writes names.
(module
  (memory (export "memory") 1)
  (func $_ZN4task5parse17h0123456789abcdefE unreachable)
  (func $middle (call $_ZN4task5parse17h0123456789abcdefE))
  (func $main (export "_start") (call $middle)))
