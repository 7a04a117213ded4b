//! What a process and the systemd that started it say to each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells it something, example `READY=1`. Nothing happens if nobody wants to hear of us, nor if they are too busy: what
/// must be known is in the exit code.
pub fn notify(state: &str) {
    let tell = |socket: OsString| {
        let sender = UnixDatagram::unbound()?;
        sender.set_nonblocking(true)?;
        match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => sender.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => sender.connect(&socket)?,
        }
        sender.send(state.as_bytes())
    };
    let _: Option<io::Result<usize>> = std::env::var_os("NOTIFY_SOCKET").map(tell);
}

/// Tells it how we are, in one line, which it shows beside the unit. Nobody else can say something there, while a guest
/// can write to stderr what it likes.
pub fn notify_status(text: &str) {
    /// Of a longer message systemd reads nothing (NOTIFY_BUFFER_MAX is 4096 bytes). Names in it may be a guest's.
    const MAX: usize = 2048;
    let line = text.lines().next().unwrap_or_default();
    notify(&format!("STATUS={}", &line[..line.floor_char_boundary(MAX)]));
}

/// How often it wants to hear that we are alive, if it does.
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

/// A socket that it has opened for us.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// Its descriptor, which is ours from now on.
    pub fd: RawFd,
    /// Its name, example `http`; empty if it has none.
    pub name: String,
}

/// The sockets that it has opened for us, in its order.
pub fn passed_sockets() -> Vec<Passed> {
    let said = |name| std::env::var(name).unwrap_or_default();
    passed(&said("LISTEN_PID"), &said("LISTEN_FDS"), &said("LISTEN_FDNAMES"), std::process::id())
}

/// The first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

fn passed(pid: &str, count: &str, names: &str, own: u32) -> Vec<Passed> {
    if pid.parse() != Ok(own) {
        return Vec::new();
    }
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let fds = FIRST..FIRST.saturating_add(count.parse::<RawFd>().unwrap_or(0).clamp(0, 1024));
    fds.zip(names).map(|(fd, name)| Passed { fd, name }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_sockets_are_ours_alone_and_keep_their_names() {
        let socket = |fd, name: &str| Passed { fd, name: name.into() };
        assert_eq!(passed("7", "2", "http:admin", 7), [socket(3, "http"), socket(4, "admin")]);
        assert_eq!(passed("7", "2", "", 7), [socket(3, ""), socket(4, "")]);
        for (pid, count) in [("8", "1"), ("", ""), ("7", "0"), ("7", "-1"), ("7", "x")] {
            assert_eq!(passed(pid, count, "", 7), [], "{pid} {count}");
        }
    }
}
