# A server of HTTP that is a WebAssembly component (wasi:http). systemd opens the port and passes it on, so the guest
# has no network, and the process around it has none either; Nomad takes it for started when it can answer. Each request
# has an instance of its own, and a second's time.
# Expect: a greeting on http://127.0.0.1:8184/ for as long as the job runs.
variable "artifacts" {
  type    = string
  default = "http://127.0.0.1:8180"
}

job "serve" {
  type = "service"

  group "serve" {
    network {
      port "http" {
        static = 8184
      }
    }

    task "serve" {
      driver = "systemd"

      artifact {
        source = "${var.artifacts}/serve.wasm"
      }

      config {
        command = "serve.wasm"

        wasm {
          dirs       = []
          env        = []
          max_memory = "16M"

          serve {
            port    = "http"
            timeout = "1s"
          }
        }
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
