//! What the init of a program reports before the start is complete: that the program runs, or why it cannot be executed
//! (`wasm-shim init`, shim/src/init.rs). systemd only sees that the init runs.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::systemd::{self, MainExit, Stream, Unit, UnitName};

/// The signal for a system call that a filter denies (signal(7)).
const SIGSYS: i32 = 31;
/// Signals that end an init that has no memory to run in (signal(7)): SIGBUS and SIGSEGV.
const OF_MEMORY: [i32; 2] = [7, 11];
/// The exit status of an init that reports an error, and executes nothing (env(1); shim/src/init.rs).
const NOT_RUN: i32 = 126;
/// systemd's exit status for a program that cannot be executed (systemd.exec(5), "Process Exit Codes").
const EXEC: i32 = 203;
/// Time for the init to report, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Maximum length of a line, in bytes.
const LINE_MAX: usize = 512;

/// The driver's end of the pipe from the init. A pipe carries no descriptors: whoever gets the init's end cannot send a
/// socket that lingers, which would block the thread that closes it.
#[derive(Debug)]
pub(super) struct InitReport(pipe::Receiver);

impl InitReport {
    /// Makes the pipe. The other end is the unit's stdin, opened for reading as well: since systemd 262 stdin must be
    /// readable.
    pub(super) fn new() -> io::Result<(Self, Stream)> {
        let (reader, writer) = io::pipe()?;
        let end = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let both = rustix::fs::open(end, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok((Self(pipe::Receiver::from_owned_fd(reader.into())?), Stream::Fd(both)))
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
        if line.is_empty() { without_report(unit) } else { failure(&line, unit.name(), program) }
    }

    /// Why the program of a unit that failed to start does not run.
    pub(super) fn failure_so_far(mut self, unit: &UnitName, program: &str) -> Option<systemd::Error> {
        failure(&self.read_now(), unit, program)
    }

    /// Waits until the init has reported, or is gone.
    pub(super) async fn arrived(&self) {
        let _ = self.0.readable().await;
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

/// Why an init ended that has reported nothing. An init whose program runs has reported that.
fn without_report(unit: &Unit) -> Option<systemd::Error> {
    let (state, unit) = (unit.state(), unit.name().clone());
    let init = |words: &str| Some(systemd::Error::Init { unit: unit.clone(), words: words.to_owned() });
    match (state.end_of_main(), state.ended_by()) {
        (_, Some(SIGSYS)) => init("a filter of system calls has ended the task's init (SIGSYS)"),
        (_, Some(signal)) if OF_MEMORY.contains(&signal) => init(
            "the task's init has no memory to run in, or wasm-shim is damaged (does `wasm-shim --version` answer on the node?)",
        ),
        (Some(MainExit::Status(NOT_RUN)), _) => {
            init("the task's init could not do its part, perhaps for a filter of system calls")
        }
        // systemd before 257 does not report it otherwise, and a filter may keep the step from the journal.
        (Some(MainExit::Status(status)), _) => {
            let words = format!("systemd failed at step {}", systemd::exit_step(status)?);
            Some(systemd::Error::Step { unit, status, words })
        }
        _ => None,
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
