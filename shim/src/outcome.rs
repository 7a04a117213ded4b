//! How a run ended: the exit code, and the messages on stderr and to systemd.
//!
//! | exit code | word | meaning |
//! | --- | --- | --- |
//! | 0 to 255 | | the guest's own: `proc_exit(n)` modulo 256, `exit-with-code(n)`; 0 when it returned |
//! | 1 | | a component's `run` returned an error, or it called `exit(err)` |
//! | 121 | out of fuel | it has executed as many instructions as `-W fuel` gave it |
//! | 122 | memory limit | it was refused memory beyond its limits, and gave up |
//! | 124 | deadline | it ran longer than `-W timeout` |
//! | 125 | failed | wasm-shim could not do its part: bad options, a directory that cannot be opened; no guest code ran |
//! | 126 | bad module | the file is not WebAssembly, is damaged, or is no program; no guest code ran |
//! | 127 | missing import | nothing provides what it imports; no guest code ran |
//! | 130, 143 | | SIGINT, SIGTERM; see [`crate::process::end_on_signals`] |
//! | 134 | trap | it trapped; shells show the same number when a native program aborts |
//!
//! A guest can end with any of these itself. The lines on stderr, which all start with `wasm-shim: `, distinguish them
//! for people, and `STATUS=word: text` (sd_notify(3)) for the process that started us, as the guest cannot send that.

use crate::limits::Limits;
use crate::systemd;
use shim_interface::{Denial, Kind, Status, visible};
use std::fmt;
use std::io::{self, Write as _};
use wasmtime::{Error, Result, Trap, WasmBacktrace, WasmCoreDump};
use wasmtime_wasi::I32Exit;

/// Why a guest cannot be run, through a fault of its own; part of a chain of errors.
#[derive(Debug)]
pub struct Refusal {
    kind: Kind,
    why: String,
}

impl Refusal {
    /// The file cannot be run.
    pub fn bad_module(why: impl Into<String>) -> Error {
        Error::new(Self { kind: Kind::BadModule, why: why.into() })
    }

    /// An export has the right name but another type; `error` has the details.
    pub fn wrong_type(error: &Error) -> Error {
        Self::bad_module(causes(error))
    }

    /// The guest ended before it was ready.
    pub fn ended(kind: Kind, lines: &[String]) -> Error {
        Error::new(Self { kind, why: lines.join("; ") })
    }

    /// An import of the guest is missing.
    pub fn missing_import(why: impl Into<String>) -> Error {
        Error::new(Self { kind: Kind::MissingImport, why: why.into() })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refusal {}

/// How a guest that was started has ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest exited with this exit code.
    Exit(u8),
    /// The guest was ended in another way, described in lines, for example `out of bounds memory access`.
    Cut(Kind, Vec<String>),
}

impl Outcome {
    /// The outcome for the `error` of a guest with `limits`.
    ///
    /// # Errors
    /// Returns the error if it did not come from the guest's code: then the guest did not start.
    pub fn of_error(error: Error, limits: &Limits) -> Result<Self> {
        if let Some(I32Exit(code)) = error.downcast_ref() {
            // The exit code of a process has eight bits.
            return Ok(Self::Exit(code.to_le_bytes()[0]));
        }
        let refused = limits.refused().map(|what| format!("it was refused {what} by its limits"));
        let trap = error.downcast_ref::<Trap>();
        let began = trap.is_some() || error.is::<WasmBacktrace>();
        let kind = match (trap, &refused) {
            (Some(Trap::OutOfFuel), _) => Kind::OutOfFuel,
            // Programs that were denied memory usually end like this; other programs have continued without it.
            (Some(Trap::UnreachableCodeReached | Trap::AllocationTooLarge) | None, Some(_)) => {
                Kind::MemoryLimit
            }
            _ if began => Kind::Trap,
            _ => return Err(error),
        };
        let mut lines = describe(&error);
        match (kind, refused) {
            (Kind::MemoryLimit, Some(refused)) => lines.insert(0, refused),
            (_, Some(refused)) => lines.insert(1, format!("  before that {refused}")),
            _ => {}
        }
        Ok(Self::Cut(kind, lines))
    }

    /// Logs on stderr why the guest was ended, and returns the exit code. `denied` is what the guest was denied before.
    pub fn report(&self, denied: Option<&Denial>) -> u8 {
        match (self, denied) {
            (Self::Exit(code), Some(denied)) if *code != 0 => {
                systemd::notify_status(&Status::Denied(denied.clone()));
                *code
            }
            (Self::Exit(code), _) => *code,
            (Self::Cut(kind, lines), denied) => {
                say(&format!("{kind}: {}", lines.join("\n")));
                // Many programs trap because of a denial.
                let denied =
                    denied.map(|what| format!("; before that it was denied: {what}")).unwrap_or_default();
                let text = lines.first().cloned().unwrap_or_default() + &denied;
                systemd::notify_status(&Status::Ended { kind: *kind, text });
                kind.code()
            }
        }
    }
}

/// Logs on stderr why no guest code ran, with all causes on one line, and returns the exit code.
pub fn report_not_started(error: &Error) -> u8 {
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Refusal>())
        .map_or(Kind::Failed, |refusal| refusal.kind);
    let text = causes(error);
    say(&text);
    systemd::notify_status(&Status::Ended { kind, text });
    kind.code()
}

