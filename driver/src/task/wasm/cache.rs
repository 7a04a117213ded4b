//! The machine code that was made on this node: files that we alone write, and that every task may read.
//!
//! ```text
//!  <state_dir>/wasm/<engine key>/<SHA-256 of the module>.cwasm   code, and behind it its seal
//!                   leases                                       who is about to start what
//!                   .new-…                                       code that is not complete yet
//! ```
//!
//! An entry will be run as it is. So it counts only if it is a file of ours that nobody else may write, and if its seal
//! says that it is whole and stands under its own name; anything else is removed. An entry is never changed: it appears
//! complete, and a running task keeps what it has mapped when the name goes.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_NOW};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::task::lock;

/// What tells a seal from any other digest of the same bytes.
const SEAL: &[u8] = b"nomad-driver-systemd: code made of WebAssembly, 1\n";
/// The length of a seal.
const SEAL_LENGTH: u64 = 32;
/// The file whose bytes are locked by those who are about to start an entry. Nobody else can open it, or they could
/// hold us up.
const LEASES: &str = "leases";
/// The begin of the name of what is not complete yet.
const NEW: &str = ".new-";
/// The end of the name of an entry.
const ENDING: &str = ".cwasm";
/// What is no entry, and has not been written to for so long, is what a killed driver left.
const STRAY_AFTER: Duration = Duration::from_hours(1);
/// How often something is tried anew when another driver of the same cache is in between.
const ATTEMPTS: usize = 100;

/// Which code: of what, and made how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Everything that the code depends on beside the module, in hexadecimal digits.
    pub key: String,
    /// The SHA-256 of the module.
    pub content: [u8; 32],
}

impl Entry {
    /// The begin of its seal: what the code must have been made for.
    fn seal(&self) -> Sha256 {
        Sha256::new().chain_update(SEAL).chain_update(&self.key).chain_update([0]).chain_update(self.content)
    }

    /// The byte of [`LEASES`] that stands for it. The bytes need not be there.
    fn byte(&self) -> i64 {
        // Two bits less than a digest's first eight bytes have, so that it has an end.
        self.content.iter().take(8).fold(0, |at, byte| (at << 8) | i64::from(*byte)) & (i64::MAX >> 1)
    }
}

/// What the kernel says of a file. It does not stay the same when the file is changed or another takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file to which `path` leads.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    fn is_of_the_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size) == (other.device, other.inode, other.size)
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The cache of one directory. Everything here waits for the disk.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    /// How many bytes of entries are kept.
    size: u64,
    /// Entries that were found good, as they were when they were last used.
    proven: Mutex<HashMap<PathBuf, Stamp>>,
    was_swept: AtomicBool,
    /// More is there than shall be kept, because it is leased.
    is_crowded: AtomicBool,
    /// Held by who removes entries.
    sweeping: Mutex<()>,
}

/// The hold on a place in the cache: what lies there is not evicted, neither by us nor by another driver. It ends with
/// this, or with our process.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    cache: Arc<Cache>,
    entry: Entry,
    /// Given up when it is closed.
    lock: Option<File>,
}

impl Cache {
    /// The cache in `directory`, which need not be there, of at most `size` bytes.
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

    /// Is it the one that [`Cache::new`] would make?
    pub fn is_of(&self, directory: &Path, size: u64) -> bool {
        self.directory == directory && self.size == size
    }

    /// Holds the place of `entry`, whether it is there or not.
    pub fn lease(self: &Arc<Self>, entry: Entry) -> io::Result<Lease> {
        make_directory(&self.directory)?;
        let lock = Some(self.lock(&entry, Hold::Shared)?);
        if !self.was_swept.swap(true, Ordering::Relaxed) {
            self.sweep_soon();
        }
        Ok(Lease { cache: Arc::clone(self), entry, lock })
    }

