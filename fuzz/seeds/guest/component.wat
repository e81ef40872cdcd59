(component (import "wasi:cli/stderr@0.2.0" (instance)) (core module (memory 3) (func (export "_start"))))
