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

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, fstatfs, open, openat, openat2};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::dirs::TaskDirs;
use super::pin::Base;
use crate::kernel;
use crate::systemd::UnitName;

/// `TMPFS_MAGIC` of statfs(2).
const TMPFS: i64 = 0x0102_1994;

/// Mounts the secrets of the task, whose unit has this main process, where the agent expects them, unless they are there.
pub(crate) fn give_back(dirs: &TaskDirs, unit: &UnitName, process: u32) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(task) = Process::of(unit, process) else { return Ok(()) };
    let place = Base::Task { alloc_dir: &dirs.alloc_dir, directory: &dirs.secrets }.open(Path::new(""));
    // With the host's paths the task has its secrets where the agent has them, and otherwise there.
    let of_host = open("/proc/1/root", DIRECTORY, Mode::empty())?;
    let sees_host = identity(&task.root)? == identity(&of_host)?;
    let path = if sees_host { &dirs.secrets } else { Path::new("/secrets") };
    // Nomad or the job may have removed or closed either.
    let (Ok(place), Ok(secrets)) = (place, below(&task.root, path)) else { return Ok(()) };
    let found = identity(&secrets)?;
    if found == identity(&place)? || fstatfs(&secrets)?.f_type != TMPFS {
        return Ok(());
    }
    // The kernel copies no mounts of another namespace.
    let mounts = kernel::in_mount_namespace(&task.mounts, || {
        let secrets = below(&open("/", DIRECTORY, Mode::empty())?, path)?;
        if identity(&secrets)? != found {
            return Err(io::ErrorKind::NotFound.into());
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(open_tree(&secrets, "", flags | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
    })?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mounts, "", place, "", empty)?)
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The main process of a running task.
struct Process {
    root: OwnedFd,
    mounts: OwnedFd,
}

impl Process {
    /// `None` if the process has ended, or its number is another one's by now.
    fn of(unit: &UnitName, process: u32) -> Option<Self> {
        let proc = open(format!("/proc/{process}"), DIRECTORY, Mode::empty()).ok()?;
        let file = |name: &str| openat(&proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        let (root, mounts) = (openat(&proc, "root", DIRECTORY, Mode::empty()).ok()?, file("ns/mnt")?);
        let cgroup = io::read_to_string(File::from(file("cgroup")?)).ok()?;
        let is_its = cgroup.lines().any(|line| line.split('/').any(|part| part == unit.as_str()));
        is_its.then_some(Self { root, mounts })
    }
}

/// Opens a directory below a root, without following links.
fn below(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    openat2(root, path, DIRECTORY, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH)
}

fn identity(object: &OwnedFd) -> rustix::io::Result<(u64, u64)> {
    fstat(object).map(|found| (found.st_dev, found.st_ino))
}
