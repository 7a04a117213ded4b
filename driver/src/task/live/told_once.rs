//! What is told of a task once: where it runs, and what its author should know. Nomad keeps ten events of a task, which
//! restarts would fill.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use parking_lot::Mutex;

use crate::task::config::{TaskId, TaskIdentity};

/// Tasks whose first start was told of, and what there is to say of those that were not waited for yet.
#[derive(Default)]
pub(crate) struct ToldOnce {
    told: Mutex<HashSet<u64>>,
    advice: Mutex<HashMap<TaskId, String>>,
}

impl ToldOnce {
    /// So many are remembered before all are forgotten, one of which costs 16 bytes.
    const MOST: usize = 10_000;

    /// Remembers that the task was told of; true the first time in its allocation, as far as this process knows.
    pub(crate) fn record(&self, identity: &TaskIdentity) -> bool {
        let mut hasher = DefaultHasher::new();
        (&identity.alloc_id, &identity.name).hash(&mut hasher);
        let mut told = self.told.lock();
        if told.len() >= Self::MOST {
            told.clear();
        }
        told.insert(hasher.finish())
    }

    /// Keeps what is to be told when Nomad waits for the task.
    pub(crate) fn advise(&self, id: &TaskId, advice: String) {
        self.advice.lock().insert(id.clone(), advice);
    }

    /// What was kept, once.
    pub(crate) fn take_advice(&self, id: &TaskId) -> Option<String> {
        self.advice.lock().remove(id)
    }
}
