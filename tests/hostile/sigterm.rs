//! SIGTERM ends a guest that is busy, and a compilation.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::Running;

use super::scene::{MEMORY, Scene, module};
use super::{PROMPTLY, STOPPED};

#[test]
fn whatever_a_guest_is_busy_with_sigterm_ends_it_promptly() {
    let fill = "(memory.fill $large (i32.const 0) (i32.const 1) (i32.const 0x10000000))";
    let copy = "(memory.copy $large $large (i32.const 0) (i32.const 1) (i32.const 0xfffffff))";
    let wait = "(i64.store (i32.const 512) (i64.const 0)) (i64.store (i32.const 528) (i64.const 1))\
                (i64.store (i32.const 536) (i64.const 0x7fffffffffffffff))\
                (drop (call $poll (i32.const 512) (i32.const 1024) (i32.const 1) (i32.const 8)))";
    let flood = "(drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))";
    let read = "(drop (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 8)))";
    let random = "(drop (call $random (i32.const 0) (i32.const 0x10000)))";
    let scene = Scene::new();
    for (name, work) in [
        ("nothing", ""),
        ("filling", fill),
        ("copying", copy),
        ("waiting", wait),
        ("writing", flood),
        ("reading", read),
        ("chance", random),
    ] {
        for at_start in [false, true] {
            let (start, entry) = if at_start {
                ("(start $work)", "(func (export \"_start\"))")
            } else {
                ("", "(export \"_start\" (func $work))")
            };
            let guest = scene.text(
                name,
                &format!(
                    r#"(module
                    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
                    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
                    (import "wasi_snapshot_preview1" "poll_oneoff"
                        (func $poll (param i32 i32 i32 i32) (result i32)))
                    (memory (export "memory") 1)
                    (memory $large 4096)
                    (data (i32.const 0) "\20\00\00\00\06\00\00\00")
                    (data (i32.const 16) "\00\00\00\00\00\00\01\00")
                    (data (i32.const 32) "begun\n")
                    (func $work
                        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                        (loop $ever {work} (br $ever)))
                    {start} {entry})"#
                ),
            );
            let (_open, stdin) = std::io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
            let mut shim = scene.limited("536870912", &[&guest]);
            shim.stdin(stdin);
            let mut guest = Running::start(shim);
            assert_eq!(guest.line(), "begun\n", "{name}, at start: {at_start}");
            guest.signal(Signal::TERM);
            assert_eq!(guest.wait(PROMPTLY).code(), Some(STOPPED), "{name}, at start: {at_start}");
        }
    }
    scene.must_be_as_it_was();
}

#[test]
fn sigterm_ends_a_compilation_and_its_compiler() {
    let scene = Scene::new();
    let guest = scene.text("slow", &module(&"(func)".repeat(300_000), ""));
    let mut shim = Running::start(scene.limited(MEMORY, &[&guest]));
    let children = format!("/proc/{0}/task/{0}/children", shim.id());
    let all = fs::metadata(&guest).unwrap().len();
    let compiler = until("a compiler has read all of the guest", || {
        let compiler = fs::read_to_string(&children).ok()?.trim().to_owned();
        let read = fs::read_to_string(format!("/proc/{compiler}/io")).ok()?;
        let read: u64 = read.lines().next()?.strip_prefix("rchar: ")?.parse().ok()?;
        (read > all).then_some(compiler)
    });
    shim.signal(Signal::TERM);
    assert_eq!(shim.wait(PROMPTLY).code(), Some(STOPPED));
    until("the compiler has ended", || (!Path::new(&format!("/proc/{compiler}/exe")).exists()).then_some(()));
    scene.must_be_as_it_was();
}

/// Polls until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PROMPTLY, "waited {PROMPTLY:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
