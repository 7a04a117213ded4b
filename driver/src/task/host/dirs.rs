//! The directories of an allocation, closed to everybody who could put a link in their place.
//!
//! Nomad's agent makes a task's directory and the shared one writable by everybody, and the way to them may be open:
//!
//! ```text
//!                                 on the node                                     in the view of a task
//!  <allocation>/alloc            root's, with the sticky bit                     read-only
//!               ├── logs         root's, and nobody else writes there            read-only
//!               └── data, tmp    root's, or of the task that has taken it        writable
//!  <allocation>/<task>           root's alone
//!               └── local, secrets                                               writable; no links in secrets
//! ```
//!
//! An agent that starts makes `alloc` and the directories that it has created in it writable by everybody again, and
//! follows links, also when it writes logs: a task that put a link there could have it open directories of the host, or
//! write to files of root. `alloc` is read-only by its mount. That also holds for a descriptor of it that a task passes
//! to a process elsewhere; a mount point, or the sticky bit, would not protect against that.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdirat, unlinkat};
use rustix::io::Errno;

use shim_interface::Same;

use super::pin::{Base, Pins};
use crate::kernel;

/// The user "nobody", to whom the agent gives what it creates: the UID is the same wherever systemd runs
/// (<https://systemd.io/UIDS-GIDS>).
const NOBODY: u32 = 65534;
/// Directories that the agent creates in the group's shared directory, and that tasks can write to.
pub(crate) const WRITABLE: [&str; 2] = ["data", "tmp"];

/// The directories of one task, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDirs {
    /// The allocation directory; only the agent writes to it.
    pub alloc_dir: PathBuf,
    /// Shared by the group's tasks, `/alloc` in the view.
    pub shared: PathBuf,
    /// The task's own, `/local` in the view.
    pub local: PathBuf,
    /// A tmpfs that Nomad mounts, `/secrets` in the view.
    pub secrets: PathBuf,
}

impl TaskDirs {
    /// The layout of Nomad's `client/allocdir`.
    pub fn new(alloc_dir: &Path, task: &str) -> Self {
        let task_dir = alloc_dir.join(task);
        Self {
            alloc_dir: alloc_dir.to_owned(),
            shared: alloc_dir.join("alloc"),
            local: task_dir.join("local"),
            secrets: task_dir.join("secrets"),
        }
    }

    /// The same directories by paths that systemd finds.
    pub(crate) fn seen_by_systemd(&self, pins: &mut Pins) -> io::Result<Self> {
        let mut seen =
            |directory: &Path| pins.seen_by_systemd(Base::Task { alloc_dir: &self.alloc_dir, directory });
        Ok(Self {
            alloc_dir: self.alloc_dir.clone(),
            shared: seen(&self.shared)?,
            local: seen(&self.local)?,
            secrets: seen(&self.secrets)?,
        })
    }

    /// Resolves a relative path that is written as for drivers whose tasks start in the task directory, such as
    /// `local/x`: the directory on the host and in the private view, and the rest of the path.
    pub fn named<'p>(&self, path: &'p Path) -> Option<(&Path, &'static str, &'p Path)> {
        self.pairs().into_iter().find_map(|(host, inside)| {
            let below = path.strip_prefix(inside.trim_start_matches('/')).ok()?;
            Some((host, inside, below))
        })
    }

    /// The task's own directories: each on the host, and its name in the private view.
    pub fn own(&self) -> [(&Path, &'static str); 2] {
        [(&self.local, "/local"), (&self.secrets, "/secrets")]
    }

    /// Each directory on the host, and its name in the private view.
    pub fn pairs(&self) -> [(&Path, &'static str); 3] {
        [(&self.local, "/local"), (&self.shared, "/alloc"), (&self.secrets, "/secrets")]
    }
}

/// The closed directories of a task.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// Names of those in `alloc` that the task may write to. `None` where all of it is writable: nothing was closed.
    pub(crate) writable: Option<Vec<&'static str>>,
    /// What the task must find in its view after systemd has mounted it.
    pub(crate) same: Vec<Same>,
}

