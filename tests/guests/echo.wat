;; Writes its arguments, then its variables, each followed by a zero byte.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  ;; The text is put at 65536; at 0 stands where it is, and at 4 how long it is.
  (data (i32.const 0) "\00\00\01\00")
  (func $write
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))))
  (func (export "_start")
    (drop (call $args_sizes_get (i32.const 8) (i32.const 4)))
    (drop (call $args_get (i32.const 16) (i32.const 65536)))
    (call $write)
    (drop (call $environ_sizes_get (i32.const 8) (i32.const 4)))
    (drop (call $environ_get (i32.const 16) (i32.const 65536)))
    (call $write)))
