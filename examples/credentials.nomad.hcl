# A secret as one of systemd's credentials: a file in memory that the task's user can read and nobody else, which is in
# no environment and goes with the task. What lies in `secrets/` can be one. Under Nomad a `template` usually puts it
# there, out of Vault or out of Nomad's variables; here an `artifact` does, so that `nomad-driver-systemd run` runs the job, too:
#
#   template {
#     data        = "{{ with nomadVar \"nomad/jobs/credentials\" }}{{ .token }}{{ end }}"
#     destination = "secrets/token"
#   }
#
# Expect: how long the token is, and that other users have no right to it; exit status 0. (Its mode is 400, or 440 since
# systemd 257, where an access list names the task's user.)
variable "artifacts" {
  type    = string
  default = "http://127.0.0.1:8180"
}

job "credentials" {
  type = "batch"

  group "credentials" {
    task "credentials" {
      driver = "systemd"

      artifact {
        source      = "${var.artifacts}/token"
        destination = "secrets"
      }

      config {
        command = "/bin/sh"
        args = ["-c", <<-SCRIPT
          cd $CREDENTIALS_DIRECTORY && stat -c '%n: %s bytes' * &&
            test -z "$(find . -perm /o+rwx)" && echo "others have no right to it"
        SCRIPT
        ]

        credential {
          name = "token"
          path = "token"
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
