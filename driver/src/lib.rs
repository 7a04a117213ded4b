//! A Nomad task driver that runs every task as a systemd transient unit.
//!
//! Three modules with one-way dependencies. `run` and `unit`, which speak to a plugin process as an agent does, are the
//! crate `nomad-local`, which only `main` uses:
//!
//! ```text
//! main ──► plugin ──► task ──► systemd        proto, tonic: only plugin
//!   └────► nomad-local                        zbus: only systemd
//! ```
#![deny(unsafe_code)] // kernel.rs alone may

pub mod enter;
pub mod kernel;
pub mod log;
pub mod log_forwarder;
pub mod plugin;
pub mod systemd;
pub mod task;

/// An error and its causes on one line: `start unit nomad-….service: Access denied`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut line = String::new();
    for text in causes.map(ToString::to_string) {
        // People do not need the number in the kernel's message.
        let words = text.rsplit_once(" (os error ");
        let text =
            words.filter(|(_, number)| number.ends_with(')')).map_or(text.as_str(), |(words, _)| words);
        // zbus repeats a cause in its own message.
        if !line.ends_with(text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(text);
        }
    }
    line.replace('\n', " ")
}
