# From `exec2`: a task that reads a directory of the host outside of the default paths. Needs the plugin option
# `allow_host_paths = ["/var/lib/dpkg:ro"]`.
# Expect: the name and version of each Debian package of the node, exit status 0.
job "exec2" {
  type = "batch"

  group "exec2" {
    task "inventory" {
      driver = "systemd"

      config {
        command = "dpkg-query"
        args    = ["--show"]

        files {
          bind_read_only_paths = ["/var/lib/dpkg"]
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
