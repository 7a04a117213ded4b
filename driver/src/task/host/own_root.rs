//! Roots of a task's own, and images: nothing in them leads systemd, which sets a task up as root, to another place.
//!
//! systemd follows links when it looks for a mount point in a root, and it sets up a user namespace by writing, as root, to
//! files below the task's `/proc`. So a link of a root may not become a mount point; and where a job brings the root or
//! what is laid over it, and could put links there that nobody can look at beforehand, there is no user namespace.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::targets::{Error, Target};
use crate::kernel;
use crate::systemd::{Assignment, Meaning};

/// Where every task has something of its own mounted.
const OF_TASKS: [&str; 3] = ["/alloc", "/local", "/secrets"];
/// Properties that bring files in which systemd looks for mount points.
const ROOTS: [&str; 5] =
    ["ExtensionDirectories", "ExtensionImages", "MountImages", "RootDirectory", "RootImage"];

/// Is there a user namespace although the job brings what it is set up in? `is_of_job` tells whether a job can change what
/// is at such a path.
pub(crate) fn check_namespace(
    settings: &[Assignment],
    is_of_job: impl Fn(&Assignment) -> bool,
) -> Result<(), Error> {
    let users = settings.iter().rfind(|line| line.name() == "PrivateUsers").map(Assignment::meaning);
    if users.is_none_or(|users| users == Meaning::Text("no".to_owned())) {
        return Ok(());
    }
    match settings.iter().find(|line| ROOTS.contains(&line.name()) && is_of_job(line)) {
        Some(line) => Err(Error::NamespaceInRoot { option: line.name() }),
        None => Ok(()),
    }
}

/// Does any mount point lie behind a link of the root at this path of the host?
pub(crate) fn check_links(root: &Path, targets: &[Target]) -> Result<(), Error> {
    let of_tasks = OF_TASKS.iter().map(|path| ("RootDirectory", Path::new(*path)));
    let points: Vec<_> =
        targets.iter().map(|target| (target.option, target.path.as_path())).chain(of_tasks).collect();
    // A pin is a mount that the driver's own namespace need not have.
    let behind = kernel::in_the_mounts_of_systemd(|| {
        let behind = points.iter().find(|(_, path)| leads_over_a_link(root, path).unwrap_or(true));
        Ok(behind.map(|(option, path)| (*option, path.to_path_buf())))
    });
    match behind {
        Ok(None) => Ok(()),
        Ok(Some((option, path))) => Err(Error::RootLink { option, path }),
        Err(_) => Err(Error::RootLink { option: "RootDirectory", path: root.to_owned() }),
    }
}

fn leads_over_a_link(root: &Path, path: &Path) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat2(CWD, root, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty())?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    let only_down = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(&root, inside, flags, Mode::empty(), only_down) {
        // What is missing has no link before it.
        Ok(_) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(rustix::io::Errno::LOOP) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_on_the_way_to_a_mount_point_is_seen_and_a_missing_directory_is_none() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/.wasm")).unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        symlink("nowhere", root.path().join("x")).unwrap();
        let is_link = |path: &str| leads_over_a_link(root.path(), Path::new(path)).unwrap();
        for path in ["/var/run/.wasm/shim", "/var/run", "/x", "/x/y"] {
            assert!(is_link(path), "{path}");
        }
        for path in ["/run/.wasm/shim", "/data/deep", "/var"] {
            assert!(!is_link(path), "{path}");
        }
    }

    #[test]
    fn what_a_job_brings_has_no_user_namespace() {
        fn line(name: &str, text: &str) -> Assignment {
            Assignment::parse(name, text).unwrap()
        }
        let check = |users: &str, name: &str, text: &str, is_of_job: bool| {
            check_namespace(&[line("PrivateUsers", users), line(name, text)], |_| is_of_job).is_ok()
        };
        assert!(!check("yes", "RootImage", "/local/x", true));
        assert!(!check("identity", "ExtensionDirectories", "/local/x", true));
        assert!(check("no", "RootImage", "/local/x", true));
        assert!(check("yes", "RootImage", "/srv/x", false));
        assert!(check("yes", "BindPaths", "/local/x", true));
    }
}
