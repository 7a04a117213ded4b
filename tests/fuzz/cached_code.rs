//! The cache of compiled code: whatever happens to an entry, the code that is found is the code that was published.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use nomad_driver_systemd::task::wasm::cache::{Cache, Entry};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustix::time::{ClockId, clock_gettime};

use super::corpus::{Edit, edited, edits};
use super::for_all;

const KEYS: [&str; 2] = ["0123456789abcdef", "fedcba9876543210"];

/// Changes to a directory of entries, by a broken disk or by somebody who can write there.
#[derive(Debug, Clone)]
enum Damage {
    Rewrite(Index, Vec<Edit<u8>>),
    FlipBit(Index, Index),
    Replace(Index, Vec<u8>),
    PutInPlaceOf(Index, Index),
    Copy(Index, Index),
    LinkTo(Index, Index),
    SymlinkTo(Index, Index),
    Mode(Index, u32),
    MakeDirectory(Index),
    MakePipe(Index),
    AppendItself(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let piece = prop_oneof![vec(any::<u8>(), 1..40), Just(vec![0; 32])];
    prop_oneof![
        (at(), edits(piece, 3)).prop_map(|(at, edits)| Damage::Rewrite(at, edits)),
        (at(), at()).prop_map(|(at, bit)| Damage::FlipBit(at, bit)),
        (at(), vec(any::<u8>(), 0..100)).prop_map(|(at, bytes)| Damage::Replace(at, bytes)),
        (at(), at()).prop_map(|(from, to)| Damage::PutInPlaceOf(from, to)),
        (at(), at()).prop_map(|(from, to)| Damage::Copy(from, to)),
        (at(), at()).prop_map(|(from, to)| Damage::LinkTo(from, to)),
        (at(), at()).prop_map(|(from, to)| Damage::SymlinkTo(from, to)),
        (at(), select(vec![0o400, 0o444, 0o644, 0o664, 0o646, 0o777, 0o000, 0o4755]))
            .prop_map(|(at, mode)| Damage::Mode(at, mode)),
        at().prop_map(Damage::MakeDirectory),
        at().prop_map(Damage::MakePipe),
        at().prop_map(Damage::AppendItself),
    ]
}

impl Damage {
    /// Applies the change, as far as earlier changes allow.
    fn happen(&self, paths: &[std::path::PathBuf]) {
        let path = |at: &Index| at.get(paths);
        let rewrite = |at: &Index, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            let path = path(at);
            if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
                let modified = fs::metadata(path).and_then(|found| found.modified());
                let mode = fs::metadata(path).map(|found| found.permissions());
                let changed = change(fs::read(path).unwrap_or_default());
                // In the same file, with its old timestamps.
                let _ = fs::set_permissions(path, Permissions::from_mode(0o644));
                let _ = fs::write(path, changed);
                let _ = mode.and_then(|mode| fs::set_permissions(path, mode));
                let _ = modified.and_then(|modified| File::open(path)?.set_modified(modified));
            }
        };
        let in_place = |at: &Index, make: &dyn Fn(&Path) -> std::io::Result<()>| {
            let path = path(at);
            let _ = fs::remove_file(path);
            let _ = make(path);
        };
        match self {
            Self::Rewrite(at, edits) => rewrite(at, &|bytes| edited(bytes, edits)),
            Self::FlipBit(at, bit) => rewrite(at, &|mut bytes| {
                if !bytes.is_empty() {
                    let bit = bit.index(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                bytes
            }),
            Self::AppendItself(at) => rewrite(at, &|bytes| bytes.repeat(2)),
            Self::Replace(at, bytes) => in_place(at, &|path| {
                fs::write(path, bytes)?;
                fs::set_permissions(path, Permissions::from_mode(0o444))
            }),
            Self::PutInPlaceOf(from, to) => drop(fs::rename(path(from), path(to))),
            Self::Copy(from, to)
                if path(from) != path(to) && fs::metadata(path(from)).is_ok_and(|found| found.is_file()) =>
            {
                let bytes = fs::read(path(from)).unwrap_or_default();
                in_place(to, &|path| {
                    fs::write(path, &bytes)?;
                    fs::set_permissions(path, Permissions::from_mode(0o444))
                });
            }
            Self::LinkTo(from, to) if path(from) != path(to) => {
                in_place(to, &|there| fs::hard_link(path(from), there));
            }
            Self::SymlinkTo(from, to) => in_place(to, &|there| symlink(path(from), there)),
            Self::Copy(..) | Self::LinkTo(..) => {}
            Self::Mode(at, mode) => drop(fs::set_permissions(path(at), Permissions::from_mode(*mode))),
            Self::MakeDirectory(at) => in_place(at, &|path| fs::create_dir(path)),
            Self::MakePipe(at) => in_place(at, &|path| {
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, path, fifo, 0o444.into(), 0).map_err(Into::into)
            }),
        }
    }
}

/// Waits until the kernel would record another time for a change: two changes within one kernel tick have the same
/// time.
fn let_a_tick_pass() {
    let now = || clock_gettime(ClockId::RealtimeCoarse);
    let begin = now();
    while now() == begin {
        std::hint::spin_loop();
    }
}

#[test]
fn an_entry_is_found_as_it_was_published_or_not_at_all() {
    let code = vec(any::<u8>(), 1..200);
    let inputs = (vec(code, 4), vec(damage(), 0..5), any::<bool>());
    for_all("cached-code", 400, &inputs, |(codes, damages, is_another_life)| {
        let directory = tempfile::tempdir().unwrap();
        let cache = || Arc::new(Cache::new(directory.path().join("wasm"), u64::MAX));
        let first = cache();
        let entries: Vec<_> = KEYS
            .iter()
            .flat_map(|key| [1, 2].map(|content| Entry { key: (*key).to_owned(), content: [content; 32] }))
            .collect();
        let publish = |cache: &Arc<Cache>, entry: &Entry, code: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(code).unwrap();
            cache.lease(entry.clone()).unwrap().publish(&mut file).unwrap()
        };
        let paths: Vec<_> =
            entries.iter().zip(&codes).map(|(entry, code)| publish(&first, entry, code)).collect();
        let published: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        let_a_tick_pass();
        for damage in &damages {
            damage.happen(&paths);
        }
        let cache = if is_another_life { cache() } else { first };
        for (((entry, path), published), code) in entries.iter().zip(&paths).zip(&published).zip(&codes) {
            let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
            match cache.lease(entry.clone()).unwrap().find() {
                Ok(Some(found)) => {
                    assert_eq!(&found, path);
                    let metadata = fs::symlink_metadata(path).unwrap();
                    assert!(metadata.is_file(), "{metadata:?}");
                    assert_eq!(metadata.permissions().mode() & 0o022, 0, "others may write to it");
                    assert_eq!(&fs::read(path).unwrap(), published);
                }
                Ok(None) => {
                    assert!(fs::symlink_metadata(path).is_err(), "what is no entry is removed");
                    assert_eq!(&publish(&cache, entry, code), path);
                    assert_eq!(cache.lease(entry.clone()).unwrap().find().unwrap().as_ref(), Some(path));
                    assert_eq!(&fs::read(path).unwrap(), published);
                }
                Err(error) => assert!(is_directory, "{error}"),
            }
        }
    });
}
