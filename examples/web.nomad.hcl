# A native HTTP service. Nomad fetches the program and a page from a web server and runs the program from `local/`.
# Expect: the page on http://127.0.0.1:8181/ for as long as the job runs.
variable "artifacts" {
  type    = string
  default = "http://127.0.0.1:8180"
}

job "web" {
  type = "service"

  group "web" {
    network {
      port "http" {
        static = 8181
      }
    }

    task "web" {
      driver = "systemd"

      artifact {
        source = "${var.artifacts}/web"
      }

      artifact {
        source      = "${var.artifacts}/index.html"
        destination = "local/pages"
      }

      config {
        command = "web"
        args    = ["${NOMAD_TASK_DIR}/pages", "127.0.0.1:${NOMAD_PORT_http}"]
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
