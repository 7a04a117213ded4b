//! Modules that cannot be compiled, remembered for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Error, REMEMBERED};
use crate::task::wasm::cache::Entry;

/// How long a module that cannot be compiled is refused without another attempt: a task that is started again and again
/// shall not keep a processor busy.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// Modules that could not be compiled recently.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Entry, (Instant, Refusal)>>);

/// Why compiling a module would fail the next time, too.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    Invalid(String),
    Stopped(String),
}

impl Refusal {
    /// The refusal for an error that would recur.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Invalid { report, .. } => Some(Self::Invalid(report.clone())),
            Error::Stopped { reason, .. } => Some(Self::Stopped(reason.clone())),
            _ => None,
        }
    }

    /// The error for a file with this name.
    pub(super) fn error(self, name: &str) -> Error {
        let name = name.to_owned();
        match self {
            Self::Invalid(report) => Error::Invalid { name, report },
            Self::Stopped(reason) => Error::Stopped { name, reason },
        }
    }
}

impl Refusals {
    /// Was the module refused recently?
    pub(super) fn of(&self, entry: &Entry) -> Option<Refusal> {
        let mut refusals = self.0.lock();
        refusals.retain(|_, (since, _)| since.elapsed() < REFUSED_FOR);
        refusals.get(entry).map(|(_, refusal)| refusal.clone())
    }

    /// Remembers the refusal of a module from now on.
    pub(super) fn remember(&self, entry: Entry, refusal: Refusal) {
        let mut refusals = self.0.lock();
        if refusals.len() >= REMEMBERED {
            refusals.clear();
        }
        refusals.insert(entry, (Instant::now(), refusal));
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn what_cannot_be_compiled_is_remembered_by_its_content_and_not_for_ever() {
        let refusals = Refusals::default();
        let entry = |content: usize| Entry {
            key: "0".to_owned(),
            content: Sha256::digest(content.to_string()).into(),
        };
        let name = || "a.wasm".to_owned();
        let invalid = Error::Invalid { name: name(), report: "no memory".to_owned() };
        refusals.remember(entry(0), Refusal::of(&invalid).unwrap());
        let again = refusals.of(&entry(0)).unwrap().error("b.wasm");
        assert_eq!(again.to_string(), "`command`: b.wasm cannot be used: no memory");
        assert!(refusals.of(&entry(1)).is_none());
        assert!(Refusal::of(&Error::Failed { name: name(), report: "disk".to_owned() }).is_none());

        for content in 1..1000 {
            refusals.remember(entry(content), Refusal::of(&invalid).unwrap());
        }
        assert!(refusals.0.lock().len() <= REMEMBERED);
        let old = Instant::now().checked_sub(REFUSED_FOR).unwrap();
        for (since, _) in refusals.0.lock().values_mut() {
            *since = old;
        }
        assert!(refusals.of(&entry(999)).is_none());
    }
}
