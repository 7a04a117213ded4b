//! The process that the unit of a task starts in place of the task's program: it becomes the program, or the program's
//! init.
//!
//! ```text
//! wasm-shim become [--carried PREFIX] -- PATH ARGV0 [ARGUMENT…]
//! wasm-shim init   [--carried PREFIX] [--notify SOCKET|all] [--same DIRECTORY]… [--calls PRESET] [--inspectable] [--report]
//!                  -- PATH ARGV0 [ARGUMENT…]
//! ```
//!
//! - `--carried`: variables whose names begin with this prefix get their original names back (carried.rs).
//! - `--notify`: the program's notifications at SOCKET, a path that only the task can reach, are forwarded to systemd; with
//!   `all`, every process of the task uses systemd's socket. Without the option, the environment contains no socket.
//! - `--same`: the program is not run if the directory at a path is not the one that the driver has prepared
//!   ([`shim_interface::Same`]).
//! - `--calls`: the program may make the system calls of this preset of the sandbox, and no others ([`task_init::Calls`]).
//! - `--inspectable`: other processes of the user, such as an unprivileged driver, may inspect the init.
//! - `--report`: stdin is a connection, to which the init writes one line: empty if the program runs, the errno if it
//!   cannot be executed, or a message if a step of the init failed. The program gets an empty stdin.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{close, dup2_stdin, execve};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use task_init::{Calls, Ended, Error, Init, Notify, end_like};

use shim_interface::Same;

use crate::carried::restored;

/// The exit codes of env(1): the program cannot be executed, or does not exist.
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;
/// The first descriptor that systemd passes to a unit in addition to its streams (sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;
/// Variables with the PID of the process for which other variables are intended (sd_listen_fds(3),
/// sd_watchdog_enabled(3), systemd.exec(5)).
const MEANT_FOR: [&str; 3] = ["LISTEN_PID", "WATCHDOG_PID", "SYSTEMD_EXEC_PID"];
/// The same with the unique id of the process in place of its PID (systemd 260).
const MEANT_FOR_ID: &str = "LISTEN_PIDFDID";

/// Becomes the program of the command line, or its init, if the command line requests that; otherwise returns none. If
/// it returns an exit code, the program has ended, or stderr contains the reason why it was not started.
///
/// Call this before anything about this process is changed, since the program inherits it.
pub fn begin() -> Option<u8> {
    let mut args = std::env::args_os().skip(1);
    let verb = args.next()?;
    if verb != "become" && verb != "init" {
        return None;
    }
    let Some(program) = Program::read(args) else {
        return Some(complain("a program and its name are needed, as the driver gives them"));
    };
    Some(if verb == "init" { program.run() } else { program.replace_this_process() })
}

#[derive(Default)]
struct Program {
    carried: Option<OsString>,
    notify: Option<OsString>,
    same: Vec<Same>,
    calls: Option<Calls>,
    report: bool,
    inspectable: bool,
    path: OsString,
    argv: Vec<OsString>,
}

impl Program {
    fn read(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut program = Self::default();
        loop {
            match args.next()?.to_str()? {
                "--carried" => program.carried = Some(args.next()?),
                "--notify" => program.notify = Some(args.next()?),
                "--same" => program.same.push(Same::parse(args.next()?.to_str()?).ok()?),
                "--calls" => program.calls = Some(args.next()?.to_str()?.parse().ok()?),
                "--report" => program.report = true,
                "--inspectable" => program.inspectable = true,
                "--" => break,
                _ => return None,
            }
        }
        program.path = args.next()?;
        program.argv = args.collect();
        (!program.argv.is_empty()).then_some(program)
    }

    fn replace_this_process(&self) -> u8 {
        let Err(error) = self.execute(&self.variables(None, None));
        self.cannot_be_executed(error)
    }

    fn run(&self) -> u8 {
        // Before other descriptors are opened.
        let passed = passed();
        let mut report = None;
        if self.report {
            match take_stdin() {
                Ok(pipe) => report = Some(pipe),
                Err(error) => {
                    return complain(&format!("the driver's connection at stdin: {}", error.desc()));
                }
            }
        }
        let notify = self.same.iter().try_for_each(Same::check).and_then(|()| {
            self.notify().map_err(|error| {
                format!("a socket for the program's NOTIFY_SOCKET: {}", number_of(&error).desc())
            })
        });
        let notify = match notify {
            Ok(notify) => notify,
            Err(why) => {
                if let Some(mut report) = report {
                    let _ = report.write_all(format!("{why}\n").as_bytes());
                }
                return complain(&why);
            }
        };
        let before = std::process::id();
        let become_program = || {
            let address = notify.as_ref().map(Notify::address);
            Ok(self.execute(&self.variables(address, Some(before)))?)
        };
        let started = Init::start(self.calls, become_program);
        if let Some(mut report) = report {
            let line = match &started {
                Ok(_) => "\n".to_owned(),
                Err(Error::Program(error)) => format!("{}\n", number_of(error) as i32),
                Err(error @ Error::Init { source, .. }) => format!("{error}: {}\n", number_of(source).desc()),
            };
            // If the driver has exited meanwhile, it still gets the exit code.
            let _ = report.write_all(line.as_bytes());
        }
        let init = match started {
            Ok(init) => init,
            Err(Error::Program(error)) => return self.cannot_be_executed(number_of(&error)),
            Err(ref error @ Error::Init { ref source, .. }) => {
                return complain(&format!("{error}: {}", number_of(source).desc()));
            }
        };
        // The descriptors belong to the program: what the program closes must be closed.
        for number in passed {
            let _ = close(number);
        }
        if self.inspectable {
            init.allow_inspection();
        }
        let ended: Ended = init.wait(true, notify.as_ref());
        end_like(ended)
    }

