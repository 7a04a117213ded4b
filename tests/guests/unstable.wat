;; A module for WASI 0.0 that ends with the exit code 142.
(module
  (import "wasi_unstable" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $proc_exit (i32.const 142))))
