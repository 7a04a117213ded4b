//! Opens files that a task may have created: each path is resolved once, and no link leads out of its base.

use std::fs::File;
use std::io::{self};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::task::host::pin::Base;

/// Can everybody reach `inside` below a directory, or the place where it would be if it does not exist?
pub(super) fn is_open_to_all(base: Base<'_>, inside: &Path) -> io::Result<bool> {
    let real = |inside: &Path| real_path(&base.open(inside)?);
    let real_base = real(Path::new(""))?;
    let mut ways: Vec<&Path> = inside.ancestors().skip(1).collect();
    ways.reverse();
    for way in ways {
        let directory = match real(way) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        for part in directory.ancestors().take_while(|part| part.starts_with(&real_base)) {
            if std::fs::symlink_metadata(part)?.mode() & 0o001 == 0 {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Opens `inside` below a directory in which others may exchange names at any time: what was opened is judged, and not
/// what its name refers to. `None` if it lies, by now, in a directory that is closed to others.
pub(super) fn open_for_all(base: Base<'_>, inside: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let only_down = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let (found, root) = (base.open(inside)?, base.open(Path::new(""))?);
    let (real, real_root) = (real_path(&found)?, real_path(&root)?);
    let Some((way, name)) =
        real.strip_prefix(&real_root).ok().and_then(|below| Some((below.parent()?, below.file_name()?)))
    else {
        return Ok(None);
    };
    let way = if way.as_os_str().is_empty() { Path::new(".") } else { way };
    let flags_of_way = flags | OFlags::DIRECTORY;
    // It may have been moved meanwhile.
    let Ok(directory) = rustix::fs::openat2(&root, way, flags_of_way, Mode::empty(), only_down) else {
        return Ok(None);
    };
    let Ok(again) = rustix::fs::openat2(&directory, name, flags, Mode::empty(), only_down) else {
        return Ok(None);
    };
    let is_same = identity(&again)? == identity(&found)?;
    Ok((is_same && leads_for_all(directory, &root)?).then_some(again))
}

/// Are this directory and those above it, up to `root`, open to everybody?
fn leads_for_all(mut directory: OwnedFd, root: &OwnedFd) -> io::Result<bool> {
    const DEEPEST: usize = 1024;
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    for _ in 0..DEEPEST {
        if rustix::fs::fstat(&directory)?.st_mode & 0o001 == 0 {
            return Ok(false);
        }
        if identity(&directory)? == identity(root)? {
            return Ok(true);
        }
        directory = rustix::fs::openat(&directory, "..", flags, Mode::empty())?;
    }
    Ok(false)
}

fn real_path(found: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// The device and the inode.
fn identity(found: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = rustix::fs::fstat(found)?;
    Ok((found.st_dev, found.st_ino))
}

/// Does the path exist below the directory? No link is followed, since it could lead anywhere.
pub(super) fn exists(directory: &Path, below: &Path) -> bool {
    if below.as_os_str().is_empty() {
        return false;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = rustix::fs::open(directory, flags | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
    opened.is_ok_and(|base| rustix::fs::openat2(base, below, flags, Mode::empty(), resolve).is_ok())
}

/// Opens a file for reading, never leaving `directory`, which is reached from `alloc_dir` without following any link:
/// the allocation directory belongs to the agent, its content does not.
pub(crate) fn open_within(alloc_dir: &Path, directory: &Path, inside: &Path) -> io::Result<File> {
    let base = Base::Task { alloc_dir, directory }.open(Path::new(""))?;
    open_regular(base, inside, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

/// Opens for reading what was found by `O_PATH`, if it is a regular file.
pub(crate) fn reopen_regular(found: &OwnedFd) -> io::Result<File> {
    if FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Does not wait for the holder of a lease on the file (fcntl(2), `F_SETLEASE`).
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    // The same object, whatever its name refers to by now.
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Removes an entry of a task's `directory`, if it exists.
pub(crate) fn remove_within(alloc_dir: &Path, directory: &Path, name: &Path) -> io::Result<()> {
    let base = Base::Task { alloc_dir, directory }.open(Path::new(""))?;
    match rustix::fs::unlinkat(base, name, rustix::fs::AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a regular file, and nothing else: opening a device may have effects, and opening a FIFO may block for ever.
pub(super) fn open_regular(base: impl AsFd, path: &Path, resolve: ResolveFlags) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::fstat(rustix::fs::openat2(&base, path, flags, Mode::empty(), resolve)?)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::openat2(&base, path, flags, Mode::empty(), resolve)?))
}

pub(super) fn is_link_out(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error())
}

/// Lets everybody execute the file if nobody may. `of_all`: others can put another file in its place, so nobody gets to
/// read by it what was private.
pub(super) fn make_executable(file: &File, of_all: bool) -> io::Result<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    let all = Mode::XUSR | Mode::XGRP | Mode::XOTH;
    if mode.intersects(all) || of_all && !mode.contains(Mode::ROTH) {
        return Ok(());
    }
    let read = if of_all { Mode::empty() } else { Mode::RUSR | Mode::RGRP | Mode::ROTH };
    Ok(rustix::fs::fchmod(file.as_fd(), mode | all | read)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    #[test]
    fn a_file_behind_a_closed_directory_is_never_opened_whatever_names_are_exchanged_meanwhile() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::set_permissions(base.path(), PermissionsExt::from_mode(0o777)).unwrap();
        for (directory, mode) in [("open", 0o755), ("closed", 0o700)] {
            fs::create_dir(at(directory)).unwrap();
            fs::write(at(directory).join("x"), directory).unwrap();
            fs::set_permissions(at(directory), PermissionsExt::from_mode(mode)).unwrap();
        }
        symlink("closed", at("link")).unwrap();
        let (is_over, base_of) = (AtomicBool::new(false), Base::Host(base.path()));
        let closed = fs::metadata(at("closed/x")).unwrap().ino();
        let (mut opened, mut won) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    renameat_with(CWD, at("open"), CWD, at("link"), RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..20_000 {
                if !is_open_to_all(base_of, Path::new("open/x")).unwrap_or(false) {
                    continue;
                }
                if let Ok(Some(found)) = open_for_all(base_of, Path::new("open/x")) {
                    opened += 1;
                    won += u32::from(identity(&found).unwrap().1 == closed);
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(won, 0, "races won");
        assert!(opened > 0, "the open one is found in between");
    }

    #[test]
    fn what_others_may_put_in_place_is_made_executable_only_if_everybody_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        for (mode, of_all, expected) in
            [(0o600, true, 0o600), (0o644, true, 0o755), (0o600, false, 0o755), (0o750, false, 0o750)]
        {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            make_executable(&File::open(&path).unwrap(), of_all).unwrap();
            let found = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(found, expected, "{mode:o} {of_all}");
        }
    }
}
