# A WebAssembly component (WASI preview 2), fetched by `artifact`. It prints a line and ends with a status of its own.
# Expect: one line, exit status 7.
variable "artifacts" {
  type    = string
  default = "http://127.0.0.1:8180"
}

job "component" {
  type = "batch"

  group "component" {
    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "component" {
      driver = "systemd"

      artifact {
        source = "${var.artifacts}/greet.wasm"
      }

      config {
        command = "greet.wasm"
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
