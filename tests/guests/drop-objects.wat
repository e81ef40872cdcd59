;; Makes two million objects and keeps none of them.
(module
  (memory (export "memory") 1)
  (type $object (struct (field i64) (field i64)))
  (global $last (mut (ref null $object)) (ref.null $object))
  (func (export "_start") (local $count i32)
    (loop $again
      (global.set $last (struct.new $object (i64.const 1) (i64.const 2)))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $count) (i32.const 2000000))))))
