//! Guests that mean harm. None of them may harm the host, the cache, or a guest beside it.
//!
//! Every test has a [`Scene`]: files beside the guest's own, a neighbour that runs all the while in a directory of the
//! same tree, and a cache that both use. The scene's end says whether they are as they were. Memory is limited in place
//! of the cgroup that a task has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::{Desk, End, Running, SOON, built_guest, end_of, program, within};

/// What a user notices as a delay.
const PROMPTLY: Duration = Duration::from_secs(5);

const MEMORY_LIMIT: i32 = 122;
const DEADLINE: i32 = 124;
const FAILED: i32 = 125;
const BAD_MODULE: i32 = 126;
const MISSING_IMPORT: i32 = 127;
const TRAPPED: i32 = 134;
const STOPPED: i32 = 143;

/// How much memory `wasm-shim` and its compiler may write to, in place of a cgroup's limit.
const MEMORY: &str = "1073741824";
const SECRET: &str = "the neighbour's secret";

/// Paths by which a guest in the directory `first` might get out of it. `up`, `secret` and `process` are symbolic links
/// that lead out and were there before.
const WAYS_OUT: &str = "
    .. ../ ./.. ../outside ../outside/secret inner/../../outside/secret inner/deep/../../../outside up up/
    up/outside/secret up/../outside/secret secret secret/ secret/. process/environ process/cwd/outside/secret
    process/root/etc/hostname process/fd/0 /etc/hostname //etc/hostname / inner/file/../../../outside/secret
    inner/../inner/../.. inner\0/../../outside/secret
";

/// What may be asked of such a path.
const REQUESTS: &str = "open 0 r WAY, open 0 rd WAY, open 0 wc WAY, open 0 wcx WAY, open 0 wt WAY, open 0 rwcd WAY, \
    stat 0 WAY, touch 0 WAY, inside 0 WAY new, mkdir 0 WAY/new, rmdir 0 WAY/empty, unlink 0 WAY/secret, \
    symlink 0 anywhere WAY/new, linkto 0 WAY 0 mine, link 0 WAY/secret 0 mine, link 0 inner/file 0 WAY/new, \
    rename 0 WAY/secret 0 mine, rename 0 inner/file 0 WAY/new, rename 0 inner 0 WAY/new/, rename 1 box 0 WAY/box, \
    rename 1 box 0 WAY/empty, link 1 kept 0 WAY/new, linkto 1 out 0 WAY/new, readlink 0 WAY/link";

#[test]
fn no_path_leads_out_of_a_directory() {
    for guest in ["paths_p1", "paths_p3"].into_iter().filter_map(built_guest) {
        let scene = Scene::new();
        let requests = WAYS_OUT
            .split_whitespace()
            .flat_map(|way| REQUESTS.split(", ").map(move |request| request.replace("WAY", way)));
        let denied: Vec<_> = requests.chain(["open 0 r ".to_owned(), "open 0 rd ".to_owned()]).collect();
        for (request, answer) in denied.iter().zip(scene.ask(&guest, "", &denied.join("\n"))) {
            assert!(answer.starts_with("no "), "{guest}: {request:?} is answered by {answer:?}");
        }
        scene.must_be_as_it_was();
    }
}

