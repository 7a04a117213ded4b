//! Files and directories that only the driver may write to.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use tempfile::NamedTempFile;

use super::entry::Stamp;

/// A file that is not an entry, and has not been written to for this long, was left by a killed driver.
pub(super) const STRAY_AFTER: Duration = Duration::from_hours(1);
/// How often an operation is retried when another driver of the same cache interferes.
pub(super) const ATTEMPTS: usize = 100;

/// Reads to the end, and returns the number of bytes.
pub fn read_chunks(from: &mut impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let mut piece = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                take(&piece[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gives a file its name, replacing any other file.
pub(super) fn put(file: NamedTempFile, path: &Path) -> io::Result<()> {
    // Dropping it removes what still has the old name.
    let file = file.into_temp_path();
    let attempt = || make_directory(path.parent().unwrap_or(path)).and_then(|()| fs::rename(&file, path));
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    attempt()
}

/// Creates a directory that only our user may list and change, whatever the umask. Others may enter it: a task that
/// sees the host finds its own code there, and not the code of others.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match DirBuilder::new().mode(0o711).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o711)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            check_directory(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o711))
        }
        Err(error) => Err(error),
    }
}

/// In a directory that others may change, a name can refer to another file at any moment.
pub(super) fn check_directory(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let wrong = |what| io::Error::new(io::ErrorKind::PermissionDenied, format!("{}: {what}", path.display()));
    check_owner(&metadata).map_err(wrong)
}

/// May only the driver's user write to it?
pub(super) fn check_owner(metadata: &Metadata) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(format!("it belongs to user {}, and not to the driver's, {us}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err("others than its owner may write to it".to_owned());
    }
    Ok(())
}

/// Makes an entry the last one to be evicted.
pub(super) fn touch(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(error) = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        tracing::debug!(path = %path.display(), %error, "the use of compiled code was not noted");
    }
}

/// The stamp of the file with this name, if there is one.
pub(super) fn stamp_at(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(Stamp::from(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file that is not an entry, if it is old.
pub(super) fn remove_if_stray(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    if !metadata.is_dir() && age.is_some_and(|age| age >= STRAY_AFTER) {
        let removed = fs::remove_file(path).is_ok();
        tracing::debug!(path = %path.display(), removed, "removed a file from the cache that is not compiled code");
    }
}

/// Removes a file that may be gone by now.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