/// Closes the directories before their paths are passed to systemd. A driver that is not root changes nothing: its
/// tasks run as its own user, and have nothing to gain.
///
/// Tasks that see the host (`sees_host`) reach their own directory by the same path, so that stays searchable.
pub(crate) fn close(dirs: &TaskDirs, sees_host: bool) -> io::Result<Closed> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Closed::default());
    }
    if let Some(directory) = changeable(&dirs.alloc_dir) {
        let directory = directory.display();
        return Err(io::Error::other(format!(
            "others than root can exchange what is in {directory}, as Nomad leaves it after a task named `.` or `..`; give it \
             back to root (`chown root: {directory}; chmod go-w {directory}`), and stop such jobs"
        )));
    }
    if let Some(directory) = dirs.local.parent() {
        let base = Base::Task { alloc_dir: &dirs.alloc_dir, directory };
        // Where tasks see the host, they use this path themselves.
        let mode = if sees_host { Mode::from_raw_mode(0o711) } else { Mode::RWXU };
        give_to_root(&base.open(Path::new(""))?, Some(mode))?;
    }
    let secrets = Base::Task { alloc_dir: &dirs.alloc_dir, directory: &dirs.secrets }.open(Path::new(""))?;
    // The agent keeps writing there while the task runs, such as the tokens of `identity` blocks, and follows links. It
    // is a file system of its own, except for tasks without an agent; older kernels do not support this.
    if let Err(error) = kernel::forbid_symlinks_on(secrets.as_fd()) {
        tracing::debug!(path = %dirs.secrets.display(), %error, "links in the task's secrets are still followed");
    }
    let writable = close_shared(dirs)?;
    let shared: Vec<_> =
        writable.iter().map(|name| (dirs.shared.join(name), format!("/alloc/{name}"))).collect();
    let own = dirs.pairs().map(|(host, inside)| (host.to_owned(), inside.to_owned()));
    let in_view = if sees_host { Vec::new() } else { own.into_iter().chain(shared).collect() };
    // Nobody can put a link there any more, so one check is enough.
    let same = in_view.into_iter().map(|(host, path)| {
        let found = Base::Task { alloc_dir: &dirs.alloc_dir, directory: &host }.open(Path::new(""))?;
        let found = fstat(&found)?;
        Ok(Same { path, device: found.st_dev, inode: found.st_ino })
    });
    Ok(Closed { writable: Some(writable), same: same.collect::<io::Result<_>>()? })
}

/// Closes the shared directory of a running task again after a restart of the agent, which has opened it.
pub(crate) fn close_again(dirs: &TaskDirs) {
    if rustix::process::geteuid().is_root()
        && let Err(error) = close_shared(dirs)
    {
        tracing::warn!(path = %dirs.shared.display(), %error, "failed to close the directory that a group shares");
    }
}

/// Undoes what Nomad does for a task named `.` or `..`: Nomad's task directory is then a directory of the agent (the
/// directory of the allocation, or of all allocations), which Nomad makes writable by everybody.
pub(crate) fn take_back(alloc_dir: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let modes = [(Some(alloc_dir), 0o755), (alloc_dir.parent(), 0o711)];
    for (directory, mode) in modes.into_iter().filter_map(|(directory, mode)| Some((directory?, mode))) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty()).map_err(io::Error::from);
        let given = opened.and_then(|opened| {
            let found = fstat(&opened)?;
            let is_everybodys = found.st_uid == NOBODY && found.st_mode & 0o777 == 0o777;
            if is_everybodys { give_to_root(&opened, Some(Mode::from_raw_mode(mode))) } else { Ok(()) }
        });
        if let Err(error) = given {
            tracing::warn!(path = %directory.display(), %error, "failed to close what Nomad has opened to everybody");
        }
    }
}

