//! The memory that an HTTP/2 connection takes beyond the bodies in its window.
//!
//! hyper passes on a part of a body, and keeps the values of a header table, inside the buffer that was read from the
//! connection. A client can send one byte of a body and fill the rest of each buffer with something else, and the window
//! of the stream counts only that byte. So everything that a connection reads counts here, from the oldest part that may
//! be unread, and what its header table may keep:
//!
//! ```text
//!  turn  ──►  │ head │ body │ something else       │ body │ something else   │ …
//!             └─ counts until the guest has read this body to here ───────────┘
//! ```
//!
//! A connection reads at most `TURN` before the requests among it are known, so that each body knows where it began.
//!
//! When all connections together take too much, each that takes more than its share is told to leave when it reads
//! again: it answers what it has begun, and its client connects anew. Above a second limit it is ended.

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
/// What the header table of a connection may keep: 4096 bytes are at most 95 entries of a request's `:path` and the like,
/// each in a buffer of 8 KiB.
const TABLE: u64 = 95 * (8 << 10);
/// What a connection may take in any case: its window, a turn, and the heads of its requests.
const SHARE: usize = 256 << 10;
/// What the bodies of a connection count for at most: who sends much else beside a small body takes no more memory.
const BODIES: u64 = 4 << 20;
/// What all connections may take together before those that take more than their share leave.
const LEAVE: usize = 64 << 20;
/// The same before they are ended.
const END: usize = 128 << 20;

/// What a connection has to do after it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on.
    Stay,
    /// Finish its requests, and take no more.
    Leave,
    /// End at once.
    End,
}

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
    is_http_2: bool,
    /// What is counted of this connection among all.
    counted: usize,
}

impl Contact {
    fn progress(&self) -> MutexGuard<'_, State> {
        self.progress.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is polled, and may read again.
    pub fn begin_turn(&self) {
        let mut state = self.progress();
        state.turn = state.read;
    }

    /// Whether the connection has read enough for this turn.
    pub(super) fn has_had_its_turn(&self) -> bool {
        let state = self.progress();
        state.read - state.turn >= TURN
    }

    /// The connection has read so many bytes more.
    pub(super) fn has_read(&self, bytes: usize) -> Verdict {
        let mut state = self.progress();
        state.read += bytes as u64;
        self.count(&mut state);
        match self.load.unread.get() {
            all if state.counted <= SHARE || all <= LEAVE => Verdict::Stay,
            all if all <= END => Verdict::Leave,
            _ => Verdict::End,
        }
    }

    fn count(&self, state: &mut State) {
        let unread = match state.bodies.iter().map(|(_, from)| *from).min() {
            Some(oldest) => (state.read - oldest).min(BODIES),
            None => 0,
        };
        let table = if state.is_http_2 { state.read.min(TABLE) } else { 0 };
        let bytes = usize::try_from(unread + table).unwrap_or(usize::MAX);
        self.load.unread.replace(state.counted, bytes);
        state.counted = bytes;
    }

    /// The connection has a request over HTTP/2.
    pub(super) fn is_http_2(&self) {
        self.progress().is_http_2 = true;
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        let counted = self.progress().counted;
        self.load.unread.replace(counted, 0);
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
        if let Some(contact) = over_http_2 {
            contact.is_http_2();
        }
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

    /// Reads `bytes` in turns; returns what the connection has to do then.
    fn reads(contact: &Contact, bytes: usize) -> Verdict {
        let turns = (0..bytes / (16 << 10)).map(|_| {
            contact.begin_turn();
            contact.has_read(16 << 10)
        });
        turns.last().unwrap_or(Verdict::Stay)
    }

    fn all(contact: &Contact) -> usize {
        contact.load.unread.get()
    }

    #[test]
    fn connections_with_more_than_their_share_leave_and_end_when_all_take_too_much() {
        let connections = connections(40);
        let bodies: Vec<_> = connections.iter().map(Place::new).collect();
        let verdicts: Vec<_> = connections.iter().map(|contact| reads(contact, 8 << 20)).collect();
        let of = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        assert_eq!((of(Verdict::Stay), of(Verdict::Leave), of(Verdict::End)), (16, 16, 8));
        // Who takes little stays.
        let [other] = <[_; 1]>::try_from(vec![Contact::new(&connections[0].load)]).ok().unwrap();
        assert_eq!(reads(&other, 8 << 20), Verdict::Stay);
        drop(bodies);
        assert_eq!(all(&other), 0);
    }

    #[test]
    fn a_body_that_is_read_counts_for_nothing() {
        let [contact] = <[_; 1]>::try_from(connections(1)).ok().unwrap();
        let body = Place::new(&contact);
        for _ in 0..10_000 {
            assert_eq!(reads(&contact, 64 << 10), Verdict::Stay);
            body.goes_on(Some(64 << 10));
        }
        assert_eq!(all(&contact), 0);
        reads(&contact, 2 << 20);
        assert_eq!(all(&contact), 2 << 20, "something else than the body");
        contact.begin_turn();
        body.goes_on(None);
        assert_eq!(all(&contact), 0, "all of it is read");
    }

    #[test]
    fn a_header_table_counts_as_long_as_its_connection_is_there() {
        let [contact] = <[_; 1]>::try_from(connections(1)).ok().unwrap();
        reads(&contact, 1 << 30);
        assert_eq!(all(&contact), 0, "HTTP/1");
        contact.is_http_2();
        reads(&contact, 16 << 10);
        assert_eq!(all(&contact) as u64, TABLE);
        let load = Arc::clone(&contact.load);
        drop(contact);
        assert_eq!(load.unread.get(), 0);
    }

    #[test]
    fn a_body_counts_from_where_its_head_may_be() {
        let [contact] = <[_; 1]>::try_from(connections(1)).ok().unwrap();
        contact.begin_turn();
        contact.has_read(64 << 10);
        assert!(contact.has_had_its_turn());
        let _body = Place::new(&contact);
        assert_eq!(all(&contact), 64 << 10);
    }
}
