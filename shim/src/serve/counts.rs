//! What has been served, and how systemd hears of it.

use super::{Server, TICK};
use crate::systemd;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// How often systemd hears what has been served, at most.
const REPORT: Duration = Duration::from_secs(5);

/// What has been served.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) traps: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) instances: AtomicUsize,
    pub(super) changed: Notify,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "serving: requests={} traps={} timeouts={}",
            seen(&self.requests),
            seen(&self.traps),
            seen(&self.timeouts)
        )
    }
}

/// A request that is being answered.
pub(super) struct Active(pub(super) Arc<Server>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.load.end();
        self.0.counts.changed.notify_one();
    }
}

impl Server {
    /// For systemd.
    pub(super) fn status(&self) -> String {
        format!("{} active={}", self.counts, self.load.active())
    }
}

/// Tells systemd what has been served, soon after it changed and not too often.
pub(super) async fn report(server: Arc<Server>) {
    loop {
        server.counts.changed.notified().await;
        // What belongs together is told together.
        sleep(TICK).await;
        systemd::notify_status(&server.status());
        sleep(REPORT).await;
    }
}

/// Tells systemd that requests would be answered, if it wants to know.
pub(super) async fn watchdog() {
    if let Some(period) = systemd::watchdog() {
        let mut often = tokio::time::interval(period / 2);
        loop {
            often.tick().await;
            systemd::notify("WATCHDOG=1");
        }
    }
}
