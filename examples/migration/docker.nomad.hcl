# From `docker`: an HTTP service with its program and configuration mounted into an image that only has the interpreter.
# The interpreter is that of the host. No plugin option is needed; `perl` on the node. The
# check needs a Nomad agent.
# Expect: a greeting on the port that `nomad alloc status` shows, and a passing check.
job "docker" {
  type = "service"

  group "docker" {
    network {
      port "http" {}
    }

    service {
      provider = "nomad"
      name     = "greeter"
      port     = "http"

      check {
        type     = "http"
        path     = "/"
        interval = "5s"
        timeout  = "1s"
      }
    }

    task "greeter" {
      driver      = "systemd"
      kill_signal = "SIGTERM"

      template {
        destination = "local/app.conf"
        data        = "{{ env \"NOMAD_PORT_http\" }} Good morning"
      }

      template {
        destination = "local/server.pl"
        data        = <<-SCRIPT
          use IO::Socket::INET;
          open(my $conf, '<', '/etc/app/app.conf') or die "app.conf: $!";
          my ($port, $greeting) = split(' ', <$conf>, 2);
          my $http = IO::Socket::INET->new(LocalPort => $port, Listen => 16, ReuseAddr => 1) or die "listen: $@";
          while (my $client = $http->accept) {
            while (<$client>) { last if /^\r?$/ }
            print $client "HTTP/1.0 200 OK\r\n\r\n$greeting\n";
          }
        SCRIPT
      }

      config {
        command  = "perl"
        args     = ["/app/server.pl"]
        cap_drop = ["all"]

        files {
          bind_paths           = ["local/server.pl:/app/server.pl"]
          bind_read_only_paths = ["local/app.conf:/etc/app/app.conf"]
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
