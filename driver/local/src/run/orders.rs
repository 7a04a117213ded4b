//! What the user tells a running job: to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// Ctrl-C, SIGTERM, and the end of the terminal.
pub(crate) struct Orders {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Orders {
    pub(crate) fn watch() -> Result<Self, Error> {
        let watch = |kind| signal(kind).map_err(|source| Error::Signals { source });
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
