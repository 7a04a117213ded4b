//! What everybody sees below a directory in which others may exchange names at any time: a volume, a path of the host, the
//! directory that the tasks of a group share.
//!
//! The driver, as root, reads what a task's user may not, and must neither run nor tell of it. The way is walked one name
//! after the other, by descriptors: what was opened is judged, and not what its name refers to later.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::task::host::pin::Base;

/// Maximum number of links on a way, as in the kernel (`path_resolution(7)`).
const LINKS: usize = 40;
/// Group and others may search a directory.
const SEARCH: u32 = 0o011;
/// Group and others may read a file.
const READ: u32 = 0o044;

/// What everybody sees at a path.
#[derive(Debug)]
pub(super) enum Seen {
    /// This object.
    There(OwnedFd),
    /// Nothing.
    Missing,
    /// Only who may enter a closed directory on the way knows.
    Hidden,
}

/// Looks at `inside` below `base`. A link that leads out of the base is an error (`EXDEV`).
pub(super) fn look(base: Base<'_>, inside: &Path) -> io::Result<Seen> {
    let is_whole = matches!(base, Base::Host(path) if path.parent().is_none());
    let mut way = vec![base.open(Path::new(""))?];
    let (mut rest, mut links) = (names(inside), 0);
    while let Some(name) = rest.pop() {
        let Some(directory) = way.last() else { return Err(Errno::XDEV.into()) };
        if !everybody_may(directory, SEARCH)? {
            return Ok(Seen::Hidden);
        }
        if name == ".." {
            match way.len() {
                1 if is_whole => {}
                1 => return Err(Errno::XDEV.into()),
                _ => drop(way.pop()),
            }
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(directory, &name, flags, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(Seen::Missing),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
            // Where it leads only the process's user may know (proc_pid_cwd(5)).
            FileType::Symlink if is_of_proc(&found)? => return Ok(Seen::Hidden),
            FileType::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
                let target = PathBuf::from(OsString::from_vec(target));
                if target.is_absolute() {
                    if !is_whole {
                        return Err(Errno::XDEV.into());
                    }
                    way.truncate(1);
                }
                rest.extend(names(&target));
            }
            FileType::Directory => way.push(found),
            _ if rest.is_empty() => return Ok(Seen::There(found)),
            _ => return Ok(Seen::Missing),
        }
    }
    way.pop().map(Seen::There).ok_or_else(|| Errno::XDEV.into())
}

/// Is the object in a proc file system?
fn is_of_proc(found: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(found)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// The names on the way, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    let mut names: Vec<OsString> =
        path.components().filter(is_name).map(|part| part.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

/// May everybody read this file?
pub(super) fn is_readable(file: impl AsFd) -> io::Result<bool> {
    everybody_may(file, READ)
}

/// Are these bits set, for group and others, and is nobody excepted by an access control list (acl(5))?
fn everybody_may(found: impl AsFd, bits: u32) -> io::Result<bool> {
    let found = found.as_fd();
    if rustix::fs::fstat(found)?.st_mode & bits != bits {
        return Ok(false);
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(rustix::fs::getxattr_query(path, "system.posix_acl_access").is_err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    /// An open directory and a closed one with a file `x` each.
    fn base() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), PermissionsExt::from_mode(0o777)).unwrap();
        for (directory, mode) in [("open", 0o755), ("closed", 0o700)] {
            let directory = base.path().join(directory);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("x"), "").unwrap();
            fs::set_permissions(directory, PermissionsExt::from_mode(mode)).unwrap();
        }
        base
    }

    #[test]
    fn nothing_is_told_of_what_is_behind_a_closed_directory_however_it_is_named() {
        let base = base();
        for (target, name) in [
            ("closed/x", "to-x"),
            ("closed/none", "to-none"),
            ("closed", "dir"),
            ("closed/x/../../open", "back"),
            ("to-x", "twice"),
        ] {
            symlink(target, base.path().join(name)).unwrap();
        }
        let seen = |path: &str| look(Base::Host(base.path()), Path::new(path)).unwrap();
        for path in
            ["closed/x", "closed/none", "closed/x/y", "to-x", "to-none", "to-x/q", "dir/x", "back/x", "twice"]
        {
            assert!(matches!(seen(path), Seen::Hidden), "{path}");
        }
        assert!(matches!(seen("open/x"), Seen::There(_)) && matches!(seen("open/../open/x"), Seen::There(_)));
        assert!(matches!(seen("open/none"), Seen::Missing) && matches!(seen("open/x/y"), Seen::Missing));
        symlink("/etc", base.path().join("out")).unwrap();
        symlink("loop", base.path().join("loop")).unwrap();
        assert!(matches!(look(Base::Host(Path::new("/proc")), Path::new("self/cwd")).unwrap(), Seen::Hidden));
        for path in ["out/passwd", "../x", "loop"] {
            assert!(look(Base::Host(base.path()), Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_file_behind_a_closed_directory_is_never_opened_whatever_names_are_exchanged_meanwhile() {
        let base = base();
        let at = |name: &str| base.path().join(name);
        symlink("closed", at("link")).unwrap();
        let is_over = AtomicBool::new(false);
        let closed = fs::metadata(at("closed/x")).unwrap().ino();
        let (mut opened, mut won) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    renameat_with(CWD, at("open"), CWD, at("link"), RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..20_000 {
                if let Ok(Seen::There(found)) = look(Base::Host(base.path()), Path::new("open/x")) {
                    opened += 1;
                    won += u32::from(rustix::fs::fstat(&found).is_ok_and(|found| found.st_ino == closed));
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(won, 0, "races won");
        assert!(opened > 0, "the open one is found in between");
    }
}
