//! Limits for the time that clients keep a server waiting: with the body of a request, and with reading the answer.
//!
//! A client has an allowance of time, `--client-timeout`. Only the time in which the server waits for the client is
//! deducted from it, not the time that the guest needs. The bytes that the client sends or reads add to it, `RATE`
//! bytes a second, up to the whole allowance. So a client that stops is cut off after that time, and a client that is
//! slower than that rate some time later. Sending a single byte now and then does not help. While requests wait for a
//! place, time counts `CROWDED` times.
//!
//! ```text
//!  request body ◄── Sent   the guest waits for what the client does not send
//!  connection   ◄── Paced  the kernel has no room for more, as the client does not take it
//!  HTTP/2 answer ◄─ Taken  the client gives this stream no window, while others may go on
//! ```

mod answer;
mod connection;
mod frames;
mod request;
mod unread;

pub use self::answer::{AtEnd, taken};
pub use self::connection::{Contact, Paced};
pub use self::request::{TooSlow, sent};
pub use self::unread::Arriving;
use self::unread::Sum;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// How many bytes add a second to the allowance of a client.
const RATE: u32 = 500;
/// How many times as fast the allowance is used up while requests wait for a place.
const CROWDED: u32 = 5;
/// How often the allowance is checked during its length.
const LOOKS: u32 = 40;

/// The load of a server, and the timeout that results from it.
pub struct Load {
    /// The whole allowance; without one, clients may take as long as they like.
    timeout: Option<Duration>,
    places: usize,
    active: AtomicUsize,
    /// What connections take for bodies that the guest has not read, in bytes.
    unread: Sum,
}

impl Load {
    /// The load of a server that handles `places` requests concurrently.
    pub fn new(timeout: Option<Duration>, places: usize) -> Self {
        Self { timeout, places, active: AtomicUsize::new(0), unread: Sum::default() }
    }

    /// Counts a new request.
    pub fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was answered, or whose client has disconnected.
    pub fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of requests, including those that wait for a place.
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

    /// The server starts to wait for the client, or is still waiting.
    fn waits(&mut self, now: Instant, speed: u32) {
        if let Some(since) = self.waiting_since {
            // A waiting server checks often. Longer gaps are the guest's time.
            let waited = (now - since).min(self.look() * 2);
            self.left = self.left.saturating_sub(waited.saturating_mul(speed));
        }
        self.waiting_since = Some(now);
    }

    /// The server stops waiting: the client has moved this number of bytes, or the guest or another client is next.
    fn goes_on(&mut self, now: Instant, speed: u32, bytes: usize) {
        if self.waiting_since.is_some() {
            self.waits(now, speed);
            self.waiting_since = None;
        }
        // Bytes that arrive too late do not help any more.
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

/// An allowance for a future that is polled.
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

    /// Waits for the client until the allowance is used up.
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

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Duration = Duration::from_secs(30);

    fn client(places: usize) -> (Allowance, Load) {
        let load = Load::new(Some(FULL), places);
        (Allowance::of(&load).unwrap(), load)
    }

    /// The number of seconds after which a client is cut off that moves `bytes` every `pause` seconds, if less than an
    /// hour.
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
        // A server that polled once and was busy afterwards did not wait either, except for a moment.
        client.waits(now, CROWDED);
        client.waits(now + FULL * 2, CROWDED);
        assert!(client.left > FULL / 2);
    }

    #[test]
    fn without_a_limit_nobody_is_cut_off() {
        assert!(Allowance::of(&Load::new(None, 1)).is_none());
    }
}
