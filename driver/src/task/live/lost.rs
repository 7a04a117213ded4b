//! Finds units that nobody will ever ask for again, and ends them.
//!
//! An agent that dies between the start of a task and the writing down of its handle does not know of the task
//! afterwards. If it starts the same task again, the earlier run is ended then (`Shared::remove_earlier_runs`). If it does not, because
//! the job was stopped meanwhile, the unit would run for ever.
//!
//! Many agents may share a machine, and tasks must outlive an agent that is down. So a unit is taken for lost only when
//! all of this holds: it is of an agent that this driver serves, told by the directory of its allocations; that agent
//! lives; and either the allocation's directory is gone, or the unit is older than this driver and the agent has not
//! asked for it in all the time that the operator allows (`lost_after`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, getppid};

use crate::systemd::UnitName;
use crate::task::Shared;
use crate::task::spec;

/// Looks for lost units each time that this long has passed, for as long as the agent that started us lives.
pub(in crate::task) async fn watch(shared: Weak<Shared>, lost_after: Duration) {
    let (agent, began) = (getppid(), SystemTime::now());
    // Seen without their directory once: the next time they are lost.
    let mut without_directory = HashSet::new();
    loop {
        tokio::time::sleep(lost_after).await;
        let Some(shared) = shared.upgrade() else { return };
        if getppid() != agent || agent.is_none_or(Pid::is_init) {
            return;
        }
        shared.end_lost(began, &mut without_directory).await;
    }
}

impl Shared {
    async fn end_lost(self: &Arc<Self>, began: SystemTime, without_directory: &mut HashSet<UnitName>) {
        let units = match self.systemd.list(spec::UNIT_PREFIX).await {
            Ok(units) => units,
            Err(error) => {
                return tracing::debug!(error = crate::chain(&error), "lost units could not be looked for");
            }
        };
        let (asked_for, directories) = self.asked_for();
        let mut without_now = HashSet::new();
        for unit in units {
            let Some(alloc_dir) = self.alloc_dir_of(&unit).await else { continue };
            let Some(of_agent) = alloc_dir.parent().filter(|parent| directories.contains(*parent)) else {
                continue;
            };
            let gone = of_agent.is_dir() && !alloc_dir.exists();
            let never_asked_for = !asked_for.contains(&unit) && self.is_older(&unit, began).await;
            if gone {
                without_now.insert(unit.clone());
            }
            if never_asked_for || (gone && without_directory.contains(&unit)) {
                tracing::warn!(%unit, alloc_dir = %alloc_dir.display(), "ending a task that Nomad has lost");
                if let Err(error) = self.remove(&unit).await {
                    tracing::warn!(%unit, error = crate::chain(&error), "a lost task could not be ended");
                }
            }
        }
        *without_directory = without_now;
    }

    /// The units of all live tasks, and the directories in which their agents keep allocations.
    fn asked_for(&self) -> (HashSet<UnitName>, HashSet<PathBuf>) {
        let units = self.table.live().iter().map(|handle| handle.unit().clone()).collect();
        (units, self.alloc_parents.lock().clone())
    }

    async fn alloc_dir_of(&self, unit: &UnitName) -> Option<PathBuf> {
        let service = self.systemd.service(unit).await.ok()?;
        let mut fields = service.log_extra_fields.iter();
        fields.find_map(|field| {
            Some(PathBuf::from(field.strip_prefix(spec::ALLOC_DIR_FIELD)?.strip_prefix('=')?))
        })
    }

    async fn is_older(&self, unit: &UnitName, than: SystemTime) -> bool {
        let found = self.systemd.find(unit).await;
        found.is_ok_and(|unit| unit.state().started_at().is_some_and(|started| started < than))
    }

    /// Notes where the agent that asks for this task keeps its allocations: the agent is ours.
    pub(crate) fn note_agent_of(&self, alloc_dir: &Path) {
        if let Some(parent) = alloc_dir.parent() {
            self.alloc_parents.lock().insert(parent.to_owned());
        }
    }
}
