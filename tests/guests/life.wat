;; Appends its first argument to the file `life`, waits until there is a file `go`, appends its second argument, and ends
;; with the exit code that its third argument says in decimal digits. All files lie in its first directory.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 2048) "life")
  (data (i32.const 2052) "go")
  ;; A wait of 20 ms: the monotonic clock at 16, the time at 24.
  (data (i32.const 2120) "\01\00\00\00\00\00\00\00\00\2d\31\01\00\00\00\00")
  ;; Its pointers to the arguments stand at 0, their text from 1024 on, what to write at 2064, what comes back at 2072.
  (func $append (param $text i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (loop $more
      (local.set $end (i32.add (local.get $end) (i32.const 1)))
      (br_if $more (i32.load8_u (local.get $end))))
    (i32.store (i32.const 2064) (local.get $text))
    (i32.store (i32.const 2068) (i32.sub (local.get $end) (local.get $text)))
    (if (call $path_open
          (i32.const 3) (i32.const 0) (i32.const 2048) (i32.const 4)
          (i32.const 1) ;; create
          (i64.const 64) (i64.const 0) ;; the right to write
          (i32.const 1) ;; append
          (i32.const 2072))
      (then unreachable))
    (if (call $fd_write (i32.load (i32.const 2072)) (i32.const 2064) (i32.const 1) (i32.const 2076))
      (then unreachable)))
  (func (export "_start")
    (local $at i32) (local $code i32)
    (drop (call $args_get (i32.const 0) (i32.const 1024)))
    (call $append (i32.load (i32.const 4)))
    (block $gone
      (loop $wait
        (br_if $gone
          (i32.eqz
            (call $path_filestat_get
              (i32.const 3) (i32.const 0) (i32.const 2052) (i32.const 2) (i32.const 2192))))
        (drop (call $poll_oneoff (i32.const 2104) (i32.const 2152) (i32.const 1) (i32.const 2072)))
        (br $wait)))
    (call $append (i32.load (i32.const 8)))
    (local.set $at (i32.load (i32.const 12)))
    (block $end
      (loop $digit
        (br_if $end (i32.eqz (i32.load8_u (local.get $at))))
        (local.set $code
          (i32.add
            (i32.mul (local.get $code) (i32.const 10))
            (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digit)))
    (call $proc_exit (local.get $code))))
