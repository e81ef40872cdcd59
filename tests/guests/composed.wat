;; A component composed of two, each with a memory of its own: "hello" goes from one to the other and back, by code that
;; the engine makes. Exits 0 if it came back whole.
(component
  (type $in (func (param "s" string) (result string)))
  (component $callee
    (core module $m
      (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func (export "f") (param i32 i32) (result i32)
        (i32.store (i32.const 0) (local.get 0)) (i32.store (i32.const 4) (local.get 1)) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func (export "f") (param "s" string) (result string)
      (canon lift (core func $i "f") (memory $i "memory") (realloc (func $i "realloc")))))
  (component $caller
    (import "f" (func $f (param "s" string) (result string)))
    (core module $libc
      (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 2048)))
    (core instance $libc (instantiate $libc))
    (core func $low (canon lower (func $f) (memory $libc "memory") (realloc (func $libc "realloc"))))
    (core module $m
      (import "l" "f" (func $f (param i32 i32 i32)))
      (import "l" "memory" (memory 1))
      (data (i32.const 16) "hello")
      (func (export "run") (result i32)
        (call $f (i32.const 16) (i32.const 5) (i32.const 64))
        ;; 0 is ok: the text came back whole
        (i32.ne (i32.load (i32.load (i32.const 64))) (i32.const 0x6c6c6568))))
    (core instance $i (instantiate $m (with "l" (instance (export "f" (func $low)) (export "memory" (memory $libc "memory"))))))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $r (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $r)))
  (instance $callee (instantiate $callee))
  (instance $caller (instantiate $caller (with "f" (func $callee "f"))))
  (export "wasi:cli/run@0.2.0" (instance $caller "wasi:cli/run@0.2.0")))
