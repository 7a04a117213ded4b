//! Writes entries with fields to the journal, in its native protocol (systemd.io, "Native Journal Protocol").

use std::os::unix::net::UnixDatagram;

/// Where journald receives entries.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Writes one entry. Nobody waits for journald: an entry that it cannot take at once is dropped.
pub fn write(fields: &[(&str, &str)]) {
    let send = || {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(&datagram(fields), SOCKET)
    };
    if let Err(error) = send() {
        tracing::debug!(%error, "the journal took no entry about an event");
    }
}

/// The entry as journald reads it. Every value has its length before it, so that no value can begin a field.
fn datagram(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut datagram = Vec::new();
    for (name, value) in fields {
        datagram.extend_from_slice(name.as_bytes());
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    }
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_begins_a_field() {
        let datagram = datagram(&[("MESSAGE", "a\nPRIORITY=0"), ("X", "")]);
        assert_eq!(datagram, b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nX\n\0\0\0\0\0\0\0\0\n");
    }
}
