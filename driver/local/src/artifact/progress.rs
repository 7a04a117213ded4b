//! What people see while an artifact takes time to fetch.

use std::time::{Duration, Instant};

use crate::terminal::note;

/// A fetch that takes longer is told of.
const FIRST: Duration = Duration::from_secs(1);
/// The time between two words about the same fetch.
const NEXT: Duration = Duration::from_secs(5);

/// The progress of one fetch.
pub(super) struct Progress<'a> {
    source: &'a str,
    due: Instant,
}

impl<'a> Progress<'a> {
    /// The fetch from this `source` begins.
    pub(super) fn new(source: &'a str) -> Self {
        Self { source, due: Instant::now() + FIRST }
    }

    /// So many bytes are there.
    pub(super) fn reached(&mut self, bytes: u64) {
        if let Some(word) = self.word(bytes, Instant::now()) {
            note(&word);
        }
    }

    fn word(&mut self, bytes: u64, now: Instant) -> Option<String> {
        if now < self.due {
            return None;
        }
        self.due = now + NEXT;
        Some(format!("fetching {}: {} MiB so far", self.source, bytes >> 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_is_told_of_after_a_second_and_now_and_then() {
        let (began, mut progress) = (Instant::now(), Progress::new("http://x/y"));
        let seconds = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(progress.word(1, began), None);
        let word = progress.word(3 << 19, seconds(2));
        assert_eq!(word.as_deref(), Some("fetching http://x/y: 1 MiB so far"));
        assert_eq!(progress.word(2 << 20, seconds(4)), None);
        assert!(progress.word(2 << 20, seconds(8)).is_some());
    }
}
