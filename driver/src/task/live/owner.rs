//! The owner of a running task: the one future that follows its unit, and the only one that changes its phase.
//!
//! ```text
//!              main process ends               unit at rest
//!  Running ─────────────────────► Ending ─────────────────────► Exited ──► (the rest of its processes is ended)
//!     │                             │ processes that hold up the end are ended
//!     │                             │ unit removed from outside: Exited, its exit status unknown
//!     │ nobody looks on any more: the task was destroyed, or never handed out
//!     └──► Abandoned: nothing is told
//! ```
//!
//! systemd alone says when the arrows are taken: a stop asks systemd to end the processes, and waits like everybody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shim_interface::Served;
use tokio::sync::watch;

use super::events::Events;
use super::exit::{Exit, Phase, Word, out_of_memory, word_of_the_end, word_of_trouble};
use super::init_watch::InitWatch;
use super::saved::Traits;
use super::signal::Signal;
use crate::systemd::{Systemd, Unit, UnitState, Whom};
use crate::task::config::TaskIdentity;
use crate::task::wasm::outcome::{self, Trouble};

/// What the owner needs, and whom it tells.
pub(super) struct Owner {
    pub(super) identity: TaskIdentity,
    pub(super) unit: Unit,
    pub(super) traits: Traits,
    pub(super) systemd: Systemd,
    pub(super) events: Events,
    /// Somebody has asked the task to end.
    pub(super) is_asked: Arc<AtomicBool>,
    pub(super) phase: watch::Sender<Phase>,
    /// What a guest that serves has said of its requests.
    pub(super) served: watch::Sender<Option<Served>>,
}

/// How the time in which the main process runs is over.
enum Followed {
    /// It has ended, in this state of the unit.
    Ending(UnitState),
    /// Nobody looks on any more.
    Abandoned,
}

/// What the main process has left behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Processes hold up the end that systemd tells, as they do when the program failed.
    HoldsUpTheEnd,
    /// Whatever there is runs on, under `RemainAfterExit=`.
    RunsOn,
    /// The unit was removed, with everything in it.
    Gone,
}

impl Rest {
    fn of(state: &UnitState) -> Self {
        match () {
            () if state.removed => Self::Gone,
            () if state.exit().is_none() => Self::HoldsUpTheEnd,
            () => Self::RunsOn,
        }
    }
}

impl Owner {
    /// Follows the task to its end. `init` reaps what the program leaves.
    pub(super) async fn follow(mut self, init: Option<InitWatch>) {
        let before = *self.served.borrow();
        let mut trouble = Trouble::since(before.unwrap_or_default());
        let state = match self.run(init, &mut trouble).await {
            Followed::Ending(state) => state,
            Followed::Abandoned => return,
        };
        // Its last words may have come with its end.
        if let Some(served) = outcome::served(&state.status_text).filter(|_| self.traits.serves) {
            self.take_note(served, &mut trouble);
            if let Some(word) = trouble.tell() {
                self.tell(word_of_trouble(&word, &state.status_text));
            }
        }
        let rest = Rest::of(&state);
        if rest == Rest::HoldsUpTheEnd {
            self.end_the_rest().await;
        }
        let state = self.unit.ended().await;
        self.tell_of_the_end(&state).await;
        if rest == Rest::RunsOn && !state.removed {
            self.end_the_rest().await;
        }
        self.close_sockets().await;
    }

    /// Until the main process ends.
    async fn run(&mut self, init: Option<InitWatch>, trouble: &mut Trouble) -> Followed {
        let mut said = self.unit.state().status_text;
        let mut rest = std::pin::pin!(InitWatch::end_what_is_left(init));
        let mut is_ended = false;
        loop {
            tokio::select! {
                () = &mut rest, if !is_ended => is_ended = true,
                state = self.unit.main_ended() => return Followed::Ending(state),
                text = self.unit.says_other_than(&said), if self.traits.serves => {
                    said = text;
                    if let Some(served) = outcome::served(&said) {
                        self.take_note(served, trouble);
                    }
                }
                () = trouble.is_due() => {
                    if let Some(word) = trouble.tell() {
                        self.tell(word_of_trouble(&word, &said));
                    }
                }
                () = self.phase.closed() => return Followed::Abandoned,
            }
        }
    }

    fn take_note(&self, served: Served, trouble: &mut Trouble) {
        trouble.note(served);
        self.served.send_replace(Some(served));
    }

    /// What is told of the end comes before the phase: whoever waits for it may look at the events.
    async fn tell_of_the_end(&self, state: &UnitState) {
        let unit = self.unit.name();
        let exit = Exit::of(state).unwrap_or_else(Exit::removed);
        tracing::info!(%unit, code = exit.code, signal = exit.signal, oom = exit.oom_killed, "task ended");
        if exit.oom_killed {
            // As long as nobody has been told of the end, the unit is there to be asked.
            self.tell(out_of_memory(&self.systemd.service(unit).await.unwrap_or_default()));
        }
        let Traits { guest, speaks, .. } = self.traits;
        let is_asked = self.is_asked.load(Ordering::Relaxed);
        if let Some(word) = word_of_the_end(state, &exit, guest, speaks, is_asked) {
            self.tell(word);
        }
        self.phase.send_replace(Phase::Exited(exit));
    }

    async fn end_the_rest(&self) {
        let unit = self.unit.name();
        if let Err(error) = self.systemd.kill(unit, Whom::All, Signal::KILL.number()).await {
            let error = crate::chain(&error);
            tracing::debug!(%unit, error, "what the task left running was not ended");
        }
    }

    /// Of a unit that failed systemd has closed them.
    async fn close_sockets(&self) {
        let unit = self.unit.name();
        if self.traits.listens
            && let Err(error) = self.systemd.close_sockets(unit).await
        {
            tracing::debug!(%unit, error = crate::chain(&error), "the sockets of a task were not closed");
        }
    }

    fn tell(&self, (message, details): Word) {
        self.events.tell(&self.identity, message, &details);
    }
}
