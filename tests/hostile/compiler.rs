//! Binaries for the compiler that take long, only look like programs, or are damaged.

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use tests::end_of;

use super::chance::Chance;
use super::scene::{MEMORY, Scene, module, tidy};
use super::{BAD_MODULE, FAILED, MISSING_IMPORT};

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

/// Types, each built from the one before, `$t`.
fn types(count: usize, of: &str) -> String {
    (1..count).fold(String::new(), |all, n| {
        all + &format!("(type $t{n} {})", of.replace("$t", &format!("$t{}", n - 1)))
    })
}