#[test]
fn no_symbolic_link_that_a_guest_makes_leads_out() {
    // A link may say what it likes, and may be moved to where that would lead out. Only what is opened counts.
    let table = [
        ("symlink 0 ../outside way", "ok"),
        ("open 0 r way/secret", "no"),
        ("open 0 rd way", "no"),
        ("open 0 wc way/new", "no"),
        ("mkdir 0 way/new", "no"),
        ("rename 0 inner/file 0 way/new", "no"),
        ("rename 1 box 0 way/box", "no"),
        ("symlink 0 ../outside/new dangling", "ok"),
        ("open 0 wc dangling", "no"),
        ("open 0 wcn dangling", "no"),
        ("open 0 wcx dangling", "no"),
        ("open 0 wc dangling/", "no"),
        ("link 0 inner/file 0 dangling", "no"),
        ("linkto 0 dangling 0 mine", "no"),
        ("touch 0 dangling", "no"),
        ("mkdir 0 dangling", "no"),
        ("symlink 0 way again", "ok"),
        ("open 0 r again/secret", "no"),
        ("symlink 0 .. inner/deep/up", "ok"),
        ("symlink 0 up/../../outside inner/deep/far", "ok"),
        ("open 0 r inner/deep/far/secret", "no"),
        ("symlink 0 ../../outside inner/deep/way", "ok"),
        ("open 0 rd inner/deep/way", "no"),
        ("rename 0 inner/deep 0 deep", "ok"),
        ("open 0 r deep/way/secret", "no"),
        ("rename 0 deep 1 deep", "ok"),
        ("open 1 r deep/way/secret", "no"),
        ("rename 0 way 1 way", "ok"),
        ("open 1 r way/secret", "no"),
        ("symlink 0 me me", "ok"),
        ("open 0 r me", "no"),
        ("rename 0 inner/file 0 again", "ok"),
        ("open 0 r again", "ok inner"),
    ];
    for guest in ["paths_p1", "paths_p3"].into_iter().filter_map(built_guest) {
        let scene = Scene::new();
        let requests: Vec<_> = table.iter().map(|(request, _)| *request).collect();
        for ((request, expected), answer) in table.iter().zip(scene.ask(&guest, "", &requests.join("\n"))) {
            assert!(answer.starts_with(expected), "{guest}: {request} is answered by {answer}");
        }
        // Absolute links are refused, or lead nowhere.
        let requests = ["symlink 0 /ROOT/outside abs", "open 0 r abs/secret", "open 0 rd abs"].join("\n");
        let root = scene.desk.path("").trim_matches('/').to_owned();
        for answer in &scene.ask(&guest, "", &requests.replace("ROOT", &root))[1..] {
            assert!(answer.starts_with("no "), "{guest}: {answer}");
        }
        scene.must_be_as_it_was();
    }
}

#[test]
fn a_directory_that_becomes_a_link_at_the_wrong_moment_leads_nowhere() {
    let Some(guest) = built_guest("paths_p1") else { return };
    let scene = Scene::new();
    let setup = "mkdir 0 x\nopen 0 wc x/secret\nsymlink 0 ../outside link";
    assert!(scene.ask(&guest, "", setup).iter().all(|answer| answer.starts_with("ok")));

    let flips = "rename 0 x 0 dir\nrename 0 link 0 x\nrename 0 x 0 link\nrename 0 dir 0 x\n".repeat(2_000);
    let looks = "open 0 r x/secret\nopen 0 w x/secret\nstat 0 x/secret\n".repeat(3_000);
    let (looked, flipped) = std::thread::scope(|scope| {
        let flipping = scope.spawn(|| scene.ask(&guest, "", &flips));
        (scene.ask(&guest, "", &looks), flipping.join().unwrap())
    });
    assert!(flipped.iter().all(|answer| answer.starts_with("ok")), "it changed all the time");
    assert!(looked.iter().any(|answer| answer.starts_with("ok overwritten")), "it was a directory at times");
    assert!(looked.iter().any(|answer| answer.starts_with("no")), "it was a link at times");
    assert!(looked.iter().all(|answer| !answer.contains(SECRET)));
    scene.must_be_as_it_was();
}

#[test]
fn a_granted_directory_that_a_guest_made_a_link_is_not_opened_at_the_next_start() {
    let Some(guest) = built_guest("paths_p1") else { return };
    for (target, leads_to) in [("../outside", "outside"), ("../../../../../../../../proc/self", "/proc/self")]
    {
        for grant in ["", ":ro"] {
            let scene = Scene::new();
            let inner = scene.desk.path("first/inner");
            let dirs = [format!("{}::/first", scene.desk.path("first")), format!("{inner}::/inner{grant}")];
            let swap = format!("rename 0 inner 0 moved\nsymlink 0 {target} inner\nopen 1 r file");
            let end = scene.start(&guest, &dirs, &swap);
            assert_eq!(end.stdout(), "ok\nok\nok inner\n", "it has the directory that it was granted");

            let end = scene.start(&guest, &dirs, "open 1 r secret\nopen 1 r environ\nopen 1 r status");
            assert_eq!((end.code(), end.stdout().as_str()), (FAILED, ""), "{leads_to}");
            end.says(&format!("--dir (in a job `wasm.dirs`): open directory `{inner}` for the guest: `{inner}` is a symbolic link"));
            let below = [dirs[0].clone(), format!("{inner}/deep::/inner{grant}")];
            let end = scene.start(&guest, &below, "open 1 r file");
            end.says(&format!("`{inner}` is a symbolic link"));
            scene.must_be_as_it_was();
        }
    }
}

