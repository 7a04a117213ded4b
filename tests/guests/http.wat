;; A component that wants to serve HTTP.
(component
  (core module $module (func (export "handle")))
  (core instance $core (instantiate $module))
  (func $handle (canon lift (core func $core "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
