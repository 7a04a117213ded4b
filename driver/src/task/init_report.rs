//! What the init of a program reports before the start is complete: that the program runs, or why it cannot be executed
//! (`wasm-shim init`, shim/src/init.rs). systemd only sees that the init runs.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::systemd::{self, MainExit, Stream, Unit, UnitName};

/// The signal for a system call that a filter denies (signal(7)).
const SIGSYS: i32 = 31;
/// The exit status of an init that reports an error, and executes nothing (env(1); shim/src/init.rs).
const NOT_RUN: i32 = 126;
/// systemd's exit status for a program that cannot be executed (systemd.exec(5), "Process Exit Codes").
const EXEC: i32 = 203;
/// Time for the init to report, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Maximum length of a line, in bytes.
const LINE_MAX: usize = 512;

/// The driver's end of the connection to the init.
#[derive(Debug)]
pub(super) struct InitReport(UnixStream);

impl InitReport {
    /// Connects the two ends. The other is the unit's stdin: a socket, since systemd 262 accepts only what can be read
    /// from.
    pub(super) fn new() -> io::Result<(Self, Stream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self(UnixStream::from_std(ours)?), Stream::Fd(theirs.into())))
    }

    /// Why the program of a started unit does not run. Returns `None` if it runs, or has run.
    pub(super) async fn failure_of(mut self, unit: &Unit, program: &str) -> Option<systemd::Error> {
        let line = tokio::select! {
            biased;
            line = self.read() => line,
            _ = unit.main_ended() => self.read_now(),
            // The program may have stopped its init.
            () = tokio::time::sleep(DEADLINE) => {
                let words = format!("the task's init has not reported within {} s that the program runs", DEADLINE.as_secs());
                return Some(systemd::Error::Init { unit: unit.name().clone(), words });
            }
        };
        // The program may have ended its init before it reported; a system call filter may end it even earlier.
        // The connection may end before systemd has reported the init's end.
        if line.is_empty() {
            let _ = tokio::time::timeout(DEADLINE, unit.main_ended()).await;
        }
        if line.is_empty() && unit.state().end_of_main() == Some(MainExit::Status(NOT_RUN)) {
            let words =
                "the task's init could not do its part, perhaps for a filter of system calls".to_owned();
            return Some(systemd::Error::Init { unit: unit.name().clone(), words });
        }
        if line.is_empty() && unit.state().ended_by() == Some(SIGSYS) {
            let words = "a filter of system calls has ended the task's init (SIGSYS)".to_owned();
            return Some(systemd::Error::Init { unit: unit.name().clone(), words });
        }
        failure(&line, unit.name(), program)
    }

    /// Why the program of a unit that failed to start does not run.
    pub(super) fn failure_so_far(mut self, unit: &UnitName, program: &str) -> Option<systemd::Error> {
        failure(&self.read_now(), unit, program)
    }

    async fn read(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') && line.len() < LINE_MAX {
            match self.0.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) => break,
            }
        }
        line
    }

    /// Asks the kernel, since tokio may not have been notified yet.
    fn read_now(&mut self) -> Vec<u8> {
        let mut line = [0; LINE_MAX];
        let count = rustix::io::read(&self.0, &mut line).unwrap_or_default();
        line[..count].to_vec()
    }
}

fn failure(line: &[u8], unit: &UnitName, program: &str) -> Option<systemd::Error> {
    let line = String::from_utf8_lossy(line);
    let text = line.lines().next().filter(|text| !text.is_empty())?;
    Some(match text.parse() {
        Ok(number) => {
            let error = Errno::from_raw(number);
            let why = if error == Errno::EPERM { " (by a filter of system calls?)" } else { "" };
            let words = format!("{program} cannot be executed: {}{why}", error.desc());
            systemd::Error::Step { unit: unit.clone(), status: EXEC, words }
        }
        Err(_) => systemd::Error::Init { unit: unit.clone(), words: text.to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_failure_and_an_empty_line_or_none_is_not() {
        let words = |line: &str| {
            failure(line.as_bytes(), &UnitName::known("a.service"), "/x").map(|error| error.to_string())
        };
        assert_eq!(words("\n"), None);
        assert_eq!(words(""), None);
        let failure = words("2\n").unwrap();
        assert!(failure.contains("/x cannot be executed: No such file or directory (203)"), "{failure}");
        let failure = words("the task's init could not make a process: Operation not permitted\n").unwrap();
        assert!(failure.ends_with("could not make a process: Operation not permitted"), "{failure}");
    }
}
