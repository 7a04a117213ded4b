# A native command. It runs as a user of its own, sees the operating system read-only, and writes to /local.
# Expect: one line with the number of that user, exit status 0.
job "hello" {
  type = "batch"

  group "hello" {
    task "hello" {
      driver = "systemd"

      config {
        command = "/bin/sh"
        args    = ["-c", "echo \"Hello from $NOMAD_TASK_NAME, I am user $(id -u)\" | tee /local/greeting"]
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
