//! The cache of machine code compiled on this node: files that only the driver may write, and every task may read.
//!
//! ```text
//!  <state_dir>/wasm/<engine key>/<SHA-256 of the module>.cwasm   code, and behind it its seal
//!                   leases                                       locks on entries that are about to be started
//!                   .new-…                                       code that is not complete yet
//! ```
//!
//! An entry is executed as it is. So it is used only if it is a file of ours that nobody else may write to, and if its
//! seal proves that it is complete and has its own name; anything else is removed. An entry is never changed: it
//! appears complete, and a running task keeps what it has mapped when the name is removed.

mod entry;
mod files;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use sha2::Digest;

pub use self::entry::{Entry, Stamp};
pub use self::files::read_chunks;
use self::files::{ATTEMPTS, check_directory, check_owner, make_directory, put, remove, stamp_at, touch};
use self::sweep::Hold;

/// The length of a seal.
const SEAL_LENGTH: u64 = 32;
/// Prefix of the name of an incomplete file.
const NEW: &str = ".new-";

/// The cache in one directory. Every operation here blocks on the disk.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    /// Maximum size of all entries, in bytes.
    size: u64,
    /// Verified entries, with their stamps when they were last used.
    proven: Mutex<HashMap<PathBuf, Stamp>>,
    was_swept: AtomicBool,
    /// The entries exceed `size`, because some are leased.
    is_crowded: AtomicBool,
    /// Held while entries are removed.
    sweeping: Mutex<()>,
}

/// A lease on a place in the cache: what is there is not evicted, neither by this driver nor by another one. It ends
/// when it is dropped, or with the process.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    cache: Arc<Cache>,
    entry: Entry,
    /// Released when the file is closed.
    lock: Option<File>,
}

impl Cache {
    /// The cache in `directory`, which need not exist, of at most `size` bytes.
    pub fn new(directory: PathBuf, size: u64) -> Self {
        Self {
            directory,
            size,
            proven: Mutex::default(),
            was_swept: AtomicBool::default(),
            is_crowded: AtomicBool::default(),
            sweeping: Mutex::default(),
        }
    }

    /// Is this the cache that [`Cache::new`] would create?
    pub fn is_of(&self, directory: &Path, size: u64) -> bool {
        self.directory == directory && self.size == size
    }

    /// Leases the place of `entry`, whether the entry exists or not.
    pub fn lease(self: &Arc<Self>, entry: Entry) -> io::Result<Lease> {
        make_directory(&self.directory)?;
        let lock = Some(self.lock(&entry, Hold::Shared)?);
        if !self.was_swept.swap(true, Ordering::Relaxed) {
            self.sweep_soon();
        }
        Ok(Lease { cache: Arc::clone(self), entry, lock })
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        self.directory.join(&entry.key).join(entry.file_name())
    }
}

impl Lease {
    /// The code in this place, if it exists and passes verification. Code that fails verification is removed.
    pub fn find(&self) -> io::Result<Option<PathBuf>> {
        let path = self.cache.path(&self.entry);
        if let Err(error) = check_directory(path.parent().unwrap_or(&path)) {
            return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
        }
        // Another driver may publish its own code there at any moment, which is as good.
        for _ in 0..ATTEMPTS {
            let Some(found) = stamp_at(&path)? else { return Ok(None) };
            let is_proven = self.cache.proven.lock().get(&path) == Some(&found);
            let good = if is_proven { Ok(found) } else { self.prove(&path) };
            let good = match good {
                Ok(good) => good,
                Err(reason) => {
                    tracing::warn!(path = %path.display(), reason, "cached code failed verification; recompiling");
                    remove(&path)?;
                    return Ok(None);
                }
            };
            touch(&path);
            let Some(used) = stamp_at(&path)? else { return Ok(None) };
            if used.is_of_the_same_file(&good) {
                self.cache.proven.lock().insert(path.clone(), used);
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Writes code to this place, complete and on disk, replacing what is there.
    ///
    /// The compiler's file is copied: whoever took part in creating it may still be able to write to it.
    pub fn publish(&self, code: &mut File) -> io::Result<PathBuf> {
        let path = self.cache.path(&self.entry);
        let directory = path.parent().unwrap_or(&path);
        let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(&self.cache.directory)?;
        code.rewind()?;
        let mut seal = self.entry.seal();
        read_chunks(code, |piece| {
            seal.update(piece);
            file.write_all(piece)
        })?;
        if file.as_file().metadata()?.len() == 0 {
            return Err(io::Error::other("the compiler wrote no code"));
        }
        file.write_all(&seal.finalize())?;
        file.as_file().set_permissions(Permissions::from_mode(0o444))?;
        // Without this a crash may leave a file of the right length without content.
        file.as_file().sync_all()?;
        put(file, &path)?;
        File::open(directory)?.sync_all()?;
        let stamp = Stamp::from(&fs::symlink_metadata(&path)?);
        self.cache.proven.lock().insert(path.clone(), stamp);
        self.cache.sweep();
        Ok(path)
    }

    /// Verifies that the file at `path` is one of ours, complete and in its own place; the error tells why it is not.
    fn prove(&self, path: &Path) -> Result<Stamp, String> {
        // The file could be a FIFO, or a link to a file that has no end.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
        let mut file = file.map_err(|error| error.to_string())?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a file".to_owned());
        }
        check_owner(&metadata)?;
        let Some(code_length) = metadata.len().checked_sub(SEAL_LENGTH) else {
            return Err("it is too short for a seal".to_owned());
        };
        let mut seal = self.entry.seal();
        let mut there = Vec::new();
        read_chunks(&mut (&mut file).take(code_length), |piece| {
            seal.update(piece);
            Ok(())
        })
        .and_then(|_| file.read_to_end(&mut there))
        .map_err(|error| error.to_string())?;
        if seal.finalize().as_slice() == there {
            Ok(Stamp::from(&metadata))
        } else {
            Err("its seal is not that of its content and its name".to_owned())
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lock = None;
        if self.cache.is_crowded.load(Ordering::SeqCst) {
            self.cache.sweep_soon();
        }
    }
}
