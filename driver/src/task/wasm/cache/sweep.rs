//! Eviction of entries, and who may hold an entry meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, fcntl};

use super::Cache;
use super::entry::{Entry, Stamp, entry_at, is_hexadecimal};
use super::files::{remove, remove_if_stray};

/// The file whose bytes are locked by those who are about to start an entry. Nobody else can open it, or they could
/// block the driver.
pub(super) const LEASES: &str = "leases";

/// How a byte is locked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hold {
    /// Shared with everybody who locks it like this.
    Shared,
    /// Exclusive; given up if it is not available at once.
    AloneNow,
}

impl Cache {
    /// Locks the byte of an entry. The lock belongs to the open file description, so it holds among threads as it does
    /// among processes, and a process that dies leaves none behind (fcntl(2), "Open file description locks").
    pub(super) fn lock(&self, entry: &Entry, hold: Hold) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.directory.join(LEASES))?;
        #[allow(clippy::cast_possible_truncation, reason = "all of them are small numbers")]
        let byte = |kind: i32| libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: entry.byte(),
            l_len: 1,
            l_pid: 0,
        };
        match hold {
            // Whoever has an exclusive lock removes a file and releases the lock.
            Hold::Shared => rustix::io::retry_on_intr(|| {
                fcntl(&file, FcntlArg::F_OFD_SETLKW(&byte(libc::F_RDLCK))).map_err(errno)
            }),
            Hold::AloneNow => fcntl(&file, FcntlArg::F_OFD_SETLK(&byte(libc::F_WRLCK))).map_err(errno),
        }?;
        Ok(file)
    }

    /// Evicts entries, off the threads that serve calls.
    pub(super) fn sweep_soon(self: &Arc<Self>) {
        let this = Arc::clone(self);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || this.sweep())),
            Err(_) => this.sweep(),
        }
    }

    /// Removes the least recently used of all entries that nobody leases, until the others fit; what killed drivers
    /// left; and the directories of engines that have no entry any more.
    pub(super) fn sweep(&self) {
        if let Err(error) = self.try_to_sweep() {
            tracing::warn!(directory = %self.directory.display(), %error, "failed to remove compiled code from the cache");
        }
    }

    fn try_to_sweep(&self) -> io::Result<()> {
        let _alone = self.sweeping.lock();
        let mut entries = Vec::new();
        let mut keys = Vec::new();
        for child in fs::read_dir(&self.directory)? {
            let child = child?;
            let key = child.file_name().into_string().unwrap_or_default();
            if key == LEASES {
                continue;
            }
            if !is_hexadecimal(&key) || !child.file_type()?.is_dir() {
                remove_if_stray(&child.path());
                continue;
            }
            // A file that is gone meanwhile was removed by another driver.
            for file in fs::read_dir(child.path()).into_iter().flatten() {
                let path = file?.path();
                match (entry_at(&key, &path), fs::symlink_metadata(&path)) {
                    (Some(entry), Ok(metadata)) if metadata.is_file() => {
                        entries.push((Stamp::from(&metadata), path, entry));
                    }
                    _ => remove_if_stray(&path),
                }
            }
            keys.push(child.path());
        }
        entries.sort_by_key(|(stamp, ..)| stamp.modified);
        let mut total: u64 = entries.iter().map(|(stamp, ..)| stamp.size).sum();
        // Before any entry is checked: a lease that ends from now on causes another check.
        self.is_crowded.store(total > self.size, Ordering::SeqCst);
        for (stamp, path, entry) in &entries {
            if total <= self.size {
                break;
            }
            // Nobody can lease it before it is removed, nor use it afterwards without checking.
            if let Ok(_alone) = self.lock(entry, Hold::AloneNow) {
                remove(path)?;
                self.proven.lock().remove(path);
                total -= stamp.size;
                tracing::debug!(path = %path.display(), "compiled code was evicted");
            }
        }
        self.is_crowded.store(total > self.size, Ordering::SeqCst);
        for key in keys {
            // A directory that is not empty stays.
            let _ = fs::remove_dir(key);
        }
        // Another driver may have removed some.
        self.proven.lock().retain(|path, _| path.exists());
        Ok(())
    }
}

fn errno(error: nix::errno::Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(error as i32)
}
