//! The directories of an allocation, closed to whoever could put a link in their place.
//!
//! Nomad's agent makes a task's directory and the shared one for everybody to write to, and the way to them may be open:
//!
//! ```text
//!  <allocation>/alloc            root's, with the sticky bit, so that who can write there cannot exchange what is in it
//!               ├── logs         root's, and nobody else writes there
//!               ├── data, tmp    root's, and mount points in the view of each task
//!               └── …            of tasks
//!  <allocation>/<task>           root's alone
//!               └── local, secrets
//! ```
//!
//! An agent that starts makes `alloc` and what it has made in it everybody's once more, and follows links: a task that put
//! one there would have it open directories of the host. What is a mount point in its view a task cannot exchange.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fstat};

use super::pin::Base;

/// The user "nobody", to whom the agent gives what it makes: its number is the same wherever systemd runs
/// (<https://systemd.io/UIDS-GIDS>).
const NOBODY: u32 = 65534;
/// What the agent makes in the directory that the tasks of a group share, and tasks can write to.
const WRITABLE: [&str; 2] = ["data", "tmp"];

/// The directories of one task, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDirs {
    /// The allocation directory; only the agent writes here.
    pub alloc_dir: PathBuf,
    /// Shared by the group's tasks, `/alloc` in the view.
    pub shared: PathBuf,
    /// The task's own, `/local` in the view.
    pub local: PathBuf,
    /// A tmpfs that Nomad made, `/secrets` in the view.
    pub secrets: PathBuf,
}

impl TaskDirs {
    /// The layout that Nomad's `client/allocdir` makes.
    pub fn new(alloc_dir: &Path, task: &str) -> Self {
        let task_dir = alloc_dir.join(task);
        Self {
            alloc_dir: alloc_dir.to_owned(),
            shared: alloc_dir.join("alloc"),
            local: task_dir.join("local"),
            secrets: task_dir.join("secrets"),
        }
    }

    /// The directory that a relative path names as it is written for drivers whose tasks begin in the task's directory,
    /// such as `local/x`: on the host and in the private view, and what is left of the path.
    pub fn named<'p>(&self, path: &'p Path) -> Option<(&Path, &'static str, &'p Path)> {
        self.pairs().into_iter().find_map(|(host, inside)| {
            let below = path.strip_prefix(inside.trim_start_matches('/')).ok()?;
            Some((host, inside, below))
        })
    }

    /// Each directory on the host beside its name in the private view.
    pub fn pairs(&self) -> [(&Path, &'static str); 3] {
        [(&self.local, "/local"), (&self.shared, "/alloc"), (&self.secrets, "/secrets")]
    }
}

/// Closes the directories before systemd hears of them, and answers with the names of those in `alloc` that are to be mount
/// points. A driver that is not root leaves all as it is: its tasks are its own user's, and have nothing to gain.
///
/// Where tasks see the host as it is, `sees_host`, they reach their own directory by the same way, so that stays open.
pub(crate) fn close(dirs: &TaskDirs, sees_host: bool) -> io::Result<Vec<&'static str>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    if let Some(directory) = changeable(&dirs.alloc_dir) {
        let directory = directory.display();
        return Err(io::Error::other(format!(
            "others than root can exchange what is in {directory}, as Nomad leaves it after a task named `.` or `..`; give it \
             back to root (`chown root: {directory}; chmod go-w {directory}`), and stop such jobs"
        )));
    }
    if !sees_host {
        let base = |directory| Base::Task { alloc_dir: &dirs.alloc_dir, directory };
        if let Some(task_dir) = dirs.local.parent() {
            give_to_root(&base(task_dir).open(Path::new(""))?, Some(Mode::RWXU))?;
        }
        // Nobody can put a link in there any more, so to look once is enough.
        for directory in [&dirs.local, &dirs.secrets] {
            base(directory).open(Path::new(""))?;
        }
    }
    close_shared(dirs)
}

/// Closes the shared directory of a running task after a restart of the agent, which has opened it.
pub(crate) fn close_again(dirs: &TaskDirs) {
    if rustix::process::geteuid().is_root()
        && let Err(error) = close_shared(dirs)
    {
        tracing::warn!(path = %dirs.shared.display(), %error, "failed to close the directory that a group shares");
    }
}

/// Takes back what Nomad does for a task named `.` or `..`, which it makes a directory for that is one of the agent's: the
/// allocation's, or that of all allocations, are everybody's then.
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

/// The directory on the way to the allocation's, or that one itself, in which everybody could put another in its place.
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
    let shared = Base::Task { alloc_dir: &dirs.alloc_dir, directory: &dirs.shared };
    let everybodys = Mode::SVTX | Mode::RWXU | Mode::RWXG | Mode::RWXO;
    give_to_root(&shared.open(Path::new(""))?, Some(everybodys))?;
    let inside = |name: &str| {
        let directory = dirs.shared.join(name);
        match (Base::Task { alloc_dir: &dirs.alloc_dir, directory: &directory }).open(Path::new("")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    };
    if let Some(logs) = inside("logs")? {
        give_to_root(&logs, Some(Mode::from_raw_mode(0o755)))?;
    }
    let mut closed = Vec::new();
    for name in WRITABLE {
        // What a task has made its own, as database servers want their directory, stays so. That user could put a link
        // there, so systemd does not look it up.
        if let Some(directory) = inside(name)?
            && matches!(fstat(&directory)?.st_uid, 0 | NOBODY)
        {
            give_to_root(&directory, None)?;
            closed.push(name);
        }
    }
    Ok(closed)
}

fn give_to_root(found: &OwnedFd, mode: Option<Mode>) -> io::Result<()> {
    // The descriptor is one for looking only.
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
        // What Nomad does for the name.
        rustix::fs::chown(path("alloc/ab12"), Some(Uid::from_raw(NOBODY)), None).unwrap();
        take_back(&path("alloc/ab12"));
        assert_eq!(changeable(&path("alloc/ab12")), None);
    }
}
