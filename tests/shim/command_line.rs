//! The command line: what reaches the guest, and what is rejected.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tests::{Desk, end_of};

use super::{BAD_MODULE, FAILED, TRAPPED};

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
    for (line, output) in [
        (&["--invoke", "add", &module, "-2", "44"][..], "42\n"),
        (&["--invoke", "half", &module, "5"], "2.5\n"),
        (&["--invoke", "add(2, 40)", &component], "42\n"),
        (&["--invoke", "plus(1, -2)", &component], "-1\n"),
    ] {
        let end = desk.run(&[&["run"], line].concat());
        assert_eq!((end.code(), end.stdout().as_str()), (0, output), "{line:?}: {end:?}");
    }
    for (line, code, word) in [
        (&["--invoke", "fails", &module][..], TRAPPED, "unreachable"),
        (&["--invoke", "nope", &module], BAD_MODULE, "its functions: `_initialize`, `add`, `half`, `fails`"),
        (&["--invoke", "add", &module, "1"], FAILED, "it takes 2 arguments (i32, i64), and 1 were given"),
        (&["--invoke", "add", &module, "1", "x"], FAILED, "`x` is not a number of type i64"),
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
