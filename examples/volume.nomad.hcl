# A host volume, mounted twice: once to write to, once read-only. The task runs as a user of the host, since what it
# writes stays when its allocation is gone. The operator names the volume, and what it is:
#
#   client { host_volume "notes" { path = "/srv/notes" } }     in the agent's configuration
#   --volume notes=/srv/notes                                   with `nomad-driver-systemd run`
#
# Expect: the note, read where it cannot be written, exit status 0; afterwards it is in the volume.
job "volume" {
  type = "batch"

  group "volume" {
    volume "notes" {
      type   = "host"
      source = "notes"
    }

    volume "fixed" {
      type      = "host"
      source    = "notes"
      read_only = true
    }

    task "volume" {
      driver = "systemd"
      user   = "nobody"

      volume_mount {
        volume      = "notes"
        destination = "/notes"
      }

      volume_mount {
        volume      = "fixed"
        destination = "/fixed"
        read_only   = true
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"a note by $(id -un)\" > /notes/note; cat /fixed/note; touch /fixed/x || echo cannot be written"]
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
