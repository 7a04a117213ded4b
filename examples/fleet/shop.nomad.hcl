# A served guest on nodes that can run it, checked by Nomad, and replaced without a failed request: a stopped allocation
# leaves the service first, answers for `shutdown_delay`, and then finishes its open requests.
# Expect: two instances on different nodes, each with a passing check.
#
#   nomad job run -var module=https://artifacts.example.com/serve.wasm shop.nomad.hcl

variable "module" {
  description = "Address of the module, as in an `artifact`."
}

job "shop" {
  type = "service"

  # The attributes of the driver: nomad node status -self -verbose | grep driver.systemd
  constraint {
    attribute = "${attr.driver.systemd.wasm}"
    value     = "true"
  }

  constraint {
    distinct_hosts = true
  }

  update {
    max_parallel     = 1
    min_healthy_time = "1s"
  }

  group "shop" {
    count          = 2
    shutdown_delay = "3s"

    network {
      port "http" {}
    }

    service {
      name     = "shop"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "main" {
      driver       = "systemd"
      kill_timeout = "10s"

      artifact {
        source      = var.module
        destination = "local/shop.wasm"
        mode        = "file"
      }

      config {
        command = "shop.wasm"

        wasm {
          serve {
            port = "http"
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
