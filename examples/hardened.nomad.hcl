# A service that may do no more than it needs: the preset `strict` and a little beyond it, no program of the operating
# system to execute, nobody but this machine to speak with, and limits beside those of `resources`.
#
# What the kernel's cgroups do needs their controllers and their BPF programs. Every machine that systemd has booted
# has them, a container often does not; there the driver refuses the job, and runs it with `-var cgroups=false`.
# Expect: the page on http://127.0.0.1:8183/, and `systemd-analyze security` finds little to reproach its unit with.
variable "artifacts" {
  type    = string
  default = "http://127.0.0.1:8180"
}

variable "cgroups" {
  type    = bool
  default = true
}

job "hardened" {
  type = "service"

  group "hardened" {
    network {
      port "http" {
        static = 8183
      }
    }

    task "hardened" {
      driver = "systemd"

      artifact {
        source = "${var.artifacts}/web"
      }

      artifact {
        source      = "${var.artifacts}/index.html"
        destination = "local/pages"
      }

      config {
        command  = "web"
        args     = ["${NOMAD_TASK_DIR}/pages", "127.0.0.1:${NOMAD_PORT_http}"]
        cap_drop = ["all"]

        sandbox {
          preset                    = "strict"
          restrict_address_families = ["", "AF_INET"]
          system_call_filter        = ["~@chown @ipc @setuid"]
        }

        files {
          no_exec_paths   = ["/usr", "/tmp", "/alloc", "/secrets"]
          read_only_paths = ["/local", "/alloc"]
        }

        network {
          ip_address_deny  = var.cgroups ? ["any"] : null
          ip_address_allow = var.cgroups ? ["localhost"] : null
        }

        limits {
          cpu_quota   = var.cgroups ? "50%" : null
          memory_high = var.cgroups ? "24M" : null
          tasks_max   = var.cgroups ? "16" : null
          nice        = 5
        }

        ulimit {
          core   = 0
          nofile = "64:128"
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
