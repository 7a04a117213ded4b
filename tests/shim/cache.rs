//! The cache of compiled code.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tests::{Desk, Running, SOON, end_of, program};

use super::{FAILED, mode};

#[test]
fn the_second_start_needs_no_compiler() {
    let desk = Desk::new();
    let alone = desk.path("wasm-shim");
    // Not by fs::copy: a child that another test forks meanwhile would hold the file open for writing.
    assert!(
        Command::new("cp")
            .args([program("wasm-shim").as_os_str(), OsStr::new(&alone)])
            .status()
            .unwrap()
            .success()
    );
    let start = || end_of(desk.environment(&mut Command::new(&alone)).arg(desk.guest("hello")));

    let end = start();
    assert_eq!(end.code(), FAILED);
    end.says("wasm-shim-compile`; install the compiler beside wasm-shim");

    assert_eq!(desk.run(&[&desk.guest("hello")]).stdout(), "hello\n");
    assert_eq!(start().stdout(), "hello\n");
}

#[test]
fn the_cache_is_the_users_alone() {
    let desk = Desk::new();
    let hello = desk.guest("hello");
    assert_eq!(desk.run(&[&hello]).code(), 0);
    assert_eq!(mode(&desk.cache()), 0o700);
    assert_eq!(mode(&desk.entry()), 0o444);

    fs::set_permissions(desk.cache(), Permissions::from_mode(0o777)).unwrap();
    let end = desk.run(&[&hello]);
    assert_eq!(end.code(), FAILED);
    end.says("refuse the cache");
    end.says("--no-cache");
    assert_eq!(desk.run(&["--no-cache", &hello]).stdout(), "hello\n");
}

#[test]
fn a_damaged_cache_entry_is_rebuilt() {
    let desk = Desk::new();
    for guest in ["hello", "run_ok"] {
        let file = desk.guest(guest);
        assert_eq!(desk.run(&[&file]).code(), 0);
        let entry = desk.entry();
        let whole = fs::read(&entry).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 3] ^= 1;
        for damaged in [&whole[..whole.len() / 2], &whole[..64], b"", b"something else", &flipped] {
            fs::remove_file(&entry).unwrap();
            fs::write(&entry, damaged).unwrap();
            let end = desk.run(&[&file]);
            assert_eq!((end.code(), end.stderr().as_str()), (0, ""));
            assert_eq!(fs::read(&entry).unwrap().len(), whole.len());
        }
        fs::remove_file(&entry).unwrap();
    }
}

#[test]
fn without_a_cache_the_guest_is_compiled_in_memory() {
    let desk = Desk::new();
    let hello = desk.guest("hello");
    assert_eq!(desk.run(&["--no-cache", &hello]).stdout(), "hello\n");
    assert!(!desk.cache().exists());

    let homeless = end_of(desk.shim(&[&hello]).env_clear());
    assert_eq!(homeless.stdout(), "hello\n");

    let nowhere = end_of(desk.shim(&[&hello]).env("XDG_CACHE_HOME", "/proc/no/such/place"));
    assert_eq!(nowhere.stdout(), "hello\n");
    let component = end_of(desk.shim(&[&desk.guest("run_ok")]).env_clear());
    assert_eq!(component.code(), 0, "{component:?}");
}

#[test]
fn many_first_starts_at_once_all_succeed() {
    let desk = Desk::new();
    let hello = desk.guest("hello");
    let mut guests: Vec<_> = (0..12).map(|_| Running::start(desk.shim(&[&hello]))).collect();
    for guest in &mut guests {
        assert_eq!(guest.line(), "hello\n");
        assert_eq!(guest.wait(SOON).code(), Some(0));
    }
    let left: Vec<_> = fs::read_dir(desk.cache()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "one entry and nothing temporary: {left:?}");
}
