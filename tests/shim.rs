//! `wasm-shim` and `wasm-shim-compile`, driven from outside as the driver and users do. Runs anywhere, without root.
//!
//! The binaries come from the directory `$NOMAD_SYSTEMD_BIN`, or else from `target/bin` of the repository.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tests::{Desk, Manager, Running, SOON, end_of, program, within};

/// What a user notices as a delay.
const PROMPTLY: Duration = Duration::from_secs(5);

const FAILED: i32 = 125;
const BAD_MODULE: i32 = 126;
const MISSING_IMPORT: i32 = 127;
const TRAPPED: i32 = 134;

#[test]
fn code_that_can_be_interrupted_runs_to_its_end() {
    let desk = Desk::new();
    let end = desk.run(&["run", "-W", "epoch-interruption", &desk.guest("hello")]);
    assert_eq!(end.code(), 0, "{end:?}");
}

#[test]
fn systemd_hears_the_begin_of_what_is_too_long_to_be_heard() {
    let desk = Desk::new();
    let manager = Manager::new(&desk);
    // Letters of two bytes, so that the limit is within one.
    let text =
        format!("(module (import \"env\" \"x{}\" (func)) (func (export \"_start\")))", "é".repeat(9000));
    let guest = desk.file("long.wat", text.as_bytes());
    assert_eq!(end_of(manager.listen_to(&mut desk.shim(&[&guest]))).code(), MISSING_IMPORT);
    let word = manager.hears();
    assert!(word.starts_with("STATUS=missing import: ") && (2000..4096).contains(&word.len()), "{word}");
}

#[test]
fn the_guests_exit_code_is_exact() {
    let desk = Desk::new();
    let exit = desk.guest("exit");
    for code in [0, 1, 42, 125, 126, 200, 255] {
        let end = desk.run(&[&exit, &code.to_string()]);
        assert_eq!(end.code(), code, "{end:?}");
        assert_eq!(end.stderr(), "", "the guest said nothing");
    }
}

#[test]
fn a_module_of_the_first_wasi_runs_too() {
    let desk = Desk::new();
    assert_eq!(desk.run(&[&desk.guest("unstable")]).code(), 142);
}

#[test]
fn a_component_ends_with_its_result_or_exit_code() {
    let desk = Desk::new();
    for (guest, code) in [("run_ok", 0), ("run_err", 1), ("run_exit", 200), ("run_p3", 0)] {
        let end = desk.run(&[&desk.guest(guest)]);
        assert_eq!((end.code(), end.stderr().as_str()), (code, ""), "{guest}");
    }
}

#[test]
fn a_trap_is_not_a_silent_1() {
    let desk = Desk::new();
    let end = desk.run(&[&desk.guest("trap")]);
    assert_eq!(end.code(), TRAPPED);
    end.says("wasm-shim: trap: out of bounds memory access");
    end.says("memory fault at wasm address 0x7fffffff");
    end.says("app!reckless");
    end.says("app!main");

    let end = desk.run(&[&desk.guest("run_trap")]);
    assert_eq!(end.code(), TRAPPED);
    end.says("wasm-shim: trap: ");
    end.says("app!give_up");
}

#[test]
fn a_backtrace_has_the_lines_of_what_was_built_for_debugging() {
    let desk = Desk::new();
    let source = tests::repository().join("tests/guests/trap.wat");
    let with_lines = wat::Parser::new().generate_dwarf(wat::GenerateDwarf::Lines).parse_file(source).unwrap();
    let guest = desk.file("lines.wasm", &with_lines);
    let end = desk.run(&["run", "-W", "backtrace-details", &guest]);
    assert_eq!(end.code(), TRAPPED);
    end.says("reckless, ");
    end.says("trap.wat:");
    let without = desk.run(&["run", &guest]);
    assert!(!without.stderr().contains("trap.wat"), "{without:?}");
}

#[test]
fn the_memory_of_a_guest_that_traps_is_dumped_where_it_is_wanted() {
    let desk = Desk::new();
    let file = desk.path("core");
    let end = desk.run(&["run", "-D", &format!("coredump={file}"), &desk.guest("trap")]);
    assert_eq!(end.code(), TRAPPED);
    let core = std::fs::read(file).unwrap();
    assert!(core.starts_with(b"\0asm") && core.windows(9).any(|part| part == b"corestack"));
    assert!(!end.stderr().contains("coredump"), "{end:?}");
    let nowhere = desk.run(&["run", "-D", "coredump=/no/such/core", &desk.guest("trap")]);
    nowhere.says("write the core dump to `/no/such/core`");
    nowhere.says("wasm-shim: trap: out of bounds memory access");
    assert_eq!(nowhere.code(), TRAPPED);
}

