//! Units of earlier runs of a task, and what is left of a run.

use super::error::Error;
use super::{Shared, spec};
use std::collections::HashSet;
use std::time::Duration;

use super::config::{TaskConfig, TaskId};
use super::host::runtime_dir::TaskRuntimeDir;
use super::host::{pin, runtime_dir};
use super::wasm::compiler;
use crate::systemd::UnitName;

/// Time for the copiers of a task to write its last output: as long as Nomad's log collector waits for them.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Shared {
    /// Removes a unit and everything that was created for it.
    pub(super) async fn remove(&self, unit: &UnitName) -> Result<(), Error> {
        self.systemd.remove(unit).await?;
        if let Ok(node) = self.node() {
            TaskRuntimeDir::of(&node.runtime_dir, unit).remove();
        }
        self.slices.release(&self.systemd).await;
        Ok(())
    }

    /// Waits until the copiers of a task that has ended have written its last output, and stops those that have not.
    pub(super) async fn end_copiers(&self, id: &TaskId) -> Result<(), Error> {
        for stream in ["stdout", "stderr"] {
            let name = spec::copier_of(id, stream);
            if let Ok(mut unit) = self.systemd.find(&name).await {
                // Late or not: the unit is removed next.
                let _ = tokio::time::timeout(LAST_WORDS, unit.gone()).await;
            }
            self.systemd.remove(&name).await?;
        }
        Ok(())
    }

    /// Removes every other run of the same task in the same allocation.
    ///
    /// An agent that died before it had stored a start requests the task with a new id, and nobody will ever request
    /// the old one. Runs of this process are in the table; systemd is asked once for the runs before it.
    pub(super) async fn remove_earlier_runs(
        &self,
        config: &TaskConfig,
        unit: &UnitName,
    ) -> Result<(), Error> {
        let is_earlier = |other: &UnitName| {
            other != unit && spec::is_run_of(other, &config.identity.alloc_id, &config.identity.name)
        };
        let earlier = self.earlier().await?.iter().filter(|other| is_earlier(other)).cloned();
        let mut ours = self.table.live();
        ours.retain(|handle| is_earlier(handle.unit()));
        let units: HashSet<UnitName> =
            earlier.chain(ours.iter().map(|handle| handle.unit().clone())).collect();
        for unit in units {
            tracing::warn!(%unit, "removing a run of the task that nobody asks for any more");
            self.remove(&unit).await?;
        }
        for handle in ours {
            self.table.lock().remove(handle.id());
        }
        Ok(())
    }

    /// The units of tasks that started before this process. Compilations that died with their driver are not included:
    /// they are removed.
    pub(super) async fn earlier(&self) -> Result<&Vec<UnitName>, Error> {
        let ask = async || {
            let (orphans, units) = self
                .systemd
                .list(spec::UNIT_PREFIX)
                .await?
                .into_iter()
                .partition::<Vec<_>, _>(compiler::is_orphaned_compilation);
            for unit in &orphans {
                self.systemd.remove(unit).await?;
            }
            // Including the units that copy output.
            self.systemd.sweep("nomad");
            if let Ok(node) = self.node() {
                runtime_dir::sweep(&node.runtime_dir, &units.iter().map(UnitName::as_str).collect());
                pin::sweep(&node.runtime_dir);
            }
            Ok(units)
        };
        self.earlier.get_or_try_init(ask).await.map_err(Error::Systemd)
    }
}
