//! The interface of a server to systemd: its sockets, its readiness, its end by SIGTERM, its watchdog.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

use rustix::process::Signal;
use tests::{Desk, Manager, SOON, end_of, repository, with_sockets, within};

use super::server::{Connection, Server};

#[test]
fn sigterm_lets_it_finish_what_it_has_begun() {
    let desk = Desk::new();
    let manager = Manager::new(&desk);
    let server = Server::told(&desk, &["--access-log"], &manager);
    let slow = server.get_meanwhile("/slow");
    manager.hears_of("active=1");
    server.signal(Signal::TERM);
    manager.hears_of("stopping=1");
    assert!(TcpStream::connect(server.address).is_err(), "it takes no more connections");
    assert_eq!(slow.recv_timeout(SOON).unwrap().0, 200);
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn what_is_not_finished_in_time_is_cut_off() {
    let desk = Desk::new();
    for (patience, signals, output) in
        [("100ms", 1, "when --shutdown-timeout was over"), ("1000s", 2, "by a second SIGTERM")]
    {
        let manager = Manager::new(&desk);
        let mut server = Server::told(&desk, &["--shutdown-timeout", patience], &manager);
        let _spinning = server.get_meanwhile("/spin");
        manager.hears_of("active=1");
        server.signal(Signal::TERM);
        if signals == 2 {
            manager.hears_of("stopping=1");
            server.signal(Signal::TERM);
        }
        server.says(&format!("ended {output}, with 1 requests unfinished"));
        assert_eq!(server.wait(), Some(143));
    }
}

#[test]
fn a_socket_that_is_passed_is_served_by_its_name() {
    let desk = Desk::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = desk.path("web.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let address = tcp.local_addr().unwrap();
    let sockets = |names: [&'static str; 2]| {
        vec![(names[0], tcp.try_clone().unwrap().into()), (names[1], unix.try_clone().unwrap().into())]
    };
    let web = desk.guest("web");

    let shim = desk.shim(&["serve", &web]);
    let _first = Server::of(with_sockets(&shim, sockets(["public", "local"])), address);
    assert_eq!(Connection(TcpStream::connect(address).unwrap()).get("/").0, 200);

    let shim = desk.shim(&["serve", "--listen-fd", "local", &web]);
    let _local = Server::of(with_sockets(&shim, sockets(["public", "local"])), address);
    assert_eq!(Connection(UnixStream::connect(&path).unwrap()).get("/").0, 200);

    let shim = desk.shim(&["serve", "--listen-fd", "absent", &web]);
    let end = end_of(&mut with_sockets(&shim, sockets(["public", "local"])));
    assert_eq!(end.code(), 125);
    end.says("no socket of the name `absent` was passed");

    let (no_listener, _) = UnixStream::pair().unwrap();
    let shim = desk.shim(&["serve", &web]);
    let end = end_of(&mut with_sockets(&shim, vec![("x", no_listener.into())]));
    assert_eq!(end.code(), 125);
    end.says("is not a socket that listens for connections");
}

#[test]
fn it_is_ready_when_nothing_can_fail_any_more_and_not_before() {
    let desk = Desk::new();
    for (guest, code, told) in [
        ("component_import", 127, "STATUS=missing import: serve `"),
        ("run_ok", 126, "it is a command, for `wasm-shim run`"),
        ("hello", 126, "it is a core module"),
        ("http", 126, "STATUS=bad module: serve `"),
    ] {
        let manager = Manager::new(&desk);
        let guest = desk.guest(guest);
        let end = end_of(manager.listen_to(&mut desk.shim(&["serve", "--addr", "127.0.0.1:0", &guest])));
        assert_eq!(end.code(), code, "{end:?}");
        let word = manager.hears();
        assert!(word.contains(told), "{word}");
        assert!(manager.hears_nothing(), "it never said that it was ready");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let end = desk.run(&["serve", "--addr", &address, &desk.guest("web")]);
    assert_eq!(end.code(), 125);
    end.says(&format!("listen on {address}: Address already in use"));

    let manager = Manager::new(&desk);
    let _server = Server::told(&desk, &[], &manager);
    assert!(manager.hears().starts_with("READY=1\n"));
}

#[test]
fn a_guest_that_computes_for_ever_before_it_is_ready_is_ended_by_sigterm() {
    let desk = Desk::new();
    let source = fs::read_to_string(repository().join("tests/guests/web.wat")).unwrap();
    let module = "(core module $memory";
    let stuck =
        source.replace(module, &format!("{module} (func $begin (loop $again (br $again))) (start $begin)"));
    assert_ne!(stuck, source);
    let guest = desk.file("stuck.wat", stuck.as_bytes());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let child = desk.shim(&["serve", "--addr", &address.to_string(), &guest]).spawn().unwrap();
    let server = Server { child, address, log: mpsc::channel().1 };
    // The server listens when everything but the first instance is ready.
    within(SOON, "it listens", move || while TcpStream::connect(address).is_err() {});
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(143));
}

#[test]
fn systemd_hears_that_it_lives_and_what_it_has_served() {
    let desk = Desk::new();
    let manager = Manager::new(&desk);
    let mut shim = Server::command(&desk, &[]);
    shim.env("WATCHDOG_USEC", "200000");
    manager.listen_to(&mut shim);
    let server = Server::of(shim, "127.0.0.1:0".parse().unwrap());
    for _ in 0..3 {
        manager.hears_of("WATCHDOG=1");
    }
    server.get("/");
    server.get("/trap");
    let told = manager.hears_of("requests=2");
    assert!(told.starts_with("STATUS=serving: requests=2 traps=1 timeouts=0 active="), "{told}");
}

#[test]
fn a_file_alone_is_served_if_it_is_a_server() {
    let desk = Desk::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let shim = desk.shim(&[&desk.guest("web")]);
    let server = Server::of(with_sockets(&shim, vec![("", socket.into())]), address);
    assert_eq!(server.get("/").0, 200);
}