    /// Locks the byte of an entry. Such a lock is the file description's, so it holds among threads as it does among
    /// processes, and nothing that dies leaves one behind (fcntl(2), "Open file description locks").
    fn lock(&self, entry: &Entry, hold: Hold) -> io::Result<File> {
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

    fn path(&self, entry: &Entry) -> PathBuf {
        self.directory.join(&entry.key).join(hex::encode(entry.content) + ENDING)
    }

    /// Removes, off the threads that serve calls, what shall not be kept.
    fn sweep_soon(self: &Arc<Self>) {
        let this = Arc::clone(self);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || this.sweep())),
            Err(_) => this.sweep(),
        }
    }

    /// Removes what shall not be kept: of all entries that nobody leases those that were not used for the longest time,
    /// until the others fit; what killed drivers left; and the directories of engines that have no entry any more.
    fn sweep(&self) {
        if let Err(error) = self.try_to_sweep() {
            tracing::warn!(directory = %self.directory.display(), %error, "compiled code cannot be removed");
        }
    }

    fn try_to_sweep(&self) -> io::Result<()> {
        let _alone = lock(&self.sweeping);
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
                lock(&self.proven).remove(path);
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
        lock(&self.proven).retain(|path, _| path.exists());
        Ok(())
    }
}

/// Who may lock the same byte.
#[derive(Debug, Clone, Copy)]
enum Hold {
    /// Everybody who does so like this.
    Shared,
    /// Nobody; and who cannot have it at once does without.
    AloneNow,
}

