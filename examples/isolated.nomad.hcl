# A task without a network, which sees less of the files and may use less of the machine than others.
# (`network { mode = "none" }` in the group is Nomad's word for the same. It works with `nomad-driver-systemd run`, but Nomad 2.0.5 fails such
# an allocation itself, whatever its driver: "network already configured but not found in state".)
# Expect: `lo` as its only network device, an empty `/usr/share`, and its limits; exit status 0.
job "isolated" {
  type = "batch"

  group "isolated" {
    task "isolated" {
      driver = "systemd"

      config {
        command = "/bin/sh"
        args = ["-c", <<-SCRIPT
          echo "network devices: $(grep : /proc/net/dev | cut -d: -f1 | xargs)"
          echo "in /usr/share: $(ls /usr/share | wc -l) files"
          echo "in /scratch: $(df -h --output=size /scratch | tail -n 1 | xargs)"
          echo "open files: $(ulimit -n), niceness: $(nice)"
        SCRIPT
        ]

        network {
          private = true
        }

        files {
          temporary_file_system = ["/scratch:size=1M,mode=1777", "/usr/share:ro"]
          inaccessible_paths    = ["/etc/ssl"]
        }

        limits {
          nice        = 10
          runtime_max = "1m"
        }

        ulimit {
          nofile = 64
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
