//! The memory that an HTTP/2 connection takes beyond the bodies in its window.
//!
//! hyper passes on a part of a body, and keeps the values of a header table, inside the buffer that was read from the
//! connection. A client can send one byte of a body and fill the rest of each buffer with something else, and the window
//! of the stream counts only that byte. So what a connection reads counts here, from the oldest part that may be unread,
//! if as many small parts of bodies were among it; and what its fields may keep:
//!
//! ```text
//!  turn  ──►  │ head │ part │ something else       │ part │ something else   │ …
//!             └─ counts until the guest has read this body to here ───────────┘
//! ```
//!
//! A connection reads at most `TURN` before the requests among it are known, so that each body knows where it began.
//!
//! When all connections together take too much, each that takes more than its share is told to leave when it reads
//! again: it answers what it has begun, and its client connects anew. Above a second limit it is ended.

use super::Contact;
use super::frames::{self, Frames};
use super::request::length;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// How many bytes a connection reads before its requests are looked at.
const TURN: u64 = 64 << 10;
/// What the fields of a connection may keep: 4096 bytes of its table are at most 95 entries of a request's `:path` and the
/// like, each in a buffer of 8 KiB; and a head that is not complete.
const FIELDS: u64 = (95 * 8 + 128) << 10;
/// What a small part of a body may keep: the buffer in which a whole frame fits.
const PART: u64 = 16 << 10;
/// What a connection may take in any case: its window, a turn, and the heads of its requests.
const SHARE: usize = 256 << 10;
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
    frames: Frames,
    /// The connection until now.
    now: Place,
    /// The same at the beginning of the current turn.
    turn: Place,
    /// For each body, up to where it was read.
    bodies: Vec<(u64, Place)>,
    next_id: u64,
    /// What is counted of this connection among all.
    counted: usize,
}

/// A place in what a connection reads.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    bytes: u64,
    /// Small parts of bodies.
    parts: u64,
}

impl Contact {
    fn progress(&self) -> MutexGuard<'_, State> {
        self.progress.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is polled, and may read again.
    pub fn begin_turn(&self) {
        let mut state = self.progress();
        state.turn = state.now;
    }

    /// Whether the connection has read enough for this turn.
    pub(super) fn has_had_its_turn(&self) -> bool {
        let state = self.progress();
        state.now.bytes.saturating_sub(state.turn.bytes) >= TURN
    }

    /// The connection has read these bytes more.
    pub(super) fn has_read(&self, bytes: &[u8]) -> Verdict {
        let mut state = self.progress();
        state.now.parts += state.frames.pass(bytes);
        state.now.bytes += bytes.len() as u64;
        self.count(&mut state);
        match self.load.unread.get() {
            all if state.counted <= SHARE || all <= LEAVE => Verdict::Stay,
            all if all <= END => Verdict::Leave,
            _ => Verdict::End,
        }
    }

