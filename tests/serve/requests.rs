//! Requests: how they are answered, and how they fail.

use std::io::{BufRead, BufReader, Write};

use tests::{Desk, Manager, SOON};

use super::http_2;
use super::server::Server;

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
    assert!(http_2::is_ok(&mut stream));
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
    // More requests than there are threads.
    let spinning: Vec<_> = (0..20).map(|_| server.get_meanwhile("/spin")).collect();
    assert_eq!(server.get("/"), (200, "hello\n".to_owned()));
    for one in spinning {
        assert_eq!(one.recv_timeout(SOON).unwrap().0, 504);
    }
    server.says("timeout: GET /spin took longer");
    assert_eq!(server.get("/spin\u{202e}\u{9b}2J").0, 504);
    server.says("timeout: GET /spin??2J took longer");
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
    // The only place is taken: the next client waits for it, though its answer would take no time.
    assert_eq!(server.get("/"), (200, "hello\n".to_owned()));
    assert_eq!(spinning.recv_timeout(SOON).unwrap().0, 504);
    assert!(server.says("access: GET /").contains("/spin 504"), "it overtook");
    server.says("access: GET / 200");
}

#[test]
fn the_access_log_names_the_trace_of_a_request() {
    let desk = Desk::new();
    let mut server = Server::start(&desk, &["--access-log"]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut client = server.connect();
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\nTraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n");
    client.0.write_all(head.as_bytes()).unwrap();
    assert_eq!(client.answer().0, 200);
    assert!(server.says("access: GET / 200").ends_with(&format!("ms trace={trace}")));
    assert_eq!(client.get("/").0, 200);
    assert!(server.says("access: GET / 200").ends_with("ms"), "this request has none");
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
fn what_is_no_http_is_refused_and_harms_nobody() {
    let desk = Desk::new();
    let server = Server::start(&desk, &[]);
    let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    for (sent, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"),
        (&huge, "431"),
    ] {
        let mut stream = server.connect().0;
        // The server may close the connection before everything was sent.
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
