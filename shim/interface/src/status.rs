//! The `STATUS=` text (sd_notify(3)) that wasm-shim sends about its guest, which cannot send one itself.

use std::fmt;

use crate::{Denial, Kind};

/// One status text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// `trap: wasm trap: integer divide by zero`.
    Ended {
        /// The reason.
        kind: Kind,
        /// The description, for people.
        text: String,
    },
    /// `denied: connect to tcp:10.0.0.1:80`, for a guest that exited with a code other than 0.
    Denied(Denial),
    /// `serving: requests=5 traps=0 timeouts=0 active=1`.
    Serving(Served),
}

/// The requests that a server has had since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// All requests that it accepted.
    pub requests: u64,
    /// The requests during which the guest trapped.
    pub traps: u64,
    /// The requests that exceeded their time.
    pub timeouts: u64,
    /// The requests in progress.
    pub active: u64,
    /// The server accepts no more requests.
    pub stopping: bool,
}

impl Served {
    /// The counters with their names.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        let Self { requests, traps, timeouts, active, stopping: _ } = *self;
        [("requests", requests), ("traps", traps), ("timeouts", timeouts), ("active", active)]
    }

    fn parse(text: &str) -> Option<Self> {
        let mut served = Self::default();
        for word in text.split_whitespace() {
            let (name, number) = word.split_once('=')?;
            let number: u64 = number.parse().ok()?;
            match name {
                "requests" => served.requests = number,
                "traps" => served.traps = number,
                "timeouts" => served.timeouts = number,
                "active" => served.active = number,
                "stopping" => served.stopping = number != 0,
                // A later wasm-shim may send more fields.
                _ => {}
            }
        }
        Some(served)
    }
}

impl Status {
    /// Reads a status text; none if the text has another form.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, text) = line.split_once(": ")?;
        match word {
            "denied" => Denial::parse(text).map(Self::Denied),
            "serving" => Served::parse(text).map(Self::Serving),
            _ => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.words() == word)?;
                Some(Self::Ended { kind, text: text.to_owned() })
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { kind, text } => write!(f, "{kind}: {text}"),
            Self::Denied(denial) => write!(f, "denied: {denial}"),
            Self::Serving(served) => {
                f.write_str("serving:")?;
                served.named().iter().try_for_each(|(name, number)| write!(f, " {name}={number}"))?;
                if served.stopping { f.write_str(" stopping=1") } else { Ok(()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Act, Protocol};

    #[test]
    fn what_is_said_is_read_as_it_was_meant() {
        let address =
            |act, protocol, at: &str| Denial::Address { act, protocol, address: at.parse().unwrap() };
        let mut all: Vec<Status> =
            Kind::ALL.map(|kind| Status::Ended { kind, text: "a: b".to_owned() }).into();
        all.extend(
            [
                address(Act::Connect, Protocol::Tcp, "10.0.0.1:80"),
                address(Act::Send, Protocol::Udp, "[::1]:53"),
                address(Act::Bind, Protocol::Udp, "0.0.0.0:0"),
                address(Act::Listen, Protocol::Tcp, "[::]:80"),
                Denial::Lookup { name: "example.org".to_owned() },
                Denial::Socket { protocol: Protocol::Udp },
            ]
            .map(Status::Denied),
        );
        for stopping in [false, true] {
            all.push(Status::Serving(Served { requests: 5, traps: 1, timeouts: 2, active: 4, stopping }));
        }
        for status in all {
            assert_eq!(Status::parse(&status.to_string()), Some(status.clone()), "{status}");
        }
    }

    #[test]
    fn other_words_are_nothing_that_is_known() {
        let served = Status::parse("serving: requests=5 more=9").unwrap();
        assert_eq!(served, Status::Serving(Served { requests: 5, ..Served::default() }));
        for other in [
            "",
            "trap",
            "hello: world",
            "serving: no requests yet",
            "serving: requests",
            "serving: requests=x",
            "denied: it all",
            "denied: bind sctp:1.2.3.4:5",
        ] {
            assert_eq!(Status::parse(other), None, "{other}");
        }
    }
}
