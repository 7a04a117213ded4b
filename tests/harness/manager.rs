//! systemd's role towards one process: receives its notifications (sd_notify(3)), and passes sockets
//! (sd_listen_fds(3)).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};

use crate::{Desk, SOON};

/// Listens to one process.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    /// Uses a socket of its own; one directory has room for many.
    pub fn new(desk: &Desk) -> Self {
        let mut paths = (0..99).map(|number| PathBuf::from(desk.path(&format!("notify-{number}"))));
        let path = paths.find(|path| !path.exists()).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, path }
    }

    /// Passes the socket's path to `command`.
    pub fn listen_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", &self.path)
    }

    /// The next notification.
    #[track_caller]
    pub fn hears(&self) -> String {
        let mut word = [0; 4096];
        let length = self.socket.recv(&mut word).unwrap_or_else(|error| panic!("heard nothing: {error}"));
        String::from_utf8(word[..length].to_vec()).unwrap()
    }

    /// The next notification that contains `part`.
    #[track_caller]
    pub fn hears_of(&self, part: &str) -> String {
        loop {
            let word = self.hears();
            if word.contains(part) {
                return word;
            }
        }
    }

    /// Whether the process, which has ended, has sent nothing more.
    pub fn hears_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        self.socket.recv(&mut [0]).is_err()
    }
}

/// Starts the program of `command` with `sockets`, each under its name, as systemd would: a shell, which the process
/// replaces, knows its PID.
pub fn with_sockets(command: &Command, sockets: Vec<(&str, OwnedFd)>) -> Command {
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    let mut shell = Command::new("/bin/sh");
    shell.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    shell
        .args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let mappings =
        sockets.into_iter().zip(3..).map(|((_, fd), at)| FdMapping { parent_fd: fd, child_fd: at });
    shell.fd_mappings(mappings.collect()).unwrap();
    shell
}
