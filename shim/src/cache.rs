//! The user's cache of compiled guests, for use by hand; under Nomad, the driver keeps its own cache and passes
//! precompiled files.
//!
//! The cache is `$XDG_CACHE_HOME/wasm-shim` or `~/.cache/wasm-shim`. Whoever can write there can run code as the user,
//! so the directory must be accessible to the user alone. An entry is named after the engine, its tuning, and the
//! SHA-256 of the content. An entry appears complete or not at all, and is never changed afterwards, because running
//! guests have it mapped. It ends with a checksum of its name and all its bytes: an entry that a disk has damaged, or
//! that was copied to a wrong name, is not run but replaced. If all entries together are too large, the least recently
//! used ones are evicted.

use crate::engine::{self, Tuning};
use crate::{process, publish};
use sha2::{Digest, Sha256};
use shim_interface::Directory;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Cursor, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use wasmtime::{Result, bail, ensure};

/// The maximum size of all entries together, in bytes.
const SIZE_MAX: u64 = 1 << 30;
/// The length of the checksum at the end of an entry, in bytes.
const SEAL: usize = 4;

/// The cache entry of one guest's code.
pub struct Entry {
    directory: PathBuf,
    /// The directory, so that `directory` leads to the one that was checked.
    _held: Option<File>,
    name: String,
}

impl Entry {
    /// The entry for the code of `wasm`, or none if there is no directory for a cache.
    ///
    /// # Errors
    /// When the directory does not belong to the user alone.
    pub fn of(wasm: &[u8], tuning: &Tuning) -> Result<Option<Self>> {
        let mut name = format!("{}-", engine::VERSION);
        for byte in Sha256::digest(wasm) {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        for setting in tuning.settings() {
            let _ = write!(name, "-{setting}");
        }
        name.push_str(".cwasm");
        Ok(directory()?.map(|(directory, held)| Self { directory, _held: Some(held), name }))
    }

    /// The code, if it exists and is undamaged.
    pub fn open(&self) -> Option<File> {
        let mut file = File::open(self.path()).ok()?;
        if self.is_whole(&mut file).unwrap_or(false) {
            // Records the use; a read-only cache is still useful.
            let _ = file.set_modified(SystemTime::now());
            return Some(file);
        }
        let _ = fs::remove_file(self.path());
        None
    }

    fn is_whole(&self, file: &mut File) -> io::Result<bool> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        file.rewind()?;
        let Some((code, seal)) = bytes.split_last_chunk::<SEAL>() else { return Ok(false) };
        Ok(self.seal(code) == *seal)
    }

    /// Protects against damage, not against forgery: nobody else can write here.
    fn seal(&self, code: &[u8]) -> [u8; SEAL] {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(self.name.as_bytes());
        checksum.update(code);
        checksum.finalize().to_le_bytes()
    }

    /// Stores `code` in the entry, and opens it there.
    ///
    /// # Errors
    /// When the disk is full or the directory cannot be written.
    pub fn put(&self, code: &mut File) -> io::Result<File> {
        let mut bytes = Vec::new();
        code.rewind()?;
        code.read_to_end(&mut bytes)?;
        let seal = self.seal(&bytes);
        publish::publish(Cursor::new(&bytes).chain(&seal[..]), &self.path())?;
        evict(&self.directory, &self.name);
        File::open(self.path())
    }

    fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

/// Removes the least recently used entries until the cache is small enough. `newest` always stays. Running guests have
/// their entry mapped and keep it.
fn evict(directory: &Path, newest: &str) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut entries: Vec<_> = entries
        .filter(|entry| entry.file_name() != newest)
        .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
        .filter(|(metadata, _)| metadata.is_file())
        .collect();
    entries.sort_by_key(|(metadata, _)| std::cmp::Reverse(metadata.modified().ok()));
    let mut size = fs::metadata(directory.join(newest)).map_or(0, |metadata| metadata.len());
    for (metadata, path) in entries {
        size = size.saturating_add(metadata.len());
        if size > SIZE_MAX {
            // Another shim may have removed it first.
            let _ = fs::remove_file(path);
        }
    }
}

/// The path of the cache, whether or not it exists.
fn place() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("wasm-shim"))
}

/// Checks that a guest with `dirs` cannot write to the cache.
///
/// # Errors
/// When the guest can: it could store native code there, which would be run at the next start of this guest or of
/// another one.
pub fn refuse_grants_of_it(dirs: &[Directory]) -> Result<()> {
    place().map_or(Ok(()), |place| refuse_grants_of(&place, dirs))
}

fn refuse_grants_of(place: &Path, dirs: &[Directory]) -> Result<()> {
    // Looked up once: another shim may create it meanwhile.
    let cache = place.canonicalize().ok();
    let nearest = || place.ancestors().find_map(|found| found.canonicalize().ok());
    let Some(found) = cache.clone().or_else(nearest) else { return Ok(()) };
    let who = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    for Directory { host, .. } in dirs.iter().filter(|dir| dir.writable) {
        let granted = Path::new(host);
        let is_above =
            who(granted).is_some_and(|granted| found.ancestors().any(|above| who(above) == Some(granted)));
        let is_below = cache
            .as_ref()
            .is_some_and(|cache| granted.canonicalize().is_ok_and(|granted| granted.starts_with(cache)));
        ensure!(
            !is_above && !is_below,
            "--dir: with the directory `{host}` the guest could write to `{}`, where wasm-shim keeps compiled code, and \
             run native code by that; grant another directory, or this one with `:ro`, or move the cache (XDG_CACHE_HOME)",
            place.display()
        );
    }
    Ok(())
}

