//! A small init for one program. It starts the program, reaps the processes that the program leaves behind, forwards
//! signals to it, and exits as the program exits.
//!
//! Without an init, every process whose parent has ended becomes a child of systemd, which handles each exit. A task
//! that creates and abandons ten thousand processes per second blocks systemd. The init becomes their parent instead
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)), and the parent of the siblings that a program creates (`CLONE_PARENT`,
//! clone(2)).
//!
//! ```text
//!  systemd ── init ── program ── its children
//!              ▲ └──────────────────┐ when their parents have ended
//!              └─ can make no more processes (filter.rs)
//! ```
//!
//! A program can end its init, as both run as the same user. Then the task has ended, and whoever started it ends the
//! remaining processes.

mod calls;
mod filter;
mod notify;
mod process;
mod program_filter;
mod verdicts;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, setsid};

pub use calls::Calls;
pub use filter::{Instruction, of_command, stay_one_process};
pub use notify::Notify;
pub use process::end_like;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The program exited with this exit code.
    Exited(u8),
    /// The program was killed by this signal.
    Killed(i32),
}

/// Why a program is not running.
#[derive(Debug)]
pub enum Error {
    /// A step of the init failed, such as `make a process`.
    Init {
        /// The step that failed.
        step: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The program cannot be executed.
    Program(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init { step, .. } => write!(to, "the task's init could not {step}"),
            Self::Program(_) => write!(to, "the program cannot be executed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Init { source, .. } | Self::Program(source) => Some(source),
        }
    }
}

fn step<T>(step: &'static str, act: impl FnOnce() -> io::Result<T>) -> Result<T, Error> {
    act().map_err(|source| Error::Init { step, source })
}

/// A running program and its init, which is this process.
#[derive(Debug)]
pub struct Init {
    program: Pid,
    signals: SignalFd,
}

impl Init {
    /// Makes this process the init of a program. The process must be single-threaded.
    ///
    /// With `calls`, this process and all that it makes are confined to them.
    ///
    /// `become_program` is called in a process in a session of its own, with the signals blocked that this process had
    /// blocked. It must turn that process into the program, and returns the kernel's error if it cannot.
    pub fn start(
        calls: Option<Calls>,
        become_program: impl FnOnce() -> io::Result<Infallible>,
    ) -> Result<Self, Error> {
        step("filter system calls", || calls.map_or(Ok(()), filter::allow_only))?;
        step("become the parent of orphans", || {
            prctl::set_child_subreaper(true)?;
            // A system call filter may answer in the kernel's place and report success.
            if prctl::get_child_subreaper()? { Ok(()) } else { Err(Errno::EPERM.into()) }
        })?;
        // A parent that ignores SIGCHLD gets no notice.
        step("hear of the end of processes", || {
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            #[expect(unsafe_code, reason = "handlers are dangerous; this is none")]
            // SAFETY: the default action calls no code of ours.
            unsafe { signal::sigaction(Signal::SIGCHLD, &default) }?;
            Ok(())
        })?;
        let blocked_before = step("take over the signals", || {
            let mut before = SigSet::empty();
            signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
            Ok(before)
        })?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = step("take over the signals", || Ok(SignalFd::with_flags(&SigSet::all(), flags)?))?;
        // Until the filter has restricted what the program can make the init do (filter.rs).
        step("protect itself", || Ok(prctl::set_dumpable(false)?))?;
        let made = step("make a process", || {
            process::make(|| {
                // A filter may reject the call; then the program is in the session of the init.
                let _ = setsid();
                signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked_before), None)?;
                program_filter::confine()?;
                become_program()
            })
        })?;
        let program = made.map_err(Error::Program)?;
        let confined = step("give up the right to make processes", filter::make_no_more_processes);
        if let Err(error) = confined {
            let _ = signal::kill(program, Signal::SIGKILL);
            return Err(error);
        }
        Ok(Self { program, signals })
    }

    /// Lets other processes of the same user inspect this process: an unprivileged driver reads from it what commands
    /// in the task should get. Call it only when no descriptor is open that the program may not have.
    pub fn allow_inspection(&self) {
        let _ = prctl::set_dumpable(true);
    }

    /// Waits until the program exits. Meanwhile reaps all other children, forwards the signals that this process gets
    /// if `forward` is set, and forwards the program's messages to systemd.
    pub fn wait(&self, forward: bool, notify: Option<&Notify>) -> Ended {
        loop {
            if let Some(ended) = self.reap() {
                // The program's last messages.
                if let Some(notify) = notify {
                    notify.pass_on(self.program);
                }
                return ended;
            }
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(notify.map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN)));
            // The only error is an interruption.
            let _ = poll(&mut fds, PollTimeout::NONE);
            while let Ok(Some(signal)) = self.signals.read_signal() {
                let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
                // A signal that this process caused itself, for example by writing to a pipe without a reader, does not
                // concern the program.
                let is_from_others = signal.ssi_pid != std::process::id();
                if forward && is_from_others && number != libc::SIGCHLD {
                    process::send(self.program, number);
                }
            }
            if let Some(notify) = notify {
                notify.pass_on(self.program);
            }
        }
    }

    /// Waits until no process that the program left behind is running any longer.
    pub fn reap_the_rest(&self) {
        loop {
            self.reap();
            if waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::ECHILD) {
                return;
            }
        }
    }

    /// Reaps every child that has ended; returns how the program ended, if it is among them.
    fn reap(&self) -> Option<Ended> {
        let mut ended = None;
        while let Some((process, how)) = process::reap_one() {
            if process == self.program {
                ended = Some(how);
            }
        }
        ended
    }
}

/// Held by tests that open descriptors, or count them.
#[cfg(test)]
static DESCRIPTORS: std::sync::Mutex<()> = std::sync::Mutex::new(());
