//! Whether this machine is quiet enough to measure on it.

use std::time::Duration;

/// The part of the processors that others may use meanwhile.
const MOST: f64 = 0.05;

/// Watches the processors for two seconds, and says on stderr if others use them.
pub(crate) fn tell() {
    let before = times();
    std::thread::sleep(Duration::from_secs(2));
    let after = times();
    #[allow(clippy::cast_precision_loss, reason = "ticks of two seconds")]
    let part = |at: usize| (after[at] - before[at]) as f64;
    let all: f64 = (0..after.len()).map(part).sum();
    // Idle, and waiting for disks (proc_stat(5)).
    let busy = 1.0 - (part(3) + part(4)) / all;
    if busy > MOST {
        eprintln!(
            "bench: others use {:.0} % of the processors: this machine is too busy to judge by",
            busy * 100.0
        );
    }
}

/// What the processors have spent in each state since the start.
fn times() -> Vec<u64> {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let all = stat.lines().next().unwrap();
    all.split_whitespace().skip(1).take(8).map(|ticks| ticks.parse().unwrap()).collect()
}
