;; A command component that ends with the exit code 200.
(component
  (import "wasi:cli/exit@0.2.12" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $lowered (canon lower (func $exit "exit-with-code")))
  (core module $module
    (import "exit" "with-code" (func $exit (param i32)))
    (func (export "run") (result i32) (call $exit (i32.const 200)) (i32.const 0)))
  (core instance $host (export "with-code" (func $lowered)))
  (core instance $core (instantiate $module (with "exit" (instance $host))))
  (func $run (result (result)) (canon lift (core func $core "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.12" (instance $command)))
