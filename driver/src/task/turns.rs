//! Turns at something that only one may do at the same time, of each kind: the others wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Who has a turn, and who waits for one, by what they are turns of, such as a namespace of Nomad's.
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
            // Those that nobody holds any more.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(of.clone()).or_default())
        };
        turn.lock_owned().await
    }
}