#[test]
fn a_function_is_called_with_arguments_and_what_it_returns_is_printed() {
    let desk = Desk::new();
    let module = desk.file(
        "m.wat",
        br#"(module
            (global $ready (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $ready (i32.const 1)))
            (func (export "add") (param i32 i64) (result i64)
                (i64.mul (i64.extend_i32_s (global.get $ready))
                    (i64.add (i64.extend_i32_s (local.get 0)) (local.get 1))))
            (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2)))
            (func (export "fails") unreachable))"#,
    );
    let component = desk.file(
        "c.wat",
        br#"(component
            (core module $m (func (export "add") (param i32 i32) (result i32)
                (i32.add (local.get 0) (local.get 1))))
            (core instance $i (instantiate $m))
            (func $add (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
            (instance $n (export "plus" (func $add)))
            (export "add" (func $add))
            (export "my:math/sum@1.0.0" (instance $n)))"#,
    );
    for (line, said) in [
        (&["--invoke", "add", &module, "-2", "44"][..], "42\n"),
        (&["--invoke", "half", &module, "5"], "2.5\n"),
        (&["--invoke", "add(2, 40)", &component], "42\n"),
        (&["--invoke", "plus(1, -2)", &component], "-1\n"),
    ] {
        let end = desk.run(&[&["run"], line].concat());
        assert_eq!((end.code(), end.stdout().as_str()), (0, said), "{line:?}: {end:?}");
    }
    for (line, code, word) in [
        (&["--invoke", "fails", &module][..], TRAPPED, "unreachable"),
        (&["--invoke", "nope", &module], BAD_MODULE, "its functions: `_initialize`, `add`, `half`, `fails`"),
        (&["--invoke", "add", &module, "1"], FAILED, "it takes 2 arguments (i32, i64), and 1 were given"),
        (&["--invoke", "add", &module, "1", "x"], FAILED, "`x` is no number of type i64"),
        (&["--invoke", "nope()", &component], BAD_MODULE, "`my:math/sum@1.0.0#plus`"),
        (&["--invoke", "add(1)", &component], FAILED, "write a call such as"),
        (&["--invoke", "add", &component], FAILED, "write a call such as"),
        (&["--preload", "a=b", &module], FAILED, "`wasm-merge`"),
    ] {
        let end = desk.run(&[&["run"], line].concat());
        assert_eq!(end.code(), code, "{line:?}: {end:?}");
        end.says(word);
    }
}

#[test]
fn nobody_sees_the_stack_of_the_host() {
    let desk = Desk::new();
    for guest in ["trap", "missing_import"] {
        let end = end_of(desk.shim(&[&desk.guest(guest)]).env("RUST_BACKTRACE", "full"));
        for line in end.stderr().lines() {
            assert!(line.starts_with("wasm-shim: "), "{line}");
        }
        assert!(!end.stderr().contains(".rs:"), "{}", end.stderr());
        assert!(!end.stderr().contains("stack backtrace"), "{}", end.stderr());
    }
}

#[test]
fn ends_that_are_not_the_guests_own_are_told_apart() {
    let desk = Desk::new();
    let (spin, deep) = (desk.guest("spin"), desk.guest("deep"));
    let text = |name: &str, text: &str| desk.file(name, text.as_bytes());
    let grow = text(
        "grow.wat",
        r#"(module (memory 1) (func (export "_start")
            (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))"#,
    );
    let huge = text("huge.wat", r#"(module (memory 64) (func (export "_start")))"#);
    let table = text(
        "table.wat",
        r#"(module (table $t 1 funcref) (func (export "_start")
            (if (i32.eq (table.grow $t (ref.null func) (i32.const 5000)) (i32.const -1)) (then unreachable))))"#,
    );
    // It is refused memory, goes on, and does something else wrong.
    let other = text(
        "other.wat",
        r#"(module (memory 1) (func (export "_start")
            (drop (memory.grow (i32.const 16))) (drop (i32.div_u (i32.const 1) (i32.const 0)))))"#,
    );
    for (limit, guest, code, kind) in [
        ("fuel=10000", &spin, 121, "out of fuel: all fuel consumed"),
        ("max-memory-size=1000000", &grow, 122, "memory limit: it was refused a memory of 1114112 bytes"),
        ("max-memory-size=1000000,trap-on-grow-failure", &grow, 122, "memory limit: it was refused"),
        ("max-memory-size=1000000", &huge, 122, "memory limit: it was refused a memory of 4194304 bytes"),
        ("max-table-elements=1000", &table, 122, "memory limit: it was refused a table of 5001 elements"),
        ("timeout=100ms", &spin, 124, "deadline: it ran longer than the 100ms"),
        ("max-memory-size=1000000", &other, TRAPPED, "trap: integer divide by zero"),
        ("max-wasm-stack=10000", &deep, TRAPPED, "trap: call stack exhausted"),
        ("max-memory-size=2000000", &grow, 0, ""),
        ("fuel=1000000", &grow, 0, ""),
    ] {
        let end = desk.run(&["-W", limit, guest]);
        assert_eq!(end.code(), code, "{limit}: {end:?}");
        end.says(kind);
    }
}

