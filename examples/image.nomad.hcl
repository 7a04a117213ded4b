# A service whose whole file system is a disk image, fetched by `artifact`: one program and one page, and nothing of the
# host. The image is read-only; `/local`, `/alloc` and `/secrets` are mounted on it, so it has directories of these
# names, and `usr etc proc sys dev run tmp var/tmp`. `mke2fs -t ext4 -d DIRECTORY root.img 8M` makes one.
#
# The kernel reads what the job brings, so the operator must allow it in the plugin's configuration, with
# `allow_host_paths = ["local"]`; and it needs loop devices.
# Expect: the page of the image on http://127.0.0.1:8182/ for as long as the job runs.
variable "artifacts" {
  type    = string
  default = "http://127.0.0.1:8180"
}

job "image" {
  type = "service"

  group "image" {
    network {
      port "http" {
        static = 8182
      }
    }

    task "image" {
      driver = "systemd"

      artifact {
        source = "${var.artifacts}/root.img"
      }

      config {
        command = "/usr/bin/web"
        args    = ["/srv", "127.0.0.1:${NOMAD_PORT_http}"]

        files {
          root_image = "root.img"
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
