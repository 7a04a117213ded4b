//! What the runner of WebAssembly says of its guest: how it ended if not by itself, and how many requests it has served.
//!
//! It says so to systemd alone (`STATUS=`, sd_notify(3)), where no guest can speak. Its exit code says how a guest ended
//! as well, but a guest can end with any code itself.

use std::time::Duration;

use tokio::time::Instant;

/// How a guest ended that did not end by itself, or was denied something before it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Such as `trap`.
    pub kind: &'static str,
    /// Such as `out of bounds memory access`.
    pub text: String,
}

/// The kinds of outcomes, and what the author of a job can do about each.
const KINDS: &[(&str, &str)] = &[
    ("out of fuel", "`wasm.fuel` says how much it has"),
    (
        "memory limit",
        "`wasm.max_memory` and `wasm.max_table_elements` say how much it may have; not given, it is the task's memory less \
         8 MiB",
    ),
    ("deadline", "`wasm.timeout` says how long it may run"),
    ("failed", ""),
    ("bad module", ""),
    ("missing import", ""),
    ("trap", ""),
    ("denied", ""),
];

impl Outcome {
    /// What these words of the runner's say, if they are about an end.
    pub fn of(said: &str) -> Option<Self> {
        let (kind, text) = said.split_once(": ")?;
        let (kind, _) = KINDS.iter().find(|(known, _)| *known == kind)?;
        Some(Self { kind, text: text.to_owned() })
    }

    /// For the job's author, with what to do about it.
    pub fn message(&self) -> String {
        let Self { kind, text } = self;
        let advice = match self.grant() {
            Some(grant) => format!("{grant} in the job's `wasm` block would allow it"),
            None => KINDS.iter().find(|(known, _)| known == kind).map_or("", |(_, advice)| advice).to_owned(),
        };
        let advice = if advice.is_empty() { String::new() } else { format!(" ({advice})") };
        format!("{kind}: {text}{advice}")
    }

    /// The option that would have allowed what was denied.
    fn grant(&self) -> Option<String> {
        if self.kind != "denied" {
            return None;
        }
        // What comes before it connects or sends, and says nothing of whereto.
        if self.text.starts_with("bind ")
            && (self.text.ends_with(":0.0.0.0:0") || self.text.ends_with(":[::]:0"))
        {
            return Some("an address among `connect` or `listen`".to_owned());
        }
        let rule = |option, act| Some(format!("`{option} = [\"{}\"]`", self.text.strip_prefix(act)?));
        let acts = [
            ("connect", "connect to "),
            ("connect", "send to "),
            ("listen", "bind "),
            ("listen", "listen on "),
        ];
        let by_address = acts.iter().find_map(|(option, act)| rule(option, act));
        by_address.or_else(|| self.text.starts_with("look up ").then(|| "`name_lookup = true`".to_owned()))
    }

    /// May the same guest fare better when it is started again as it is? Only if the fault is nobody's of the two.
    pub fn may_pass(&self) -> bool {
        self.kind == "failed"
    }
}

/// The requests that a server has had, since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// All that it took on.
    pub requests: u64,
    /// Those during which the guest trapped.
    pub traps: u64,
    /// Those that took longer than they may.
    pub timeouts: u64,
    /// Those that it works on.
    pub active: u64,
}

impl Served {
    /// What these words of the runner's say, if they are about requests.
    pub fn of(said: &str) -> Option<Self> {
        let mut served = Self::default();
        for word in said.strip_prefix("serving: ")?.split_whitespace() {
            let (name, number) = word.split_once('=')?;
            let number = number.parse().ok()?;
            match name {
                "requests" => served.requests = number,
                "traps" => served.traps = number,
                "timeouts" => served.timeouts = number,
                "active" => served.active = number,
                // A later runner may say more.
                _ => {}
            }
        }
        Some(served)
    }

    /// For programs, under the names of attributes.
    pub fn attributes(&self) -> [(&'static str, String); 4] {
        let Self { requests, traps, timeouts, active } = self;
        [
            ("wasm_requests", requests),
            ("wasm_traps", traps),
            ("wasm_timeouts", timeouts),
            ("wasm_active", active),
        ]
        .map(|(name, number)| (name, number.to_string()))
    }
}

/// How often at most it is told that requests went wrong.
const PERIOD: Duration = Duration::from_mins(1);

/// Requests of one server that went wrong: what of them has been told, and when the next word may be said.
#[derive(Debug)]
pub struct Trouble {
    told: Served,
    now: Served,
    quiet_until: Option<Instant>,
}

impl Trouble {
    /// Whatever went wrong before has been told, or was told by somebody else.
    pub fn since(before: Served) -> Self {
        Self { told: before, now: before, quiet_until: None }
    }