/// All causes of `error` on one line, the last one first.
pub fn causes(error: &Error) -> String {
    let causes: Vec<_> = error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect();
    causes.join(": ")
}

/// Reports a bug of wasm-shim in one line on stderr, without the host's stack.
pub fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("bug in wasm-shim, please report it: {panic}"));
    }));
}

/// Writes `text` to stderr, in one write, each line marked as ours. If nobody reads it, the exit code has to suffice.
pub fn say(text: &str) {
    let mut marked = String::new();
    for line in visible(text).lines().filter(|line| !line.is_empty()) {
        marked.push_str("wasm-shim: ");
        marked.push_str(line);
        marked.push('\n');
    }
    let _ = io::stderr().write_all(marked.as_bytes());
}

/// The trap, what is known about it, and the guest's stack, innermost first.
pub fn describe(error: &Error) -> Vec<String> {
    let trap = error.root_cause().to_string().replace("wasm trap: ", "");
    let mut lines = vec![trap.clone()];
    if let Some(advice) = error.downcast_ref().copied().and_then(advice) {
        lines.push(format!("  {advice}"));
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string).unwrap_or_default();
    let core = error.downcast_ref::<WasmCoreDump>().map(ToString::to_string).unwrap_or_default();
    for context in error.chain().map(|context| context.to_string().replace("wasm trap: ", "")) {
        if context != backtrace && context != trap && context != core {
            lines.push(format!("  {context}"));
        }
    }
    // The first line is a title. The place in the source follows the function, and inlined functions have no number.
    for frame in backtrace.lines().skip(1) {
        let words: Vec<_> = frame.split_whitespace().collect();
        match (words.split_first(), lines.last_mut()) {
            (Some((&"at", place)), Some(function)) => {
                function.push_str(", ");
                function.push_str(&place.join(" "));
            }
            (Some((&"-", function)), _) => lines.push(format!("     inlined {}", function.join(" "))),
            _ => lines.push(format!("  at {}", words.join(" "))),
        }
    }
    lines
}

fn advice(trap: Trap) -> Option<&'static str> {
    match trap {
        Trap::StackOverflow => {
            Some("the guest's calls are nested too deeply for its stack (512 KiB, or -W max-wasm-stack)")
        }
        Trap::UnreachableCodeReached => {
            Some("a panic or abort in the guest ends like this; it may have said more above")
        }
        Trap::OutOfFuel => Some("-W fuel gave it no more instructions"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Wasm;
    use wasmtime::ResourceLimiter as _;

    fn of(error: impl Into<Error>, refused: bool) -> Result<Outcome> {
        let wasm = Wasm { max_memory_size: Some(1), ..Wasm::default() };
        let mut limits = Limits::new(&wasm);
        if refused {
            assert!(!limits.memory_growing(0, 65536, None).unwrap());
        }
        Outcome::of_error(error.into(), &limits)
    }

    #[test]
    fn exit_codes_keep_their_eight_bits() {
        for (raw, code) in [(0, 0), (126, 126), (255, 255), (256, 0), (-1, 255)] {
            assert_eq!(of(I32Exit(raw), false).unwrap().report(None), code);
        }
    }

    #[test]
    fn ends_are_told_apart() {
        for (trap, refused, kind, first) in [
            (Trap::StackOverflow, false, Kind::Trap, "call stack exhausted"),
            (Trap::OutOfFuel, false, Kind::OutOfFuel, "all fuel consumed by WebAssembly"),
            (
                Trap::UnreachableCodeReached,
                true,
                Kind::MemoryLimit,
                "it was refused a memory of 65536 bytes by its limits",
            ),
            // The guest has continued without the memory, and failed for another reason.
            (Trap::IntegerDivisionByZero, true, Kind::Trap, "integer divide by zero"),
        ] {
            let Outcome::Cut(found, lines) = of(trap, refused).unwrap() else {
                panic!("{trap} is not an exit")
            };
            assert_eq!((found, lines[0].as_str()), (kind, first));
        }
        assert!(of(Error::msg("no descriptor left"), false).is_err(), "that is not the guest's");
    }

    #[test]
    fn a_refusal_is_found_behind_its_context() {
        let code = |error: Error| report_not_started(&error.context("run `x.wasm`"));
        assert_eq!(code(Refusal::bad_module("it is empty")), 126);
        assert_eq!(code(Refusal::missing_import("it imports `a`")), 127);
        assert_eq!(code(Error::msg("no memory")), 125);
    }
}
