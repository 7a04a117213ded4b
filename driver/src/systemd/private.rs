//! systemd's private socket, over which root talks to systemd without the bus.
//!
//! No other process can send anything on it: no signal in systemd's name, and no descriptor that takes an hour to
//! close.
//!
//! On this socket systemd names itself as the sender of each message by its well-known name (`bus_init_private`,
//! dbus.c), where D-Bus, and zbus with it, accepts only unique names. So the name is made unique as it is read: it
//! begins with a colon.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// The path of systemd's socket for root.
const PATH: &str = "/run/systemd/private";
/// The header field that names the sender, up to the first letter of the name: code 7, a string of 24 bytes.
const BEFORE: [u8; 8] = [7, 1, b's', 0, 24, 0, 0, 0];
const NAME: &[u8] = b"org.freedesktop.systemd1\0";

/// A connection to systemd itself.
#[derive(Debug)]
pub(super) struct Private(UnixStream);

impl Private {
    /// Connects. `None` if this systemd has no private socket.
    pub(super) async fn connect() -> io::Result<Option<Self>> {
        match UnixStream::connect(PATH).await {
            Ok(stream) => Ok(Some(Self(stream))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Socket for Private {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.0.into_split();
        Split::new(Reader { stream: read, before: [0; BEFORE.len()] }, Writer(write))
    }
}

/// The messages from systemd. They never contain descriptors.
#[derive(Debug)]
pub(super) struct Reader {
    stream: OwnedReadHalf,
    /// The last bytes that were read: a message may arrive in pieces.
    before: [u8; BEFORE.len()],
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let count = self.stream.read(buffer).await?;
        make_unique(&mut self.before, &mut buffer[..count]);
        Ok((count, Vec::new()))
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// The messages to systemd.
#[derive(Debug)]
pub(super) struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let stream = self.0.as_ref();
        let send = || {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(sendmsg(stream, &[IoSlice::new(buffer)], &mut ancillary, SendFlags::NOSIGNAL)?)
        };
        stream.async_io(Interest::WRITABLE, send).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// Replaces the first letter of systemd's name in the sender field, as far as the name has been read.
fn make_unique(before: &mut [u8; BEFORE.len()], bytes: &mut [u8]) {
    let all = [&before[..], bytes].concat();
    for (at, byte) in bytes.iter_mut().enumerate() {
        let (field, rest) = all[at..].split_at(BEFORE.len());
        if field == BEFORE && NAME.starts_with(&rest[..rest.len().min(NAME.len())]) {
            *byte = b':';
        }
    }
    before.copy_from_slice(&all[all.len() - BEFORE.len()..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::names::UniqueName;

    #[test]
    fn the_sender_that_systemd_gives_becomes_a_unique_name_in_whatever_pieces_it_comes() {
        let sent = [b"\x01\0\0\0\x06\x01s\0".as_slice(), &BEFORE, NAME, NAME].concat();
        let read = |piece: usize| {
            let (mut message, mut before) = (sent.clone(), [0; BEFORE.len()]);
            message.chunks_mut(piece).for_each(|bytes| make_unique(&mut before, bytes));
            message
        };
        let message = read(sent.len());
        let name = &message[16..16 + NAME.len() - 1];
        assert_eq!(name, b":rg.freedesktop.systemd1");
        assert!(UniqueName::try_from(std::str::from_utf8(name).unwrap()).is_ok());
        assert!(message.ends_with(NAME), "nothing else is another");
        assert!((1..sent.len()).all(|piece| read(piece) == message));
    }
}