/// A path of the cache's directory, and the directory, as which it stays; or none if there is no path for one. Who owns a
/// directory above could put another one in its place after it was checked.
fn directory() -> Result<Option<(PathBuf, File)>> {
    let Some(directory) = place() else { return Ok(None) };
    let open = || {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(&directory)
    };
    let opened = open().or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        open()
    });
    let held = match opened {
        Ok(held) => held,
        // What is there and no directory, or closed to its user, is refused below.
        Err(_) if fs::symlink_metadata(&directory).is_ok() => {
            bail!("{}", refusal(&directory));
        }
        Err(_) => return Ok(None),
    };
    let found = held.metadata()?;
    ensure!(found.uid() == process::user() && found.mode() & 0o777 == 0o700, "{}", refusal(&directory));
    Ok(Some((PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())), held)))
}

fn refusal(directory: &Path) -> String {
    format!(
        "refuse the cache `{0}`: it must be a directory that belongs to user {1} and is closed to others; \
         remove it, or `chmod 700` it, or run with --no-cache",
        directory.display(),
        process::user()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::holds_for;
    use proptest::prelude::*;
    use std::io::Write as _;

    /// A kind of damage that a disk can do to a file.
    fn damage(bytes: &mut Vec<u8>, kind: u8, at: prop::sample::Index, byte: u8) {
        let at = at.index(bytes.len());
        match kind {
            0 => bytes[at] ^= byte,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, byte),
            3 => drop(bytes.remove(at)),
            4 => bytes[at..].fill(0),
            5 => bytes.extend([byte; 9]),
            _ => bytes.clear(),
        }
    }

    #[test]
    fn fuzz_a_damaged_entry_is_removed_and_a_whole_one_is_given_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let entry =
            |name: &str| Entry { directory: directory.path().to_owned(), _held: None, name: name.to_owned() };
        let damages = prop::collection::vec((0..7u8, any::<prop::sample::Index>(), any::<u8>()), 0..3);
        let code = prop::collection::vec(any::<u8>(), 0..200);
        holds_for(&(code, damages, any::<bool>()), |(code, damages, is_renamed)| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&code).unwrap();
            entry("a").put(&mut file).unwrap();
            let whole = fs::read(entry("a").path()).unwrap();
            let mut bytes = whole.clone();
            for (kind, at, byte) in damages.into_iter().filter(|_| !whole.is_empty()) {
                if !bytes.is_empty() {
                    damage(&mut bytes, kind, at, byte);
                }
            }
            let entry = entry(if is_renamed { "b" } else { "a" });
            fs::remove_file(directory.path().join("a")).unwrap();
            fs::write(entry.path(), &bytes).unwrap();
            let is_whole = bytes == whole && !is_renamed;
            let opened = entry.open();
            prop_assert_eq!(opened.is_some(), is_whole);
            prop_assert_eq!(entry.path().exists(), is_whole, "a damaged one makes room for a new one");
            if let Some(mut file) = opened {
                prop_assert_eq!(file.stream_position().unwrap(), 0);
                let mut read = Vec::new();
                file.read_to_end(&mut read).unwrap();
                prop_assert_eq!(read, whole);
                fs::remove_file(entry.path()).unwrap();
            }
            Ok(())
        });
    }

    #[test]
    fn no_guest_can_write_to_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("home/.cache/wasm-shim/inner")).unwrap();
        fs::create_dir_all(root.join("home/project")).unwrap();
        std::os::unix::fs::symlink("home", root.join("link")).unwrap();
        let refused = |place: &str, granted: &str| {
            let grant =
                |more| Directory::parse(&format!("{}::/x{more}", root.join(granted).display())).unwrap();
            assert!(
                refuse_grants_of(&root.join(place), &[grant(":ro")]).is_ok(),
                "read-only: {place} {granted}"
            );
            refuse_grants_of(&root.join(place), &[grant("")]).is_err()
        };
        for place in ["home/.cache/wasm-shim", "link/.cache/wasm-shim"] {
            for granted in ["", "home", "link", "home/.cache", "home/.cache/wasm-shim"] {
                assert!(refused(place, granted), "{place} {granted}");
            }
            assert!(!refused(place, "home/project"));
            assert!(!refused(place, "absent"));
        }
        assert!(refused("home/.cache/wasm-shim", "home/.cache/wasm-shim/inner"));
        assert!(refused("home/project/absent/wasm-shim", "home/project"), "it would be made there");
        assert!(!refused("home/project/absent/wasm-shim", "home/.cache"));
    }

    #[test]
    fn the_entry_used_last_stays_and_the_oldest_goes_when_all_are_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let entry = |name: &str, size: u64, age: u64| {
            let file = File::create(directory.path().join(name)).unwrap();
            file.set_len(size).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        };
        entry("old", SIZE_MAX / 2, 90);
        entry("recent", SIZE_MAX / 2, 10);
        entry("newest", SIZE_MAX / 2, 0);
        evict(directory.path(), "newest");
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["newest", "recent"]);
    }
}
