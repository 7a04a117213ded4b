//! What systemd has told of the units that somebody follows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::name::UnitName;
use super::state::UnitState;

/// A unit that we follow. Dropping it ends the following, not the unit.
#[derive(Debug)]
pub struct Unit {
    name: UnitName,
    state: watch::Receiver<UnitState>,
    units: Weak<Units>,
}

impl Unit {
    /// Its name.
    pub fn name(&self) -> &UnitName {
        &self.name
    }

    /// What we know of it now.
    pub fn state(&self) -> UnitState {
        self.state.borrow().clone()
    }

    /// Waits until its state is one of these.
    pub(super) async fn wait_for(&self, of_these: impl FnMut(&UnitState) -> bool) {
        let _ = self.state.clone().wait_for(of_these).await;
    }

    /// Waits until its main process has ended, or the unit was removed from outside. Others of its processes may be left,
    /// and systemd may still be waiting for them.
    pub async fn main_ended(&self) -> UnitState {
        let over = |state: &UnitState| state.main_has_ended() || state.removed;
        let _ = self.state.clone().wait_for(over).await;
        self.state()
    }

    /// Waits until its service says something else of itself (`STATUS=`, sd_notify(3)) than this.
    pub async fn says_other_than(&self, text: &str) -> String {
        let mut state = self.state.clone();
        let said =
            state.wait_for(|state| state.status_text != text).await.map(|state| state.status_text.clone());
        match said {
            Ok(said) => said,
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until it is no longer in systemd's memory.
    pub async fn gone(&mut self) {
        let _ = self.state.wait_for(|state| state.removed).await;
    }

    /// Waits until its main process has ended and the unit is at rest, or the unit was removed from outside.
    pub async fn ended(&mut self) -> UnitState {
        let over = |state: &UnitState| state.exit().is_some() || state.removed;
        // The sender lives as long as the unit is followed, so there is no other end than the unit's.
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

/// The units somebody watches, by object path.
#[derive(Debug, Default)]
pub(super) struct Units(Mutex<HashMap<String, Followed>>);

/// What is known of a unit that somebody watches.
#[derive(Debug)]
struct Followed {
    state: watch::Sender<UnitState>,
    /// How often it has changed: an answer that was on its way meanwhile may be older than what changed.
    changes: u64,
}

impl Units {
    /// Registers interest in a unit before anything is asked about it, so that no signal falls between.
    pub(super) fn follow(self: &Arc<Self>, name: &UnitName) -> Unit {
        let state = self.subscribe(&name.object_path());
        Unit { name: name.clone(), state, units: Arc::downgrade(self) }
    }

    fn subscribe(&self, path: &str) -> watch::Receiver<UnitState> {
        let mut units = self.0.lock();
        let new = || Followed { state: watch::Sender::new(UnitState::default()), changes: 0 };
        units.entry(path.to_owned()).or_insert_with(new).state.subscribe()
    }

    /// Called by a follower that is about to go: it still counts as one receiver.
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

    /// How often the unit has changed so far.
    pub(super) fn changes(&self, path: &str) -> u64 {
        self.0.lock().get(path).map_or(0, |unit| unit.changes)
    }

    /// Takes in an answer, unless the unit has changed since it was asked for; false then.
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
