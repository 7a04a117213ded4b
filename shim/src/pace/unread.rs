//! The memory that a connection takes for bodies that the guest has not read.
//!
//! hyper passes on a part of a body inside the buffer that was read from the connection. Over HTTP/2 a client can send
//! one byte of a body and fill the rest of each buffer with something else, and the window of the stream counts only that
//! byte. So everything that a connection reads counts here, from the oldest part that may be unread:
//!
//! ```text
//!  turn  ──►  │ head │ body │ something else       │ body │ something else   │ …
//!             └─ counts until the guest has read this body to here ───────────┘
//! ```
//!
//! A connection reads at most `TURN` before the requests among it are known, so that each body knows where it began.

use super::Contact;
use super::request::length;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// How many bytes a connection reads before its requests are looked at.
const TURN: u64 = 64 << 10;
/// What a connection may take in any case: its window, a turn, and the heads of its requests.
const SHARE: usize = 256 << 10;
/// What the bodies of all connections may take together, before those are ended that take more than their share.
const ALL: usize = 64 << 20;
/// A connection counts for no more than this: a client that sends much else beside a small body takes no more memory.
const MOST: usize = 4 << 20;

/// Where a connection is in what it reads, and the bodies that may have unread bytes.
#[derive(Default)]
pub(super) struct Progress(Mutex<State>);

#[derive(Default)]
struct State {
    /// Bytes of the connection until now.
    read: u64,
    /// The same at the beginning of the current turn.
    turn: u64,
    /// For each body, up to where it was read.
    bodies: Vec<(u64, u64)>,
    next_id: u64,
    /// What is counted of this connection among all.
    counted: usize,
}

impl Contact {
    fn progress(&self) -> MutexGuard<'_, State> {
        self.progress.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is polled: it may read again.
    pub fn begin_turn(&self) {
        let mut state = self.progress();
        state.turn = state.read;
    }

    /// Whether the connection has read enough for this turn.
    pub(super) fn has_had_its_turn(&self) -> bool {
        let state = self.progress();
        state.read - state.turn >= TURN
    }

    /// The connection has read so many bytes more. Returns whether it has to end, because unread bodies take too much memory.
    pub(super) fn has_read(&self, bytes: usize) -> bool {
        let mut state = self.progress();
        state.read += bytes as u64;
        self.count(&mut state);
        state.counted > SHARE && self.load.unread.get() > ALL
    }

    fn count(&self, state: &mut State) {
        let oldest = state.bodies.iter().map(|(_, from)| *from).min().unwrap_or(state.read);
        let bytes = usize::try_from(state.read - oldest).unwrap_or(usize::MAX).min(MOST);
        self.load.unread.replace(state.counted, bytes);
        state.counted = bytes;
    }
}

/// The sum over all connections.
#[derive(Default)]
pub(super) struct Sum(AtomicUsize);

impl Sum {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn replace(&self, before: usize, now: usize) {
        // Wraps around on the way, and never in the end.
        self.0.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// The place of a body among those that may have unread bytes.
struct Place {
    contact: Arc<Contact>,
    id: u64,
}

impl Place {
    fn new(contact: &Arc<Contact>) -> Self {
        let mut state = contact.progress();
        let (id, from) = (state.next_id, state.turn);
        state.next_id += 1;
        state.bodies.push((id, from));
        contact.count(&mut state);
        drop(state);
        Self { contact: Arc::clone(contact), id }
    }

    /// The guest has read so many bytes more, or all that there are.
    fn goes_on(&self, bytes: Option<usize>) {
        let mut state = self.contact.progress();
        let turn = state.turn;
        if let Some((_, from)) = state.bodies.iter_mut().find(|(id, _)| *id == self.id) {
            *from = bytes.map_or(turn, |bytes| *from + bytes as u64);
        }
        self.contact.count(&mut state);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.contact.progress();
        state.bodies.retain(|(id, _)| *id != self.id);
        self.contact.count(&mut state);
    }
}

/// The body of a request, which counts among those of its connection until it is read or dropped.
pub struct Arriving {
    body: Incoming,
    place: Option<Place>,
}

impl Arriving {
    /// The `body` of a request on this connection. Over HTTP/1 a body is read only as the guest reads it.
    pub fn new(body: Incoming, over_http_2: Option<&Arc<Contact>>) -> Self {
        let place = over_http_2.filter(|_| !body.is_end_stream()).map(Place::new);
        Self { body, place }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(place) = &self.place {
            match &frame {
                Poll::Pending => place.goes_on(None),
                Poll::Ready(Some(Ok(frame))) if !self.body.is_end_stream() => {
                    place.goes_on(Some(length(frame)));
                }
                Poll::Ready(_) => self.place = None,
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Load;
    use super::*;

    fn connections(count: usize) -> Vec<Arc<Contact>> {
        let load = Arc::new(Load::new(None, 1));
        (0..count).map(|_| Arc::new(Contact::new(&load))).collect()
    }

    /// Reads `bytes` in turns; returns whether the connection has to end.
    fn reads(contact: &Contact, bytes: usize) -> bool {
        (0..bytes / (16 << 10)).any(|_| {
            contact.begin_turn();
            contact.has_read(16 << 10)
        })
    }

    #[test]
    fn connections_with_more_than_their_share_end_when_all_take_too_much() {
        let all = connections(40);
        let bodies: Vec<_> = all.iter().map(Place::new).collect();
        let ended = all.iter().filter(|contact| reads(contact, 8 << 20)).count();
        assert_eq!(ended, 40 - ALL / MOST);
        drop(bodies);
        assert_eq!(all[0].load.unread.get(), 0);
    }

    #[test]
    fn a_body_that_is_read_counts_for_nothing() {
        let [contact] = <[_; 1]>::try_from(connections(1)).ok().unwrap();
        let body = Place::new(&contact);
        for _ in 0..10_000 {
            assert!(!reads(&contact, 64 << 10));
            body.goes_on(Some(64 << 10));
        }
        assert_eq!(contact.load.unread.get(), 0);
        assert!(!reads(&contact, 2 << 20));
        assert_eq!(contact.load.unread.get(), 2 << 20, "something else than the body");
        contact.begin_turn();
        body.goes_on(None);
        assert_eq!(contact.load.unread.get(), 0, "all of it is read");
    }

    #[test]
    fn a_connection_without_bodies_counts_for_nothing() {
        let [contact] = <[_; 1]>::try_from(connections(1)).ok().unwrap();
        assert!(!reads(&contact, 1 << 30));
        assert_eq!(contact.load.unread.get(), 0);
    }

    #[test]
    fn a_body_counts_from_where_its_head_may_be() {
        let [contact] = <[_; 1]>::try_from(connections(1)).ok().unwrap();
        contact.begin_turn();
        assert!(!contact.has_read(64 << 10) && contact.has_had_its_turn());
        let _body = Place::new(&contact);
        assert_eq!(contact.load.unread.get(), 64 << 10);
    }
}
