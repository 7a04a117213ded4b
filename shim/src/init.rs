//! What the unit of a task runs in the place of the task's program: it becomes the program, or the program's init.
//!
//! ```text
//! wasm-shim become [--carried PREFIX] -- PATH ARGV0 [ARGUMENT…]
//! wasm-shim init   [--carried PREFIX] [--notify SOCKET|all] [--same DIRECTORY]… [--inspectable] [--report] -- PATH ARGV0
//!                  [ARGUMENT…]
//! ```
//!
//! - `--carried`: variables whose names begin with this are given their own names (carried.rs).
//! - `--notify`: what the program says at SOCKET, a path that the task alone can reach, is passed on to systemd; or all of
//!   its processes speak with systemd. Without it nobody has systemd's socket in the environment.
//! - `--same`: the program does not run where another directory is at a path than the driver has prepared
//!   ([`shim_interface::Same`]).
//! - `--inspectable`: other processes of the user may look into the init, such as a driver that is not root.
//! - `--report`: stdin is a connection, to which the init writes one line: empty when the program runs, the number of the
//!   kernel's error when it cannot be executed, words when the init cannot do its part. The program gets an empty stdin.

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
use task_init::{Ended, Error, Init, Notify, end_like};

use shim_interface::Same;

use crate::carried::restored;

/// The exit codes of env(1): the program cannot be run, or is not there.
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;
/// The first descriptor that systemd passes a unit beside its streams (sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;
/// Variables that say for which process others are meant (sd_listen_fds(3), sd_watchdog_enabled(3), systemd.exec(5)).
const MEANT_FOR: [&str; 3] = ["LISTEN_PID", "WATCHDOG_PID", "SYSTEMD_EXEC_PID"];
/// The same as a number that only the process has of which systemd took it (systemd 260).
const MEANT_FOR_ID: &str = "LISTEN_PIDFDID";

/// Becomes the program of the command line, or its init, if this process is asked for that; else returns nothing. If it
/// returns an exit code, the program has ended, or the reason why it does not run is on stderr.
///
/// To be called before anything about this process is changed, since the program inherits it.
pub fn begin() -> Option<u8> {
    let mut words = std::env::args_os().skip(1);
    let verb = words.next()?;
    if verb != "become" && verb != "init" {
        return None;
    }
    let Some(program) = Program::read(words) else {
        return Some(complain("a program and its name are needed, as the driver gives them"));
    };
    Some(if verb == "init" { program.run() } else { program.replace_this_process() })
}

#[derive(Default)]
struct Program {
    carried: Option<OsString>,
    notify: Option<OsString>,
    same: Vec<Same>,
    report: bool,
    inspectable: bool,
    path: OsString,
    argv: Vec<OsString>,
}

impl Program {
    fn read(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut program = Self::default();
        loop {
            match words.next()?.to_str()? {
                "--carried" => program.carried = Some(words.next()?),
                "--notify" => program.notify = Some(words.next()?),
                "--same" => program.same.push(Same::parse(words.next()?.to_str()?).ok()?),
                "--report" => program.report = true,
                "--inspectable" => program.inspectable = true,
                "--" => break,
                _ => return None,
            }
        }
        program.path = words.next()?;
        program.argv = words.collect();
        (!program.argv.is_empty()).then_some(program)
    }

    fn replace_this_process(&self) -> u8 {
        let Err(error) = self.execute(&self.variables(None, None));
        self.cannot_be_executed(error)
    }

    fn run(&self) -> u8 {
        // Before anything else is open.
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
        let started = Init::start(become_program);
        if let Some(mut report) = report {
            let line = match &started {
                Ok(_) => "\n".to_owned(),
                Err(Error::Program(error)) => format!("{}\n", number_of(error) as i32),
                Err(error @ Error::Init { source, .. }) => format!("{error}: {}\n", number_of(source).desc()),
            };
            // A driver that has ended meanwhile learns it from the exit code.
            let _ = report.write_all(line.as_bytes());
        }
        let init = match started {
            Ok(init) => init,
            Err(Error::Program(error)) => return self.cannot_be_executed(number_of(&error)),
            Err(ref error @ Error::Init { ref source, .. }) => {
                return complain(&format!("{error}: {}", number_of(source).desc()));
            }
        };
        // They are the program's: one that it closes must be closed.
        for number in passed {
            let _ = close(number);
        }
        if self.inspectable {
            init.allow_inspection();
        }
        let ended: Ended = init.wait(true, notify.as_ref());
        end_like(ended)
    }

    /// The socket for a program that alone may speak for the unit.
    fn notify(&self) -> io::Result<Option<Notify>> {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|socket| socket.into_string().ok());
        match (socket, &self.notify) {
            (Some(socket), Some(here)) if here != "all" => Notify::open(&socket, here.as_ref()).map(Some),
            _ => Ok(None),
        }
    }

    /// The program's environment: that of this process, but for what is meant for this process alone, which had the
    /// number `before`.
    fn variables(&self, notify: Option<&str>, before: Option<u32>) -> Vec<CString> {
        let ours = before.map(|number| OsString::from(number.to_string()));
        let program = OsString::from(std::process::id().to_string());
        // In a namespace of processes the init is number 1, and systemd has told the number outside.
        let is_number = |value: &OsString| value.to_str().is_some_and(|value| value.parse::<u32>().is_ok());
        let is_ours =
            |value: &OsString| Some(value) == ours.as_ref() || before == Some(1) && is_number(value);
        let meant = |(name, value): (OsString, OsString)| {
            if before.is_some() {
                if MEANT_FOR.iter().any(|meant| name == *meant) && is_ours(&value) {
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
        let variables = std::env::vars_os().filter_map(meant);
        variables.filter_map(|variable| text(restored(variable, self.carried.as_deref()))).collect()
    }

    fn execute(&self, variables: &[CString]) -> nix::Result<Infallible> {
        // Nothing holds a zero byte that came from the kernel.
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

/// The descriptors that systemd has passed: those that are open, whatever a job's own variable says.
fn passed() -> Vec<RawFd> {
    const MOST: RawFd = 1 << 16;
    let count = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok());
    let count = count.filter(|count| (0..=MOST).contains(count)).unwrap_or_default();
    let is_open = |number: &RawFd| {
        #[expect(unsafe_code, reason = "descriptors are numbers here")]
        // SAFETY: the kernel is asked whether there is such a descriptor, and nothing is done with it.
        let flags = unsafe { libc::fcntl(*number, libc::F_GETFD) };
        flags >= 0
    };
    (FIRST_PASSED..FIRST_PASSED + count).filter(is_open).collect()
}

/// The connection at stdin, in whose place comes an empty stdin.
fn take_stdin() -> nix::Result<File> {
    let pipe = fcntl(io::stdin(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_PASSED))?;
    #[expect(unsafe_code, reason = "descriptors are numbers here")]
    // SAFETY: the kernel has just made it, and nobody else knows of it.
    let pipe = unsafe { OwnedFd::from_raw_fd(pipe) };
    let empty = match open("/dev/null", OFlag::O_RDWR, Mode::empty()) {
        Ok(null) => null,
        // A root of the job's own may have none.
        Err(_) => nix::unistd::pipe()?.0,
    };
    dup2_stdin(&empty)?;
    Ok(File::from(pipe))
}

fn text(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

fn complain(what: &str) -> u8 {
    // Who does not read it learns the exit code.
    let _ = writeln!(io::stderr(), "wasm-shim: {what}");
    NOT_RUN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Option<Program> {
        Program::read(words.iter().map(|word| OsString::from(*word)))
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
