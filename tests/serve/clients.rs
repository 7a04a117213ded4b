//! Clients that are slow, silent or endless, and their effect on other clients.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;

use tests::{Desk, SOON, built_guest, within};

use super::http_2;
use super::server::Server;

/// The servers that `tests/guests/build` makes, for WASI 0.2 and 0.3.
const SERVERS: [&str; 2] = ["server_p2", "server_p3"];

/// The length of their page `/large`, in bytes.
const LARGE: usize = 32 << 20;

#[test]
fn who_connects_and_asks_nothing_loses_the_connection() {
    let desk = Desk::new();
    let server = Server::start(&desk, &["--max-concurrent-connections", "4"]);
    let settings = http_2::frame(http_2::SETTINGS, 0, 0, &[]);
    let no_request = [http_2::PREFACE, &settings].concat();
    let one_request = [&no_request[..], &http_2::get()].concat();
    // Nothing at all, a part of the bytes that determine the version, all of these bytes but no request, and a request
    // that is answered.
    let silent = [&b""[..], b"PRI * HT", &no_request, &one_request].map(|begun| {
        let mut connection = server.connect();
        connection.0.write_all(begun).unwrap();
        connection
    });
    let [mut nothing, mut begun, mut no_request, one_request] = silent;
    let polite = thread::spawn(move || http_2::answer_pings(one_request.0));
    // All places are taken; the next connection is served when they are given up.
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
    // If connections were closed because they request nothing for long, all three would be closed.
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
    // Excess data may reset the connection before the answer is read.
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
        [Some(&16), Some(&65536), Some(&8192)]
    );
    // A field of the table that both sides know is one byte; over HTTP/1 there is the same limit.
    for (count, is_ok) in [(101, false), (100, true)] {
        let mut client = server.connect().0;
        let settings = http_2::frame(http_2::SETTINGS, 0, 0, &[]);
        let request = http_2::get_with(&vec![http_2::ACCEPT_ENCODING; count]);
        client.write_all(&[http_2::PREFACE, &settings, &request].concat()).unwrap();
        assert_eq!(http_2::is_ok(&mut client), is_ok, "{count} fields");
    }
}

/// A frame of an unknown type, which fills the rest of a buffer of the server.
fn filler() -> Vec<u8> {
    http_2::frame(0xfa, 0, 0, &[0; 8130])
}

/// What a server's memory has grown by, in MiB, when so many clients have sent what `send` sends, as far as they could; and
/// how many of them are still there.
fn filled_by(server: &Server, clients: usize, send: impl Fn(&mut TcpStream) -> bool) -> (usize, usize) {
    let before = server.peak();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let mut client = server.connect().0;
            client
                .write_all(&[http_2::PREFACE, &http_2::frame(http_2::SETTINGS, 0, 0, &[])].concat())
                .unwrap();
            let is_there = send(&mut client) && http_2::is_there(&mut client);
            (client, is_there)
        })
        .collect();
    ((server.peak() - before) >> 20, clients.iter().filter(|(_, is_there)| *is_there).count())
}

/// The same, when all clients send this head and then small parts, each in a buffer of its own, while the only place of the
/// server is taken.
fn filled_by_parts(server: &Server, clients: usize, head: &[u8]) -> (usize, usize) {
    let part = [filler(), http_2::frame(http_2::DATA, 0, 1, &[b'x'; 184])].concat();
    filled_by(server, clients, |client| {
        client.write_all(head).is_ok() && (0..340).all(|_| client.write_all(&part).is_ok())
    })
}

#[test]
fn small_parts_of_bodies_that_nobody_reads_fill_no_memory() {
    let desk = Desk::new();
    let mut server = Server::start(&desk, &["--max-concurrent-requests", "1"]);
    let mut first = server.connect();
    first.ask("/spin");
    let (grown, there) = filled_by_parts(&server, 120, &http_2::post());
    assert!(grown < 200, "{grown} MiB");
    assert!(there >= 16, "a few may send what they like: {there}");
    server.says("memory: HTTP/2 clients take too much of it");
    drop(first);
    assert_eq!(server.get("/").0, 200);
}

