# A WebAssembly module (WASI preview 1), fetched by `artifact`. The driver knows it by its content, compiles it once
# for this node, and runs it in a unit of its own.
# Expect: its argument and its environment, exit status 0.
variable "artifacts" {
  type    = string
  default = "http://127.0.0.1:8180"
}

job "module" {
  type = "batch"

  group "module" {
    task "module" {
      driver = "systemd"

      artifact {
        source = "${var.artifacts}/echo.wasm"
      }

      config {
        command = "echo.wasm"
        args    = ["Hello from a module"]
      }

      env {
        GREETING = "good morning"
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
