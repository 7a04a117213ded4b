//! A connection, whose client must read what is written.

use super::unread::{Progress, Verdict};
use super::{Clock, Load};
use crate::process;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// The state of a client's connection, in addition to the data.
pub struct Contact {
    pub(super) load: Arc<Load>,
    pub(super) progress: Progress,
    /// The client has not read all that was written.
    is_behind: AtomicBool,
    /// The client does not read one of its answers, which ends the connection.
    pub(super) stalled: Notify,
    /// The connection is to take no more requests.
    leave: Notify,
}

impl Contact {
    /// A connection of the server with this `load`.
    pub fn new(load: &Arc<Load>) -> Self {
        Self {
            load: Arc::clone(load),
            progress: Progress::default(),
            is_behind: AtomicBool::new(false),
            stalled: Notify::new(),
            leave: Notify::new(),
        }
    }

    /// Whether the client still has something to read.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Waits until the connection has to take no more requests.
    pub async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Waits until the client has not read one of its answers over HTTP/2 in time.
    pub async fn stalled(&self) {
        self.stalled.notified().await;
    }
}

/// A connection that fails when its client does not read what is written, or fills the memory with what the guest does
/// not read.
pub struct Paced<S> {
    stream: S,
    clock: Option<Clock>,
    contact: Arc<Contact>,
    /// The unread bytes at the last check.
    untaken: usize,
}

impl<S: AsRawFd> Paced<S> {
    /// The `stream` of this connection, with the timeout of its server.
    pub fn new(stream: S, contact: &Arc<Contact>) -> Self {
        Self { stream, clock: Clock::new(&contact.load), contact: Arc::clone(contact), untaken: 0 }
    }

    fn look_at<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let was_behind = self.contact.is_behind.swap(poll.is_pending(), Ordering::Relaxed);
        let Some(clock) = &mut self.clock else { return poll };
        if poll.is_ready() {
            if was_behind {
                clock.goes_on(0);
                self.untaken = 0;
            }
            return poll;
        }
        // The kernel accepts more only after much was read, and a slow client may need a long time for that.
        let untaken = process::untaken(self.stream.as_raw_fd());
        if let Some(bytes) = self.untaken.checked_sub(untaken).filter(|bytes| *bytes > 0) {
            clock.goes_on(bytes);
        }
        self.untaken = untaken;
        clock.poll(cx).map(|()| {
            crate::outcome::say(
                "slow: a client took too little of its answer and was cut off (--client-timeout)",
            );
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.contact.has_had_its_turn() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match self.contact.has_read(buffer.filled().get(before..).unwrap_or_default()) {
            Verdict::Stay => poll,
            Verdict::Leave => {
                self.contact.leave.notify_one();
                poll
            }
            Verdict::End => {
                crate::outcome::say(
                    "memory: HTTP/2 clients take too much of it, and one of them was cut off",
                );
                Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()))
            }
        }
    }
}

impl<S: AsyncWrite + AsRawFd + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.look_at(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.look_at(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
