//! Instances of the guest, from a pool or not.

use std::fs;
use std::process::Command;

use tests::{Desk, built_guest};

use super::server::Server;

#[test]
fn instances_come_from_a_pool_once_a_request_has_been_answered() {
    let desk = Desk::new();
    let mut server = Server::start(&desk, &["-W", "timeout=500ms"]);
    assert_eq!(server.get("/").1, "hello\n");
    server.has_pool();
    assert_eq!(server.get("/").1, "hello\n");
    // Loops in pooled instances are interrupted, too.
    assert_eq!(server.get("/spin").0, 504);
    server.says("timeout: GET /spin took longer");
}

#[test]
fn a_guest_with_all_its_tables_in_one_module_has_a_pool() {
    let hello = "(data (i32.const 1024) \"hello\\n\")";
    let guest = fs::read_to_string(tests::repository().join("tests/guests/web.wat")).unwrap();
    let guest =
        guest.replace(hello, &format!("{hello} (table 1 funcref) (table 1 funcref) (table 1 externref)"));
    let desk = Desk::new();
    let server = Server::with(&desk, &desk.file("tables.wasm", &tests::wasm(&guest)), &[]);
    // A pool for which the guest is unfit is there for a moment, too.
    for _ in 0..100 {
        assert_eq!(server.get("/").1, "hello\n");
    }
    server.has_pool();
}

/// What each instance looks for of an earlier one, before it leaves the same: in a global, in a table, in a data segment, in
/// each page of a memory of 2.5 MiB, and in pages that it adds.
const LOOKS: &str = r#"
    (data (i32.const 200000) "data")
    (global $used (mut i32) (i32.const 0))
    (table $table 10 funcref)
    (elem declare func $look)
    (func $page (param $at i32)
      (if (i32.load offset=8 (local.get $at)) (then unreachable))
      (if (i32.load offset=4000 (local.get $at)) (then unreachable))
      (i32.store offset=8 (local.get $at) (i32.const 1))
      (i32.store offset=4000 (local.get $at) (i32.const 1)))
    (func $look (local $at i32)
      (if (global.get $used) (then unreachable))
      (global.set $used (i32.const 1))
      (if (i32.eqz (ref.is_null (table.get $table (i32.const 5)))) (then unreachable))
      (table.set $table (i32.const 5) (ref.func $look))
      (if (i32.ne (i32.load (i32.const 200000)) (i32.const 0x61746164)) (then unreachable))
      (i32.store (i32.const 200000) (i32.const 1))
      (if (i32.ne (memory.grow (i32.const 10)) (i32.const 40)) (then unreachable))
      (local.set $at (i32.const 65536))
      (loop $pages
        (call $page (local.get $at))
        (local.set $at (i32.add (local.get $at) (i32.const 4096)))
        (br_if $pages (i32.lt_u (local.get $at) (i32.const 3276800)))))
"#;

#[test]
fn an_instance_finds_nothing_of_an_earlier_one() {
    let hello = "(data (i32.const 1024) \"hello\\n\")";
    let guest = fs::read_to_string(tests::repository().join("tests/guests/web.wat")).unwrap();
    let guest = guest
        .replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 40)")
        .replace("(import \"mem\" \"memory\" (memory 1))", "(import \"mem\" \"memory\" (memory 40))")
        .replace(hello, &format!("{hello}{LOOKS}"))
        .replace("(local.set $letter (call", "(call $look) (local.set $letter (call");
    assert!(guest.contains("(call $look)") && guest.contains("(global $used"));
    let desk = Desk::new();
    let guest = desk.file("looks.wasm", &tests::wasm(&guest));
    // The control: an instance that is used again finds what it has left.
    let reuse = ["--max-instance-reuse-count", "9", "--idle-instance-timeout", "1000s"];
    let server = Server::with(&desk, &guest, &reuse);
    assert_eq!([server.get("/").0, server.get("/").0], [200, 500]);
    let server = Server::with(&desk, &guest, &["--max-concurrent-requests", "4"]);
    assert_eq!(server.get("/").1, "hello\n");
    server.has_pool();
    for _ in 0..50 {
        let others: Vec<_> = (0..3).map(|_| server.get_meanwhile("/")).collect();
        assert_eq!(server.get("/"), (200, "hello\n".to_owned()));
        for other in others {
            assert_eq!(other.recv().unwrap(), (200, "hello\n".to_owned()));
        }
    }
}

#[test]
fn an_instance_outside_of_the_pool_takes_no_place_in_it() {
    let desk = Desk::new();
    let line = ["--max-concurrent-requests", "1", "--max-instance-reuse-count", "9"];
    let server = Server::start(&desk, &[&line[..], &["--idle-instance-timeout", "1000s"]].concat());
    assert_eq!(server.get("/").1, "hello\n");
    server.has_pool();
    assert_eq!(server.get("/").1, "hello\n");
}

#[test]
fn without_addresses_for_a_pool_it_serves_as_it_began() {
    let desk = Desk::new();
    let serve = Server::command(&desk, &[]);
    let mut limited = Command::new("prlimit");
    limited.arg("--as=100000000000").arg(serve.get_program()).args(serve.get_args());
    let mut server = Server::of(limited, "127.0.0.1:0".parse().unwrap());
    assert_eq!(server.get("/").1, "hello\n");
    server.says("no pool of instances, so that each takes longer: ");
    assert_eq!(server.get("/").1, "hello\n");
}

#[test]
fn an_instance_has_the_directory_that_was_granted_whatever_an_earlier_one_put_in_its_place() {
    let Some(guest) = built_guest("server_p2") else { return };
    let desk = Desk::new();
    fs::create_dir_all(desk.path("outer/inner")).unwrap();
    fs::create_dir(desk.path("outside")).unwrap();
    desk.file("outer/inner/secret", b"granted");
    desk.file("outside/secret", b"not granted");
    let dirs = [format!("{}::/outer", desk.path("outer")), format!("{}::/inner", desk.path("outer/inner"))];
    let line = ["serve", "--addr", "127.0.0.1:0", "--dir", &dirs[0], "--dir", &dirs[1], &guest];
    let server = Server::of(desk.shim(&line), "127.0.0.1:0".parse().unwrap());
    assert_eq!(server.get("/inner/secret"), (200, "granted".to_owned()));
    assert_eq!(server.get("/swap"), (200, "swapped\n".to_owned()));
    // Each request has an instance of its own, from the pool or not.
    assert_eq!(server.get("/inner/secret"), (200, "granted".to_owned()));
    server.has_pool();
    assert_eq!(server.get("/inner/secret"), (200, "granted".to_owned()));
    drop(server);
    let end = desk.run(&line);
    assert_eq!(end.code(), 125);
    end.says(&format!("`{}` is a symbolic link", desk.path("outer/inner")));
}
