//! The stop signals that the user sends to a running job.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// Signals within this time count as one: timeout(1) and similar programs send one to us and one to our process group.
const ONE_ORDER: Duration = Duration::from_millis(500);

/// Ctrl-C, SIGTERM, and SIGHUP from the terminal.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    last: Option<Instant>,
    /// How many stop signals have arrived.
    pub(crate) taken: usize,
}

impl StopSignals {
    pub(crate) fn watch() -> Result<Self, Error> {
        let watch = |kind| signal(kind).map_err(|source| Error::Signals { source });
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
            last: None,
            taken: 0,
        })
    }

    /// Waits for the next stop signal.
    pub(crate) async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                _ = self.hangup.recv() => {}
            }
            if self.last.is_none_or(|last| last.elapsed() >= ONE_ORDER) {
                break;
            }
        }
        self.last = Some(Instant::now());
        self.taken += 1;
    }
}
