;; Keeps each object that it makes, in a list.
(module
  (memory (export "memory") 1)
  (type $list (struct (field (ref null $list)) (field i64)))
  (global $kept (mut (ref null $list)) (ref.null $list))
  (func (export "_start")
    (loop $again
      (global.set $kept (struct.new $list (global.get $kept) (i64.const 1)))
      (br $again))))
