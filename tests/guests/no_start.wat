;; Neither a command nor a library in the sense of WASI.
(module (func (export "compute")))