#[test]
fn no_guest_is_granted_the_cache_of_compiled_code() {
    let scene = Scene::new();
    let hello = scene.desk.guest("hello");
    let cache = scene.desk.cache().display().to_string();
    for granted in [&scene.desk.path(""), &cache, &scene.desk.path("cache")] {
        for more in [&[][..], &["--no-cache"]] {
            let end = scene.desk.run(&[&["run", "--dir", granted], more, &[&hello]].concat());
            assert_eq!(tidy(&end), FAILED, "{granted}: {end:?}");
            end.says(&format!("the guest could write to `{cache}`"));
        }
        let end = scene.desk.run(&["run", "--dir", &format!("{granted}::/x:ro"), &hello]);
        assert_eq!(tidy(&end), 0, "{granted}, to be read: {end:?}");
    }
    scene.must_be_as_it_was();
}

#[test]
fn nothing_changes_in_a_read_only_directory() {
    for guest in ["paths_p1", "paths_p3"].into_iter().filter_map(built_guest) {
        let scene = Scene::new();
        let before = seen(&scene.desk.path("first"));
        let requests = "open 0 w inner/file\nopen 0 rw inner/file\nopen 0 wt inner/file\nopen 0 t inner/file\n\
                        open 0 rt inner/file\nopen 0 wc new\nopen 0 rc new\nopen 0 c new\nopen 0 cx new\n\
                        meddle 0 inner/file\ninside 0 inner new\ntouch 0 inner/file\ntouch 0 inner\nmkdir 0 new\n\
                        rmdir 0 inner/empty\nunlink 0 inner/file\nunlink 0 up\nsymlink 0 inner new\n\
                        link 0 inner/file 0 new\nlink 0 inner/file 1 mine\nlinkto 0 inner/file 1 mine\n\
                        link 1 kept 0 new\nrename 0 inner/file 0 new\nrename 0 inner/file 1 mine\nrename 0 inner 1 mine\n\
                        rename 1 kept 0 new\nrename 1 kept 0 inner/file\nrename 1 box 0 inner/empty";
        for (request, answer) in requests.lines().zip(scene.ask(&guest, ":ro", requests)) {
            assert!(answer.starts_with("no "), "{guest}: {request} is answered by {answer}");
        }
        let answers = scene.ask(&guest, ":ro", "open 0 r inner/file\nopen 1 r kept\nopen 1 w kept");
        assert_eq!(answers, ["ok inner", "ok kept", "ok"], "{guest}");
        assert_eq!(before, seen(&scene.desk.path("first")), "{guest}");
        scene.must_be_as_it_was();
    }
}

#[test]
fn what_wants_all_memory_gets_what_it_may_have_and_no_more() {
    const LIMITS: &str = "max-memory-size=67108864,max-table-elements=100000,max-memories=50,max-tables=50";
    let until_refused = |grow: &str| format!("(loop $more (br_if $more (i32.ne (i32.const -1) ({grow}))))");
    let memory_limit = &[MEMORY_LIMIT][..];
    let told = &[0][..];
    let table = [
        ("memory", module("(memory 65536)", ""), memory_limit),
        ("memory of 64 bits", module("(memory i64 0x1000000)", ""), memory_limit),
        ("memory beyond all", module("(memory i64 0xffffffffffff)", ""), &[FAILED, MEMORY_LIMIT]),
        ("memories", module(&"(memory 1)".repeat(90), ""), &[FAILED, MEMORY_LIMIT]),
        ("table", module("(table 4294967295 funcref)", ""), memory_limit),
        ("tables", module(&"(table 90000 externref)".repeat(90), ""), &[FAILED, MEMORY_LIMIT]),
        ("growing memory", module("(memory 0)", &until_refused("memory.grow (i32.const 100)")), told),
        (
            "growing table",
            module("(table 0 funcref)", &until_refused("table.grow (ref.null func) (i32.const 1000)")),
            told,
        ),
        (
            "growing slowly",
            module("(table 0 externref)", &until_refused("table.grow (ref.null extern) (i32.const 1)")),
            told,
        ),
        (
            "array",
            module("(type $a (array (mut i64)))", "(drop (array.new_default $a (i32.const 100000000)))"),
            memory_limit,
        ),
        (
            "list of arrays",
            module(
                "(type $a (array (mut i64)))\
                 (type $node (struct (field (ref null $node)) (field (ref $a))))\
                 (global $all (mut (ref null $node)) (ref.null $node))",
                "(loop $more (global.set $all (struct.new $node (global.get $all) \
                 (array.new $a (i64.const 7) (i32.const 100000)))) (br $more))",
            ),
            memory_limit,
        ),
    ];
    let scene = Scene::new();
    for (name, text, codes) in &table {
        let guest = scene.text(name, text);
        let end = end_of(&mut scene.limited("268435456", &["-W", LIMITS, &guest]));
        assert!(codes.contains(&tidy(&end)), "{name} within limits: {end:?}");
        // Without limits of its own, memory ends where the cgroup says. It need not be told so kindly.
        tidy(&end_of(&mut scene.limited(MEMORY, &["-W", "timeout=2s", &guest])));
    }
    scene.must_be_as_it_was();
}