#[test]
fn how_a_guest_ended_is_told_to_systemd_where_the_guest_cannot_speak() {
    let desk = Desk::new();
    for (line, told) in [
        (vec![desk.guest("trap")], "STATUS=trap: out of bounds memory access"),
        (vec!["-W".into(), "timeout=50ms".into(), desk.guest("spin")], "STATUS=deadline: "),
        (vec!["-W".into(), "fuel=9".into(), desk.guest("spin")], "STATUS=out of fuel: "),
        (vec![desk.guest("missing_import")], "STATUS=missing import: run `"),
        (vec![desk.guest("no_start")], "STATUS=bad module: run `"),
        (vec!["--dir".into(), "absent".into(), desk.guest("hello")], "STATUS=failed: run `"),
    ] {
        let manager = Manager::new(&desk);
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        end_of(manager.listen_to(&mut desk.shim(&line)));
        let heard = manager.hears();
        assert!(heard.starts_with(told), "{heard}");
    }
    let manager = Manager::new(&desk);
    end_of(manager.listen_to(&mut desk.shim(&[&desk.guest("exit"), "7"])));
    assert!(manager.hears_nothing(), "an exit code of its own says all");
}

#[test]
fn the_text_form_runs_like_the_binary_one() {
    let desk = Desk::new();
    let text = fs::read(tests::repository().join("tests/guests/hello.wat")).unwrap();
    assert_eq!(desk.run(&[&desk.file("hello.wat", &text)]).stdout(), "hello\n");
    let end = desk.run(&[&desk.file("broken.wat", b"(module (func (export \"_start\") (unknown)))")]);
    assert_eq!(end.code(), BAD_MODULE);
    end.says("read the text of `");
    end.says("unknown operator");
}

