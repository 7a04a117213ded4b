//! `wasm-shim serve`, driven from outside as clients and systemd do. Runs anywhere, without root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::{Desk, Manager, SOON, built_guest, end_of, repository, with_sockets, within};

#[test]
fn requests_are_answered_one_after_the_other_on_one_connection() {
    let desk = Desk::new();
    let server = Server::start(&desk, &[]);
    let mut client = server.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/"), (200, "hello\n".to_owned()));
    }
}

#[test]
fn http_2_is_spoken_with_who_begins_with_it() {
    let desk = Desk::new();
    let server = Server::start(&desk, &[]);
    let mut stream = server.connect().0;
    let settings = http_2::frame(http_2::SETTINGS, 0, 0, &[]);
    stream.write_all(&[http_2::PREFACE, &settings, &http_2::get()].concat()).unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        stream.read_exact(&mut payload).unwrap();
        if header[3] == http_2::HEADERS {
            assert_eq!(payload[0], 0x88, "`:status: 200`, by its place");
            return;
        }
    }
}

#[test]
fn a_trap_ends_its_own_request_and_no_other() {
    let desk = Desk::new();
    let mut server = Server::start(&desk, &[]);
    let slow = server.get_meanwhile("/slow");
    assert_eq!(server.get("/trap").0, 500);
    assert_eq!(server.get("/exit").0, 500);
    assert_eq!(server.get("/"), (200, "hello\n".to_owned()));
    assert_eq!(slow.recv_timeout(SOON).unwrap().0, 200);
    server.says("trap: wasm `unreachable` instruction executed");
    server.says("error: GET /trap is not answered");
}

#[test]
fn a_request_that_computes_for_ever_starves_nobody_and_is_ended_in_time() {
    let desk = Desk::new();
    let mut server = Server::start(&desk, &["-W", "timeout=2s"]);
    // More of them than there are threads.
    let spinning: Vec<_> = (0..20).map(|_| server.get_meanwhile("/spin")).collect();
    assert_eq!(server.get("/"), (200, "hello\n".to_owned()));
    for one in spinning {
        assert_eq!(one.recv_timeout(SOON).unwrap().0, 504);
    }
    server.says("timeout: GET /spin took longer");
    assert_eq!(server.get("/").0, 200);
}

