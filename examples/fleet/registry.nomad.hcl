# A module from an OCI registry, such as `oras push` stores it. Nomad's `artifact` does not speak to
# registries, so a task before the main one fetches the module with oras (https://oras.land) into the directory that both
# tasks see. `reference` with a digest (…@sha256:…) names the content.
# Expect: the output of the module; exit status 0.
#
#   nomad job run -var reference=registry.example.com/hello:1 -var file=hello.wasm registry.nomad.hcl

variable "reference" {
  description = "The artifact in the registry."
}

variable "file" {
  description = "The name of the file in the artifact."
}

variable "oras" {
  description = "The program: installed on the nodes, or fetched by an `artifact` of the task `fetch`."
  default     = "/usr/bin/oras"
}

variable "options" {
  description = "Options of `oras pull`, such as --plain-http or --registry-config."
  type        = list(string)
  default     = []
}

job "registry" {
  type = "batch"

  group "registry" {
    task "fetch" {
      driver = "systemd"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = var.oras
        args    = concat(["pull", "--no-tty", "--output", "/alloc/data"], var.options, [var.reference])
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }

    task "main" {
      driver = "systemd"

      config {
        command = "/alloc/data/${var.file}"
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
