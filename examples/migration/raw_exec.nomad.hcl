# From `raw_exec`: a task that deletes files of the host as root. Needs the plugin options
#
#   allow_root       = "confined"       # "host" with systemd before 257
#   allow_host_paths = ["/var/cache/apt/archives"]
#
# Expect: the names of packages that were downloaded more than 7 days ago, which are deleted; exit status 0.
job "raw_exec" {
  type = "batch"

  group "raw_exec" {
    task "cleanup" {
      driver = "systemd"
      user   = "root"

      config {
        command = "/usr/bin/find"
        args    = ["/var/cache/apt/archives", "-maxdepth", "1", "-mtime", "+7", "-name", "*.deb", "-delete", "-print"]

        files {
          bind_paths = ["/var/cache/apt/archives"]
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