    /// The socket for a program that is the only process that may send notifications for the unit.
    fn notify(&self) -> io::Result<Option<Notify>> {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|socket| socket.into_string().ok());
        match (socket, &self.notify) {
            (Some(socket), Some(here)) if here != "all" => Notify::open(&socket, here.as_ref()).map(Some),
            _ => Ok(None),
        }
    }

    /// The program's environment: the environment of this process, without the variables that only concern this
    /// process, whose PID was `before`.
    fn variables(&self, notify: Option<&str>, before: Option<u32>) -> Vec<CString> {
        let ours = before.map(|number| OsString::from(number.to_string()));
        let program = OsString::from(std::process::id().to_string());
        // In a PID namespace the init is PID 1, but systemd has set the PID outside the namespace.
        let is_number = |value: &OsString| value.to_str().is_some_and(|value| value.parse::<u32>().is_ok());
        let is_ours =
            |value: &OsString| Some(value) == ours.as_ref() || before == Some(1) && is_number(value);
        let adapted = |(name, value): (OsString, OsString)| {
            if before.is_some() {
                if MEANT_FOR.iter().any(|variable| name == *variable) && is_ours(&value) {
                    return Some((name, program.clone()));
                }
                if name == MEANT_FOR_ID {
                    return None;
                }
                if name == "NOTIFY_SOCKET" {
                    self.notify.as_ref()?;
                    return Some((name, notify.map_or(value, OsString::from)));
                }
            }
            Some((name, value))
        };
        let variables = std::env::vars_os().filter_map(adapted);
        variables.filter_map(|variable| text(restored(variable, self.carried.as_deref()))).collect()
    }

    fn execute(&self, variables: &[CString]) -> nix::Result<Infallible> {
        // No string from the kernel contains a zero byte.
        let argv: Vec<CString> = self.argv.iter().cloned().filter_map(text).collect();
        let path = text(self.path.clone()).ok_or(Errno::EINVAL)?;
        execve(&path, &argv, variables)
    }

    fn cannot_be_executed(&self, error: Errno) -> u8 {
        complain(&format!("{} cannot be executed: {}", self.path.to_string_lossy(), error.desc()));
        if error == Errno::ENOENT { NOT_FOUND } else { NOT_RUN }
    }
}

fn number_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The descriptors that systemd has passed: the ones that are open, whatever value a job's own variable has.
fn passed() -> Vec<RawFd> {
    const MOST: RawFd = 1 << 16;
    let count = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok());
    let count = count.filter(|count| (0..=MOST).contains(count)).unwrap_or_default();
    let is_open = |number: &RawFd| {
        #[expect(unsafe_code, reason = "descriptors are numbers here")]
        // SAFETY: the call only asks the kernel whether there is such a descriptor.
        let flags = unsafe { libc::fcntl(*number, libc::F_GETFD) };
        flags >= 0
    };
    (FIRST_PASSED..FIRST_PASSED + count).filter(is_open).collect()
}

/// The connection at stdin. An empty stdin takes its place.
fn take_stdin() -> nix::Result<File> {
    let pipe = fcntl(io::stdin(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_PASSED))?;
    #[expect(unsafe_code, reason = "descriptors are numbers here")]
    // SAFETY: the kernel has just created the descriptor, and nothing else knows it.
    let pipe = unsafe { OwnedFd::from_raw_fd(pipe) };
    let empty = match open("/dev/null", OFlag::O_RDWR, Mode::empty()) {
        Ok(null) => null,
        // The job's own root directory may not have the file.
        Err(_) => nix::unistd::pipe()?.0,
    };
    dup2_stdin(&empty)?;
    Ok(File::from(pipe))
}

fn text(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

fn complain(what: &str) -> u8 {
    // If nobody reads this, the exit code remains.
    let _ = writeln!(io::stderr(), "wasm-shim: {what}");
    NOT_RUN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Option<Program> {
        Program::read(args.iter().map(|word| OsString::from(*word)))
    }

    #[test]
    fn a_command_line_has_a_program_and_its_name_after_the_options() {
        let program =
            read(&["--carried", "X_", "--report", "--notify", "/n/s", "--", "/bin/sh", "sh", "--"]).unwrap();
        assert_eq!((program.carried, program.notify), (Some("X_".into()), Some("/n/s".into())));
        assert!(program.report);
        assert_eq!((program.path, program.argv), ("/bin/sh".into(), vec!["sh".into(), "--".into()]));
        for wrong in [&["--"][..], &["--", "/bin/sh"], &["/bin/sh", "sh"], &["--carried"], &[]] {
            assert!(read(wrong).is_none(), "{wrong:?}");
        }
    }
}
