;; Reads beyond the end of its memory, two calls deep.
(module $app
  (memory (export "memory") 1)
  (func $reckless (result i32) (i32.load (i32.const 0x7fffffff)))
  (func $main (export "_start") (drop (call $reckless))))
