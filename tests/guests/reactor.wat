;; A library: it can be initialised and called, and has nothing to start.
(module
  (func (export "_initialize"))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))