#[test]
fn not_more_requests_than_allowed_are_worked_on_at_the_same_time() {
    let desk = Desk::new();
    let manager = Manager::new(&desk);
    let line = ["--max-concurrent-requests", "1", "-W", "timeout=2s", "--access-log"];
    let mut server = Server::told(&desk, &line, &manager);
    let spinning = server.get_meanwhile("/spin");
    manager.hears_of("active=1");
    // The only place is taken: who comes now waits for it, though its answer would take no time.
    assert_eq!(server.get("/"), (200, "hello\n".to_owned()));
    assert_eq!(spinning.recv_timeout(SOON).unwrap().0, 504);
    assert!(server.says("access: GET /").contains("/spin 504"), "it overtook");
    server.says("access: GET / 200");
}

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
    for (patience, signals, said) in
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
        server.says(&format!("ended {said}, with 1 requests unfinished"));
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
    end.says("is no socket that listens for connections");
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
fn who_connects_and_asks_nothing_loses_the_connection() {
    let desk = Desk::new();
    let server = Server::start(&desk, &["--max-concurrent-connections", "4"]);
    let settings = http_2::frame(http_2::SETTINGS, 0, 0, &[]);
    let no_request = [http_2::PREFACE, &settings].concat();
    let one_request = [&no_request[..], &http_2::get()].concat();
    // Nothing at all, a part of what tells the version, all of that but no request, and one that is answered.
    let silent = [&b""[..], b"PRI * HT", &no_request, &one_request].map(|begun| {
        let mut connection = server.connect();
        connection.0.write_all(begun).unwrap();
        connection
    });
    let [mut nothing, mut begun, mut no_request, one_request] = silent;
    let polite = thread::spawn(move || http_2::answer_pings(one_request.0));
    // All places are taken; the next one is served when they are given up.
    assert_eq!(server.get("/").0, 200);
    within(SOON, "the end of the connection that says no more than that it lives", || polite.join().unwrap());
    for connection in [&mut nothing, &mut begun, &mut no_request] {
        let rest = connection.0.read_to_end(&mut Vec::new());
        assert!(rest.is_ok() || rest.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
}

#[test]
fn clients_that_hold_all_connections_do_not_shut_others_out() {
    let desk = Desk::new();
    let server = Server::start(&desk, &["--max-concurrent-connections", "3"]);
    let mut holders = [(); 3].map(|()| server.connect());
    for holder in &mut holders {
        assert_eq!(holder.get("/").0, 200);
    }
    assert_eq!(server.get("/").0, 200, "one more client is answered");
    // Were it answered because connections are closed that ask nothing for long, all three would be closed.
    let [first, second, third] = &mut holders;
    let rest = first.0.read(&mut [0; 1]);
    assert!(rest.as_ref().is_ok_and(|count| *count == 0), "the one idle for the longest is closed: {rest:?}");
    for holder in [second, third] {
        assert_eq!(holder.get("/").0, 200, "the others are kept");
    }
}

#[test]
fn a_client_that_never_ends_the_head_of_a_request_fills_no_memory() {
    let desk = Desk::new();
    let server = Server::start(&desk, &[]);
    let mut client = server.connect();
    let endless = format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}", "x".repeat(100 << 10));
    let sent = client.0.write_all(endless.as_bytes());
    let mut answer = [0; 12];
    // What has been sent too much may reset the connection before the answer is read.
    match client.0.read_exact(&mut answer) {
        Ok(()) => assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 431", "{sent:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{sent:?}"),
    }
    assert_eq!(server.get("/").0, 200);
}

#[test]
fn what_a_client_may_send_over_http_2_has_a_limit() {
    let desk = Desk::new();
    let server = Server::start(&desk, &[]);
    let mut client = server.connect();
    client.0.write_all(&[http_2::PREFACE, &http_2::frame(http_2::SETTINGS, 0, 0, &[])].concat()).unwrap();
    let settings = http_2::settings(&mut client.0);
    let (streams, window, head) = (3, 4, 6); // RFC 9113, 6.5.2
    assert_eq!(
        [streams, window, head].map(|setting| settings.get(&setting)),
        [Some(&32), Some(&65536), Some(&16384)]
    );
}

#[test]
fn who_sends_a_request_too_slowly_gives_its_place_to_others() {
    let desk = Desk::new();
    for guest in SERVERS.into_iter().filter_map(built_guest) {
        let mut server =
            Server::with(&desk, &guest, &["--client-timeout", "1s", "--max-concurrent-requests", "3"]);
        let begun = "POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nbegun";
        let slow: Vec<_> = (0..6)
            .map(|number| {
                let mut client = server.connect();
                client.0.write_all(begun.as_bytes()).unwrap();
                // Some say nothing more, the others a byte at a time.
                thread::spawn(move || if number % 2 == 0 { client.answer().0 } else { client.trickle() })
            })
            .collect();
        assert_eq!(server.get("/"), (200, "hello\n".to_owned()), "{guest}");
        for client in slow {
            assert_eq!(within(SOON, "an answer", move || client.join().unwrap()), 408, "{guest}");
        }
        server.says("slow: POST /count: its client sent too little of the body");
    }
}

#[test]
fn who_does_not_take_the_answer_gives_its_place_to_others() {
    let desk = Desk::new();
    for guest in SERVERS.into_iter().filter_map(built_guest) {
        let mut server =
            Server::with(&desk, &guest, &["--client-timeout", "1s", "--max-concurrent-requests", "1"]);
        let mut slow = server.connect();
        slow.ask("/large");
        let first = &mut [0];
        slow.0.read_exact(first).unwrap();
        assert_eq!(server.get("/"), (200, "hello\n".to_owned()), "{guest}");
        server.says("slow: a client took too little of its answer");
        let mut rest = Vec::new();
        let end = slow.0.read_to_end(&mut rest);
        assert!(rest.len() < LARGE, "{guest}: {} bytes and {end:?}", rest.len());
    }
}

#[test]
fn who_gives_no_room_for_an_answer_over_http_2_gives_its_place_to_others() {
    let desk = Desk::new();
    let mut server = Server::start(&desk, &["--client-timeout", "1s", "--max-concurrent-requests", "1"]);
    let mut slow = server.connect().0;
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let settings = http_2::frame(http_2::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    slow.write_all(&[http_2::PREFACE, &settings, &http_2::get()].concat()).unwrap();
    assert_eq!(server.get("/"), (200, "hello\n".to_owned()));
    server.says("slow: a client took too little of an answer");
    let end = slow.read_to_end(&mut Vec::new());
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn only_the_clients_own_slowness_counts() {
    let desk = Desk::new();
    for guest in SERVERS.into_iter().filter_map(built_guest) {
        // The guest needs half a second.
        let server = Server::with(&desk, &guest, &["--client-timeout", "100ms"]);
        assert_eq!(server.get("/slow"), (200, "at last\n".to_owned()), "{guest}");
        // It is slow when it has the request, whose body is there already.
        let mut client = server.connect();
        let sent = "POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
        client.0.write_all(sent.as_bytes()).unwrap();
        assert_eq!(client.answer().0, 200, "{guest}");
        let mut client = server.connect();
        client.ask("/large");
        assert_eq!(client.answer().1.len(), LARGE, "{guest}");

        // Without a limit a client takes as long as it likes; here, longer than another needs for all it wants.
        let server = Server::with(&desk, &guest, &["--client-timeout", "0"]);
        let mut slow = server.connect();
        slow.0.write_all(b"POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nslo").unwrap();
        assert_eq!(server.get("/slow").0, 200);
        slow.0.write_all(b"ow").unwrap();
        assert_eq!(slow.answer(), (200, "5 bytes\n".to_owned()), "{guest}");
    }
}

#[test]
fn numbers_that_nothing_can_count_to_are_refused() {
    let desk = Desk::new();
    let web = desk.guest("web");
    for option in ["--max-concurrent-requests", "--max-concurrent-connections", "--max-instance-reuse-count"]
    {
        for number in ["0", "-1", "+1", "4294967296", "18446744073709551615", "many"] {
            let end = desk.run(&["serve", "--addr", "127.0.0.1:0", &format!("{option}={number}"), &web]);
            assert_eq!(end.code(), 125, "{option}={number}: {end:?}");
            end.says("expected a number from 1 to 4294967295");
        }
    }
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
    // It listens when all is done but to make an instance.
    within(SOON, "it listens", move || while TcpStream::connect(address).is_err() {});
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(143));
}

#[test]
fn instances_come_from_a_pool_once_a_request_has_been_answered() {
    let desk = Desk::new();
    let mut server = Server::start(&desk, &["-W", "timeout=500ms"]);
    assert_eq!(server.get("/").1, "hello\n");
    server.has_pool();
    assert_eq!(server.get("/").1, "hello\n");
    // Loops in them are interrupted, too.
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

#[test]
fn what_is_no_http_is_refused_and_harms_nobody() {
    let desk = Desk::new();
    let server = Server::start(&desk, &[]);
    let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    for (sent, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
        ("nonsense\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"),
        (&huge, "431"),
    ] {
        let mut stream = server.connect().0;
        // The server may hang up before all was said.
        let _ = stream.write_all(sent.as_bytes());
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} "))
                || answer.starts_with(&format!("HTTP/1.0 {status} ")),
            "{answer}: {}",
            &sent[..20.min(sent.len())]
        );
    }
    let _half = server.connect().0.write_all(b"GET / HT");
    assert_eq!(server.get("/").0, 200);
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

/// The servers that `tests/guests/build` makes, for WASI 0.2 and 0.3.
const SERVERS: [&str; 2] = ["server_p2", "server_p3"];
/// How long a slow client waits for an answer before it sends another byte.
const PAUSE: Duration = Duration::from_millis(10);
/// How long their page `/large` is, in bytes.
const LARGE: usize = 32 << 20;

/// As much of HTTP/2 (RFC 9113) as a client needs that is up to no good.
mod http_2 {
    use std::collections::HashMap;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    const END: u8 = 0x5; // of the stream, and of its headers

    pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// What the server allows, by number: the first frame that it sends.
    pub(crate) fn settings(stream: &mut TcpStream) -> HashMap<u16, u32> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[3], SETTINGS);
        let mut settings = vec![0; usize::from(head[2])];
        stream.read_exact(&mut settings).unwrap();
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        settings.chunks(6).map(|one| (u16::from_be_bytes([one[0], one[1]]), number(&one[2..]))).collect()
    }

    /// Says that it lives whenever it is asked, until the end of the connection.
    pub(crate) fn answer_pings(mut stream: TcpStream) {
        let mut header = [0; 9];
        while stream.read_exact(&mut header).is_ok() {
            let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
            let got = stream.read_exact(&mut payload);
            if header[3] == PING && header[4] & ACK == 0 && got.is_ok() {
                // The next read tells that the connection has ended.
                let _ = stream.write_all(&frame(PING, ACK, 0, &payload));
            }
        }
    }

    /// GET, http, "/" and an authority, by their places in HPACK's table (RFC 7541, appendix A).
    pub(crate) fn get() -> Vec<u8> {
        frame(HEADERS, END, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x'])
    }
}

/// A server that does not outlive its test.
struct Server {
    child: Child,
    address: SocketAddr,
    log: mpsc::Receiver<String>,
}

impl Server {
    fn with(desk: &Desk, guest: &str, line: &[&str]) -> Self {
        let shim = desk.shim(&[&["serve", "--addr", "127.0.0.1:0"], line, &[guest]].concat());
        Self::of(shim, "127.0.0.1:0".parse().unwrap())
    }

    fn command(desk: &Desk, line: &[&str]) -> Command {
        let web = desk.guest("web");
        desk.shim(&[&["serve", "--addr", "127.0.0.1:0"], line, &[&web]].concat())
    }

    fn start(desk: &Desk, line: &[&str]) -> Self {
        Self::of(Self::command(desk, line), "127.0.0.1:0".parse().unwrap())
    }

    fn told(desk: &Desk, line: &[&str], manager: &Manager) -> Self {
        let mut shim = Self::command(desk, line);
        manager.listen_to(&mut shim);
        Self::of(shim, "127.0.0.1:0".parse().unwrap())
    }

    /// Waits until it serves. The address is known already if the socket was passed.
    fn of(mut command: Command, address: SocketAddr) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Self { child, address, log };
        let line = server.says("serving on ");
        if let Some((_, rest)) = line.split_once("http://") {
            server.address = rest.trim_end_matches('/').parse().unwrap();
        }
        server
    }

    /// Waits for a line of its log.
    #[track_caller]
    fn says(&mut self, part: &str) -> String {
        let end = Instant::now() + SOON;
        let mut said = Vec::new();
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => said.push(line),
                Err(over) => panic!("it does not say `{part}` ({over}), but: {said:#?}"),
            }
        }
    }

    fn connect(&self) -> Connection<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Connection(stream)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.connect().get(path)
    }

    /// The answer comes through the channel. The request has been sent when this returns.
    fn get_meanwhile(&self, path: &str) -> mpsc::Receiver<(u16, String)> {
        let (sender, receiver) = mpsc::channel();
        let mut connection = self.connect();
        connection.ask(path);
        thread::spawn(move || sender.send(connection.answer()));
        receiver
    }

    /// Waits until it has a pool of instances, which takes more addresses than an instance.
    fn has_pool(&self) {
        let status = format!("/proc/{}/status", self.child.id());
        let size = move || {
            let status = fs::read_to_string(&status).unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap().trim();
            size.trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        // 4 GiB for each of the two memories that one has room for, in a pool.
        within(SOON, "the pool", move || while size() < 8 << 20 {});
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(mut self) -> Option<i32> {
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        within(SOON, "the end of the server", move || child.wait().unwrap()).code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if the test has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client's connection.
struct Connection<S>(S);

impl Connection<TcpStream> {
    /// Sends a byte now and then until there is an answer, and gives its status; 408 also if the connection was reset
    /// before it could be read.
    fn trickle(mut self) -> u16 {
        self.0.set_read_timeout(Some(PAUSE)).unwrap();
        let mut head = [0; 12];
        loop {
            let sent = self.0.write_all(b"x");
            match self.0.read_exact(&mut head) {
                Ok(()) => return std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(),
                Err(error) if error.kind() == ErrorKind::WouldBlock && sent.is_ok() => {}
                Err(_) => return 408,
            }
        }
    }
}

impl<S: Read + Write> Connection<S> {
    fn get(&mut self, path: &str) -> (u16, String) {
        self.ask(path);
        self.answer()
    }

    fn ask(&mut self, path: &str) {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
    }

    /// The status and the body, whose length is given or which comes in chunks.
    fn answer(&mut self) -> (u16, String) {
        let mut reader = BufReader::with_capacity(1, &mut self.0);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line.trim_end().to_ascii_lowercase()
        };
        let status = line().split(' ').nth(1).unwrap().parse().unwrap();
        let head: Vec<_> = std::iter::from_fn(|| Some(line()).filter(|line| !line.is_empty())).collect();
        let given = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let mut body = vec![0; given.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        while given.is_none() {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
            reader.read_exact(&mut chunk).unwrap();
            match chunk.strip_suffix(b"\r\n").unwrap() {
                [] => break,
                chunk => body.extend_from_slice(chunk),
            }
        }
        (status, String::from_utf8(body).unwrap())
    }
}
