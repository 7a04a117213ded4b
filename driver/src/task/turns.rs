//! Turns at an operation that only one caller per key may do at the same time: the others wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Holders of turns, and those that wait for them, by key, such as a Nomad namespace.
#[derive(Debug)]
pub(crate) struct TurnsOf<K>(Mutex<HashMap<K, Arc<AsyncMutex<()>>>>);

/// A turn, until it is dropped.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl<K> Default for TurnsOf<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> TurnsOf<K> {
    /// Waits for a turn.
    pub(crate) async fn take(&self, of: &K) -> Turn {
        let turn = {
            let mut turns = self.0.lock();
            // Turns that nobody holds any more.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(of.clone()).or_default())
        };
        turn.lock_owned().await
    }
}
