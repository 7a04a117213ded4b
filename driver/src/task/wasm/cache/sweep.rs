//! What is evicted, and who may hold an entry meanwhile.

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
/// hold us up.
pub(super) const LEASES: &str = "leases";

/// Who may lock the same byte.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hold {
    /// Everybody who does so like this.
    Shared,
    /// Nobody; and who cannot have it at once does without.
    AloneNow,
}

impl Cache {
    /// Locks the byte of an entry. Such a lock is the file description's, so it holds among threads as it does among
    /// processes, and nothing that dies leaves one behind (fcntl(2), "Open file description locks").
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
            // Who has it alone removes a file and gives it up.
            Hold::Shared => rustix::io::retry_on_intr(|| {
                fcntl(&file, FcntlArg::F_OFD_SETLKW(&byte(libc::F_RDLCK))).map_err(errno)
            }),
            Hold::AloneNow => fcntl(&file, FcntlArg::F_OFD_SETLK(&byte(libc::F_WRLCK))).map_err(errno),
        }?;
        Ok(file)
    }

    /// Removes, off the threads that serve calls, what shall not be kept.
    pub(super) fn sweep_soon(self: &Arc<Self>) {
        let this = Arc::clone(self);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || this.sweep())),
            Err(_) => this.sweep(),
        }
    }

    /// Removes what shall not be kept: of all entries that nobody leases those that were not used for the longest time,
    /// until the others fit; what killed drivers left; and the directories of engines that have no entry any more.
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
            // What is gone meanwhile was another driver's to remove.
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
        // Before anything is looked at: a lease that ends from now on has it looked at once more.
        self.is_crowded.store(total > self.size, Ordering::SeqCst);
        for (stamp, path, entry) in &entries {
            if total <= self.size {
                break;
            }
            // Nobody can lease it before it is gone, nor use it afterwards without looking.
            if let Ok(_alone) = self.lock(entry, Hold::AloneNow) {
                remove(path)?;
                self.proven.lock().remove(path);
                total -= stamp.size;
                tracing::debug!(path = %path.display(), "compiled code was evicted");
            }
        }
        self.is_crowded.store(total > self.size, Ordering::SeqCst);
        for key in keys {
            // It stays if anything is in it.
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
