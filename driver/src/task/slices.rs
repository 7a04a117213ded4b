//! Keeps the slices of our units in line with Nomad's own cgroups, which they are apart from.
//!
//! Nomad keeps the cores that nobody has for himself in `share.slice`, and changes them whenever a task of any driver
//! comes or goes that has. A promise of memory holds in a cgroup only as far as it holds in those above it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::spec::TaskSpec;
use super::unit::{RESERVE, SHARE, SLICE};
use crate::systemd::{self, Property, Systemd};

/// The cores that tasks share (Nomad v2.0.5, client/lib/cgroupslib).
const SHARED_CORES: &str = "/sys/fs/cgroup/nomad.slice/share.slice/cpuset.cpus";

/// What our slices have been told.
#[derive(Debug, Clone, Default)]
pub struct Slices {
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    cores: String,
    memory: u64,
    watched: bool,
}

impl Slices {
    /// To be called before a task starts.
    pub async fn prepare(&self, systemd: &Systemd, task: &TaskSpec) -> Result<(), systemd::Error> {
        self.share_cores(systemd).await?;
        match task.memory.reserved {
            Some(bytes) => self.promise(systemd, bytes).await,
            None => Ok(()),
        }
    }

    /// To be called after one was removed.
    pub async fn release(&self, systemd: &Systemd) {
        let has_promised = self.told.lock().await.memory != 0;
        if has_promised && let Err(error) = self.promise(systemd, 0).await {
            tracing::debug!(
                error = crate::chain(&error),
                "the memory that tasks are promised was not told anew"
            );
        }
    }

    /// Promises the slices what all their tasks are promised, and `more`.
    async fn promise(&self, systemd: &Systemd, more: u64) -> Result<(), systemd::Error> {
        let mut told = self.told.lock().await;
        let directory = systemd.features().await?.cgroup.join(SLICE);
        let now: u64 = [SHARE, RESERVE].iter().map(|slice| promised(&directory.join(slice))).sum();
        let memory = now.saturating_add(more);
        if memory != told.memory {
            for slice in [SLICE, SHARE, RESERVE] {
                systemd.set(slice, vec![Property::MemoryLow(memory)]).await?;
            }
            told.memory = memory;
        }
        Ok(())
    }

    /// Lets the tasks that share cores have those that Nomad's have, now and whenever they change.
    async fn share_cores(&self, systemd: &Systemd) -> Result<(), systemd::Error> {
        let mut told = self.told.lock().await;
        // An agent without cpusets, or none.
        let Ok(cores) = fs::read_to_string(SHARED_CORES) else { return Ok(()) };
        if !told.watched {
            told.watched = self
                .watch(systemd)
                .inspect_err(|error| tracing::warn!(%error, "{SHARED_CORES} is not watched"))
                .is_ok();
        }
        let cores = cores.trim().to_owned();
        if !cores.is_empty() && cores != told.cores {
            systemd.set(SHARE, vec![Property::AllowedCPUs(cores.clone())]).await?;
            told.cores = cores;
        }
        Ok(())
    }

    /// The kernel tells of a write to the file, which is how Nomad changes it. A thread that waits costs nothing.
    fn watch(&self, systemd: &Systemd) -> std::io::Result<()> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&queue, SHARED_CORES, inotify::WatchFlags::MODIFY)?;
        let (this, systemd, runtime) = (self.clone(), systemd.clone(), Handle::current());
        let watch = move || {
            let mut buffer = [0; 1024];
            // What it says does not matter, but that it says something.
            while rustix::io::retry_on_intr(|| rustix::io::read(&queue, &mut buffer)).is_ok() {
                let (this, systemd) = (this.clone(), systemd.clone());
                runtime.spawn(async move {
                    if let Err(error) = this.share_cores(&systemd).await {
                        tracing::warn!(
                            error = crate::chain(&error),
                            "the cores that tasks share were not told"
                        );
                    }
                });
            }
        };
        std::thread::Builder::new().name("cores".to_owned()).spawn(watch).map(drop)
    }
}

/// What all units in a slice are promised, in bytes.
fn promised(slice: &Path) -> u64 {
    let units = fs::read_dir(slice).into_iter().flatten().flatten().map(|entry| entry.path());
    units
        .filter_map(|unit: PathBuf| {
            fs::read_to_string(unit.join("memory.low")).ok()?.trim().parse::<u64>().ok()
        })
        .sum()
}
