;; A command component (WASI 0.2): prints a line on stdout, and ends with the exit code 7.
(component
  ;; What it asks of its host: a stream to write to, where stdout is, and an exit code.
  (import "wasi:io/error@0.2.0" (instance $error
    (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output-stream (sub resource)))
    (alias outer 1 $error-type (type $outer-error))
    (export "error" (type $stream-error-cause (eq $outer-error)))
    (type $owned-error (own $stream-error-cause))
    (type $stream-error-def (variant (case "last-operation-failed" $owned-error) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error-def)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output-stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $stream (type $outer-stream))
    (export "output-stream" (type $stdout-stream (eq $outer-stream)))
    (export "get-stdout" (func (result (own $stdout-stream))))))
  (import "wasi:cli/exit@0.2.12" (instance $exit
    (export "exit-with-code" (func (param "status-code" u8)))))

  (core module $memory-module (memory (export "memory") 1))
  (core instance $memory (instantiate $memory-module))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory"))))
  (core func $exit-with-code (canon lower (func $exit "exit-with-code")))

  (core module $program
    (import "host" "memory" (memory 1))
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "exit" (func $exit (param i32)))
    (data (i32.const 1024) "Hello from a component\n")
    (func (export "run") (result i32)
      (call $write (call $get-stdout) (i32.const 1024) (i32.const 23) (i32.const 0))
      (call $exit (i32.const 7))
      (i32.const 0)))
  (core instance $host
    (export "memory" (memory $memory "memory"))
    (export "get-stdout" (func $get-stdout))
    (export "write" (func $write))
    (export "exit" (func $exit-with-code)))
  (core instance $running (instantiate $program (with "host" (instance $host))))
  (func $run (result (result)) (canon lift (core func $running "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
