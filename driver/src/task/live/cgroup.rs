//! The cgroup of a unit, or of a command in the unit (cgroups(7), cgroup v2).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// Where the cgroup hierarchy is mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// One cgroup. Holding this value keeps nothing alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// The cgroup of a unit, from systemd's `ControlGroup` property. A unit without processes has none: the empty
    /// string must never be taken for the root cgroup.
    pub fn of_unit(control_group: &str) -> Option<Self> {
        let inside = control_group.strip_prefix('/').filter(|inside| !inside.is_empty())?;
        Some(Self(Path::new(MOUNT).join(inside)))
    }

    /// The cgroup of a unit one of whose processes has this PID, without querying systemd; `None` if the process
    /// belongs to another unit by now.
    pub(crate) fn of_process(pid: u32, unit: &str) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
        let own = path.ancestors().find(|path| path.file_name().is_some_and(|name| name == unit))?;
        Self::of_unit(own.to_str()?).filter(|group| group.0.is_dir())
    }

    /// The cgroup of the driver.
    pub(crate) fn of_us() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::of_unit(groups.lines().find_map(|line| line.strip_prefix("0::"))?)
    }

    /// The cgroup at this directory.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory of the cgroup.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The child cgroups.
    pub fn children(&self) -> Vec<Self> {
        // The kernel counts directories as links, so most cgroups need not be listed to find no children.
        if fs::metadata(&self.0).is_ok_and(|directory| directory.nlink() <= 2) {
            return Vec::new();
        }
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups.map(|entry| Self(entry.path())).collect()
    }

    /// The processes in the cgroup and in its descendants.
    pub fn processes(&self) -> Vec<Pid> {
        let own = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        let mut all: Vec<Pid> = own.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
        all.extend(self.children().iter().flat_map(Self::processes));
        all
    }

    /// Kills every process in the cgroup.
    pub(crate) fn kill(&self) {
        // All of them at once; since Linux 5.14.
        if fs::write(self.0.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        for pid in self.processes() {
            // A process that has exited by itself is fine.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// Removes the cgroup if it has no processes.
    pub(crate) fn remove_if_empty(&self) {
        let _ = fs::remove_dir(&self.0);
    }

    /// Removes the cgroup when its last process has ended. The unit's end removes it as well.
    pub(crate) fn remove_soon(self) {
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(1);
            while fs::remove_dir(&self.0).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                && pause < Duration::from_secs(10)
            {
                self.kill();
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_without_processes_has_no_group() {
        assert_eq!(Cgroup::of_unit(""), None);
        assert_eq!(Cgroup::of_unit("/"), None);
        let group = Cgroup::of_unit("/nomad_tasks.slice/a.service").unwrap();
        assert_eq!(group.path(), Path::new("/sys/fs/cgroup/nomad_tasks.slice/a.service"));
    }
}
