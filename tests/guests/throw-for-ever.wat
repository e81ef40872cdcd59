;; Throws and catches, forever.
(module
  (memory (export "memory") 1)
  (tag $e)
  (func $throw (throw $e))
  (func (export "_start")
    (loop $again
      (block $caught (try_table (catch $e $caught) (call $throw)))
      (br $again))))