impl Lease {
    /// The code in this place, if it is there and as we left it. What is not is removed.
    pub fn find(&self) -> io::Result<Option<PathBuf>> {
        let path = self.cache.path(&self.entry);
        if let Err(error) = check_directory(path.parent().unwrap_or(&path)) {
            return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
        }
        // Another driver may put its own there at any moment, which is as good.
        for _ in 0..ATTEMPTS {
            let Some(found) = stamp_at(&path)? else { return Ok(None) };
            let is_proven = lock(&self.cache.proven).get(&path) == Some(&found);
            let good = if is_proven { Ok(found) } else { self.prove(&path) };
            let good = match good {
                Ok(good) => good,
                Err(reason) => {
                    tracing::warn!(path = %path.display(), reason, "cached code failed verification; recompiling");
                    remove(&path)?;
                    return Ok(None);
                }
            };
            take_note_of_use(&path);
            let Some(used) = stamp_at(&path)? else { return Ok(None) };
            if used.is_of_the_same_file(&good) {
                lock(&self.cache.proven).insert(path.clone(), used);
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Puts code in this place, complete and on disk, in the place of what is there.
    ///
    /// The compiler's file is copied: whoever had a part in making it may still be able to write to it.
    pub fn publish(&self, code: &mut File) -> io::Result<PathBuf> {
        let path = self.cache.path(&self.entry);
        let directory = path.parent().unwrap_or(&path);
        let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(&self.cache.directory)?;
        code.rewind()?;
        let mut seal = self.entry.seal();
        in_pieces(code, |piece| {
            seal.update(piece);
            file.write_all(piece)
        })?;
        file.write_all(&seal.finalize())?;
        file.as_file().set_permissions(Permissions::from_mode(0o444))?;
        // Without this a crash may leave a file of the right length and nothing in it.
        file.as_file().sync_all()?;
        put(file, &path)?;
        File::open(directory)?.sync_all()?;
        let stamp = Stamp::from(&fs::symlink_metadata(&path)?);
        lock(&self.cache.proven).insert(path.clone(), stamp);
        self.cache.sweep();
        Ok(path)
    }

    /// The file at `path`, if it is one of ours, whole and in its own place; or why it is not.
    fn prove(&self, path: &Path) -> Result<Stamp, String> {
        // It could be a pipe, or a link to what has no end.
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
        in_pieces(&mut (&mut file).take(code_length), |piece| {
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

/// Makes an entry the last that is evicted.
fn take_note_of_use(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(error) = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        tracing::debug!(path = %path.display(), %error, "the use of compiled code was not noted");
    }
}

/// The stamp of what has this name, if there is anything.
fn stamp_at(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(Stamp::from(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads to the end, and how much it was.
pub fn in_pieces(from: &mut impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
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

/// Gives a file its name, also in the place of another.
fn put(file: NamedTempFile, path: &Path) -> io::Result<()> {
    // Its drop removes what is still under the old name.
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

/// The entry that stands under this name, if it is the name of one.
fn entry_at(key: &str, path: &Path) -> Option<Entry> {
    let digits = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    let mut content = [0; 32];
    hex::decode_to_slice(digits, &mut content).ok()?;
    Some(Entry { key: key.to_owned(), content })
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|digit| digit.is_ascii_hexdigit())
}

/// Makes a directory that only our user may list and change, whatever our umask is. Others may enter it: a task that sees
/// the host finds its own code there, and not what others run.
fn make_directory(path: &Path) -> io::Result<()> {
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

/// In a directory that others may change, a name can come to mean another file at any moment.
fn check_directory(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let wrong = |what| io::Error::new(io::ErrorKind::PermissionDenied, format!("{}: {what}", path.display()));
    check_owner(&metadata).map_err(wrong)
}

fn check_owner(metadata: &Metadata) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(format!("it belongs to user {}, and not to the driver's, {us}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err("others than its owner may write to it".to_owned());
    }
    Ok(())
}

fn remove_if_stray(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    if !metadata.is_dir() && age.is_some_and(|age| age >= STRAY_AFTER) {
        let removed = fs::remove_file(path).is_ok();
        tracing::debug!(path = %path.display(), removed, "this is no compiled code");
    }
}

/// Removes a file that may be gone by now.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn errno(error: nix::errno::Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(error as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Desk {
        directory: tempfile::TempDir,
        size: u64,
    }

    impl Desk {
        fn new(size: u64) -> Self {
            Self { directory: tempfile::tempdir().unwrap(), size }
        }

        /// The cache as a driver finds it that was just started.
        fn cache(&self) -> Arc<Cache> {
            Arc::new(Cache::new(self.directory.path().join("wasm"), self.size))
        }

        /// The names of all that is there but the file of leases, from the oldest on.
        fn files(&self) -> Vec<PathBuf> {
            let mut files = Vec::new();
            for child in fs::read_dir(self.directory.path().join("wasm")).unwrap() {
                let child = child.unwrap().path();
                let inside = fs::read_dir(&child).into_iter().flatten().map(|file| file.unwrap().path());
                files.extend(inside.chain([child]));
            }
            files.retain(|path| !path.ends_with(LEASES));
            files.sort_by_key(|path| fs::symlink_metadata(path).unwrap().modified().unwrap());
            files
        }
    }

    const KEY: &str = "0123456789abcdef";

    fn entry(content: u8) -> Entry {
        Entry { key: KEY.to_owned(), content: [content; 32] }
    }

    fn code(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn publish(cache: &Arc<Cache>, content: u8, bytes: &[u8]) -> PathBuf {
        cache.lease(entry(content)).unwrap().publish(&mut code(bytes)).unwrap()
    }

    fn find(cache: &Arc<Cache>, entry: Entry) -> Option<PathBuf> {
        cache.lease(entry).unwrap().find().unwrap()
    }

    fn used_before(path: &Path, time: Duration) {
        File::open(path).unwrap().set_modified(SystemTime::now() - time).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn code_is_found_again_with_a_seal_behind_it_and_is_nobodys_to_write() {
        let desk = Desk::new(u64::MAX);
        let cache = desk.cache();
        assert_eq!(find(&cache, entry(1)), None);
        let path = publish(&cache, 1, b"code");
        assert_eq!(path, desk.directory.path().join("wasm").join(KEY).join("01".repeat(32) + ".cwasm"));
        let there = fs::read(&path).unwrap();
        assert!(there.starts_with(b"code") && there.len() == 4 + 32, "{there:?}");
        assert_eq!(
            (mode(&path), mode(path.parent().unwrap()), mode(&cache.directory)),
            (0o444, 0o711, 0o711)
        );
        assert_eq!(mode(&cache.directory.join(LEASES)), 0o600);
        assert_eq!(find(&cache, entry(1)), Some(path.clone()));
        assert_eq!(find(&desk.cache(), entry(1)), Some(path), "also by the next driver");
        assert_eq!(desk.files().len(), 2, "{:?}", desk.files());
    }

    #[test]
    fn what_is_not_as_we_left_it_is_removed_and_never_given() {
        /// Changes what is in a file without any trace but the one that the kernel leaves.
        fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let mut bytes = fs::read(path).unwrap();
            change(&mut bytes);
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
            File::open(path).unwrap().set_modified(modified).unwrap();
        }
        /// The entry, a good entry of another content, and a good one of the same content and another engine.
        type Spoil = fn(&Path, &Path, &Path);
        let spoils: [(&str, Spoil); 13] = [
            ("a flipped bit", |path, _, _| rewrite(path, |bytes| bytes[1000] ^= 1)),
            ("a flipped bit of the seal", |path, _, _| {
                rewrite(path, |bytes| *bytes.last_mut().unwrap() ^= 1);
            }),
            ("a lost end", |path, _, _| rewrite(path, |bytes| bytes.truncate(bytes.len() - 1))),
            ("nothing but a begin", |path, _, _| rewrite(path, |bytes| bytes.truncate(31))),
            ("nothing", |path, _, _| rewrite(path, Vec::clear)),
            ("more", |path, _, _| rewrite(path, |bytes| bytes.push(0))),
            ("another entry in its place", |path, other, _| {
                rewrite(path, |bytes| *bytes = fs::read(other).unwrap());
            }),
            ("another engine's", |path, _, other| {
                fs::remove_file(path).unwrap();
                fs::hard_link(other, path).unwrap();
            }),
            ("a foreign file", |path, _, _| {
                fs::remove_file(path).unwrap();
                fs::write(path, b"\x7fELF").unwrap();
            }),
            ("a link to a good copy", |path, _, _| {
                let copy = path.with_extension("copy");
                fs::rename(path, &copy).unwrap();
                symlink(copy, path).unwrap();
            }),
            ("a link to nothing", |path, _, _| {
                fs::remove_file(path).unwrap();
                symlink("nothing", path).unwrap();
            }),
            ("a pipe", |path, _, _| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, 0o444.into(), 0).unwrap();
            }),
            ("leave for others to write", |path, _, _| {
                fs::set_permissions(path, Permissions::from_mode(0o464)).unwrap();
            }),
        ];
        for (what, spoil) in spoils {
            for is_another_life in [false, true] {
                let desk = Desk::new(u64::MAX);
                let cache = desk.cache();
                let path = publish(&cache, 1, &vec![7; 300_000]);
                let other = publish(&cache, 2, &vec![8; 300_000]);
                let engine = Entry { key: "fedcba9876543210".to_owned(), ..entry(1) };
                let of_another_engine =
                    cache.lease(engine).unwrap().publish(&mut code(&vec![9; 300_000])).unwrap();
                assert_eq!(find(&cache, entry(1)).as_deref(), Some(path.as_path()));
                spoil(&path, &other, &of_another_engine);
                let cache = if is_another_life { desk.cache() } else { cache };
                assert_eq!(find(&cache, entry(1)), None, "{what}, another life: {is_another_life}");
                assert!(fs::symlink_metadata(&path).is_err(), "{what} is gone");
                assert_eq!(publish(&cache, 1, b"new"), path);
                assert_eq!(find(&cache, entry(1)), Some(path), "{what}, made anew");
                assert_eq!(find(&cache, entry(2)), Some(other));
            }
        }
    }

    #[test]
    fn code_that_belongs_to_somebody_else_is_not_run() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let desk = Desk::new(u64::MAX);
        let cache = desk.cache();
        let path = publish(&cache, 1, b"code");
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert_eq!(find(&cache, entry(1)), None);
        let path = publish(&cache, 1, b"code");
        fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
        let refused = cache.lease(entry(1)).unwrap().find().unwrap_err();
        assert!(refused.to_string().contains("others than its owner"), "{refused}");
    }

    #[test]
    fn code_is_read_once_in_a_drivers_life_and_not_at_every_start() {
        fn read_by_this_thread() -> u64 {
            let counters = fs::read_to_string("/proc/thread-self/io").unwrap();
            counters.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
        }
        let desk = Desk::new(u64::MAX);
        let size = 4 << 20;
        publish(&desk.cache(), 1, &vec![7; size]);
        let cache = desk.cache();
        let reads = [(); 3].map(|()| {
            let before = read_by_this_thread();
            assert!(find(&cache, entry(1)).is_some());
            read_by_this_thread() - before
        });
        assert!(reads[0] > size as u64 && reads[1] < 100_000 && reads[2] < 100_000, "{reads:?}");
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_is_evicted_over_all_engines() {
        let desk = Desk::new(2500);
        let cache = desk.cache();
        let first = publish(&cache, 1, &[1; 1000 - 32]);
        let other = Entry { key: "fedcba9876543210".to_owned(), ..entry(2) };
        let second = cache.lease(other).unwrap().publish(&mut code(&[2; 1000 - 32])).unwrap();
        used_before(&first, Duration::from_secs(100));
        used_before(&second, Duration::from_secs(50));
        // A use, also of one that has to be read again, counts as much as its making.
        assert_eq!(find(&cache, entry(1)), Some(first.clone()));
        let third = publish(&cache, 3, &[3; 1000 - 32]);
        assert!(first.exists() && third.exists() && !second.exists(), "{:?}", desk.files());
        assert!(!second.parent().unwrap().exists(), "the directory of an engine without entries is gone");
        let large = publish(&cache, 4, &[4; 5000]);
        assert!(!first.exists() && !third.exists(), "{:?}", desk.files());
        assert!(!large.exists(), "what does not fit is there as long as it is leased: {:?}", desk.files());
    }

    #[test]
    fn a_lease_keeps_what_is_there_from_every_driver_until_it_ends() {
        let desk = Desk::new(0);
        let (ours, theirs) = (desk.cache(), desk.cache());
        let lease = ours.lease(entry(1)).unwrap();
        let path = lease.publish(&mut code(b"code")).unwrap();
        assert!(path.exists());
        theirs.sweep();
        assert!(path.exists(), "another driver has the same cache");
        let second = theirs.lease(entry(1)).unwrap();
        assert_eq!(second.find().unwrap(), Some(path.clone()));
        drop(lease);
        assert!(path.exists(), "the other still has it");
        drop(second);
        assert!(!path.exists());
        assert_eq!(desk.files(), Vec::<PathBuf>::new());
    }

    #[test]
    fn drivers_that_use_the_same_code_at_the_same_moment_do_not_take_that_for_damage() {
        let desk = Desk::new(u64::MAX);
        let path = publish(&desk.cache(), 1, b"code");
        std::thread::scope(|threads| {
            for _ in 0..2 {
                // Each starts anew, so that it reads what it finds.
                threads.spawn(|| (0..300).for_each(|_| assert!(find(&desk.cache(), entry(1)).is_some())));
            }
            // And one has had the same module compiled.
            threads.spawn(|| {
                let sealed = fs::read(&path).unwrap();
                for _ in 0..300 {
                    let mut file = NamedTempFile::new_in(desk.directory.path()).unwrap();
                    file.write_all(&sealed).unwrap();
                    file.as_file().set_permissions(Permissions::from_mode(0o444)).unwrap();
                    put(file, &path).unwrap();
                }
            });
        });
    }

    #[test]
    fn what_killed_drivers_and_others_left_goes_when_it_is_old() {
        let desk = Desk::new(u64::MAX);
        let path = publish(&desk.cache(), 1, b"code");
        let shelf = path.parent().unwrap();
        let top = shelf.parent().unwrap();
        let left = [top.join(".new-old"), shelf.join("note"), shelf.join("01.cwasm"), top.join("note")];
        let young = [top.join(".new-young"), shelf.join("young")];
        for path in left.iter().chain(&young) {
            fs::write(path, "").unwrap();
        }
        for path in &left {
            used_before(path, STRAY_AFTER + Duration::from_secs(1));
        }
        fs::create_dir(top.join("somebody's")).unwrap();
        used_before(&path, STRAY_AFTER * 100);
        assert!(find(&desk.cache(), entry(1)).is_some());
        assert!(left.iter().all(|path| !path.exists()), "{:?}", desk.files());
        assert!(young.iter().all(|path| path.exists()) && top.join("somebody's").exists());
    }

    #[test]
    fn a_directory_of_entries_that_another_driver_removes_is_made_again() {
        let desk = Desk::new(u64::MAX);
        let (ours, theirs) = (desk.cache(), desk.cache());
        let path = publish(&ours, 1, b"code");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    theirs.sweep();
                }
            });
            let mut puts = (0..2000).map(|_| {
                fs::remove_file(&path)?;
                put(NamedTempFile::new_in(&ours.directory)?, &path)
            });
            let failed = puts.find_map(Result::err);
            is_over.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }
}
