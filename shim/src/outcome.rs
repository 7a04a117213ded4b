//! How a run ended: the exit code, and what is said about it on stderr.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 to 255 | the guest's own: `proc_exit(n)` modulo 256, `exit-with-code(n)`; 0 when it returned |
//! | 1 | a component's `run` returned an error, or it called `exit(err)` |
//! | 125 | [`NOT_STARTED`]: bad file, missing import, bad options; no code of the guest ran |
//! | 130, 143 | SIGINT, SIGTERM; see [`crate::process::end_on_signals`] |
//! | 134 | [`TRAPPED`]: the guest trapped; shells show the same number when a native program aborts |
//!
//! A guest can end with any of these itself. The lines on stderr, which all start with `wasm-shim: `, tell them apart.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use wasmtime::{Error, Result, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Something kept the guest from starting.
pub const NOT_STARTED: u8 = 125;
/// The guest trapped.
pub const TRAPPED: u8 = 134;

/// How a guest that began has ended.
#[derive(Debug)]
pub enum Outcome {
    /// With this exit code.
    Exit(u8),
    /// By a trap, described in lines, example `out of bounds memory access`.
    Trap(Vec<String>),
}

impl Outcome {
    /// What `error` says that came back from the guest.
    ///
    /// # Errors
    /// Gives the error back if it did not come from the guest's code: then it did not begin.
    pub fn of_error(error: Error) -> Result<Self> {
        if let Some(I32Exit(code)) = error.downcast_ref() {
            // Exit codes of processes have eight bits.
            return Ok(Self::Exit(code.to_le_bytes()[0]));
        }
        if error.is::<Trap>() || error.is::<WasmBacktrace>() {
            return Ok(Self::Trap(describe(&error)));
        }
        Err(error)
    }

    /// Says on stderr what the guest could not, and returns the exit code.
    pub fn report(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            Self::Trap(lines) => {
                say(&format!("trap: {}", lines.join("\n")));
                tell_manager(&format!("trap: {}", lines.first().map_or("", String::as_str)));
                TRAPPED
            }
        }
    }
}

/// Says on stderr why the guest was not started, with all causes on one line, and returns the exit code.
pub fn report_not_started(error: &Error) -> u8 {
    let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
    let why = causes.join(": ");
    say(&why);
    tell_manager(&format!("not started: {why}"));
    NOT_STARTED
}

/// Makes a bug of wasm-shim end in one line on stderr, without the host's stack.
pub fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("bug in wasm-shim, please report it: {panic}"));
    }));
}

/// Says `text` on stderr, in one write, each line marked as ours. If nobody listens, the exit code has to do.
fn say(text: &str) {
    let mut marked = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        marked.push_str("wasm-shim: ");
        marked.push_str(line);
        marked.push('\n');
    }
    let _ = io::stderr().write_all(marked.as_bytes());
}

/// Says `text` to the service manager that started us and wants to hear of us, if one did (sd_notify(3)). It shows it
/// beside the unit; nobody else can say something there, while a guest can write to stderr what it likes.
fn tell_manager(text: &str) {
    let tell = |socket: OsString| {
        let line = text.lines().next().unwrap_or_default();
        let sender = UnixDatagram::unbound()?;
        match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => sender.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => sender.connect(&socket)?,
        }
        sender.send(format!("STATUS={line}").as_bytes())
    };
    // A manager that cannot be reached still sees the exit code.
    let _ = std::env::var_os("NOTIFY_SOCKET").map(tell);
}

/// The trap, what is known about it, and the guest's stack, innermost first.
fn describe(error: &Error) -> Vec<String> {
    let trap = error.root_cause().to_string().replace("wasm trap: ", "");
    let mut lines = vec![trap.clone()];
    if let Some(advice) = error.downcast_ref().copied().and_then(advice) {
        lines.push(format!("  {advice}"));
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string).unwrap_or_default();
    for context in error.chain().map(|context| context.to_string().replace("wasm trap: ", "")) {
        if context != backtrace && context != trap {
            lines.push(format!("  {context}"));
        }
    }
    // The first line is a title.
    for frame in backtrace.lines().skip(1) {
        let words: Vec<_> = frame.split_whitespace().collect();
        lines.push(format!("  at {}", words.join(" ")));
    }
    lines
}

fn advice(trap: Trap) -> Option<&'static str> {
    match trap {
        Trap::StackOverflow => Some("the guest's calls are nested too deeply for its stack of 512 KiB"),
        Trap::UnreachableCodeReached => {
            Some("a panic or abort in the guest ends like this; it may have said more above")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_keep_their_eight_bits() {
        for (said, code) in [(0, 0), (126, 126), (255, 255), (256, 0), (-1, 255)] {
            let outcome = Outcome::of_error(I32Exit(said).into()).unwrap();
            assert_eq!(outcome.report(), code);
        }
    }

    #[test]
    fn a_trap_is_described_and_another_error_is_given_back() {
        let Outcome::Trap(lines) = Outcome::of_error(Error::from(Trap::StackOverflow)).unwrap() else {
            panic!("a trap is not an exit");
        };
        assert_eq!(lines[0], "call stack exhausted");
        assert!(Outcome::of_error(Error::msg("no memory")).is_err());
    }
}
