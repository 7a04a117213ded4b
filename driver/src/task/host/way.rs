//! Ways to mount points that only root can change.

use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// Is the way to `path` below `root` free of links, and of directories, `root` included, where a user other than root,
/// or whom the mode bits `others` allow, could put a link? All of it is one walk; afterwards nobody can change it.
pub(crate) fn is_safe(root: &Path, path: &Path, others: Option<u32>) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat2(CWD, root, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty())?;
    let can_be_changed = |directory: &OwnedFd| -> io::Result<bool> {
        let found = rustix::fs::fstat(directory)?;
        Ok(others.is_some_and(|others| found.st_uid != 0 || found.st_mode & others != 0))
    };
    if can_be_changed(&root)? {
        return Ok(false);
    }
    let inside = path.strip_prefix("/").unwrap_or(path);
    let only_down = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut ways: Vec<&Path> = inside.ancestors().filter(|way| !way.as_os_str().is_empty()).collect();
    ways.reverse();
    for way in ways {
        match openat2(&root, way, flags, Mode::empty(), only_down) {
            // The mount point itself does not count any more.
            Ok(_) if way == inside => {}
            Ok(directory) if can_be_changed(&directory)? => return Ok(false),
            Ok(_) => {}
            // systemd creates what is missing, in a directory that was checked.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(true),
            Err(rustix::io::Errno::LOOP) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_way_without_links_and_without_directories_of_others_is_safe() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["run/.wasm", "var", "shared/deep"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        std::fs::set_permissions(root.path().join("shared"), PermissionsExt::from_mode(0o1777)).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        symlink("nowhere", root.path().join("x")).unwrap();
        let is_safe = |path: &str, is_of_job: bool| {
            is_safe(root.path(), Path::new(path), (!is_of_job).then_some(0o022)).unwrap()
        };
        for path in ["/var/run/.wasm/shim", "/var/run", "/x", "/x/y"] {
            assert!(!is_safe(path, true) && !is_safe(path, false), "{path}");
        }
        for path in ["/run/.wasm/shim", "/data/deep", "/var", "/shared"] {
            assert!(is_safe(path, true), "{path}");
            // The created directories belong to the user who runs this test.
            assert_eq!(is_safe(path, false), rustix::process::geteuid().is_root(), "{path}");
        }
        for path in ["/shared/deep/x", "/shared/new"] {
            assert!(is_safe(path, true) && !is_safe(path, false), "{path}");
        }
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o1777)).unwrap();
        assert!(is_safe("/new", true) && !is_safe("/new", false));
    }
}
