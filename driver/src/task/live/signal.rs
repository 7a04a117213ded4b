//! Signals by the names that Nomad's users write.

use std::fmt;

use crate::systemd::SIGNALS;

/// Aliases of signals (signal(7)); Nomad offers `SIGIOT` on every node.
const ALIASES: [(&str, i32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

/// A signal that can be sent to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

/// No signal has this name.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is not a signal; write a name such as SIGTERM, SIGHUP or SIGUSR1")]
pub struct Unknown {
    name: String,
}

impl Signal {
    /// What Nomad's `exec` and `raw_exec` drivers send when the job has no `kill_signal`.
    pub const INT: Self = Self(2);
    /// Asks a process to finish its work and exit.
    pub const TERM: Self = Self(15);
    /// Kills a process.
    pub const KILL: Self = Self(9);

    /// Stops a process until SIGCONT.
    pub const STOP: Self = Self(19);
    /// Lets a stopped process continue.
    pub const CONT: Self = Self(18);

    /// Reads `SIGHUP`, `sighup`, `HUP`, `SIGRTMIN+2` or `1`.
    pub fn parse(text: &str) -> Result<Self, Unknown> {
        /// The first real-time signal that the C library leaves to programs.
        const RTMIN: i32 = 34;
        const LAST: i32 = 64;
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let by_name = || SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        let real_time = || match name.strip_prefix("RTMIN") {
            Some("") => Some(RTMIN),
            Some(offset) => Some(RTMIN + offset.strip_prefix('+')?.parse::<u8>().ok().map(i32::from)?),
            None => None,
        };
        let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, number)| *number);
        let number = by_name().or_else(alias).or_else(real_time).or_else(|| name.parse().ok());
        match number {
            Some(number @ 1..=LAST) => Ok(Self(number)),
            _ => Err(Unknown { name: text.to_owned() }),
        }
    }

    /// The number of the signal, such as 15.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    /// `SIGTERM`; a signal without a name is `signal 40`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = SIGNALS.iter().find(|(_, number)| *number == self.0);
        match known {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_name_with_and_without_prefix_in_any_case() {
        for (text, number) in [
            ("SIGHUP", 1),
            ("hup", 1),
            ("SigTerm", 15),
            ("USR2", 12),
            ("SIGSYS", 31),
            ("SIGIOT", 6),
            ("SIGPOLL", 29),
            ("9", 9),
            ("SIGRTMIN+2", 36),
        ] {
            assert_eq!(Signal::parse(text).unwrap().number(), number, "{text}");
        }
    }

    /// What `kill_signal` and a template's `change_signal` may be (Nomad v2.0.6: consul-template's table, `signals`).
    #[test]
    fn every_signal_that_nomad_offers_is_known() {
        for name in [
            "ABRT", "ALRM", "BUS", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
            "PROF", "QUIT", "SEGV", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
            "USR2", "WINCH", "XCPU", "XFSZ",
        ] {
            assert!(Signal::parse(&format!("SIG{name}")).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused_by_its_name() {
        for text in ["", "SIG", "SIGNOPE", "0", "65", "-1", "SIGRTMIN+200", "SIGRTMIN-1"] {
            let error = Signal::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
