;; A command component that returns an error.
(component
  (core module $module (func (export "run") (result i32) (i32.const 1)))
  (core instance $core (instantiate $module))
  (func $run (result (result)) (canon lift (core func $core "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.3" (instance $command)))
