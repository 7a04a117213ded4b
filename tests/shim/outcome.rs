//! How a guest ends: exit codes, traps, limits, signals, and the status for systemd.

use rustix::process::Signal;
use tests::{Desk, Manager, Running, SOON, end_of, within};

use super::{MISSING_IMPORT, PROMPTLY, TRAPPED};

#[test]
fn systemd_hears_the_begin_of_what_is_too_long_to_be_heard() {
    let desk = Desk::new();
    let manager = Manager::new(&desk);
    // Characters of two bytes, so that the limit falls inside one.
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
    // The guest is denied memory, continues, and fails for another reason.
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
fn a_closed_pipe_is_an_error_for_the_guest_and_no_crash() {
    let desk = Desk::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut shim = desk.shim(&[&desk.guest("hello")]);
    let status = within(SOON, "the end of a process", move || shim.stdout(writer).status().unwrap());
    let errno = status.code().unwrap();
    assert!((1..100).contains(&errno), "the guest ends with the error number of its write: {errno}");
}
