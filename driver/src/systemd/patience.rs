//! Trying again while systemd cannot be asked: the bus goes away, or systemd executes itself anew.

use std::time::Duration;

use super::connection::{FIRST_PAUSE, LONGEST_PAUSE};
use super::error::Error;

/// How long it is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// For what may be done twice: it is done again while systemd cannot be asked.
pub(super) struct Patience {
    until: tokio::time::Instant,
    pause: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { until: tokio::time::Instant::now() + PATIENCE, pause: FIRST_PAUSE }
    }

    /// Waits a little, or gives the error back: it will not pass, or has not in all this time.
    pub(super) async fn with(&mut self, error: Error) -> Result<(), Error> {
        let cannot_be_asked = matches!(error, Error::Connect { .. } | Error::Call { .. }) && error.may_pass();
        if !cannot_be_asked || tokio::time::Instant::now() > self.until {
            return Err(error);
        }
        tracing::debug!(error = crate::chain(&error), "systemd cannot be asked, trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
