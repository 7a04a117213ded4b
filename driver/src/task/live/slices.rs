//! Keeps the driver's slices in line with Nomad's own cgroups, which are separate from them.
//!
//! Nomad keeps the cores that no task has reserved in `share.slice`, and changes them whenever a task of any driver
//! that has some comes or goes. A memory reservation holds in a cgroup only as far as it holds in those above it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex as Lock;
use rustix::fs::inotify;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::systemd::{self, Property, Systemd};
use crate::task::slice_names::{RESERVE, SHARE, SLICE};
use crate::task::spec::TaskSpec;
use crate::task::unit::slice_of;

/// The cores that tasks share (Nomad v2.0.5, client/lib/cgroupslib).
const SHARED_CORES: &str = "/sys/fs/cgroup/nomad.slice/share.slice/cpuset.cpus";

/// What has been set on the driver's slices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slices {
    told: Arc<Mutex<Told>>,
    starting: Starting,
}

#[derive(Debug, Default)]
struct Told {
    cores: String,
    /// `None`: set by an earlier driver, if at all.
    memory: Option<u64>,
    watched: bool,
}

/// Memory reservations of units that may not exist yet, in bytes.
type Starting = Arc<Lock<HashMap<String, u64>>>;

/// Memory that is reserved for a task while it starts. Afterwards its unit has the reservation.
#[derive(Debug)]
#[must_use]
pub(crate) struct Promise {
    unit: String,
    starting: Starting,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.starting.lock().remove(&self.unit);
    }
}

impl Slices {
    /// Must be called before a task starts; the returned value is kept until it has started.
    pub(crate) async fn prepare(
        &self,
        systemd: &Systemd,
        task: &TaskSpec,
    ) -> Result<Option<Promise>, systemd::Error> {
        self.share_cores(systemd).await?;
        let Some(bytes) = task.memory.reserved else { return Ok(None) };
        let unit = task.unit.to_string();
        self.starting.lock().insert(unit.clone(), bytes);
        let promise = Promise { unit, starting: Arc::clone(&self.starting) };
        self.promise(systemd).await?;
        Ok(Some(promise))
    }

    /// The slice above tasks in which the operator denies addresses. What a unit allows takes precedence over what a
    /// slice denies (systemd.resource-control(5), "IPAddressAllow=").
    pub(crate) async fn that_denies_addresses(
        systemd: &Systemd,
        task: &TaskSpec,
    ) -> Result<Option<&'static str>, systemd::Error> {
        for slice in ["-.slice", SLICE, slice_of(task)] {
            if systemd.denies_addresses(slice).await? {
                return Ok(Some(slice));
            }
        }
        Ok(None)
    }

    /// Must be called after a task was removed.
    pub(crate) async fn release(&self, systemd: &Systemd) {
        if let Err(error) = self.promise(systemd).await {
            tracing::debug!(
                error = crate::chain(&error),
                "failed to update the memory protection of the slices"
            );
        }
    }

    /// Must be called when a task was recovered.
    pub(crate) async fn follow(&self, systemd: &Systemd) {
        if let Err(error) = self.share_cores(systemd).await {
            tracing::warn!(error = crate::chain(&error), "failed to update the cores that tasks share");
        }
    }

    /// Reserves for the slices as much memory as for all their tasks.
    async fn promise(&self, systemd: &Systemd) -> Result<(), systemd::Error> {
        let mut told = self.told.lock().await;
        let directory = systemd.features().await?.cgroup.join(SLICE);
        let before = told.memory.unwrap_or_else(|| low(&directory.join(SHARE)));
        let starting = self.starting.lock().clone();
        if before == 0 && starting.is_empty() {
            return Ok(());
        }
        let there = [SHARE, RESERVE].iter().map(|slice| promised(&directory.join(slice), &starting));
        let memory = there.chain(starting.values().copied()).fold(0, u64::saturating_add);
        if memory != before {
            for slice in [SLICE, SHARE, RESERVE] {
                systemd.set(slice, vec![Property::MemoryLow(memory)]).await?;
            }
        }
        told.memory = Some(memory);
        Ok(())
    }

    /// Gives the tasks that share cores the same cores as Nomad's, now and whenever they change.
    async fn share_cores(&self, systemd: &Systemd) -> Result<(), systemd::Error> {
        let mut told = self.told.lock().await;
        // There is no agent, or it uses no cpusets.
        if !Path::new(SHARED_CORES).exists() {
            return Ok(());
        }
        // Watched before they are read, so that no change is missed.
        if !told.watched {
            told.watched = self
                .watch(systemd)
                .inspect_err(|error| tracing::warn!(%error, "{SHARED_CORES} is not watched"))
                .is_ok();
        }
        let cores = fs::read_to_string(SHARED_CORES).unwrap_or_default().trim().to_owned();
        if !cores.is_empty() && cores != told.cores {
            systemd.set(SHARE, vec![Property::AllowedCPUs(cores.clone())]).await?;
            told.cores = cores;
        }
        Ok(())
    }

    /// The kernel reports writes to the file, which is how Nomad changes it. A waiting thread costs nothing.
    fn watch(&self, systemd: &Systemd) -> std::io::Result<()> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&queue, SHARED_CORES, inotify::WatchFlags::MODIFY)?;
        let (this, systemd, runtime) = (self.clone(), systemd.clone(), Handle::current());
        let watch = move || {
            let mut buffer = [0; 1024];
            // Only the fact that there is an event matters.
            while rustix::io::retry_on_intr(|| rustix::io::read(&queue, &mut buffer)).is_ok() {
                let (this, systemd) = (this.clone(), systemd.clone());
                runtime.spawn(async move { this.follow(&systemd).await });
            }
        };
        std::thread::Builder::new().name("cores".to_owned()).spawn(watch).map(drop)
    }
}

/// Memory reservation of all units in a slice except `others`, in bytes.
fn promised(slice: &Path, others: &HashMap<String, u64>) -> u64 {
    let units = fs::read_dir(slice).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_other = |unit: &PathBuf| {
        unit.file_name().and_then(|name| name.to_str()).is_some_and(|name| others.contains_key(name))
    };
    units.filter(|unit| !is_other(unit)).map(|unit| low(&unit)).fold(0, u64::saturating_add)
}

/// Memory reservation of a cgroup, in bytes.
fn low(cgroup: &Path) -> u64 {
    fs::read_to_string(cgroup.join("memory.low"))
        .ok()
        .and_then(|low| low.trim().parse().ok())
        .unwrap_or_default()
}
