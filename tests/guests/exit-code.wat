;; A component that asks for the exit code 6, as WASI has it since 0.2.12.
(component
  (import "wasi:cli/exit@0.2.12" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $exit_with_code (canon lower (func $exit "exit-with-code")))
  (core module $program
    (import "host" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) (call $exit (i32.const 6)) (i32.const 0)))
  (core instance $instance (instantiate $program
    (with "host" (instance (export "exit" (func $exit_with_code))))))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $interface (export "run" (func $run)))
  (export "wasi:cli/run@0.2.12" (instance $interface)))
