//! The table of all tasks of this process. A row is taken while its task is started, so that nobody starts it twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::config::TaskId;
use super::error::Error;
use super::live::handle::Handle;

/// The table.
#[derive(Default)]
pub(super) struct Table(Mutex<HashMap<TaskId, Slot>>);

/// A row of the table.
pub(super) enum Slot {
    /// The id is taken, and the task is being started; notified when the task shall not start any more.
    Starting(Arc<Notify>),
    /// The task has started.
    Live(Arc<Handle>),
}

impl Table {
    /// The rows, until the guard is dropped.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Slot>> {
        self.0.lock()
    }

    /// The tasks that have started.
    pub(super) fn live(&self) -> Vec<Arc<Handle>> {
        let rows = self.lock();
        let live = rows.values().filter_map(|slot| match slot {
            Slot::Live(handle) => Some(Arc::clone(handle)),
            Slot::Starting(_) => None,
        });
        live.collect()
    }
}

/// A row that is taken while a task is being started, and is free again unless the task has started.
pub(super) struct Claim {
    table: Arc<Table>,
    id: TaskId,
    /// Notified when somebody wants the task to end.
    pub(super) stopped: Arc<Notify>,
}

impl Claim {
    /// Takes the row, if it is free.
    pub(super) fn new(table: &Arc<Table>, id: &TaskId) -> Result<Self, Error> {
        match table.lock().entry(id.clone()) {
            Entry::Occupied(_) => Err(Error::Duplicate { id: id.clone() }),
            Entry::Vacant(row) => {
                let stopped = Arc::default();
                row.insert(Slot::Starting(Arc::clone(&stopped)));
                Ok(Self { table: Arc::clone(table), id: id.clone(), stopped })
            }
        }
    }

    /// Records that the task has started.
    pub(super) fn keep(self, handle: &Arc<Handle>) {
        self.table.lock().insert(self.id.clone(), Slot::Live(Arc::clone(handle)));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut rows = self.table.lock();
        if let Some(Slot::Starting(_)) = rows.get(&self.id) {
            rows.remove(&self.id);
        }
    }
}
