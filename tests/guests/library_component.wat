;; A component with nothing to start.
(component
  (core module $module (func (export "compute")))
  (core instance $core (instantiate $module))
  (func $compute (canon lift (core func $core "compute")))
  (export "compute" (func $compute)))
