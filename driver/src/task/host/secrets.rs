//! The file system of a task's secrets, given back to an agent that has lost it.
//!
//! An agent in a mount namespace of its own (`PrivateMounts=` in its service) loses what it has mounted when it ends, while the
//! tasks keep it. The next agent would mount an empty file system in its place, and nothing that it writes there (templates,
//! tokens of `identity` blocks) would reach a running task:
//!
//! ```text
//!                     <allocation>/<task>/secrets of the agent        /secrets of the task
//!  at the start       tmpfs 1 ── a pin ─────────────────────────────► tmpfs 1
//!  a new agent        an empty directory on the disk                  tmpfs 1
//!  RecoverTask        tmpfs 1 ◄────────────────────────────────────── tmpfs 1
//! ```
//!
//! An agent that finds the file system there leaves it as it is.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{MoveMountFlags, move_mount};

use super::dirs::TaskDirs;
use super::pin::Base;
use crate::kernel;
use crate::systemd::UnitName;

/// Mounts the secrets of the task, whose unit has this main process, where the agent expects them, unless it has a file system
/// there.
pub(crate) fn give_back(dirs: &TaskDirs, unit: &UnitName, process: u32) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let open = |directory| Base::Task { alloc_dir: &dirs.alloc_dir, directory }.open(Path::new(""));
    let above = dirs.secrets.parent().unwrap_or(&dirs.alloc_dir);
    // Nomad may have removed them.
    let (Ok(place), Ok(above)) = (open(&dirs.secrets), open(above)) else { return Ok(()) };
    if kernel::identity(&place)?.0 != kernel::identity(&above)?.0 {
        return Ok(());
    }
    let Some(task) = Process::of(unit, process) else { return Ok(()) };
    // With the host's paths the task has its secrets where the agent has them.
    let paths = [Path::new("/secrets"), &dirs.secrets];
    let Some(path) = paths.into_iter().find(|path| task.has_file_system_at(path)) else { return Ok(()) };
    let mounts = kernel::in_mount_namespace(&task.namespace, || {
        let path = path.strip_prefix("/").unwrap_or(path);
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let root = rustix::fs::open("/", DIRECTORY, Mode::empty())?;
        kernel::copy_mounts(&openat2(root, path, DIRECTORY, Mode::empty(), resolve)?, false)
    })?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mounts, "", place, "", empty)?)
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The main process of a running task.
struct Process {
    namespace: OwnedFd,
    mounts: String,
}

impl Process {
    /// `None` if the process has ended, or its number is another one's by now.
    fn of(unit: &UnitName, process: u32) -> Option<Self> {
        let proc = rustix::fs::open(format!("/proc/{process}"), DIRECTORY, Mode::empty()).ok()?;
        let file = |name: &str| openat(&proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        let content = |name: &str| io::read_to_string(File::from(file(name)?)).ok();
        let (namespace, mounts, cgroup) = (file("ns/mnt")?, content("mountinfo")?, content("cgroup")?);
        let is_its = cgroup.lines().any(|line| line.split('/').any(|part| part == unit.as_str()));
        is_its.then_some(Self { namespace, mounts })
    }

    /// Is a file system in memory mounted at this path, and not only a directory of one, as systemd mounts where a job closes
    /// a path (`InaccessiblePaths=`)? The format is that of proc_pid_mountinfo(5); the last mount at a path is on top.
    fn has_file_system_at(&self, path: &Path) -> bool {
        let at = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path);
        let top = self.mounts.lines().rfind(at);
        top.is_some_and(|line| line.split(' ').nth(3) == Some("/") && line.contains(" - tmpfs "))
    }
}
