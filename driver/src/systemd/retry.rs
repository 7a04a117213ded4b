//! Retries while systemd cannot be reached: the connection is lost, or systemd re-executes itself.

use std::time::Duration;

use super::connection::{FIRST_PAUSE, LONGEST_PAUSE};
use super::error::Error;

/// How long to retry.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// For calls that may be made twice: they are made again while systemd cannot be reached.
pub(super) struct Retry {
    until: tokio::time::Instant,
    pause: Duration,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { until: tokio::time::Instant::now() + RETRY_TIMEOUT, pause: FIRST_PAUSE }
    }

    /// Waits a little, or returns the error: it will not pass, or has not passed in all this time.
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
