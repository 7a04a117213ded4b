//! Opens files that a task may have created: each path is resolved once, and no link leads out of its base.

use std::fs::File;
use std::io::{self};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::task::host::pin::Base;

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

/// Lets everybody execute the file if nobody may, and everybody can read it: nobody gets to read by it what was private.
pub(super) fn make_executable(file: &File) -> io::Result<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    let all = Mode::XUSR | Mode::XGRP | Mode::XOTH;
    if mode.intersects(all) || !mode.contains(Mode::ROTH) {
        return Ok(());
    }
    Ok(rustix::fs::fchmod(file.as_fd(), mode | all)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_file_is_made_executable_only_if_everybody_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        for (mode, expected) in [(0o600, 0o600), (0o644, 0o755), (0o750, 0o750), (0o744, 0o744)] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            make_executable(&File::open(&path).unwrap()).unwrap();
            let found = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(found, expected, "{mode:o}");
        }
    }
}
