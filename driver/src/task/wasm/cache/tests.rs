//! The cache, with files that are damaged, foreign or used at the same time.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::CWD;
use tempfile::NamedTempFile;

use super::files::{STRAY_AFTER, put};
use super::sweep::LEASES;
use super::*;

struct Desk {
    directory: tempfile::TempDir,
    size: u64,
}

impl Desk {
    fn new(size: u64) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), size }
    }

    /// The cache as a driver that was just started finds it.
    fn cache(&self) -> Arc<Cache> {
        Arc::new(Cache::new(self.directory.path().join("wasm"), self.size))
    }

    /// The names of all files except the lease file, oldest first.
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
    assert_eq!((mode(&path), mode(path.parent().unwrap()), mode(&cache.directory)), (0o444, 0o711, 0o711));
    assert_eq!(mode(&cache.directory.join(LEASES)), 0o600);
    assert_eq!(find(&cache, entry(1)), Some(path.clone()));
    assert_eq!(find(&desk.cache(), entry(1)), Some(path), "also by the next driver");
    assert_eq!(desk.files().len(), 2, "{:?}", desk.files());
}

#[allow(clippy::too_many_lines, reason = "a table of faults")]
#[test]
fn what_is_not_as_we_left_it_is_removed_and_never_given() {
    /// Changes the content of a file without any trace except the kernel's.
    fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
        File::open(path).unwrap().set_modified(modified).unwrap();
    }
    /// The entry, a good entry with other content, and a good one with the same content and another engine.
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
    // A use, also of an entry that has to be read again, counts as much as its compilation.
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
            // Each starts with a new cache, so that it reads what it finds.
            threads.spawn(|| (0..300).for_each(|_| assert!(find(&desk.cache(), entry(1)).is_some())));
        }
        // And one driver has compiled the same module.
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