#[test]
fn recursion_ends_in_a_trap_in_whatever_way_it_goes() {
    let many = "i64 ".repeat(20_000);
    let table = [
        ("itself", "(func $f (call $f) (call $f))".to_owned()),
        ("each other", "(func $f (call $g) (call $g)) (func $g (call $f) (call $f))".to_owned()),
        (
            "through a table",
            "(type $t (func)) (table funcref (elem $f))\
             (func $f (call_indirect (type $t) (i32.const 0)) (call_indirect (type $t) (i32.const 0)))"
                .to_owned(),
        ),
        (
            "through a reference",
            "(type $t (func)) (elem declare func $f)\
             (func $f (call_ref $t (ref.func $f)) (call_ref $t (ref.func $f)))"
                .to_owned(),
        ),
        (
            "with large frames",
            format!(
                "(func $f (local {many}) (call $g (local.get 7)) (call $g (local.get 19999)))\
                 (func $g (param i64) (local {many}) (call $f) (call $f))"
            ),
        ),
        (
            "through the host's memory functions",
            "(memory 1) (func $f (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) (call $f) (call $f))"
                .to_owned(),
        ),
    ];
    let scene = Scene::new();
    for (name, parts) in &table {
        for text in
            [module(parts, "(call $f)"), format!("(module {parts} (start $f) (func (export \"_start\")))")]
        {
            let end = scene.run(name, &text);
            assert_eq!(tidy(&end), TRAPPED, "{name}: {end:?}");
            end.says("call stack exhausted");
        }
    }
    scene.must_be_as_it_was();
}

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

#[test]
fn what_takes_a_compiler_long_or_much_ends_in_code_or_in_an_error() {
    let deep = |open: &str, close: &str, times: usize| open.repeat(times) + &close.repeat(times);
    let doubled = types(60, "(tuple $t $t)");
    let chained = types(2000, "(list $t)");
    // Instances of instances: ten at each level, a thousand million in all.
    let instances = (0..8)
        .fold(format!("(core module $m) {}", "(core instance (instantiate $m))".repeat(10)), |inner, _| {
            format!("(component $c {inner}) {}", "(instance (instantiate $c))".repeat(10))
        });
    let nested = (0..80).fold(String::new(), |inner, _| format!("(component {inner})"));
    let table = [
        (
            "many functions",
            module(&"(func (param i32) (result i32) (local.get 0))".repeat(50_000), ""),
            &[0][..],
        ),
        (
            "one long function",
            module("", &"(drop (i64.mul (i64.const 3) (i64.const 5)))".repeat(100_000)),
            &[0],
        ),
        ("deep blocks", module("", &deep("(block ", ")", 20_000)), &[0]),
        (
            "a deep expression",
            module(
                "",
                &format!("(drop {})", deep("(i32.eqz ", ")", 10_000).replace("eqz )", "eqz (i32.const 1))")),
            ),
            &[0],
        ),
        (
            "a wide branch",
            module("", &format!("(block (br_table {}(i32.const 1)))", "0 ".repeat(60_000))),
            &[0],
        ),
        ("many locals", module("", &format!("(local {})", "i64 ".repeat(49_000))), &[0]),
        ("too many locals", module("", &format!("(local {})", "i64 ".repeat(51_000))), &[BAD_MODULE]),
        ("doubled types", format!("(component (type $t0 (tuple u8 u8)) {doubled})"), &[BAD_MODULE]),
        ("chained types", format!("(component (type $t0 (list u8)) {chained})"), &[BAD_MODULE]),
        (
            "many types",
            format!("(component {})", "(type (record (field \"a\" u32)))".repeat(20_000)),
            &[BAD_MODULE],
        ),
        ("nested components", format!("(component {nested})"), &[BAD_MODULE]),
        (
            "many instances",
            format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(900)),
            &[BAD_MODULE],
        ),
        ("instances of instances", format!("(component {instances})"), &[FAILED]),
    ];
    let scene = Scene::new();
    for (name, text, codes) in &table {
        let t = Instant::now();
        let end = scene.run(name, text);
        eprintln!("{name} {:?}", t.elapsed());
        assert!(codes.contains(&tidy(&end)), "{name}: {end:?}");
    }
    scene.must_be_as_it_was();
}

