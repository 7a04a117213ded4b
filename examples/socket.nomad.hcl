# A service on a port that only root may bind, although it runs as a user of its own: systemd opens the socket before
# the task starts, and passes it on as file 3 (sd_listen_fds(3)). Nomad takes the task for started when it says so
# itself, and it is killed when it no longer says that it is well (sd_notify(3)). The operator's plugin configuration must
# allow such messages, and before systemd 255 such sockets: `allow_properties = ["@confining", "ListenStream",
# "NotifyAccess"]`.
# Expect: a greeting from a user that is not root, on http://127.0.0.1:80/, for as long as the job runs.
job "socket" {
  type = "service"

  group "socket" {
    network {
      port "http" {
        static = 80
      }
    }

    task "socket" {
      driver = "systemd"

      config {
        command = "/usr/bin/perl"
        args = ["-e", <<-SCRIPT
          use IO::Select;
          use IO::Socket::UNIX;
          $SIG{PIPE} = 'IGNORE';
          $/ = "\r\n\r\n";
          my $http = IO::Socket->new_from_fd(3, 'r+');
          my $systemd = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $ENV{NOTIFY_SOCKET});
          $systemd->send('READY=1');
          while (1) {
            $systemd->send('WATCHDOG=1');
            next unless IO::Select->new($http)->can_read(1);
            my $client = $http->accept;
            my $request = <$client>;
            print $client "HTTP/1.0 200 OK\r\n\r\nHello from user number $<\n";
          }
        SCRIPT
        ]

        socket {
          name = "http"
          port = "http"
        }

        notify {
          ready_within = "10s"
          watchdog     = "30s"
        }
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
