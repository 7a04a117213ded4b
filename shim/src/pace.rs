//! Limits for how long clients keep a server waiting: with the body of a request, and with taking the answer.
//!
//! A client has an allowance of time, `--client-timeout`. Only time in which the server waits for the client is taken
//! from it: not the time that the guest needs, however long. What the client sends or takes adds to it, `RATE` bytes a
//! second, up to the whole allowance. So a client that stops is cut off after that time, and one that is slower than
//! that rate some time later; a single byte now and then does not help. While requests wait for a place, time counts
//! `CROWDED` times.
//!
//! ```text
//!  request body ◄── Sent   the guest waits for what the client does not send
//!  connection   ◄── Paced  the kernel has no room for more, as the client does not take it
//!  HTTP/2 answer ◄─ Taken  the client gives this stream no window, while others may go on
//! ```

use crate::process;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::{Error, WasiBody};

/// How many bytes add a second to the allowance of a client.
const RATE: u32 = 500;
/// How many times as fast the allowance is used up while requests wait for a place.
const CROWDED: u32 = 5;
/// How many times during an allowance it is looked at.
const LOOKS: u32 = 40;
/// Of an answer over HTTP/2 at most so many bytes are handed on at once, so that it is seen how fast they are taken.
const PIECE: usize = 16 << 10;

/// How busy a server is, and how patient therefore.
pub struct Load {
    /// The whole allowance; without one, clients may take as long as they like.
    timeout: Option<Duration>,
    places: usize,
    active: AtomicUsize,
}

impl Load {
    /// Of a server that works on `places` requests at the same time.
    pub fn new(timeout: Option<Duration>, places: usize) -> Self {
        Self { timeout, places, active: AtomicUsize::new(0) }
    }

    /// A request has come.
    pub fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has been answered, or its client is gone.
    pub fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many requests there are, those that wait for a place among them.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn speed(&self) -> u32 {
        if self.active() > self.places { CROWDED } else { 1 }
    }
}

/// The time that a client has left.
struct Allowance {
    full: Duration,
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Allowance {
    /// The allowance of a client, if there is a limit.
    fn of(load: &Load) -> Option<Self> {
        load.timeout.map(|full| Self { full, left: full, waiting_since: None })
    }

    fn look(&self) -> Duration {
        self.full / LOOKS
    }

    /// The server waits for the client, or still does.
    fn waits(&mut self, now: Instant, speed: u32) {
        if let Some(since) = self.waiting_since {
            // Whoever waits looks often. Longer gaps are the guest's.
            let waited = (now - since).min(self.look() * 2);
            self.left = self.left.saturating_sub(waited.saturating_mul(speed));
        }
        self.waiting_since = Some(now);
    }

    /// The server waits no longer, as the client has moved so many bytes, or it is somebody else's turn.
    fn goes_on(&mut self, now: Instant, speed: u32, bytes: usize) {
        if self.waiting_since.is_some() {
            self.waits(now, speed);
            self.waiting_since = None;
        }
        // What comes too late does not help any more.
        if self.is_used_up() {
            return;
        }
        let earned = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / RATE;
        self.left = self.left.saturating_add(earned).min(self.full);
    }

    fn is_used_up(&self) -> bool {
        self.left.is_zero()
    }
}

/// An allowance for who is polled.
struct Clock {
    allowance: Allowance,
    load: Arc<Load>,
    next_look: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    fn new(load: &Arc<Load>) -> Option<Self> {
        let allowance = Allowance::of(load)?;
        Some(Self { allowance, load: Arc::clone(load), next_look: None })
    }

    fn goes_on(&mut self, bytes: usize) {
        self.allowance.goes_on(Instant::now(), self.load.speed(), bytes);
    }

    /// Waits for the client until its allowance is used up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            self.allowance.waits(now, self.load.speed());
            if self.allowance.is_used_up() {
                return Poll::Ready(());
            }
            let look = self.allowance.look().min(self.allowance.left);
            let next = self.next_look.get_or_insert_with(|| Box::pin(sleep(look)));
            if next.is_elapsed() || next.deadline() > now + look {
                next.as_mut().reset(now + look);
            }
            if next.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// Tells whether the client of a request was too slow to send its body. It is ready at most once.
pub struct TooSlow(Option<oneshot::Receiver<()>>);

impl TooSlow {
    /// Ready once the client was too slow.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(told) = &mut self.0 else { return Poll::Pending };
        match Pin::new(told).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(told) => {
                self.0 = None;
                if told.is_ok() { Poll::Ready(()) } else { Poll::Pending }
            }
        }
    }
}

/// The body of a request.
struct Sent {
    body: Incoming,
    clock: Clock,
    tell: Option<oneshot::Sender<()>>,
}

/// The body of a request as the guest gets it: an error follows when its client is too slow, and is told as well.
pub fn sent(body: Incoming, load: &Arc<Load>) -> (WasiBody, TooSlow) {
    match Clock::new(load).filter(|_| !body.is_end_stream()) {
        None => (body.map_err(Into::into).boxed_unsync(), TooSlow(None)),
        Some(clock) => {
            let (tell, told) = oneshot::channel();
            (Sent { body, clock, tell: Some(tell) }.boxed_unsync(), TooSlow(Some(told)))
        }
    }
}

fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()).map_or(0, length);
            self.clock.goes_on(bytes);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        self.clock.poll(cx).map(|()| {
            if let Some(tell) = self.tell.take() {
                // Who has answered already does not listen.
                let _ = tell.send(());
            }
            Some(Err(Error::ConnectionReadTimeout))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What is known about a client's connection beside what goes over it.
#[derive(Default)]
pub struct Contact {
    /// The client has not taken all that was written so far.
    is_behind: AtomicBool,
    /// One of its answers is not taken, which ends the connection.
    stalled: Notify,
}

impl Contact {
    /// Does the client still have to take something?
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Waits until one of its answers over HTTP/2 is not taken in time.
    pub async fn stalled(&self) {
        self.stalled.notified().await;
    }
}

/// A connection that fails when its client does not take what is written.
pub struct Paced<S> {
    stream: S,
    clock: Option<Clock>,
    contact: Arc<Contact>,
    /// What the client had not taken when it was last looked at.
    untaken: usize,
}

impl<S: AsRawFd> Paced<S> {
    /// Waits as long as `load` says.
    pub fn new(stream: S, load: &Arc<Load>, contact: &Arc<Contact>) -> Self {
        Self { stream, clock: Clock::new(load), contact: Arc::clone(contact), untaken: 0 }
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
        // The kernel takes more only when much was taken, and a slow client may need long for that.
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
        Pin::new(&mut self.stream).poll_read(cx, buffer)
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

/// The body of an answer, with what lasts until its end.
struct Taken<T> {
    body: WasiBody,
    /// Of the frame that is handed on, what is still to be.
    rest: Bytes,
    too_slow: TooSlow,
    /// The turn of the client, if it is one of several on its connection.
    turn: Option<Arc<Mutex<Allowance>>>,
    last: usize,
    load: Arc<Load>,
    _lasts: T,
}

/// The body of an answer, as the connection gets it: `lasts` goes with it. It fails when the client of the request is
/// `too_slow`. Over HTTP/2 it ends the connection if the client does not take it.
pub fn taken<T>(
    body: WasiBody,
    too_slow: TooSlow,
    load: &Arc<Load>,
    over_http_2: Option<&Arc<Contact>>,
    lasts: T,
) -> WasiBody
where
    T: Send + Unpin + 'static,
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
    Taken { body, rest: Bytes::new(), too_slow, turn, last: 0, load, _lasts: lasts }.boxed_unsync()
}

/// Ends the connection when a client does not take an answer. Who does not take it does not poll it either.
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

impl<T: Unpin> Taken<T> {
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

impl<T: Unpin> Body for Taken<T> {
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
            // Who asks for more has taken what was before.
            allowance.goes_on(Instant::now(), this.load.speed(), std::mem::take(&mut this.last));
            if let Poll::Ready(Some(Ok(frame))) = &frame {
                this.last = length(frame);
                allowance.waits(Instant::now(), 1);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Duration = Duration::from_secs(30);

    fn client(places: usize) -> (Allowance, Load) {
        let load = Load::new(Some(FULL), places);
        (Allowance::of(&load).unwrap(), load)
    }

    /// After how many seconds a client is cut off that moves `bytes` every `pause` seconds, if before an hour.
    fn cut_off(bytes: usize, pause: u64, speed: u32) -> Option<u64> {
        let (mut client, _) = client(1);
        let begun = Instant::now();
        for tenth in 0..36_000 {
            let now = begun + Duration::from_millis(100 * tenth);
            client.waits(now, speed);
            if tenth > 0 && tenth % (10 * pause) == 0 {
                client.goes_on(now, speed, bytes);
                client.waits(now, speed);
            }
            if client.is_used_up() {
                return Some(tenth / 10);
            }
        }
        None
    }

    #[test]
    fn who_stops_is_cut_off_after_the_whole_time_and_who_trickles_soon_after() {
        assert_eq!(cut_off(0, 1, 1), Some(30));
        assert_eq!(cut_off(1, 29, 1), Some(30), "a byte now and then");
        assert_eq!(cut_off(250, 1, 1), Some(59), "half of the rate");
        assert_eq!(cut_off(500, 1, 1), None, "the rate");
        assert_eq!(cut_off(10_000, 20, 1), None, "the rate, in parts");
        assert_eq!(cut_off(usize::MAX, 31, 1), Some(30), "much, but too late");
    }

    #[test]
    fn time_counts_more_when_requests_wait_for_a_place() {
        let (_, load) = client(1);
        load.begin();
        assert_eq!(load.speed(), 1);
        load.begin();
        assert_eq!(load.speed(), CROWDED);
        load.end();
        assert_eq!(load.speed(), 1);
        assert_eq!(cut_off(0, 1, CROWDED), Some(6));
        assert_eq!(cut_off(2500, 1, CROWDED), None);
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let (mut client, _) = client(1);
        let mut now = Instant::now();
        for _ in 0..100 {
            client.waits(now, 1);
            client.goes_on(now, 1, 0);
            now += FULL * 2;
        }
        assert!(!client.is_used_up());
        // Whoever polled once and was busy then did not wait either, but for a moment.
        client.waits(now, CROWDED);
        client.waits(now + FULL * 2, CROWDED);
        assert!(client.left > FULL / 2);
    }

    #[test]
    fn without_a_limit_nobody_is_cut_off() {
        assert!(Allowance::of(&Load::new(None, 1)).is_none());
    }
}
