# Installs a package of the driver on every node with the driver, and restarts the agents, each at a time of its own within
# `spread` seconds. Tasks run on; the restarted agent finds them again. The same job with the former package rolls back.
# The task installs packages as root, so it is one for the driver raw_exec.
# Expect: on each node the lines of dpkg, and the time of the restart; exit status 0.
#
#   nomad job run -var 'package=https://artifacts.example.com/nomad-driver-systemd_0.2.0_amd64.deb?checksum=sha256:…' upgrade.nomad.hcl

variable "package" {
  description = "Address of the package, as in an `artifact`; write its checksum, since root installs it."
}

variable "install" {
  description = "The command that installs the file behind it: `rpm --upgrade --oldpackage` where packages are .rpm."
  default     = "dpkg --install"
}

variable "restart" {
  default = "systemctl restart nomad.service"
}

variable "spread" {
  type    = number
  default = 300
}

job "upgrade" {
  type = "sysbatch"

  constraint {
    attribute = "${attr.driver.systemd}"
    value     = "1"
  }

  group "upgrade" {
    # A package that cannot be installed is looked at by a person.
    restart {
      attempts = 0
      mode     = "fail"
    }

    task "main" {
      driver = "raw_exec"

      artifact {
        source      = var.package
        destination = "local/package"
        options {
          archive = "false"
        }
      }

      # The agent is restarted by systemd when this task has ended: it would not wait for its own child.
      config {
        command = "/bin/sh"
        args = ["-ec", <<-EOT
          ${var.install} local/package/*
          after=$(shuf --input-range=5-$((5 + ${var.spread})) --head-count=1)
          systemd-run --quiet --collect --on-active="$after" ${var.restart}
          echo "the agent is restarted in $after seconds"
        EOT
        ]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
