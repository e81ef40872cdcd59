;; Computes forever before `_start` is called.
(module (memory (export "memory") 1)
  (func $begin (loop $for_ever (br $for_ever)))
  (start $begin)
  (func (export "_start")))
