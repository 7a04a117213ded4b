//! Modules and components: what runs, what can be read from them, and what is rejected.

use std::fs;
use std::process::Command;

use tests::{Desk, end_of, program};

use super::{BAD_MODULE, FAILED, MISSING_IMPORT};

#[test]
fn code_that_can_be_interrupted_runs_to_its_end() {
    let desk = Desk::new();
    let end = desk.run(&["run", "-W", "epoch-interruption", &desk.guest("hello")]);
    assert_eq!(end.code(), 0, "{end:?}");
}

#[test]
fn a_module_of_the_first_wasi_runs_too() {
    let desk = Desk::new();
    assert_eq!(desk.run(&[&desk.guest("unstable")]).code(), 142);
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
    end.says("switched off (`wasm.proposals` of the job, `-W` of the command line): `simd`");
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
