//! The interface between a process and the systemd that started it: sd_notify(3), sd_listen_fds(3),
//! sd_watchdog_enabled(3).

use shim_interface::Status;
use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends systemd a notification, for example `READY=1`. Failures are ignored, if there is no socket or its queue is
/// full: the exit code carries the essential information.
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

/// Sends systemd a status, in one line, which it shows with the unit. The guest cannot send a status, while it can
/// write anything to stderr.
pub fn notify_status(status: &Status) {
    notify(&line(&status.to_string()));
}

/// systemd ignores a longer message (NOTIFY_BUFFER_MAX is 4096 bytes). Names in the status may come from a guest.
const STATUS_MAX: usize = 2048;

fn line(text: &str) -> String {
    // systemd also takes what follows a carriage return for another message.
    let line = text.split(char::is_control).next().unwrap_or_default();
    format!("STATUS={}", &line[..line.floor_char_boundary(STATUS_MAX)])
}

/// The interval of watchdog notifications that systemd expects, if the watchdog is enabled.
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| is_us(pid, std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

/// Whether a PID from systemd is this process. For a process in a PID namespace of its own (`PrivatePIDs=`), systemd
/// uses the PID outside.
fn is_us(pid: u64, own: u32) -> bool {
    pid == u64::from(own) || own == 1
}

/// A socket that systemd has opened for us.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// The descriptor, which is now ours.
    pub fd: RawFd,
    /// The name, for example `http`; empty if the socket has none.
    pub name: String,
}

/// The sockets that systemd has opened for us, in systemd's order.
pub fn passed_sockets() -> Vec<Passed> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    passed(&variable("LISTEN_PID"), &variable("LISTEN_FDS"), &variable("LISTEN_FDNAMES"), std::process::id())
}

/// The first passed descriptor (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

fn passed(pid: &str, count: &str, names: &str, own: u32) -> Vec<Passed> {
    if !pid.parse().is_ok_and(|pid: u32| is_us(pid.into(), own)) {
        return Vec::new();
    }
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let fds = FIRST..FIRST.saturating_add(count.parse::<RawFd>().unwrap_or(0).clamp(0, 1024));
    fds.zip(names).map(|(fd, name)| Passed { fd, name }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::holds_for;
    use proptest::prelude::*;

    #[test]
    fn fuzz_a_status_is_one_assignment_whatever_a_guest_calls_itself() {
        let text = prop_oneof!["(trap: |\n|\r|READY=1|MAINPID=1|é|\\x00|x{1000}){0,5}", any::<String>()];
        holds_for(&text, |text| {
            let sent = line(&text);
            let status = sent.strip_prefix("STATUS=").ok_or_else(|| TestCaseError::fail(sent.clone()))?;
            prop_assert!(
                !status.contains(char::is_control) && status.len() <= STATUS_MAX && text.starts_with(status)
            );
            Ok(())
        });
    }

    #[test]
    fn sockets_are_ours_by_our_number_and_in_a_pid_namespace_of_our_own_by_any() {
        assert_eq!(passed("7", "1", "http", 7).len(), 1);
        assert_eq!(passed("7", "1", "http", 8).len(), 0);
        assert_eq!(passed("7", "1", "http", 1).len(), 1);
        assert_eq!(passed("", "1", "http", 1).len(), 0);
    }

    #[test]
    fn fuzz_passed_sockets_are_as_many_as_is_said_and_none_of_ours() {
        let number = || prop_oneof!["-?[0-9]{0,12}", any::<String>()];
        holds_for(&(number(), number(), ".{0,20}", any::<u32>()), |(pid, count, names, own)| {
            let sockets = passed(&pid, &count, &names, own);
            prop_assert!(sockets.is_empty() || pid.parse() == Ok(own) || own == 1);
            for ours in [pid, own.to_string()] {
                let sockets = passed(&ours, &count, &names, own);
                let expected = count.parse::<i64>().unwrap_or(0).clamp(0, 1024);
                prop_assert!(sockets.is_empty() || i64::try_from(sockets.len()) == Ok(expected));
                prop_assert!(sockets.iter().zip(FIRST..).all(|(socket, fd)| socket.fd == fd));
            }
            Ok(())
        });
    }

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
