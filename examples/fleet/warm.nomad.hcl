# Compiles a WebAssembly module on every node with the driver, ahead of the jobs that run it. A node that joins later runs the
# job, too. The task runs the command of the package as the user of the agent, so it is one for the driver raw_exec.
# Expect: on each node one line with the path of the compiled code; exit status 0.
#
#   nomad job run -var module=https://artifacts.example.com/shop.wasm -var 'options=["--serve"]' warm.nomad.hcl

variable "module" {
  description = "Address of the module, as in the `artifact` of the jobs; ?checksum=sha256:… is checked."
}

variable "options" {
  description = "The options of the jobs that change the code, such as --serve and --fuel."
  type        = list(string)
  default     = []
}

variable "program" {
  default = "/usr/bin/nomad-driver-systemd"
}

job "warm" {
  type = "sysbatch"

  constraint {
    attribute = "${attr.driver.systemd.wasm}"
    value     = "true"
  }

  group "warm" {
    task "main" {
      driver = "raw_exec"

      config {
        command = var.program
        args    = concat(["warm"], var.options, [var.module])
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