    fn count(&self, state: &mut State) {
        let unread = |of: fn(&Place) -> u64| {
            let oldest = state.bodies.iter().map(|(_, from)| of(from)).min();
            oldest.map_or(0, |oldest| of(&state.now).saturating_sub(oldest))
        };
        let parts = unread(|place| place.parts).saturating_mul(PART);
        let bodies = unread(|place| place.bytes).min(parts);
        let fields = if state.frames.are_there() { state.now.bytes.min(FIELDS) } else { 0 };
        let bytes = usize::try_from(bodies + fields).unwrap_or(usize::MAX);
        self.load.unread.replace(state.counted, bytes);
        state.counted = bytes;
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

/// A body among those that may have unread bytes.
struct Open {
    contact: Arc<Contact>,
    id: u64,
}

impl Open {
    fn new(contact: &Arc<Contact>) -> Self {
        let mut state = contact.progress();
        let (id, from) = (state.next_id, state.turn);
        state.next_id += 1;
        state.bodies.push((id, from));
        contact.count(&mut state);
        drop(state);
        Self { contact: Arc::clone(contact), id }
    }

    /// The guest has read a part of this length, or all that there are.
    fn goes_on(&self, part: Option<usize>) {
        let mut state = self.contact.progress();
        let turn = state.turn;
        if let Some((_, from)) = state.bodies.iter_mut().find(|(id, _)| *id == self.id) {
            match part {
                None => *from = turn,
                Some(length) => {
                    from.bytes += length as u64;
                    from.parts += u64::from(frames::is_small(length));
                }
            }
        }
        self.contact.count(&mut state);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.contact.progress();
        state.bodies.retain(|(id, _)| *id != self.id);
        self.contact.count(&mut state);
    }
}

/// The body of a request, which counts among those of its connection until it is read or dropped.
pub struct Arriving {
    body: Incoming,
    open: Option<Open>,
}

impl Arriving {
    /// The `body` of a request on this connection. Over HTTP/1 a body is read only as the guest reads it.
    pub fn new(body: Incoming, over_http_2: Option<&Arc<Contact>>) -> Self {
        let open = over_http_2.filter(|_| !body.is_end_stream()).map(Open::new);
        Self { body, open }
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
        if let Some(open) = &self.open {
            match &frame {
                Poll::Pending => open.goes_on(None),
                Poll::Ready(Some(Ok(frame))) if !self.body.is_end_stream() => {
                    open.goes_on(Some(length(frame)));
                }
                Poll::Ready(_) => self.open = None,
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

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// A small part of a body, and a frame of an unknown type: 8 KiB.
    fn small() -> Vec<u8> {
        let (filler, part) = ([0, 31, 237, 0xfa, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 1]);
        [&filler[..], &[0; 8173], &part, &[0]].concat()
    }

    /// A large part of a body: 16 KiB.
    fn large() -> Vec<u8> {
        [&[0, 63, 247, 0, 0, 0, 0, 0, 1][..], &[0; 16_375]].concat()
    }

    /// Reads these frames so many times in turns; returns what the connection has to do then.
    fn reads(contact: &Contact, frames: &[u8], times: usize) -> Verdict {
        let turns = (0..times).map(|_| {
            contact.begin_turn();
            contact.has_read(frames)
        });
        turns.last().unwrap_or(Verdict::Stay)
    }

    fn all(contact: &Contact) -> usize {
        contact.load.unread.get()
    }

    fn connection() -> Arc<Contact> {
        let contact = connections(1).remove(0);
        contact.has_read(PREFACE);
        contact
    }

    #[test]
    fn connections_with_more_than_their_share_leave_and_end_when_all_take_too_much() {
        let connections = connections(40);
        for contact in &connections {
            contact.has_read(PREFACE);
        }
        let bodies: Vec<_> = connections.iter().map(Open::new).collect();
        // 4 MiB of each.
        let verdicts: Vec<_> = connections.iter().map(|contact| reads(contact, &small(), 512)).collect();
        let of = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        assert!(of(Verdict::Stay) >= 12 && of(Verdict::Leave) >= 12 && of(Verdict::End) >= 8, "{verdicts:?}");
        // Who speaks HTTP/1 stays.
        let other = Contact::new(&connections[0].load);
        assert_eq!(reads(&other, b"GET / HTTP/1.1\r\n\r\n", 10_000), Verdict::Stay);
        drop((bodies, connections));
        assert_eq!(all(&other), 0);
    }

    #[test]
    fn one_connection_cannot_take_all() {
        let contact = connection();
        let (_unread, _read) = (Open::new(&contact), Open::new(&contact));
        assert_eq!(reads(&contact, &[small(), large()].concat(), 25_000), Verdict::End);
    }

    #[test]
    fn a_long_upload_beside_a_body_that_nobody_reads_counts_for_little() {
        let contact = connection();
        let _unread = Open::new(&contact);
        reads(&contact, &small(), 1);
        let read = Open::new(&contact);
        for _ in 0..100_000 {
            assert_eq!(reads(&contact, &large(), 1), Verdict::Stay);
            read.goes_on(Some(16_375));
        }
        assert!(all(&contact) as u64 <= FIELDS + PART);
    }

    #[test]
    fn a_body_that_is_read_counts_for_nothing() {
        let contact = connection();
        let body = Open::new(&contact);
        reads(&contact, &small(), 1000);
        assert!(all(&contact) as u64 > FIELDS);
        contact.begin_turn();
        body.goes_on(None);
        assert_eq!(all(&contact) as u64, FIELDS, "all of it is read");
        for _ in 0..1000 {
            reads(&contact, &small(), 1);
            body.goes_on(Some(1));
        }
        reads(&contact, &large(), 1000);
        assert!(all(&contact) as u64 <= FIELDS + PART, "large parts keep what they have");
    }

    #[test]
    fn fields_count_as_long_as_their_connection_is_there() {
        let contact = connection();
        // HEADERS that no request comes of.
        reads(&contact, &[&[0, 3, 247, 1, 0, 0, 0, 0, 1][..], &[0; 1015]].concat(), 2000);
        assert_eq!(all(&contact) as u64, FIELDS);
        let load = Arc::clone(&contact.load);
        drop(contact);
        assert_eq!(load.unread.get(), 0);
    }

    #[test]
    fn a_body_counts_from_where_its_head_may_be() {
        let contact = connection();
        let before = all(&contact);
        contact.begin_turn();
        for _ in 0..8 {
            contact.has_read(&small());
        }
        assert!(contact.has_had_its_turn());
        let _body = Open::new(&contact);
        assert_eq!(all(&contact) - before, 2 * (64 << 10), "as fields and as a body");
    }
}
