//! Requests whose clients wait for the answer, and those whose clients have gone: an instance that works for nobody any
//! more is ended, so that clients that only ask, and do not wait, do not take the places of others.
//!
//! ```text
//!  Client (held with the answer, until its end) ──┐
//!                                                 ├─ one request
//!  Asked  (passed to the instance) ───────────────┘
//!                 └──► Clients of one instance: how many wait, has one gone?
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How long an instance without clients may go on for requests that it has answered before: work after an answer.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// How long an instance that a client has left may compute without a pause, while other clients wait for it. Longer than
/// the requests of others compute, as those would be ended with it.
const COMPUTING: Duration = Duration::from_secs(10);
/// Ticks that are further apart were not of one computation.
const PAUSE: Duration = Duration::from_millis(100);

/// The clients of one instance.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    /// A client has gone before its answer was complete.
    has_gone: bool,
    last_answer: Option<Instant>,
    waker: Option<Waker>,
}

impl Clients {
    /// Ready when nobody waits for this instance any more, and one of its clients has gone. `Err` is the time until which
    /// it has to be asked again.
    pub(super) fn poll_left(&self, cx: &Context<'_>) -> Poll<Result<(), Instant>> {
        let mut state = lock(&self.0);
        if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        if state.waiting > 0 || !state.has_gone {
            return Poll::Pending;
        }
        match state.last_answer.map(|answer| answer + AFTERWARDS).filter(|end| *end > Instant::now()) {
            Some(end) => Poll::Ready(Err(end)),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Nobody waits for this instance any more, and one of its clients has gone.
    pub(super) fn are_gone(&self) -> bool {
        let state = lock(&self.0);
        state.waiting == 0 && state.has_gone
    }

    /// Has one of its clients gone? The instance gets no further requests then, and runs out.
    pub(super) fn has_lost_one(&self) -> bool {
        lock(&self.0).has_gone
    }

    fn begin(&self) {
        lock(&self.0).waiting += 1;
    }

    fn end(&self, is_answered: bool) {
        let mut state = lock(&self.0);
        state.waiting = state.waiting.saturating_sub(1);
        if is_answered {
            state.last_answer = Some(Instant::now());
        } else {
            state.has_gone = true;
        }
        // Otherwise the instance has nothing to look at.
        if state.has_gone
            && state.waiting == 0
            && let Some(waker) = state.waker.take()
        {
            waker.wake();
        }
    }
}

/// A computation of an instance that is interrupted again and again.
#[derive(Debug, Default)]
pub(super) struct Computation {
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Computation {
    /// It was interrupted `now`. Is it to end, because it began long ago and one of the `clients` has gone? Nobody knows
    /// which of them it is for, and it keeps all others waiting.
    pub(super) fn is_over(&mut self, now: Instant, clients: &Clients) -> bool {
        if self.last.is_none_or(|last| now - last > PAUSE) {
            self.since = Some(now);
        }
        self.last = Some(now);
        self.since.is_some_and(|since| now - since > COMPUTING) && clients.has_lost_one()
    }
}

/// What has become of a request.
#[derive(Debug)]
enum Stage {
    /// No instance has it yet.
    Queued,
    /// An instance with these clients works for it.
    Begun(Arc<Clients>),
    /// It is answered, or its client has gone.
    Over,
}

/// A request, for its instance.
#[derive(Debug, Clone)]
pub(super) struct Asked(Arc<Mutex<Stage>>);

/// The client of a request. Dropped before [`Client::answered`] it has gone.
#[derive(Debug)]
pub(super) struct Client(Arc<Mutex<Stage>>);

/// A new request.
pub(super) fn request() -> (Client, Asked) {
    let stage = Arc::new(Mutex::new(Stage::Queued));
    (Client(Arc::clone(&stage)), Asked(stage))
}

impl Asked {
    /// An instance with these `clients` begins to work for the request.
    pub(super) fn begin(&self, clients: &Arc<Clients>) {
        let mut stage = lock(&self.0);
        clients.begin();
        if matches!(*stage, Stage::Over) {
            clients.end(false);
        } else {
            *stage = Stage::Begun(Arc::clone(clients));
        }
    }
}

impl Client {
    /// The answer is complete.
    pub(super) fn answered(&self) {
        self.over(true);
    }

    fn over(&self, is_answered: bool) {
        if let Stage::Begun(clients) = std::mem::replace(&mut *lock(&self.0), Stage::Over) {
            clients.end(is_answered);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.over(false);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(clients: &Clients) -> Poll<Result<(), Instant>> {
        clients.poll_left(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_instance_is_left_when_a_client_has_gone_and_no_other_waits() {
        let clients = Arc::new(Clients::default());
        assert!(left(&clients).is_pending(), "nobody came");
        let ((first, asked), (second, also)) = (request(), request());
        asked.begin(&clients);
        also.begin(&clients);
        drop(first);
        assert!(left(&clients).is_pending(), "one waits");
        drop(second);
        assert_eq!(left(&clients), Poll::Ready(Ok(())));
    }

    #[test]
    fn an_instance_whose_requests_are_answered_may_go_on() {
        let clients = Arc::new(Clients::default());
        let (client, asked) = request();
        asked.begin(&clients);
        client.answered();
        drop(client);
        assert!(left(&clients).is_pending());
        let (client, asked) = request();
        asked.begin(&clients);
        drop(client);
        assert!(matches!(left(&clients), Poll::Ready(Err(_))), "the first one may have work left");
    }

    #[test]
    fn a_computation_ends_when_a_client_has_gone_and_it_makes_no_pause() {
        let (clients, begin) = (Arc::new(Clients::default()), Instant::now());
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut computation = Computation::default();
        let mut until =
            |from: u64, to: u64| (from..to).step_by(10).any(|now| computation.is_over(at(now), &clients));
        assert!(!until(0, 50_000), "everybody waits");
        let (client, asked) = request();
        asked.begin(&clients);
        drop(client);
        assert!(!until(60_000, 69_000) && !until(71_000, 80_000), "a pause between");
        assert!(until(80_000, 90_000));
    }

    #[test]
    fn a_client_that_goes_while_its_request_is_queued_has_gone() {
        let clients = Arc::new(Clients::default());
        let (client, asked) = request();
        drop(client);
        asked.begin(&clients);
        assert_eq!(left(&clients), Poll::Ready(Ok(())));
    }
}