    /// Takes note of what the server says now.
    pub fn note(&mut self, served: Served) {
        self.now = served;
    }

    /// Waits until there is something to be told; for ever if nothing went wrong.
    pub async fn is_due(&self) {
        if self.more() == (0, 0) {
            return std::future::pending().await;
        }
        if let Some(moment) = self.quiet_until {
            tokio::time::sleep_until(moment).await;
        }
    }

    /// What is to be told, which has been by that; nothing if nothing went wrong.
    pub fn tell(&mut self) -> Option<String> {
        let (traps, timeouts) = self.more();
        let count = |number, what: &str| match number {
            0 => None,
            1 => Some(format!("1 request {what}")),
            more => Some(format!("{more} requests {what}")),
        };
        let since = if self.quiet_until.is_some() { " since this was last told" } else { "" };
        (self.told, self.quiet_until) = (self.now, Some(Instant::now() + PERIOD));
        let parts =
            [count(traps, "trapped"), count(timeouts, "took longer than `wasm.serve.timeout` allows")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let all = self.now.requests;
        (!parts.is_empty()).then(|| format!("{}{since}, of {all} in all", parts.join(" and ")))
    }

    fn more(&self) -> (u64, u64) {
        let Self { told, now, .. } = self;
        (now.traps.saturating_sub(told.traps), now.timeouts.saturating_sub(told.timeouts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_with_what_to_do_about_it() {
        let message = |said: &str| Outcome::of(said).map(|outcome| outcome.message());
        assert_eq!(message("trap: unreachable").unwrap(), "trap: unreachable");
        assert!(message("out of fuel: all is used").unwrap().contains("`wasm.fuel`"));
        assert!(message("memory limit: refused").unwrap().contains("`wasm.max_memory`"));
        let denied = message("denied: connect to tcp:10.0.0.1:80").unwrap();
        assert!(denied.contains("`connect = [\"tcp:10.0.0.1:80\"]`"), "{denied}");
        assert!(message("denied: bind udp:[::]:53").unwrap().contains("`listen = [\"udp:[::]:53\"]`"));
        assert!(message("denied: bind tcp:0.0.0.0:0").unwrap().contains("among `connect`"));
        assert!(message("denied: look up example.org").unwrap().contains("`name_lookup = true`"));
        for other in ["", "trap", "serving: requests=1", "hello: world"] {
            assert_eq!(Outcome::of(other), None, "{other}");
        }
        assert!(Outcome::of("failed: address in use").unwrap().may_pass());
        assert!(!Outcome::of("missing import: `a`").unwrap().may_pass());
    }

    #[test]
    fn counters_are_read_and_what_is_none_is_not() {
        let served = Served::of("serving: requests=5 traps=1 timeouts=2 active=4 more=9").unwrap();
        assert_eq!(served, Served { requests: 5, traps: 1, timeouts: 2, active: 4 });
        for other in ["serving", "serving: requests", "serving: requests=x", "trap: x"] {
            assert_eq!(Served::of(other), None, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_wrong_is_told_at_once_and_then_once_a_minute() {
        let served = |traps, timeouts| Served { requests: 10, traps, timeouts, ..Served::default() };
        let mut trouble = Trouble::since(served(7, 0));
        let never = tokio::time::timeout(Duration::from_hours(1), trouble.is_due()).await;
        assert!(never.is_err());
        assert_eq!(trouble.tell(), None);
        let mut trouble = Trouble::since(served(7, 0));
        trouble.note(served(8, 0));
        let before = Instant::now();
        trouble.is_due().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(trouble.tell().unwrap(), "1 request trapped, of 10 in all");
        trouble.note(served(10, 1));
        trouble.is_due().await;
        assert_eq!(before.elapsed(), PERIOD);
        let told = trouble.tell().unwrap();
        assert_eq!(
            told,
            "2 requests trapped and 1 request took longer than `wasm.serve.timeout` allows since this was last told, of 10 \
             in all"
        );
    }
}
