//! Counts requests, and reports them to systemd.

use super::{Server, TICK};
use crate::systemd;
use shim_interface::{Served, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The minimum interval between two reports to systemd.
const REPORT: Duration = Duration::from_secs(5);

/// Counters of a server.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) traps: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) instances: AtomicUsize,
    pub(super) changed: Notify,
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
    /// The counters for systemd's status.
    pub(super) fn served(&self) -> Served {
        let seen = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { requests, traps, timeouts, .. } = &self.counts;
        Served {
            requests: seen(requests),
            traps: seen(traps),
            timeouts: seen(timeouts),
            active: u64::try_from(self.load.active()).unwrap_or(u64::MAX),
            stopping: false,
        }
    }
}

/// Reports the counters to systemd, soon after a change and not too often.
pub(super) async fn report(server: Arc<Server>) {
    loop {
        server.counts.changed.notified().await;
        // Changes that belong together are reported together.
        sleep(TICK).await;
        systemd::notify_status(&Status::Serving(server.served()));
        sleep(REPORT).await;
    }
}

/// Sends the watchdog notification to systemd while requests can be answered, if the watchdog is enabled.
pub(super) async fn watchdog() {
    if let Some(period) = systemd::watchdog() {
        let mut often = tokio::time::interval(period / 2);
        loop {
            often.tick().await;
            systemd::notify("WATCHDOG=1");
        }
    }
}
