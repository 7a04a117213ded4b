//! What the runner of WebAssembly reports about its guest: how it ended if not by itself, and its number of requests.
//!
//! The runner reports it to systemd alone (`STATUS=`, sd_notify(3)), over a channel the guest cannot reach. Its exit
//! code reports how a guest ended as well, but a guest can exit with any code itself.

use std::time::Duration;

use shim_interface::{Act, Denial, Kind, Served, Status};
use tokio::time::Instant;

/// How a guest ended that did not exit by itself, or was denied something before it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest was ended.
    Ended {
        /// The reason.
        kind: Kind,
        /// Details, such as `out of bounds memory access`.
        text: String,
    },
    /// The guest exited with a code that is not success, and was denied this before.
    Denied(Denial),
}

impl Outcome {
    /// The outcome in a status text of the runner, if the text is about an end.
    pub fn of(status: &str) -> Option<Self> {
        match Status::parse(status)? {
            Status::Ended { kind, text } => Some(Self::Ended { kind, text }),
            Status::Denied(denial) => Some(Self::Denied(denial)),
            Status::Serving(_) => None,
        }
    }

    /// The kind, for programs, such as `trap`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ended { kind, .. } => kind.words(),
            Self::Denied(_) => "denied",
        }
    }

    /// The details, for programs, such as `out of bounds memory access`.
    pub fn text(&self) -> String {
        match self {
            Self::Ended { text, .. } => text.clone(),
            Self::Denied(denial) => denial.to_string(),
        }
    }

    /// The message for the job's author, with what to do about it.
    pub fn message(&self) -> String {
        let advice = match self {
            Self::Ended { kind, .. } => advice(*kind).to_owned(),
            Self::Denied(denial) => format!(" ({} in the job's `wasm` block would allow it)", grant(denial)),
        };
        format!("{}: {}{advice}", self.kind(), self.text())
    }

    /// May the same guest succeed when it is started again unchanged? Only if neither guest nor job is at fault.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Ended { kind: Kind::Failed, .. })
    }
}

fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::OutOfFuel => " (`wasm.fuel` sets how much it has)",
        Kind::MemoryLimit => {
            " (`wasm.max_memory` and `wasm.max_table_elements` set how much it may have; not given, it is the task's memory \
             less 8 MiB)"
        }
        Kind::Deadline => " (`wasm.timeout` sets how long it may run)",
        Kind::Failed | Kind::BadModule | Kind::MissingImport | Kind::Trap => "",
    }
}

/// The option that would have allowed what was denied.
fn grant(denial: &Denial) -> String {
    match denial {
        // A bind before a connect or a send, which does not tell the destination.
        Denial::Address { act: Act::Bind, address, .. }
            if address.ip().is_unspecified() && address.port() == 0 =>
        {
            "an address among `connect` or `listen`".to_owned()
        }
        Denial::Address { act, protocol, address } => {
            format!("`{} = [\"{protocol}:{address}\"]`", act.option())
        }
        Denial::Lookup { .. } => "`name_lookup = true`".to_owned(),
        Denial::Socket { protocol } => {
            format!(
                "an address among `connect` or `listen`, such as `connect = [\"{protocol}:127.0.0.1:8080\"]`,"
            )
        }
    }
}

/// The requests of a server in a status text of the runner.
pub(crate) fn served(status: &str) -> Option<Served> {
    match Status::parse(status)? {
        Status::Serving(served) => Some(served),
        Status::Ended { .. } | Status::Denied(_) => None,
    }
}

/// The counters for programs, by the names of attributes.
pub(crate) fn attributes(served: &Served) -> [(&'static str, String); 4] {
    let Served { requests, traps, timeouts, active, stopping: _ } = served;
    [("wasm_requests", requests), ("wasm_traps", traps), ("wasm_timeouts", timeouts), ("wasm_active", active)]
        .map(|(name, number)| (name, number.to_string()))
}

/// Minimum time between two events about failed requests.
const PERIOD: Duration = Duration::from_mins(1);

/// Failed requests of one server: those that were reported, and when the next event may be sent.
#[derive(Debug)]
pub struct FailureReporter {
    told: Served,
    now: Served,
    quiet_until: Option<Instant>,
}

impl FailureReporter {
    /// Starts from `before`: earlier failures were reported already, or by another driver.
    pub fn since(before: Served) -> Self {
        Self { told: before, now: before, quiet_until: None }
    }

    /// Records what the server reports now.
    pub fn note(&mut self, served: Served) {
        self.now = served;
    }

    /// Waits until there is something to report; for ever if no request failed.
    pub async fn is_due(&self) {
        if self.more() == (0, 0) {
            return std::future::pending().await;
        }
        if let Some(moment) = self.quiet_until {
            tokio::time::sleep_until(moment).await;
        }
    }

    /// What is to be reported, which then counts as reported; `None` if no request failed.
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
        let message = |text: &str| Outcome::of(text).map(|outcome| outcome.message());
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

    #[tokio::test(start_paused = true)]
    async fn what_goes_wrong_is_told_at_once_and_then_once_a_minute() {
        let served = |traps, timeouts| Served { requests: 10, traps, timeouts, ..Served::default() };
        let mut trouble = FailureReporter::since(served(7, 0));
        let never = tokio::time::timeout(Duration::from_hours(1), trouble.is_due()).await;
        assert!(never.is_err());
        assert_eq!(trouble.tell(), None);
        let mut trouble = FailureReporter::since(served(7, 0));
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
