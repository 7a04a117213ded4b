# From `exec`: a script that a template writes. The paths in `args` are relative to the root directory, as with `exec`,
# so `work_dir` is "/". No plugin option is needed.
# Expect: the number of certificates that expire soon, exit status 0.
job "exec" {
  type = "batch"

  group "exec" {
    task "certificates" {
      driver = "systemd"

      template {
        destination = "local/expiry.sh"
        data        = <<-SCRIPT
          for file in /etc/ssl/certs/*.pem; do
            openssl x509 -in "$file" -noout -checkend 7776000 >/dev/null || echo "$file"
          done >"$1"
          echo "$(wc -l <"$1") certificates expire within 90 days"
        SCRIPT
      }

      config {
        command  = "/bin/sh"
        args     = ["local/expiry.sh", "alloc/data/expiring.txt"]
        work_dir = "/"
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
