;; Keeps each exception that it catches, in a table that grows.
(module
  (memory (export "memory") 1)
  (tag $e)
  (table $kept 0 exnref)
  (func (export "_start")
    (loop $again
      (if (i32.eq (table.grow $kept
          (block $caught (result exnref) (try_table (catch_all_ref $caught) (throw $e)) (unreachable))
          (i32.const 1)) (i32.const -1))
        (then (unreachable)))
      (br $again))))
