;; Creates the file `made` in its first directory, and ends with the error number: 0, or 69 (read-only) or the like.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "made")
  (func (export "_start")
    (call $proc_exit
      (call $path_open
        (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4)
        (i32.const 1) ;; create
        (i64.const 64) (i64.const 0) ;; the right to write
        (i32.const 0) (i32.const 16)))))
