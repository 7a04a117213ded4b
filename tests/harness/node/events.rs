//! The plugin's events about tasks.

use proto::driver::DriverTaskEvent;
use tonic::Streaming;

use super::task::Task;
use crate::SOON;

/// The plugin's events about tasks while it runs them.
#[derive(Debug)]
pub struct Events(pub(super) Streaming<DriverTaskEvent>);

impl Events {
    /// The next event of this task.
    pub async fn next_of(&mut self, task: &Task) -> DriverTaskEvent {
        let next = async {
            loop {
                let event = self.0.message().await.expect("no error comes").expect("the stream never ends");
                if event.task_id == task.id {
                    return event;
                }
            }
        };
        let event = tokio::time::timeout(SOON, next).await.expect("an event comes");
        assert_eq!((event.alloc_id.as_str(), event.task_name.as_str()), (&task.id[..36], task.name.as_str()));
        event
    }

    /// The events of other tasks before the first event of this one.
    pub async fn before(&mut self, task: &Task) -> Vec<DriverTaskEvent> {
        let mut others = Vec::new();
        let listening = async {
            loop {
                let event = self.0.message().await.expect("no error comes").expect("the stream never ends");
                if event.task_id == task.id {
                    return;
                }
                others.push(event);
            }
        };
        tokio::time::timeout(SOON, listening).await.expect("an event comes");
        others
    }

    /// The next event of this task that contains this text.
    pub async fn until(&mut self, task: &Task, text: &str) -> DriverTaskEvent {
        loop {
            let event = self.next_of(task).await;
            if event.message.contains(text) {
                return event;
            }
        }
    }
}
