//! Events that are sent once per task: where it runs, and advice for its author. Nomad keeps ten events of a task,
//! which restarts would fill.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use parking_lot::Mutex;

use crate::task::config::{TaskId, TaskIdentity};

/// Tasks whose first start was reported, and the advice about tasks that Nomad does not wait for yet.
#[derive(Default)]
pub(crate) struct ToldOnce {
    told: Mutex<HashSet<u64>>,
    advice: Mutex<HashMap<TaskId, String>>,
}

impl ToldOnce {
    /// Maximum number of remembered tasks, after which all are forgotten; one costs 16 bytes.
    const MOST: usize = 10_000;

    /// Records that the task was reported; true the first time in its allocation, as far as this process knows.
    pub(crate) fn record(&self, identity: &TaskIdentity) -> bool {
        let mut hasher = DefaultHasher::new();
        (&identity.alloc_id, &identity.name).hash(&mut hasher);
        let mut told = self.told.lock();
        if told.len() >= Self::MOST {
            told.clear();
        }
        told.insert(hasher.finish())
    }

    /// Stores advice to be sent when Nomad waits for the task.
    pub(crate) fn advise(&self, id: &TaskId, advice: String) {
        self.advice.lock().insert(id.clone(), advice);
    }

    /// Takes the stored advice.
    pub(crate) fn take_advice(&self, id: &TaskId) -> Option<String> {
        self.advice.lock().remove(id)
    }
}
