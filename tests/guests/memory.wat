;; Takes memory, 1 MiB at a time, until there is no more; then crashes, as a program does that can't allocate.
(module (memory (export "memory") 1)
  (func (export "_start")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable))
