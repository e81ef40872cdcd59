;; Asks for an object of 2 GiB.
(module
  (memory (export "memory") 1)
  (type $bytes (array (mut i8)))
  (func (export "_start") (drop (array.new_default $bytes (i32.const 2147483647)))))
