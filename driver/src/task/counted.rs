//! What the metrics tell of a start.

use std::time::Duration;

use crate::task::Error;
use crate::task::live::handle::Handle;
use crate::telemetry::{self, Started};

/// Counts a start that has ended after this time.
pub(super) fn note_start(started: &Result<Handle, Error>, took: Duration) {
    let (result, running) = match started {
        Ok(handle) => (Started::Running, Some((handle.saved().traits.kind(), took))),
        Err(Error::Spec(_)) => (Started::Refused, None),
        Err(_) => (Started::Failed, None),
    };
    telemetry::note_start(result, running);
}