#[test]
fn a_proposal_can_be_switched_off() {
    let desk = Desk::new();
    let simd =
        desk.file("simd.wat", br#"(module (func (export "_start") (drop (i32x4.splat (i32.const 1)))))"#);
    assert_eq!(desk.run(&[&simd]).code(), 0);
    let end = desk.run(&["-W", "simd=n", &simd]);
    assert_eq!(end.code(), BAD_MODULE);
    end.says("SIMD support is not enabled");
    assert_eq!(desk.entries().len(), 1, "code for other settings has another place, and there is none of it");
}

#[test]
fn modules_of_languages_with_a_garbage_collector_run() {
    let desk = Desk::new();
    let objects = desk.file(
        "objects.wat",
        br#"(module
            (type $pair (struct (field i32) (field i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (func (export "_start")
              (call $exit (struct.get $pair 1 (struct.new $pair (i32.const 3) (i32.const 7))))))"#,
    );
    assert_eq!(desk.run(&[&objects]).code(), 7);
}

#[test]
fn a_guest_is_inspected_without_being_run() {
    let desk = Desk::new();
    let end = desk.run(&["inspect", &desk.guest("web")]);
    assert_eq!(end.code(), 0, "{end:?}");
    for part in [
        "a component, HTTP server of WASI 0.2",
        "imports:\n  wasi:io/error@0.2.0",
        "wasi:http/incoming-handler@0.2.0",
    ] {
        assert!(end.stdout().contains(part), "{part}: {}", end.stdout());
    }
    let json = |guest: &str| -> serde_json::Value {
        let end = desk.run(&["inspect", "--json", &desk.guest(guest)]);
        assert_eq!(end.code(), 0, "{end:?}");
        serde_json::from_str(&end.stdout()).unwrap()
    };
    let file = json("file");
    assert_eq!(file["kind"], "module");
    assert_eq!(file["worlds"][0], "command of WASI 0.1");
    assert!(file["cannot_run"].is_null());
    let missing = json("component_import");
    assert!(missing["cannot_run"].as_str().unwrap().contains("acme:rocket/engine"), "{missing}");
    let missing = json("missing_import");
    assert!(missing["cannot_run"].as_str().unwrap().contains("it imports `"), "{missing}");
    assert_eq!(desk.run(&["inspect", &desk.file("noise", b"MZ\x90")]).code(), BAD_MODULE);
}

#[test]
fn endless_recursion_is_a_trap() {
    let desk = Desk::new();
    let end = desk.run(&[&desk.guest("deep")]);
    assert_eq!(end.code(), TRAPPED);
    end.says("call stack exhausted");
    end.says("app!dig");
}

#[test]
fn a_busy_guest_ends_promptly_by_a_signal() {
    let desk = Desk::new();
    let spin = desk.guest("spin");
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut guest = Running::start(desk.shim(&[&spin]));
        assert_eq!(guest.line(), "begun\n");
        guest.signal(signal);
        assert_eq!(guest.wait(PROMPTLY).code(), Some(code));
    }
}

#[test]
fn what_a_guest_lacks_is_named() {
    let desk = Desk::new();
    for (guest, code, named) in [
        ("missing_import", MISSING_IMPORT, "imports `env::launch`"),
        ("component_import", MISSING_IMPORT, "imports `acme:rocket/engine@1.0.0`"),
        ("reactor", BAD_MODULE, "it is a reactor"),
        ("no_start", BAD_MODULE, "exports `compute`, and no `_start`"),
        ("library_component", BAD_MODULE, "exports `compute`, and neither `wasi:cli/run` nor a handler"),
        ("web", BAD_MODULE, "it is a server, for `wasm-shim serve`"),
    ] {
        let end = desk.run(&["run", &desk.guest(guest)]);
        assert_eq!(end.code(), code, "{guest}: {end:?}");
        end.says(named);
        end.says(&format!("{guest}.wasm"));
        assert_eq!(end.stderr().lines().count(), 1, "{}", end.stderr());
    }
}

#[test]
fn a_file_that_is_not_wasm_is_named_for_what_it_is() {
    let desk = Desk::new();
    let table: [(&str, &[u8], &str); 7] = [
        ("empty", b"", "is empty"),
        ("start", b"\0asm\x01", "is truncated after 5 bytes"),
        ("native", b"\x7fELF\x02\x01\x01\0\0\0\0\0", "is a native ELF executable"),
        ("future", b"\0asm\x07\0\0\0", "has the unsupported wasm version 07 00 00 00"),
        ("packed", b"\x1f\x8b\x08\0\0\0\0\0", "is a gzip archive"),
        ("script", b"#!/bin/sh\n", "is a script"),
        ("noise", b"MZ\x90\0\x03\0\0\0", "is not WebAssembly"),
    ];
    for (name, content, verdict) in table {
        let file = desk.file(&format!("{name}.wasm"), content);
        let end = desk.run(&[&file]);
        assert_eq!(end.code(), BAD_MODULE, "{name}");
        end.says(&format!("{name}.wasm` {verdict}"));

        let end = end_of(Command::new(program("wasm-shim-compile")).arg(&file));
        assert_eq!(end.code(), 1, "{name}");
        end.says(verdict);
    }
    let end = desk.run(&["absent.wasm"]);
    assert_eq!(end.code(), FAILED);
    end.says("open `absent.wasm`: No such file");
}

#[test]
fn a_damaged_module_is_refused_with_file_and_offset() {
    let desk = Desk::new();
    let whole = fs::read(desk.guest("hello")).unwrap();
    let cut = desk.file("cut.wasm", &whole[..whole.len() - 9]);
    let mut bytes = whole.clone();
    bytes[9] = 0xff;
    let malformed = desk.file("malformed.wasm", &bytes);
    for file in [cut, malformed] {
        let end = desk.run(&[&file]);
        assert_eq!(end.code(), BAD_MODULE);
        end.says(&format!("compile `{file}`: "));
        end.says("offset 0x");
        assert_eq!(end.stderr().lines().count(), 1, "{}", end.stderr());
    }
}

#[test]
fn precompiled_code_runs_only_when_allowed() {
    let desk = Desk::new();
    for guest in ["hello", "run_ok"] {
        let artifact = desk.path(&format!("{guest}.cwasm"));
        let end = desk.run(&["compile", &desk.guest(guest), "-o", &artifact]);
        assert_eq!(end.code(), 0, "{end:?}");
        assert_eq!(mode(Path::new(&artifact)), 0o444);

        let refused = desk.run(&[&artifact]);
        assert_eq!(refused.code(), BAD_MODULE);
        refused.says("is precompiled native code, which is not accepted");
        assert_eq!(desk.run(&["run", "--allow-precompiled", &artifact]).code(), 0);
    }
}

#[test]
fn damaged_precompiled_code_is_refused() {
    let desk = Desk::new();
    let artifact = desk.path("hello.cwasm");
    assert_eq!(desk.run(&["compile", &desk.guest("hello"), "-o", &artifact]).code(), 0);
    let whole = fs::read(&artifact).unwrap();
    let mut other = whole.clone();
    let version = other.windows(5).position(|bytes| bytes == b"+shim").unwrap();
    other[version] = b'-';
    for (name, content) in
        [("header", &whole[..64]), ("half", &whole[..whole.len() / 2]), ("version", &other)]
    {
        let file = desk.file(&format!("{name}.cwasm"), content);
        let end = desk.run(&["--allow-precompiled", &file]);
        assert_eq!(end.code(), FAILED, "{name}");
        end.says(&format!("load precompiled `{file}`"));
    }
}

#[test]
fn precompiled_code_that_is_not_where_its_section_table_says_is_refused() {
    const EXECUTABLE: u64 = 4;
    let desk = Desk::new();
    for guest in ["hello", "run_ok"] {
        let file = desk.path(&format!("{guest}.cwasm"));
        assert_eq!(desk.run(&["compile", &desk.guest(guest), "-o", &file]).code(), 0);
        let whole = fs::read(&file).unwrap();
        let number = |at: usize| u64::from_ne_bytes(whole[at..at + 8].try_into().unwrap());
        // Where a section's flags, offset and length stand.
        let (table, count) = (usize::try_from(number(40)).unwrap(), usize::from(whole[60]));
        let sections = (0..count).map(|index| table + index * 64).map(|at| [at + 8, at + 24, at + 32]);
        let (code, other): (Vec<_>, Vec<_>) = sections
            .filter(|[_, offset, _]| number(*offset) > 0 && number(*offset) % 4096 == 0)
            .partition(|[flags, ..]| number(*flags) & EXECUTABLE != 0);
        let ([[code, _, len]], [[data, _, data_len], ..]) = (&code[..], &other[..]) else {
            panic!("{guest} has one section of code and one of data: {code:?} {other:?}");
        };

        let (code_as_data, data_as_code) =
            ((*code, number(*code) & !EXECUTABLE), (*data, number(*data) | EXECUTABLE));
        for (changes, verdict) in [
            (&[data_as_code][..], "it has more than one executable section"),
            (&[code_as_data], "it contains no code"),
            (&[code_as_data, data_as_code], "its code has another length than its section table says"),
            (
                &[code_as_data, data_as_code, (*data_len, number(*len))],
                "its code is not where its section table says",
            ),
        ] {
            let mut bytes = whole.clone();
            for (at, number) in changes {
                bytes[*at..*at + 8].copy_from_slice(&number.to_ne_bytes());
            }
            bytes.resize(2 * bytes.len(), 0);
            let damaged = desk.file("damaged.cwasm", &bytes);
            let end = desk.run(&["--allow-precompiled", &damaged]);
            assert_eq!(end.code(), FAILED, "{guest}: {end:?}");
            end.says(&format!("load precompiled `{damaged}`"));
            end.says(verdict);
        }
    }
}

#[test]
fn the_compiler_works_from_stdin_to_stdout_without_files_and_environment() {
    let desk = Desk::new();
    let mut compiler = Command::new(program("wasm-shim-compile"));
    compiler.stdin(fs::File::open(desk.guest("hello")).unwrap()).env_clear().current_dir("/");
    let end = end_of(&mut compiler);
    assert_eq!(end.code(), 0, "{end:?}");
    let artifact = desk.file("hello.cwasm", &end.0.stdout);
    assert_eq!(desk.run(&["--allow-precompiled", &artifact]).stdout(), "hello\n");
}

#[test]
fn the_engine_key_is_short_and_stable() {
    let key = || end_of(Command::new(program("wasm-shim-compile")).arg("--engine-key")).stdout();
    let first = key();
    assert_eq!(first.trim_end().len(), 16, "{first}");
    assert!(first.trim_end().bytes().all(|digit| digit.is_ascii_hexdigit()), "{first}");
    assert_eq!(first, key());
}

#[test]
fn arguments_arrive_exactly() {
    let desk = Desk::new();
    let args = ["", "a b", "\"'$%\\", "two\nlines", "ünïcode ☃", "--env", "A=B", "--", "-h", "run"];
    let echo = desk.guest("echo");
    let expected = |name: &str| -> String { [&[name], &args[..], &[""]].concat().join("\0") };
    for start in [&[echo.as_str()][..], &["run", &echo], &["run", "--", &echo]] {
        let end = desk.run(&[start, &args].concat());
        assert_eq!(end.stdout(), expected("echo.wasm"), "{end:?}");
    }
    let end = desk.run(&[&["--argv0", "a name", &echo], &args[..]].concat());
    assert_eq!(end.stdout(), expected("a name"));
}

#[test]
fn only_the_given_variables_arrive_and_exactly() {
    let desk = Desk::new();
    let echo = desk.guest("echo");
    let given = [
        "EMPTY=",
        "QUOTED=\"'$%\\",
        "LINES=a\nb",
        "EQUAL=b=c=",
        "SNOW=☃",
        "TWICE=first",
        "TWICE=last",
        "INHERITED",
    ];
    let mut line = vec!["run"];
    line.extend(given.iter().flat_map(|var| ["--env", var]));
    line.push(&echo);
    let end = end_of(desk.shim(&line).env("INHERITED", "from the shim").env("SECRET", "stays here"));
    assert_eq!(
        end.stdout(),
        "echo.wasm\0EMPTY=\0QUOTED=\"'$%\\\0LINES=a\nb\0EQUAL=b=c=\0SNOW=☃\0TWICE=last\0INHERITED=from the shim\0"
    );
}

#[test]
fn a_guest_may_come_on_standard_input_with_what_the_wasmtime_cli_says_of_it() {
    let desk = Desk::new();
    let guest = std::fs::File::open(desk.guest("hello")).unwrap();
    let line = ["run", "-S", "cli,http,tcp=y", "-W", "component-model,max-memory-size=64MiB", "-"];
    assert_eq!(end_of(desk.shim(&line).stdin(guest)).stdout(), "hello\n");
}

#[test]
fn bad_options_are_refused_before_anything_runs() {
    let desk = Desk::new();
    let hello = desk.guest("hello");
    for (line, named) in [
        (&["--env", "=a=b", hello.as_str()][..], "name is neither empty nor contains `=`"),
        (&["--env", "SURELY_UNSET", &hello], "`SURELY_UNSET` is not in the environment"),
        (
            &["--dir", "absent::/data", &hello],
            "--dir (in a job `wasm.dirs`): open directory `absent` for the guest: No such file",
        ),
        (&["--dir", "::/data", &hello], "HOST::GUEST"),
        (&["--fast", &hello], "--fast"),
        (&["-W", "fule=3", &hello], "`-W fule` is not a known setting"),
        (&["-W", "fuel=much", &hello], "a whole number is wanted"),
        (&["-S", "inherit-env", &hello], "name each variable that the guest gets"),
        (&["-W", "max-memory-size=64Q", &hello], "max-memory-size=64M"),
        (&["serve", "--addr", "localhost", &hello], "such as 127.0.0.1:8080"),
        (&["-S", "inherit-netwrok", &hello], "`-S inherit-netwrok`"),
        (&["--connect", "example.com:80", &hello], "the address is neither IPv4, nor IPv6 in brackets"),
        (&["--config-env", "SURELY_UNSET", &hello], "no such variable"),
        (&["run"], "FILE"),
        (&[], "FILE"),
    ] {
        let end = desk.run(line);
        assert_eq!(end.code(), FAILED, "{line:?}: {end:?}");
        end.says(named);
        assert_eq!(end.stdout(), "");
    }
    let end = end_of(desk.shim(&[&hello]).arg(OsStr::from_bytes(b"\xff")));
    assert_eq!(end.code(), FAILED);
    end.says("UTF-8");
}

#[test]
fn help_and_version_are_answers_and_no_errors() {
    let desk = Desk::new();
    for (line, part) in [
        (&["--version"][..], "wasmtime 48.0."),
        (&["--help"], "Exit codes"),
        (&["run", "--help"], "--allow-precompiled"),
    ] {
        let end = desk.run(line);
        assert_eq!((end.code(), end.stderr().as_str()), (0, ""), "{line:?}");
        assert!(end.stdout().contains(part), "{}", end.stdout());
    }
}

#[test]
fn a_directory_is_writable_unless_it_is_read_only() {
    let desk = Desk::new();
    let file = desk.guest("file");
    let shared = desk.path("shared");
    let made = Path::new(&shared).join("made");
    fs::create_dir(&shared).unwrap();

    let end = desk.run(&["--dir", &format!("{shared}::/data:ro"), &file]);
    assert_ne!(end.code(), 0);
    assert!(!made.exists());

    for granted in [format!("{shared}::/data"), shared.clone()] {
        let end = desk.run(&["--dir", &granted, &file]);
        assert_eq!(end.code(), 0, "{end:?}");
        fs::remove_file(&made).unwrap();
    }

    assert_ne!(desk.run(&[&file]).code(), 0, "without a directory there is nothing to write to");
}

#[test]
fn a_closed_pipe_is_an_error_for_the_guest_and_no_crash() {
    let desk = Desk::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut shim = desk.shim(&[&desk.guest("hello")]);
    let status = within(SOON, "the end of a process", move || shim.stdout(writer).status().unwrap());
    let errno = status.code().unwrap();
    assert!((1..100).contains(&errno), "the guest ends with the error number of its write: {errno}");
}

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

#[test]
fn the_shim_contains_no_compiler() {
    let mentions = |name: &str| {
        let bytes = fs::read(program(name)).unwrap();
        bytes.windows(18).filter(|part| part == b"cranelift-codegen-").count()
    };
    assert!(mentions("wasm-shim-compile") > 0, "a compiler can be told by the paths of its sources");
    assert_eq!(mentions("wasm-shim"), 0, "it was built together with the feature `compile`");
}

#[test]
fn a_guest_runs_where_memory_is_never_writable_and_executable() {
    let mut probe = Command::new("true");
    deny_executable_memory(&mut probe);
    if let Err(error) = probe.status() {
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
        eprintln!("skipped: this kernel has no PR_SET_MDWE (it came with Linux 6.3)");
        return;
    }
    make_memory_executable(&mut probe);
    let Err(refused) = probe.status() else { panic!("the rule does not hold") };
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{refused}");

    let desk = Desk::new();
    let shared = desk.path("shared");
    fs::create_dir(&shared).unwrap();
    for (guest, code) in
        [("hello", 0), ("unstable", 142), ("file", 0), ("run_ok", 0), ("run_exit", 200), ("trap", TRAPPED)]
    {
        let file = desk.guest(guest);
        let artifact = desk.path(&format!("{guest}.cwasm"));
        assert_eq!(desk.run(&["compile", &file, "-o", &artifact]).code(), 0);
        // The compiler inherits the rule, and may: it makes code and never runs it.
        for line in [&[file.as_str()][..], &["--no-cache", &file], &["--allow-precompiled", &artifact]] {
            let mut shim = desk.shim(&[&["--dir", &shared], line].concat());
            deny_executable_memory(&mut shim);
            let end = end_of(&mut shim);
            assert_eq!(end.code(), code, "{line:?}: {end:?}");
        }
    }
}

/// What `MemoryDenyWriteExecute=` asks of the kernel.
fn deny_executable_memory(command: &mut Command) {
    const PR_SET_MDWE: libc::c_int = 65;
    const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    #[expect(unsafe_code, reason = "no safe way to set a process attribute for a child")]
    // SAFETY: prctl is safe between fork and exec, and takes no pointers here.
    unsafe {
        command.pre_exec(|| match libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Does what wasmtime does by itself with the code of an artifact.
fn make_memory_executable(command: &mut Command) {
    #[expect(unsafe_code, reason = "only the child is held by the rule")]
    // SAFETY: both calls are safe between fork and exec, and touch no memory but what they map.
    unsafe {
        command.pre_exec(|| {
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let memory = libc::mmap(std::ptr::null_mut(), 4096, writable, private, -1, 0);
            match libc::mprotect(memory, 4096, libc::PROT_READ | libc::PROT_EXEC) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
