;; A command component of WASI 0.3.
(component
  (core module $module (func (export "run") (result i32) (i32.const 0)))
  (core instance $core (instantiate $module))
  (type $run_type (func async (result (result))))
  (func $run (type $run_type) (canon lift (core func $core "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $command)))
