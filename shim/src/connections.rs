//! The connections of a server. The number of places is limited. When all are taken, the connection that has been idle
//! for the longest time is closed for the next one, so that clients that hold connections do not shut others out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wasmtime::Result;

use crate::pace::{Contact, Load};

/// All connections of a server.
pub struct Connections {
    places: Arc<Semaphore>,
    load: Arc<Load>,
    open: Mutex<Vec<Arc<Connection>>>,
    /// A connection has become idle.
    idle: Arc<Notify>,
}

impl Connections {
    /// No connections yet, and at most `places`, of the server with this `load`.
    pub fn new(places: usize, load: &Arc<Load>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            load: Arc::clone(load),
            open: Mutex::default(),
            idle: Arc::default(),
        }
    }

    /// Gets a place for a new connection. Waits while all places are taken and all connections are busy.
    pub async fn admit(self: &Arc<Self>) -> Result<Admitted> {
        let place = loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                break place;
            }
            let free = Arc::clone(&self.places).acquire_owned();
            if self.close_longest_idle() {
                break free.await?;
            }
            tokio::select! {
                place = free => break place?,
                () = self.idle.notified() => {}
            }
        };
        let connection = Arc::new(Connection {
            contact: Arc::new(Contact::new(&self.load)),
            state: Mutex::new(State { unanswered: 0, idle_since: Instant::now() }),
            is_closing: AtomicBool::new(false),
            close: Notify::new(),
            became_idle: Arc::clone(&self.idle),
        });
        self.open().push(Arc::clone(&connection));
        Ok(Admitted { connection, all: Arc::clone(self), _place: place })
    }

    /// Returns whether there was an idle connection.
    fn close_longest_idle(&self) -> bool {
        let open = self.open();
        let idle = open.iter().filter_map(|connection| Some((connection.idle_since()?, connection)));
        let Some((_, connection)) = idle.min_by_key(|(since, _)| *since) else { return false };
        connection.is_closing.store(true, Ordering::Relaxed);
        connection.close.notify_one();
        true
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that holds a place, until this value is dropped.
pub struct Admitted {
    /// The state of the connection.
    pub connection: Arc<Connection>,
    all: Arc<Connections>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.all.open().retain(|other| !Arc::ptr_eq(other, &self.connection));
    }
}

/// One connection.
pub struct Connection {
    /// How far the client reads what is written.
    pub contact: Arc<Contact>,
    state: Mutex<State>,
    /// The connection was asked to close.
    is_closing: AtomicBool,
    close: Notify,
    became_idle: Arc<Notify>,
}

struct State {
    unanswered: usize,
    /// Valid while no request is unanswered.
    idle_since: Instant,
}

impl Connection {
    /// Since when the client has had no unanswered request, and has read all answers.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = state.unanswered == 0 && !self.contact.is_behind();
        (is_idle && !self.is_closing.load(Ordering::Relaxed)).then_some(state.idle_since)
    }

    /// Waits until the connection has to close for another one.
    pub async fn close_requested(&self) {
        self.close.notified().await;
    }

    /// Counts a new request, which is unanswered until the returned value is dropped.
    pub fn request(self: &Arc<Self>) -> Unanswered {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).unanswered += 1;
        Unanswered(Arc::clone(self))
    }
}

/// An unanswered request of a connection.
pub struct Unanswered(Arc<Connection>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unanswered -= 1;
        state.idle_since = Instant::now();
        drop(state);
        self.0.became_idle.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn connections(places: usize) -> Connections {
        Connections::new(places, &Arc::new(Load::new(None, 1)))
    }

    fn admitted(all: &Arc<Connections>) -> Admitted {
        poll(pin!(all.admit())).unwrap().unwrap()
    }

    fn is_told_to_close(admitted: &Admitted) -> bool {
        poll(pin!(admitted.connection.close_requested())).is_some()
    }

    #[test]
    fn the_connection_that_was_idle_for_the_longest_makes_room() {
        let all = Arc::new(connections(2));
        let (first, second) = (admitted(&all), admitted(&all));
        // A connection that has just answered is not the longest idle one.
        drop(first.connection.request());
        let mut third = pin!(all.admit());
        assert!(poll(third.as_mut()).is_none());
        assert!(!is_told_to_close(&first) && is_told_to_close(&second));
        drop(second);
        assert!(poll(third).is_some());
    }

    #[test]
    fn a_connection_at_work_is_not_closed_before_it_has_its_answer() {
        let all = Arc::new(connections(1));
        let first = admitted(&all);
        let request = first.connection.request();
        let mut second = pin!(all.admit());
        assert!(poll(second.as_mut()).is_none());
        assert!(!is_told_to_close(&first));
        drop(request);
        assert!(poll(second.as_mut()).is_none());
        assert!(is_told_to_close(&first));
        drop(first);
        assert!(poll(second).is_some());
    }
}