#[test]
fn handles_end_at_the_limit_of_open_files_and_can_be_given_back() {
    for guest in ["command_p1", "command_p2", "command_p3"].into_iter().filter_map(built_guest) {
        let scene = Scene::new();
        let grant = format!("{}::/first", scene.desk.path("first"));
        for limit in [64, 1024] {
            let mut shim = Command::new("prlimit");
            shim.arg(format!("--nofile={limit}")).arg(program("wasm-shim"));
            let end = end_of(scene.desk.environment(&mut shim).args([
                "run",
                "--dir",
                &grant,
                &guest,
                "open",
                "/first/inner/file",
            ]));
            assert_eq!(tidy(&end), 0, "{guest}: {end:?}");
            let counts: Vec<usize> = end.stdout().lines().map(|line| line.parse().unwrap()).collect();
            assert!(
                counts[0] == counts[1] && (limit - 40..limit).contains(&counts[0]),
                "{guest}: {counts:?} of {limit}"
            );
        }
        scene.must_be_as_it_was();
    }
}

#[test]
fn a_flood_of_output_takes_no_memory_and_ends_when_nobody_reads() {
    const FLOOD: usize = 1 << 26;
    let scene = Scene::new();
    for guest in ["command_p1", "command_p2", "command_p3"].into_iter().filter_map(built_guest) {
        // The code is there before there is little memory.
        assert_eq!(scene.desk.run(&["run", &guest, "flood", "0"]).code(), 0);
        let flood = || {
            let mut shim = scene.limited("67108864", &[&guest, "flood", &FLOOD.to_string()]);
            let mut child = shim.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let stdout = child.stdout.take().unwrap();
            (child, stdout)
        };
        let (mut child, mut stdout) = flood();
        let read =
            within(SOON, "all of it", move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap());
        assert_eq!((read, child.wait().unwrap().code()), (FLOOD as u64, Some(0)), "{guest}");

        let (mut child, mut stdout) = flood();
        stdout.read_exact(&mut [0; 1000]).unwrap();
        drop(stdout);
        let end = within(PROMPTLY, "its end", move || child.wait().unwrap());
        assert_eq!(end.code(), Some(1), "{guest}: a failed write is an error to the guest");
    }
    scene.must_be_as_it_was();
}

/// What the guests with absurd arguments call: each function with the kinds of its parameters, `l` for 64 bits.
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

