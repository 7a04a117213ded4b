//! Events of a task for operators, shown by `nomad alloc status`, beyond its start and its end.
//!
//! Nomad keeps the last ten events of a task, so only helpful events are sent. Nothing is kept for a listener that is
//! not there: an event informs whoever watches, and is never the only trace of something.
//!
//! The journal keeps them, too, as entries of the task's unit with a `MESSAGE_ID=` (systemd.journal-fields(7)) that the
//! catalog explains (`dist/nomad-driver-systemd.catalog`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt, future};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::systemd::journal_writer;
use crate::task::config::{TaskId, TaskIdentity};
use crate::task::spec;

/// Maximum number of events that wait for a slow listener.
const WAITING: usize = 1024;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The task runs: systemd itself writes this to the journal.
    Start,
    /// Advice for the job's author.
    Advice,
    /// A module is being compiled.
    Compiling,
    /// The task exceeded its memory.
    OutOfMemory,
    /// The task waits for memory.
    MemoryPressure,
    /// The task did not end in time.
    KillTimeout,
    /// Somebody else stopped the unit.
    Stopped,
    /// Nobody knows how the task ended.
    Unknown,
    /// The task missed its watchdog deadline.
    Watchdog,
    /// The task ran for too long.
    RuntimeMax,
    /// A guest did not exit by itself.
    GuestEnded,
    /// Requests to a guest failed.
    RequestsFailed,
}

impl Kind {
    /// The `MESSAGE_ID=` and the `PRIORITY=` (syslog(3)) of its entries in the journal.
    fn entry(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Start => return None,
            Self::Advice => ("7a8e299299d54bde996abe33d0666040", "5"),
            Self::Compiling => ("c2e982b225d8422f9d0eb5b1ca776a1d", "6"),
            Self::OutOfMemory => ("30d21e4a7a7c4c9f856f383bbe901f41", "3"),
            Self::MemoryPressure => ("8a6e1a06c774485aad420be12451c860", "4"),
            Self::KillTimeout => ("a3154be7e5fe4f9a873a4a63706a82ac", "4"),
            Self::Stopped => ("9a60288505ef4c9780f707fa8912b792", "4"),
            Self::Unknown => ("36947408c6154e80b5cbca2efd7decfe", "4"),
            Self::Watchdog => ("98fe703ab03040d1a763a1b3fe27d709", "3"),
            Self::RuntimeMax => ("105b341e50ab4b9da4f1a9fb97e981f9", "3"),
            Self::GuestEnded => ("ae594daf8ab249abae90088bd1b01d74", "3"),
            Self::RequestsFailed => ("5c4a3613db4a44d099c1e699f28e943e", "4"),
        })
    }
}

/// One thing that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The run of the task.
    pub task: TaskId,
    /// The task's allocation.
    pub alloc_id: String,
    /// The task's name in the job.
    pub task_name: String,
    /// Time of the event.
    pub at: SystemTime,
    /// Message for people.
    pub message: String,
    /// Details for programs, such as `unit` and `memory_max`.
    pub details: BTreeMap<String, String>,
}

/// The events of all tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Events {
    /// Sends an event to all listeners.
    pub(crate) fn tell(&self, task: &TaskIdentity, kind: Kind, message: String, details: &[(&str, String)]) {
        if let Some((id, priority)) = kind.entry() {
            record(task, id, priority, &message, details);
        }
        let event = Event {
            task: task.id.clone(),
            alloc_id: task.alloc_id.clone(),
            task_name: task.name.clone(),
            at: SystemTime::now(),
            message,
            details: details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        // Nobody listens before Nomad does.
        let _ = self.0.send(event);
    }

    /// All events from now on. Never ends.
    pub fn listen(&self) -> impl Stream<Item = Event> + Send + use<> {
        let heard = BroadcastStream::new(self.0.subscribe());
        // A listener that was too slow continues with the events that are still there.
        heard.filter_map(|event| future::ready(event.ok())).chain(futures_util::stream::pending())
    }
}

/// Writes the event to the journal, as an entry about the task's unit.
fn record(task: &TaskIdentity, id: &str, priority: &str, message: &str, details: &[(&str, String)]) {
    let unit = spec::unit_of(&task.id).to_string();
    // journalctl(1) believes the first of root alone.
    let of_unit =
        if rustix::process::geteuid().is_root() { "OBJECT_SYSTEMD_UNIT" } else { "OBJECT_SYSTEMD_USER_UNIT" };
    let details: Vec<_> =
        details.iter().map(|(name, value)| (name.to_ascii_uppercase(), value.as_str())).collect();
    let mut fields = vec![
        ("MESSAGE", message),
        ("MESSAGE_ID", id),
        ("PRIORITY", priority),
        ("SYSLOG_IDENTIFIER", "nomad-driver-systemd"),
        (of_unit, &unit),
        ("NOMAD_ALLOC_ID", &task.alloc_id),
        ("NOMAD_TASK_NAME", &task.name),
    ];
    fields.extend(details.iter().map(|(name, value)| (name.as_str(), *value)));
    journal_writer::write(&fields);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_explains_every_event_of_the_journal() {
        let catalog = include_str!("../../../dist/nomad-driver-systemd.catalog");
        let kinds = [
            Kind::Advice,
            Kind::Compiling,
            Kind::OutOfMemory,
            Kind::MemoryPressure,
            Kind::KillTimeout,
            Kind::Stopped,
            Kind::Unknown,
            Kind::Watchdog,
            Kind::RuntimeMax,
            Kind::GuestEnded,
            Kind::RequestsFailed,
        ];
        for kind in kinds {
            let (id, _) = kind.entry().unwrap();
            assert!(catalog.contains(&format!("\n-- {id}\nSubject: ")), "{kind:?}: {id}");
        }
        assert_eq!(catalog.matches("\n-- ").count(), kinds.len());
    }
}
