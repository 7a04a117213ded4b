//! A small init for one program: a process that starts the program, reaps what the program leaves behind, passes signals
//! on to it, and ends as it ends.
//!
//! Without it every process whose parent has ended becomes a child of systemd, which looks at each one's end. A task that
//! makes and leaves ten thousand of them in a second keeps systemd from everything else. The init is their new parent
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)), and of those that a program makes beside itself (`CLONE_PARENT`, clone(2)).
//!
//! ```text
//!  systemd ── init ── program ── its children
//!              ▲ └──────────────────┐ when their parents have ended
//!              └─ can make no more processes (filter.rs)
//! ```
//!
//! A program can end its init, as both run as the same user. Then the task has ended, and whoever started it ends the rest.

mod filter;
mod notify;
mod process;
mod program_filter;

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

pub use filter::instructions as filter_of_every_init;
pub use notify::Notify;
pub use process::end_like;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Exited(u8),
    /// By the signal of this number.
    Killed(i32),
}

/// Why a program does not run.
#[derive(Debug)]
pub enum Error {
    /// The init could not do its part, such as `make a process`.
    Init {
        /// What it could not do.
        step: &'static str,
        /// What the kernel said.
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

/// A program that runs, and its init, which is this process.
#[derive(Debug)]
pub struct Init {
    program: Pid,
    signals: SignalFd,
}

impl Init {
    /// Makes this process, which must have one thread, the init of a program.
    ///
    /// `become_program` is called in a process of a session of its own, with the signals blocked that this process had
    /// blocked; it shall make that process the program, and returns what the kernel said if it cannot.
    pub fn start(become_program: impl FnOnce() -> io::Result<Infallible>) -> Result<Self, Error> {
        step("become the parent of orphans", || {
            prctl::set_child_subreaper(true)?;
            // A filter of system calls may answer in the kernel's place, also that all is well.
            if prctl::get_child_subreaper()? { Ok(()) } else { Err(Errno::EPERM.into()) }
        })?;
        // A parent that ignores it is never told.
        step("hear of the end of processes", || {
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            #[expect(unsafe_code, reason = "handlers are dangerous; this is none")]
            // SAFETY: the default action calls nothing of ours.
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
        // Until the program can make the init do nothing any more (filter.rs).
        step("protect itself", || Ok(prctl::set_dumpable(false)?))?;
        let made = step("make a process", || {
            process::make(|| {
                // A filter may refuse it; then the program is in the session of the init.
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

    /// Lets others of the same user inspect this process: a driver that is not root reads of it what commands in the task
    /// shall have. To be called when nothing is open any more that the program may not have.
    pub fn allow_inspection(&self) {
        let _ = prctl::set_dumpable(true);
    }

    /// Waits for the program's end. Reaps everything else, passes on the signals that this process gets if `forward`, and
    /// what the program tells systemd.
    pub fn wait(&self, forward: bool, notify: Option<&Notify>) -> Ended {
        loop {
            if let Some(ended) = self.reap() {
                // What it said last.
                if let Some(notify) = notify {
                    notify.pass_on(self.program);
                }
                return ended;
            }
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(notify.map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN)));
            // An error is an interruption.
            let _ = poll(&mut fds, PollTimeout::NONE);
            while let Ok(Some(signal)) = self.signals.read_signal() {
                let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
                // What this process did itself, such as writing to a pipe that nobody reads, is not the program's affair.
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

    /// Waits until nothing of what the program left behind is there any more.
    pub fn reap_the_rest(&self) {
        loop {
            self.reap();
            if waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::ECHILD) {
                return;
            }
        }
    }

    /// Takes note of every child that has ended; how the program ended, if it is among them.
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