#[test]
fn what_only_looks_like_a_program_is_none() {
    let scene = Scene::new();
    for (name, text) in [
        ("parameter", r#"(module (func (export "_start") (param i32)))"#),
        ("result", r#"(module (func (export "_start") (result i64) (i64.const 7)))"#),
        ("global", r#"(module (global (export "_start") i32 (i32.const 7)))"#),
        ("memory", r#"(module (memory (export "_start") 1))"#),
        ("table", r#"(module (table (export "_start") 1 funcref))"#),
        (
            "function",
            r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f"))) (export "wasi:cli/run@0.2.0" (func $f)))"#,
        ),
        (
            "another result",
            r#"(component (core module $m (func (export "f") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m)) (func $f (result u32) (canon lift (core func $i "f")))
            (instance $r (export "run" (func $f))) (export "wasi:cli/run@0.2.0" (instance $r)))"#,
        ),
        ("nothing", r#"(component (instance $r) (export "wasi:cli/run@0.2.0" (instance $r)))"#),
        ("no server", r#"(component (instance $r) (export "wasi:http/handler@0.3.0" (instance $r)))"#),
    ] {
        let end = scene.run(name, text);
        assert_eq!(tidy(&end), BAD_MODULE, "{name}: {end:?}");
    }

    let artifact = scene.desk.path("hello.cwasm");
    assert_eq!(scene.desk.run(&["compile", &scene.desk.guest("hello"), "-o", &artifact]).code(), 0);
    let code = fs::read(&artifact).unwrap();
    for (name, start) in
        [("whole", &b""[..]), ("module", b"\0asm\x01\0\0\0"), ("component", b"\0asm\x0d\0\x01\0")]
    {
        let file = scene.desk.file(&format!("{name}.wasm"), &[start, &code].concat());
        assert_eq!(tidy(&scene.desk.run(&["run", &file])), BAD_MODULE, "native code, {name}");
    }
    scene.must_be_as_it_was();
}

#[test]
fn a_damaged_binary_is_refused_or_runs_and_never_breaks_anything() {
    let scene = Scene::new();
    let sources = fs::read_dir(tests::repository().join("tests/guests")).unwrap();
    let mut sources: Vec<_> = sources.map(|entry| entry.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "wat"));
    sources.sort();
    let whole: Vec<_> = sources.iter().map(|path| wat::parse_file(path).unwrap()).collect();
    let mut chance = Chance(7);
    let grant = format!("{}::/first", scene.desk.path("first"));
    let (mut ran, mut refused) = (0, 0);
    for round in 0..400 {
        let damaged = chance.damage(&whole);
        let guest = scene.desk.file("damaged.wasm", &damaged);
        let end = end_of(
            scene.limited(MEMORY, &["-W", "timeout=500ms", "--dir", &grant, &guest]).stdin(Stdio::null()),
        );
        match tidy(&end) {
            FAILED | BAD_MODULE | MISSING_IMPORT => refused += 1,
            _ => ran += 1,
        }
        assert!(end.code() != FAILED, "{round}: {end:?}");
    }
    assert!(ran > 10 && refused > 100, "{ran} ran, and {refused} were refused");
    scene.must_be_as_it_was();
}

/// Numbers that look like chance and are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// One of these, with a few changes of the kinds that a mutator makes.
    fn damage(&mut self, all: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.of(all).clone();
        for _ in 0..=self.below(3) {
            // The first eight bytes say what it is.
            let at = 8 + self.below(bytes.len() - 8);
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = *self.of(&[0, 1, 0x7f, 0x80, 0xff, 0x40, 0x0b, 0x10]),
                2 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                3 => drop(bytes.remove(at)),
                4 => {
                    let part = bytes[at..(at + 1 + self.below(16)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
                _ if self.below(4) == 0 => bytes.truncate(at),
                _ => {
                    let other = self.of(all);
                    let from = 8 + self.below(other.len() - 8);
                    bytes.splice(at.., other[from..].iter().copied());
                }
            }
            bytes.resize(bytes.len().max(9), 0);
        }
        bytes
    }
}

/// Types, each made of the one before, `$t`.
fn types(count: usize, of: &str) -> String {
    (1..count).fold(String::new(), |all, n| {
        all + &format!("(type $t{n} {})", of.replace("$t", &format!("$t{}", n - 1)))
    })
}

/// A module for WASI 0.1 of these parts, that does this at its start.
fn module(parts: &str, start: &str) -> String {
    format!("(module {parts} (func (export \"_start\") {start}))")
}

/// What a guest may not harm, and the guest's own two directories: `first` and `second`.
struct Scene {
    desk: Desk,
    neighbour: Running,
    before: BTreeMap<String, String>,
}

impl Scene {
    fn new() -> Self {
        let desk = Desk::new();
        for directory in ["outside/empty", "neighbour", "first/inner/deep", "first/inner/empty", "second/box"]
        {
            fs::create_dir_all(desk.path(directory)).unwrap();
        }
        for (file, text) in
            [("outside/secret", SECRET), ("first/inner/file", "inner"), ("second/kept", "kept")]
        {
            desk.file(file, text.as_bytes());
        }
        for (target, link) in [
            ("..", "first/up"),
            (&desk.path("outside/secret"), "first/secret"),
            ("/proc/self", "first/process"),
            ("secret", "outside/link"),
            ("../outside/secret", "second/out"),
        ] {
            symlink(target, desk.path(link)).unwrap();
        }
        let grant = format!("{}::/", desk.path("neighbour"));
        let neighbour = Running::start_speaking(desk.shim(&[
            "run",
            "--dir",
            &grant,
            &desk.guest("life"),
            "alive",
            " and well",
            "7",
        ]));
        let before = seen(&desk.path("outside"));
        Self { desk, neighbour, before }
    }

    /// The path of the guest of this text.
    fn text(&self, name: &str, text: &str) -> String {
        self.desk.file(&format!("{name}.wasm"), &wat::parse_str(text).unwrap())
    }

    /// How the guest of this text ends.
    fn run(&self, name: &str, text: &str) -> End {
        end_of(&mut self.limited(MEMORY, &[&self.text(name, text)]))
    }

    /// `wasm-shim run` with these arguments, that may write to so much memory, as may its compiler.
    fn limited(&self, memory: &str, line: &[&str]) -> Command {
        let mut shim = Command::new("prlimit");
        self.desk.environment(&mut shim);
        shim.args([&format!("--data={memory}"), "--core=0", "--"])
            .arg(program("wasm-shim"))
            .arg("run")
            .args(line);
        shim
    }

    /// What one of the guests `paths_*` answers to these requests. The grant of its first directory ends with `grant`.
    fn ask(&self, guest: &str, grant: &str, requests: &str) -> Vec<String> {
        let dirs = [
            format!("{}::/first{grant}", self.desk.path("first")),
            format!("{}::/second", self.desk.path("second")),
        ];
        let end = self.start(guest, &dirs, requests);
        assert_eq!((end.code(), end.stderr().as_str()), (0, ""));
        let answers: Vec<_> = end.stdout().lines().map(str::to_owned).collect();
        assert_eq!(answers.len(), requests.lines().count());
        answers
    }

    /// How one of the guests `paths_*` ends that is granted two directories and asked for this.
    fn start(&self, guest: &str, dirs: &[String; 2], requests: &str) -> End {
        let mut shim = self.desk.shim(&["run", "--dir", &dirs[0], "--dir", &dirs[1], guest]);
        let mut child =
            shim.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdin, text) = (child.stdin.take().unwrap(), requests.to_owned());
        // One that does not start reads nothing.
        let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let end = End(within(SOON, "the answers", move || child.wait_with_output().unwrap()));
        let written = writing.join().unwrap();
        assert!(written.is_ok() || end.code() != 0, "{written:?}");
        end
    }

    /// The files outside are unchanged, the neighbour lives its life to the end, and the cache holds code that runs.
    fn must_be_as_it_was(mut self) {
        assert_eq!(self.before, seen(&self.desk.path("outside")));
        self.desk.file("neighbour/go", b"");
        // Nothing, when it ends as it should.
        let said = self.neighbour.line();
        assert_eq!(self.neighbour.wait(SOON).code(), Some(7), "the neighbour says: {said}");
        assert_eq!(fs::read_to_string(self.desk.path("neighbour/life")).unwrap(), "alive and well");
        for entry in self.desk.entries() {
            let complete = entry.extension().is_some_and(|extension| extension == "cwasm");
            assert!(
                complete && fs::metadata(&entry).unwrap().mode() & 0o777 == 0o444,
                "in the cache: {}",
                entry.display()
            );
        }
        assert_eq!(self.desk.run(&["run", &self.desk.guest("exit"), "42"]).code(), 42, "another guest");
    }
}

/// The exit code of a process that ended by itself, and said nothing but what `wasm-shim` says when all is in order there.
#[track_caller]
fn tidy(end: &End) -> i32 {
    for line in end.stderr().lines() {
        assert!(line.starts_with("wasm-shim: ") && !line.contains("bug in wasm-shim"), "{end:?}");
    }
    end.code()
}

/// Asks again and again until there is an answer.
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

/// All that can be seen of a file or directory and what is in it, but for when it was read.
fn seen(path: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![Path::new(path).to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = match () {
            () if metadata.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            () if metadata.is_dir() => {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            () => fs::read(&path).unwrap().escape_ascii().to_string(),
        };
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let seen = format!("{:o} {} {times:?} {content}", metadata.mode(), metadata.nlink());
        all.insert(path.display().to_string(), seen);
    }
    all
}
