//! WASI calls with unexpected arguments and in an unexpected order.

use std::fmt::Write as _;
use std::process::Stdio;

use tests::end_of;

use super::chance::Chance;
use super::scene::{MEMORY, Scene, module, tidy};
use super::{DEADLINE, TRAPPED};

/// The functions that the guests with absurd arguments call, with the kinds of their parameters, `l` for 64 bits.
const CALLS: &str = "
    args_get(ii) args_sizes_get(ii) environ_get(ii) environ_sizes_get(ii) clock_res_get(ii)
    clock_time_get(ili) fd_advise(illi) fd_allocate(ill) fd_close(i) fd_datasync(i) fd_fdstat_get(ii)
    fd_fdstat_set_flags(ii) fd_fdstat_set_rights(ill) fd_filestat_get(ii) fd_filestat_set_size(il)
    fd_filestat_set_times(illi) fd_pread(iiili) fd_prestat_get(ii) fd_prestat_dir_name(iii)
    fd_pwrite(iiili) fd_read(iiii) fd_readdir(iiili) fd_renumber(ii) fd_seek(ilii) fd_sync(i) fd_tell(ii)
    fd_write(iiii) path_create_directory(iii) path_filestat_get(iiiii) path_filestat_set_times(iiiilli)
    path_link(iiiiiii) path_open(iiiiillii) path_readlink(iiiiii) path_remove_directory(iii)
    path_rename(iiiiii) path_symlink(iiiii) path_unlink_file(iii) poll_oneoff(iiii) proc_raise(i)
    random_get(ii) sched_yield() sock_accept(iii) sock_recv(iiiiii) sock_send(iiiii) sock_shutdown(ii)
";

#[allow(clippy::too_many_lines, reason = "what a call is made of, and the calls")]
#[test]
fn absurd_arguments_are_errors_or_traps() {
    let calls: Vec<_> =
        CALLS.split_whitespace().map(|call| call.trim_end_matches(')').split_once('(').unwrap()).collect();
    let imports = calls.iter().fold(String::new(), |all, (name, parameters)| {
        let parameters = parameters.replace('i', "i32 ").replace('l', "i64 ");
        format!(
            "{all}(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param {parameters}) (result i32)))\n"
        )
    });
    let parts = format!(
        "{imports}(memory (export \"memory\") 2)\
         (data (i32.const 256) \"inner/file\") (data (i32.const 512) \"../outside/secret\")\
         (data (i32.const 1024) \"\\00\\01\\00\\00\\0a\\00\\00\\00\\00\\02\\00\\00\\11\\00\\00\\00\")"
    );
    let scene = Scene::new();
    let grant = format!("{}::/first", scene.desk.path("first"));
    let mut chance = Chance(5);
    for round in 0..100 {
        let mut body = String::new();
        for _ in 0..40 {
            let (name, parameters) = *chance.of(&calls);
            let arguments: String = parameters
                .chars()
                .map(|kind| match kind {
                    'l' => format!("(i64.const {})", chance.of(&[0, 1, 64, -1, i64::MAX, i64::MIN, 1 << 40])),
                    _ => format!(
                        "(i32.const {})",
                        chance.of(&[
                            0,
                            1,
                            2,
                            3,
                            3,
                            3,
                            4,
                            5,
                            10,
                            17,
                            256,
                            512,
                            1024,
                            131_070,
                            131_072,
                            -1,
                            -1000,
                            i32::MAX,
                            i32::MIN
                        ])
                    ),
                })
                .collect();
            writeln!(body, "(drop (call ${name} {arguments}))").unwrap();
        }
        let guest = scene.text("absurd", &module(&parts, &body));
        let end = end_of(
            scene
                .limited(MEMORY, &["--no-cache", "-W", "timeout=1s", "--dir", &grant, &guest])
                .stdin(Stdio::null()),
        );
        let code = end.code();
        assert!([0, TRAPPED, DEADLINE].contains(&code), "{round}: {end:?}");
        assert!(!end.0.stderr.windows(12).any(|part| part == b"bug in wasm-"), "{round}: {end:?}");
    }
    scene.must_be_as_it_was();
}

#[test]
fn a_guest_that_has_closed_all_it_has_still_ends_as_it_should() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
        (func (export "_start")
            (drop (call $close (i32.const 2)))
            (drop (call $renumber (i32.const 3) (i32.const 2)))
            (drop (call $renumber (i32.const 0) (i32.const 1)))
            (drop (call $renumber (i32.const 1) (i32.const 1)))
            (drop (call $renumber (i32.const 2) (i32.const 0x7fffffff)))
            (drop (call $close (i32.const 1)))
            (drop (call $close (i32.const 1)))
            unreachable)
        (memory (export "memory") 1))"#;
    let scene = Scene::new();
    let end = scene.run("closing", text);
    assert_eq!(tidy(&end), TRAPPED, "{end:?}");
    end.says("wasm-shim: trap: ");
    scene.must_be_as_it_was();
}

#[test]
fn a_million_wishes_at_once_are_refused_or_granted() {
    // 2048 pages: the subscriptions, 48 bytes each, in the first half, all of them zero, which is a clock that is due.
    let of = |call: &str| {
        format!(
            r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2048)
            (func (export "_start") (drop {call})))"#
        )
    };
    let scene = Scene::new();
    for (name, call) in [
        (
            "polls",
            "(call $poll (i32.const 0) (i32.const 67108864) (i32.const 1000000) (i32.const 134217000))",
        ),
        (
            "more polls",
            "(call $poll (i32.const 0) (i32.const 67108864) (i32.const -1) (i32.const 134217000))",
        ),
        ("chance", "(call $random (i32.const 0) (i32.const 134217728))"),
        ("more chance", "(call $random (i32.const 0) (i32.const -1))"),
        ("writes", "(call $write (i32.const 1) (i32.const 0) (i32.const 1000000) (i32.const 134217000))"),
        ("more writes", "(call $write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 134217000))"),
        ("reads", "(call $read (i32.const 0) (i32.const 0) (i32.const 1000000) (i32.const 134217000))"),
    ] {
        let guest = scene.text(name, &of(call));
        let end = end_of(scene.limited(MEMORY, &["-W", "timeout=20s", &guest]).stdin(Stdio::null()));
        assert!([0, TRAPPED].contains(&tidy(&end)), "{name}: {end:?}");
    }
    scene.must_be_as_it_was();
}
