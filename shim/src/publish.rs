//! Writes a file to its path, complete or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes an artifact to `path` so that it appears complete or not at all, is read-only, and survives a crash.
///
/// # Errors
/// When the directory is not writable or the disk is full; nothing is left behind.
pub fn publish(mut artifact: impl Read, path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let unique = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    let name = path.file_name().unwrap_or(OsStr::new("artifact")).display();
    let temporary = directory.join(format!(".{name}.{}.{unique}", std::process::id()));

    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = io::copy(&mut artifact, &mut file)
        .and_then(|_| file.set_permissions(Permissions::from_mode(0o444)))
        // Without this, a crash may leave a file of the right length, full of zeroes.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| File::open(directory)?.sync_all())
}
