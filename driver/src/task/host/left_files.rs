//! Files that earlier tasks of a group have left in its directories, and their owner.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::dirs::TaskDirs;
use super::pin::Base;
use crate::task::spec::ephemeral::has_number;

/// How many files of a directory are checked for their owner.
const FILES: usize = 64;

/// The ephemeral user that owns files left in `/alloc/data`, or else in `/local`.
pub(crate) fn owner(dirs: &TaskDirs) -> Option<u32> {
    let left = [dirs.shared.join("data"), dirs.local.clone()];
    left.iter().find_map(|directory| owner_in(&dirs.alloc_dir, directory))
}

/// The ephemeral user that owns an entry of the directory, if there is one.
fn owner_in(alloc_dir: &Path, directory: &Path) -> Option<u32> {
    // A task could put a link in the place of the directory.
    let opened = Base::Task { alloc_dir, directory }.open(Path::new("")).ok()?;
    let listed = std::fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let files = listed.into_iter().flatten().flatten().take(FILES);
    // The owner of a link itself, and not of its target.
    let mut owners = files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.uid());
    owners.find(|owner| has_number(*owner))
}
