//! Finds units that no agent will ever ask for again, and stops them.
//!
//! An agent that dies after the start of a task and before it has stored the handle does not know the task afterwards.
//! If it starts the same task again, that start ends the earlier run (`Shared::remove_earlier_runs`). If it does not,
//! because the job was stopped meanwhile, the unit would run for ever.
//!
//! Many agents may share a machine, and tasks must outlive an agent that is down. So a unit counts as lost only if all
//! of this holds: it belongs to an agent that this driver serves, recognized by its allocation directories; that agent
//! is running; and either the allocation's directory is gone, or the unit is older than this driver and the agent has
//! not asked for it within the time that the operator allows (`lost_after`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Pid, getppid};
use rustix::time::{ClockId, clock_gettime};

use crate::systemd::UnitName;
use crate::task::Shared;
use crate::task::spec;

/// Looks for lost units after every `lost_after`, for as long as the agent that started the driver lives.
pub(in crate::task) async fn watch(shared: Weak<Shared>, lost_after: Duration) {
    // As systemd counts: the wall clock may be set meanwhile.
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    let (agent, began) = (getppid(), now);
    // Units seen without their directory once: the next time they are lost.
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
    async fn end_lost(self: &Arc<Self>, began: Duration, without_directory: &mut HashSet<UnitName>) {
        let units = match self.systemd.list(spec::UNIT_PREFIX).await {
            Ok(units) => units,
            Err(error) => {
                return tracing::debug!(error = crate::chain(&error), "lost units could not be looked for");
            }
        };
        let (known, directories) = self.known();
        let mut without_now = HashSet::new();
        for unit in units {
            let Some(alloc_dir) = self.alloc_dir_of(&unit).await else { continue };
            let Some(of_agent) = alloc_dir.parent().filter(|parent| directories.contains(*parent)) else {
                continue;
            };
            let gone = of_agent.is_dir() && !alloc_dir.exists();
            let never_known = !known.contains(&unit) && self.is_older(&unit, began).await;
            if gone {
                without_now.insert(unit.clone());
            }
            if never_known || (gone && without_directory.contains(&unit)) {
                tracing::warn!(%unit, alloc_dir = %alloc_dir.display(), "ending a task that Nomad has lost");
                if let Err(error) = self.remove(&unit).await {
                    tracing::warn!(%unit, error = crate::chain(&error), "a lost task could not be ended");
                }
            }
        }
        *without_directory = without_now;
    }

    /// The units of all live tasks, and the directories in which their agents keep allocations.
    fn known(&self) -> (HashSet<UnitName>, HashSet<PathBuf>) {
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

    async fn is_older(&self, unit: &UnitName, than: Duration) -> bool {
        let service = self.systemd.service(unit).await;
        service.is_ok_and(|service| service.started_since_boot().is_some_and(|started| started < than))
    }

    /// Records where the agent that asks for this task keeps its allocations: the driver serves this agent.
    pub(crate) fn note_agent_of(&self, alloc_dir: &Path) {
        if let Some(parent) = alloc_dir.parent() {
            self.alloc_parents.lock().insert(parent.to_owned());
        }
    }
}
