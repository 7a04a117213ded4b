//! Opens files that a task may have created: each path is resolved once, and no link leads out of its base.

use std::fs::File;
use std::io::{self};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::task::host::pin::Base;

/// Can everybody reach `inside` below a host directory, or the place where it would be if it does not exist?
pub(super) fn is_open_to_all(base: &Path, inside: &Path) -> io::Result<bool> {
    let real = |inside: &Path| {
        let found = Base::Host(base).open(inside)?;
        std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
    };
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

pub(super) fn make_executable(file: &File) -> io::Result<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    let all = Mode::XUSR | Mode::XGRP | Mode::XOTH;
    if mode.intersects(all) {
        return Ok(());
    }
    Ok(rustix::fs::fchmod(file.as_fd(), mode | all | Mode::RUSR | Mode::RGRP | Mode::ROTH)?)
}
