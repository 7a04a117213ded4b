;; A command component that traps.
(component
  (core module $app (func $give_up (export "run") (result i32) unreachable))
  (core instance $core (instantiate $app))
  (func $run (result (result)) (canon lift (core func $core "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
