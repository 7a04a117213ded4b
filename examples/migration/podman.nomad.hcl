# From `podman`: a batch job in a scratch directory, with data of the host. Needs the plugin option
# `allow_host_paths = ["/var/lib/dpkg/info:ro"]`.
# Expect: the number of files of all Debian packages, and the address of a host that only the task knows; both are in
# the journal too. Exit status 0.
job "podman" {
  type = "batch"

  group "podman" {
    task "index" {
      driver = "systemd"

      config {
        command     = "/bin/sh"
        args        = ["-c", "sort -u /data/*.list >index && wc -l index && getent hosts registry"]
        work_dir    = "/work"
        extra_hosts = ["registry:10.0.0.5"]
        cap_drop    = ["all"]

        files {
          temporary_file_system = ["/work:size=64M,mode=1777"]
          bind_read_only_paths  = ["/var/lib/dpkg/info:/data"]
        }

        ulimit {
          nofile = "256:512"
        }

        logging {
          driver = "both"
        }
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