/// The allocation directory, or a directory on the way to it, in which everybody could put another in its place.
fn changeable(alloc_dir: &Path) -> Option<PathBuf> {
    let can_be_changed = |directory: &&Path| {
        let Ok(found) = fs::symlink_metadata(directory) else { return true };
        let is_last = *directory == alloc_dir;
        let is_everybodys = found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0;
        found.uid() == NOBODY
            || !found.is_symlink() && is_everybodys
            || is_last && (found.uid() != 0 || found.mode() & 0o022 != 0)
    };
    let real = alloc_dir.canonicalize().unwrap_or_else(|_| alloc_dir.to_owned());
    alloc_dir.ancestors().chain(real.ancestors()).find(can_be_changed).map(Path::to_owned)
}

fn close_shared(dirs: &TaskDirs) -> io::Result<Vec<&'static str>> {
    let base = Base::Task { alloc_dir: &dirs.alloc_dir, directory: &dirs.shared };
    let shared = base.open(Path::new(""))?;
    let everybodys = Mode::SVTX | Mode::RWXU | Mode::RWXG | Mode::RWXO;
    give_to_root(&shared, Some(everybodys))?;
    let inside = |name: &str| {
        let directory = dirs.shared.join(name);
        let open = || Base::Task { alloc_dir: &dirs.alloc_dir, directory: &directory }.open(Path::new(""));
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Left by a task that used the directory after the agent had opened it. The next agent would follow the
            // link.
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                tracing::error!(path = %directory.display(), "a task has put a link here; replacing it with a directory");
                unlinkat(&shared, name, AtFlags::empty())?;
                mkdirat(&shared, name, Mode::from_raw_mode(0o755))?;
                open().map(Some)
            }
            found => found.map(Some),
        }
    };
    if let Some(logs) = inside("logs")? {
        give_to_root(&logs, Some(Mode::from_raw_mode(0o755)))?;
    }
    let mut found = Vec::new();
    for name in WRITABLE {
        if let Some(directory) = inside(name)? {
            // A directory that a task has made its own stays so, as database servers need it. On the node that user
            // could put another directory there; the process that starts the program compares them.
            if matches!(fstat(&directory)?.st_uid, 0 | NOBODY) {
                give_to_root(&directory, None)?;
            }
            found.push(name);
        }
    }
    Ok(found)
}

fn give_to_root(found: &OwnedFd, mode: Option<Mode>) -> io::Result<()> {
    // The descriptor was opened with `O_PATH`.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty())?;
    fchown(&opened, Some(Uid::ROOT), Some(Gid::ROOT))?;
    if let Some(mode) = mode {
        fchmod(&opened, mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn an_allocation_whose_way_everybody_can_change_is_told() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let base = tempfile::tempdir_in("/run").unwrap();
        let path = |path: &str| base.path().join(path);
        let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        fs::create_dir_all(path("alloc/ab12")).unwrap();
        symlink("alloc", path("link")).unwrap();
        for directory in ["alloc", "alloc/ab12"] {
            mode(&path(directory), 0o755);
        }
        assert_eq!(changeable(&path("alloc/ab12")), None);
        assert_eq!(changeable(&path("link/ab12")), None);
        mode(&path("alloc"), 0o1777);
        assert_eq!(changeable(&path("alloc/ab12")), None);
        mode(&path("alloc"), 0o777);
        assert_eq!(changeable(&path("alloc/ab12")), Some(path("alloc")));
        assert_eq!(changeable(&path("link/ab12")), Some(path("alloc")));
        mode(&path("alloc"), 0o711);
        mode(&path("alloc/ab12"), 0o777);
        assert_eq!(changeable(&path("alloc/ab12")), Some(path("alloc/ab12")));
        // As Nomad does for this name.
        rustix::fs::chown(path("alloc/ab12"), Some(Uid::from_raw(NOBODY)), None).unwrap();
        take_back(&path("alloc/ab12"));
        assert_eq!(changeable(&path("alloc/ab12")), None);
    }
}
