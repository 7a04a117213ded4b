//! The state of the units that are being followed.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::name::UnitName;
use super::state::UnitState;

/// A unit that is being followed. Dropping it ends the following, not the unit.
#[derive(Debug)]
pub struct Unit {
    name: UnitName,
    state: watch::Receiver<UnitState>,
    units: Weak<Units>,
}

impl Unit {
    /// The unit's name.
    pub fn name(&self) -> &UnitName {
        &self.name
    }

    /// The last known state of the unit.
    pub fn state(&self) -> UnitState {
        self.state.borrow().clone()
    }

    /// Waits until the unit's state meets the condition.
    pub(super) async fn wait_for(&self, condition: impl FnMut(&UnitState) -> bool) {
        let _ = self.state.clone().wait_for(condition).await;
    }

    /// Waits until the main process has ended, or the unit was removed from outside. Other processes of the unit may be
    /// left, and systemd may still be waiting for them.
    pub async fn main_ended(&self) -> UnitState {
        let over = |state: &UnitState| state.main_has_ended() || state.removed;
        let _ = self.state.clone().wait_for(over).await;
        self.state()
    }

    /// Waits until the service reports another status (`STATUS=`, sd_notify(3)) than `text`.
    pub async fn status_other_than(&self, text: &str) -> String {
        let mut state = self.state.clone();
        let status =
            state.wait_for(|state| state.status_text != text).await.map(|state| state.status_text.clone());
        match status {
            Ok(status) => status,
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until the unit is no longer in systemd's memory.
    pub async fn gone(&mut self) {
        let _ = self.state.wait_for(|state| state.removed).await;
    }

    /// Waits until the main process has ended and the unit is at rest, or the unit was removed from outside.
    pub async fn ended(&mut self) -> UnitState {
        let over = |state: &UnitState| state.exit().is_some() || state.removed;
        // The sender lives as long as the unit is followed, so the channel ends only with the unit.
        let _ = self.state.wait_for(over).await;
        self.state()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Some(units) = self.units.upgrade() {
            units.forget_if_alone(&self.name.object_path());
        }
    }
}

/// The followed units, by object path.
#[derive(Debug, Default)]
pub(super) struct Units(Mutex<HashMap<String, Followed>>);

/// The state of a followed unit.
#[derive(Debug)]
struct Followed {
    state: watch::Sender<UnitState>,
    /// How often the state has changed: an answer that was on its way meanwhile may be older than the change.
    changes: u64,
}

impl Units {
    /// Registers interest in a unit before anything is requested about it, so that no signal is missed.
    pub(super) fn follow(self: &Arc<Self>, name: &UnitName) -> Unit {
        let state = self.subscribe(&name.object_path());
        Unit { name: name.clone(), state, units: Arc::downgrade(self) }
    }

    fn subscribe(&self, path: &str) -> watch::Receiver<UnitState> {
        let mut units = self.0.lock();
        let new = || Followed { state: watch::Sender::new(UnitState::default()), changes: 0 };
        units.entry(path.to_owned()).or_insert_with(new).state.subscribe()
    }

    /// Called by a follower that is being dropped: it still counts as one receiver.
    fn forget_if_alone(&self, path: &str) {
        let mut units = self.0.lock();
        if units.get(path).is_some_and(|unit| unit.state.receiver_count() <= 1) {
            units.remove(path);
        }
    }

    pub(super) fn update(&self, path: &str, change: impl FnOnce(&mut UnitState)) {
        if let Some(unit) = self.0.lock().get_mut(path) {
            unit.update(change);
        }
    }

    /// How often the state of the unit has changed so far.
    pub(super) fn changes(&self, path: &str) -> u64 {
        self.0.lock().get(path).map_or(0, |unit| unit.changes)
    }

    /// Applies an answer, unless the unit has changed since the request; then returns false.
    pub(super) fn update_unless_changed(
        &self,
        path: &str,
        changes: u64,
        change: impl FnOnce(&mut UnitState),
    ) -> bool {
        match self.0.lock().get_mut(path) {
            Some(unit) if unit.changes != changes => false,
            Some(unit) => {
                unit.update(change);
                true
            }
            None => true,
        }
    }

    pub(super) fn follows(&self, path: &str) -> bool {
        self.0.lock().contains_key(path)
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}

impl Followed {
    fn update(&mut self, change: impl FnOnce(&mut UnitState)) {
        self.changes += 1;
        self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            *state != before
        });
    }
}
