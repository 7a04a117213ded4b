//! The part of HTTP/2 (RFC 9113) that a malicious client needs.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_HEADERS: u8 = 0x4;
const END: u8 = 0x5; // of the stream, and of its headers

pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The server's settings, by number: the first frame that it sends.
pub(crate) fn settings(stream: &mut TcpStream) -> HashMap<u16, u32> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).unwrap();
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    settings.chunks(6).map(|one| (u16::from_be_bytes([one[0], one[1]]), number(&one[2..]))).collect()
}

/// Whether the server has read everything until now, and keeps the connection.
pub(crate) fn is_there(stream: &mut TcpStream) -> bool {
    let mut header = [0; 9];
    let mut payload = Vec::new();
    stream.write_all(&frame(PING, 0, 0, b"Are you?")).is_ok()
        && loop {
            if stream.read_exact(&mut header).is_err() {
                break false;
            }
            payload.resize(usize::from(header[1]) << 8 | usize::from(header[2]), 0);
            if stream.read_exact(&mut payload).is_err() || (header[3], header[4]) == (PING, ACK) {
                break payload == b"Are you?";
            }
        }
}

/// Answers PING frames, until the end of the connection.
pub(crate) fn answer_pings(mut stream: TcpStream) {
    let mut header = [0; 9];
    while stream.read_exact(&mut header).is_ok() {
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        let got = stream.read_exact(&mut payload);
        if header[3] == PING && header[4] & ACK == 0 && got.is_ok() {
            // The next read reports that the connection has ended.
            let _ = stream.write_all(&frame(PING, ACK, 0, &payload));
        }
    }
}

/// GET, http, "/" and an authority, by their places in HPACK's table (RFC 7541, appendix A).
pub(crate) fn get() -> Vec<u8> {
    get_with(&[])
}

/// POST, http, "/" and an authority; its body follows.
pub(crate) fn post() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &[0x83, 0x86, 0x84, 0x41, 1, b'x'])
}

/// CONNECT to an authority; what follows is no body.
pub(crate) fn connect() -> Vec<u8> {
    let method = [&[0x02, 7], b"CONNECT".as_slice()].concat();
    frame(HEADERS, END_HEADERS, 1, &[&method[..], &[0x41, 1, b'x']].concat())
}

/// GET of an authority that both sides then keep in their tables of fields.
pub(crate) fn get_of(stream: u8, authority: &str) -> Vec<u8> {
    let length = u8::try_from(authority.len()).unwrap();
    frame(HEADERS, END, stream, &[&[0x82, 0x86, 0x84, 0x41, length], authority.as_bytes()].concat())
}

/// The same as `get`, with further fields.
pub(crate) fn get_with(fields: &[u8]) -> Vec<u8> {
    frame(HEADERS, END, 1, &[&[0x82, 0x86, 0x84, 0x41, 1, b'x'], fields].concat())
}

/// `accept-encoding: gzip, deflate`, by its place in the table.
pub(crate) const ACCEPT_ENCODING: u8 = 0x90;

/// Is the answer `:status: 200`, by its place in the table?
pub(crate) fn is_ok(stream: &mut TcpStream) -> bool {
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        stream.read_exact(&mut payload).unwrap();
        if header[3] == HEADERS {
            return payload[0] == 0x88;
        }
    }
}
