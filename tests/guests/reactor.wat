;; A WASI reactor: something for a host that calls into it.
(module (memory (export "memory") 1) (func (export "_initialize")) (func (export "handle")))
