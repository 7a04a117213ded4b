//! A `wasi:http` server for WASI 0.2.

use std::io::{self, Write as _};
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::{preopens, types::ErrorCode as FileError};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

/// More than the buffers between a server and a client hold.
const LINES: usize = 512;
const LINE: &str = match std::str::from_utf8(&[b'x'; 65536]) {
    Ok(line) => line,
    Err(_) => unreachable!(),
};

struct Server;

wasip2::http::proxy::export!(Server);

impl wasip2::exports::http::incoming_handler::Guest for Server {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        match path.as_str() {
            "/" => say(answer, 200, &["hello\n"]),
            "/echo" => echo(&request, answer),
            "/count" => say(answer, 200, &[count(&request)]),
            "/large" => say(answer, 200, &[LINE; LINES]),
            "/swap" => say(
                answer,
                200,
                &[swap().map_or_else(|error| format!("{error:?}\n"), |()| "swapped\n".to_owned())],
            ),
            "/inner/secret" => match std::fs::read_to_string("/inner/secret") {
                Ok(secret) => say(answer, 200, &[secret]),
                Err(error) => say(answer, 403, &[format!("{error}\n")]),
            },
            "/trap" => panic!("as the request wishes"),
            "/spin" => loop {
                std::hint::spin_loop();
            },
            "/slow" => {
                monotonic_clock::subscribe_duration(500_000_000).block();
                say(answer, 200, &["at last\n"]);
            }
            "/stream" => {
                let lines: Vec<_> = (0..8).map(|number| format!("part {number}\n")).collect();
                say(answer, 200, &lines);
            }
            "/env" => {
                let variables = std::env::vars().map(|(name, value)| format!("{name}={value}\n"));
                say(answer, 200, &variables.collect::<Vec<_>>());
            }
            _ => match path.strip_prefix("/fetch/").map(fetch) {
                Some(Ok(text)) => say(answer, 200, &[text]),
                Some(Err(error)) => say(answer, 502, &[format!("{error}\n")]),
                None => say(answer, 404, &["no such page\n"]),
            },
        }
    }
}

/// Answers with these parts, each sent separately. A client that closes the connection early is not an error.
fn say(answer: ResponseOutparam, status: u16, parts: &[impl AsRef<str>]) {
    let body = begin(answer, status);
    let mut stream = body.write().expect("a body is written once");
    let sent = parts.iter().try_for_each(|part| {
        stream.write_all(part.as_ref().as_bytes())?;
        io::Write::flush(&mut stream)
    });
    drop(stream);
    if sent.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}

fn begin(answer: ResponseOutparam, status: u16) -> OutgoingBody {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("a body is taken once");
    ResponseOutparam::set(answer, Ok(response));
    body
}

/// Answers with the bytes of the request, as they arrive.
fn echo(request: &IncomingRequest, answer: ResponseOutparam) {
    let sent = request.consume().expect("a body is taken once");
    let body = begin(answer, 200);
    let from = sent.stream().expect("a body is read once");
    let to = body.write().expect("a body is written once");
    let end = loop {
        match to.blocking_splice(&from, 65536) {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    drop((to, from));
    if matches!(end, StreamError::Closed) {
        let _ = OutgoingBody::finish(body, None);
    }
}

/// The number of bytes in the request.
fn count(request: &IncomingRequest) -> String {
    let body = request.consume().expect("a body is taken once");
    match read(&body) {
        Ok(text) => format!("{} bytes\n", text.len()),
        Err(error) => format!("{error}\n"),
    }
}

/// Replaces the directory `inner` in `/outer` by a link that leads out of `/outer`.
fn swap() -> Result<(), FileError> {
    let dirs = preopens::get_directories();
    let (outer, _) = dirs.iter().find(|(_, name)| name == "/outer").ok_or(FileError::NoEntry)?;
    outer.rename_at("inner", outer, "moved")?;
    outer.symlink_at("../outside", "inner")
}

/// The answer of the server at this address.
fn fetch(authority: &str) -> Result<String, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_scheme(Some(&Scheme::Http)).map_err(invalid)?;
    request.set_authority(Some(authority)).map_err(invalid)?;
    request.set_path_with_query(Some("/")).map_err(invalid)?;
    let coming = outgoing_handler::handle(request, None)?;
    coming.subscribe().block();
    let response = coming.get().and_then(Result::ok).expect("it is there, once")?;
    let body = response.consume().expect("a body is taken once");
    read(&body).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))
}

fn read(body: &IncomingBody) -> io::Result<String> {
    io::read_to_string(body.stream().expect("a body is read once"))
}
