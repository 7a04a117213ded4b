//! The body of an answer, which its client must read.

use super::request::length;
use super::{Allowance, Contact, Load, TooSlow};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use wasmtime_wasi_http::{Error, WasiBody};

/// An answer over HTTP/2 is passed on in pieces of at most this size, so that the client's speed is visible.
const PIECE: usize = 16 << 10;

/// The body of an answer, with the values that live until its end.
struct Taken<T, E> {
    body: WasiBody,
    /// The rest of the current frame, which is still to be passed on.
    rest: Bytes,
    too_slow: TooSlow,
    /// The client's allowance for this answer, if it is one of several on its connection.
    turn: Option<Arc<Mutex<Allowance>>>,
    last: usize,
    load: Arc<Load>,
    _lasts: T,
    end: AtEnd<E>,
}

/// What is to be called when the whole body of an answer was passed on.
pub struct AtEnd<E> {
    call: Option<E>,
    /// Bytes until then, if that is known.
    left: Option<u64>,
}

impl<E: FnOnce()> AtEnd<E> {
    /// The body has this `length`, if its head says so.
    pub fn new(length: Option<u64>, call: E) -> Self {
        Self { call: Some(call), left: length }
    }

    /// So many more bytes were passed on; `is_over`: the body says that these were the last ones.
    fn passed(&mut self, bytes: usize, is_over: bool) {
        self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
        if (is_over || self.left == Some(0))
            && let Some(call) = self.call.take()
        {
            call();
        }
    }
}

/// The body of an answer, for the connection. `lasts` is dropped with it; `end` is called before if the whole body was
/// passed on, and dropped otherwise. The body fails when the client of the request
/// is `too_slow`. Over HTTP/2, it ends the connection if the client does not read the answer.
pub fn taken<T, E>(
    body: WasiBody,
    too_slow: TooSlow,
    load: &Arc<Load>,
    over_http_2: Option<&Arc<Contact>>,
    lasts: T,
    end: AtEnd<E>,
) -> WasiBody
where
    T: Send + Unpin + 'static,
    E: FnOnce() + Send + Unpin + 'static,
{
    let turn = over_http_2.filter(|_| !body.is_end_stream()).and_then(|contact| {
        let mut allowance = Allowance::of(load)?;
        let look = allowance.look();
        allowance.waits(Instant::now(), 1);
        let turn = Arc::new(Mutex::new(allowance));
        tokio::spawn(watch(Arc::downgrade(&turn), look, Arc::clone(load), Arc::clone(contact)));
        Some(turn)
    });
    let load = Arc::clone(load);
    let mut taken = Taken { body, rest: Bytes::new(), too_slow, turn, last: 0, load, _lasts: lasts, end };
    // A body that is empty is not polled.
    taken.end.passed(0, taken.body.is_end_stream());
    taken.boxed_unsync()
}

/// Ends the connection when a client does not read an answer. The body of an answer that is not read is not polled
/// either.
async fn watch(turn: Weak<Mutex<Allowance>>, look: Duration, load: Arc<Load>, contact: Arc<Contact>) {
    loop {
        sleep(look).await;
        let Some(turn) = turn.upgrade() else { return };
        let mut allowance = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if allowance.waiting_since.is_some() {
            allowance.waits(Instant::now(), load.speed());
        }
        if allowance.is_used_up() {
            crate::outcome::say(
                "slow: a client took too little of an answer and was cut off (--client-timeout)",
            );
            return contact.stalled.notify_one();
        }
    }
}

impl<T: Unpin, E: FnOnce() + Unpin> Taken<T, E> {
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if self.turn.is_some() => {
                Poll::Ready(Some(Ok(frame.into_data().map_or_else(
                    |trailers| trailers,
                    |data| {
                        self.rest = data;
                        Frame::data(self.piece())
                    },
                ))))
            }
            Poll::Pending => self.too_slow.poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout))),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn piece(&mut self) -> Bytes {
        self.rest.split_to(self.rest.len().min(PIECE))
    }
}

impl<T: Unpin, E: FnOnce() + Unpin> Body for Taken<T, E> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = this.next(cx);
        if let Some(turn) = &this.turn {
            let mut allowance = turn.lock().unwrap_or_else(PoisonError::into_inner);
            // A client that polls for more has read the previous piece.
            allowance.goes_on(Instant::now(), this.load.speed(), std::mem::take(&mut this.last));
            if let Poll::Ready(Some(Ok(frame))) = &frame {
                this.last = length(frame);
                allowance.waits(Instant::now(), 1);
            }
        }
        let bytes = if let Poll::Ready(Some(Ok(frame))) = &frame { length(frame) } else { 0 };
        this.end.passed(bytes, matches!(frame, Poll::Ready(None)) || this.is_end_stream());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (more, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(more));
        }
        hint.set_lower(hint.lower().saturating_add(more));
        hint
    }
}