#[test]
fn what_follows_connect_is_kept_by_nobody() {
    let desk = Desk::new();
    let server = Server::start(&desk, &["--max-concurrent-requests", "1"]);
    let mut first = server.connect();
    first.ask("/spin");
    let (grown, _) = filled_by_parts(&server, 60, &http_2::connect());
    assert!(grown < 60, "{grown} MiB");
}

#[test]
fn tables_of_fields_fill_no_memory() {
    let desk = Desk::new();
    let server = Server::start(&desk, &[]);
    // Each request has another authority, in a buffer of its own.
    let (grown, there) = filled_by(&server, 500, |client| {
        (0..94_u8).all(|number| {
            let request = [filler(), http_2::get_of(2 * number + 1, &format!("host-{number:03}"))].concat();
            // A connection has 16 requests at a time.
            client.write_all(&request).is_ok() && (number % 8 < 7 || http_2::is_there(client))
        })
    });
    assert!(grown < 240, "{grown} MiB");
    assert!((80..400).contains(&there), "{there} of them were not ended");
    assert_eq!(server.get("/").0, 200);
}

#[test]
fn who_asks_and_does_not_wait_takes_no_place_from_others() {
    let desk = Desk::new();
    // While the guest computes, the server reads neither a body nor a further request, and so not the end behind them.
    let spin = "/spin HTTP/1.1\r\nHost: test\r\n";
    let requests = [
        format!("GET {spin}\r\n"),
        format!("GET {spin}\r\nG"),
        format!("POST {spin}Content-Length: 5\r\n\r\n"),
        format!("POST {spin}Transfer-Encoding: chunked\r\n\r\n"),
        format!("POST {spin}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
    ];
    for guest in SERVERS.into_iter().filter_map(built_guest).chain([desk.guest("web")]) {
        let mut server = Server::with(&desk, &guest, &["--max-concurrent-requests", "2"]);
        for request in requests.iter().cycle().take(10) {
            let mut client = server.connect();
            client.0.write_all(request.as_bytes()).unwrap();
            drop(client);
            assert_eq!(server.get("/"), (200, "hello\n".to_owned()), "{guest}: {request}");
        }
        server.says("gone: a client left before its answer was complete");
    }
}

#[test]
fn who_goes_does_not_keep_others_of_the_same_instance_waiting() {
    let desk = Desk::new();
    let Some(guest) = built_guest("server_p3") else { return };
    let server = Server::with(&desk, &guest, &["--max-instance-concurrent-reuse-count", "16"]);
    let waiting: Vec<_> = (0..4).map(|_| server.get_meanwhile("/slow")).collect();
    for _ in 0..4 {
        let mut client = server.connect();
        client.ask("/spin");
    }
    for one in waiting {
        // An instance that computes for the one who has gone is ended.
        assert!([200, 500].contains(&one.recv_timeout(SOON).unwrap().0));
    }
    assert_eq!(server.get("/slow").0, 200);
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
                // Some clients send nothing more, the others a byte at a time.
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
        // The client is slow once the server has the request, whose body is already there.
        let mut client = server.connect();
        let sent = "POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
        client.0.write_all(sent.as_bytes()).unwrap();
        assert_eq!(client.answer().0, 200, "{guest}");
        let mut client = server.connect();
        client.ask("/large");
        assert_eq!(client.answer().1.len(), LARGE, "{guest}");

        // Without a limit, a client takes as long as it likes; here, longer than another client needs for everything.
        let server = Server::with(&desk, &guest, &["--client-timeout", "0"]);
        let mut slow = server.connect();
        slow.0.write_all(b"POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nslo").unwrap();
        assert_eq!(server.get("/slow").0, 200);
        slow.0.write_all(b"ow").unwrap();
        assert_eq!(slow.answer(), (200, "5 bytes\n".to_owned()), "{guest}");
    }
}
