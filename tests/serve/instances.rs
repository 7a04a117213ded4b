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
