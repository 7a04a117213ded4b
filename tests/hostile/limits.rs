//! A guest that takes everything it can get: memory, stack, open files, output.

use std::io::Read as _;
use std::process::{Command, Stdio};

use tests::{SOON, built_guest, end_of, program, within};

use super::scene::{MEMORY, Scene, module, tidy};
use super::{FAILED, MEMORY_LIMIT, PROMPTLY, TRAPPED};

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
        // Without limits of the guest, memory is limited by the cgroup, possibly without an error message.
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
        // The code exists before memory becomes scarce.
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
