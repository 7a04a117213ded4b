//! Events of a task for operators, shown by `nomad alloc status`, beyond its start and its end.
//!
//! Nomad keeps the last ten events of a task, so only helpful events are sent. Nothing is kept for a listener that is
//! not there: an event informs whoever watches, and is never the only trace of something.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt, future};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::task::config::{TaskId, TaskIdentity};

/// Maximum number of events that wait for a slow listener.
const WAITING: usize = 1024;

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
    pub(crate) fn tell(&self, task: &TaskIdentity, message: String, details: &[(&str, String)]) {
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
