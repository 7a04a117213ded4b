//! The owner of a running task: the future that follows its unit. Only the owner changes the task's phase.
//!
//! ```text
//!              main process ends               unit at rest
//!  Running ─────────────────────► Ending ─────────────────────► Exited ──► (the rest of its processes is killed)
//!     │                             │ processes that delay the end are killed
//!     │                             │ unit removed from outside: Exited, its exit status unknown
//!     │ nobody uses the handle any more: the task was destroyed, or never handed out
//!     └──► Abandoned: nothing is reported
//! ```
//!
//! systemd alone decides when the arrows are taken: a stop asks systemd to end the processes, and waits like everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use shim_interface::Served;
use tokio::sync::watch;

use super::events::Events;
use super::exit::{Exit, Phase, Word, end_event, failed_requests_event, out_of_memory};
use super::init_watch::InitWatch;
use super::saved::Traits;
use super::signal::Signal;
use crate::systemd::{KillWho, Systemd, Unit, UnitState};
use crate::task::config::TaskIdentity;
use crate::task::wasm::outcome::{self, FailureReporter, Outcome};
use crate::telemetry::{self, Running};

/// What the owner needs, and the receivers of its reports.
pub(super) struct Owner {
    pub(super) identity: Arc<TaskIdentity>,
    pub(super) unit: Unit,
    /// This process has started the task.
    pub(super) is_new: bool,
    pub(super) traits: Traits,
    pub(super) systemd: Systemd,
    pub(super) events: Events,
    /// The driver has asked the task to end.
    pub(super) is_asked: Arc<AtomicBool>,
    pub(super) phase: watch::Sender<Phase>,
    /// What a guest that serves has reported about its requests.
    pub(super) served: Arc<Mutex<Option<Served>>>,
}

/// Why the main process is no longer followed.
enum Followed {
    /// The main process has ended, with this state of the unit.
    Ending(UnitState),
    /// Nobody uses the handle any more.
    Abandoned,
}

/// Processes that the main process has left behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Processes delay the end that systemd reports, as they do when the program failed.
    HoldsUpTheEnd,
    /// The rest keeps running, under `RemainAfterExit=`.
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
    /// Follows the task to its end. `init` reaps the processes that the program leaves.
    pub(super) async fn follow(self: Box<Self>, init: Option<InitWatch>) {
        // What had ended before was counted by the driver that saw it.
        let counts = self.is_new || self.unit.state().exit().is_none();
        let running = counts.then(|| Running::new(self.traits.kind()));
        let before = *self.served.lock();
        let mut trouble = Box::new(FailureReporter::since(before.unwrap_or_default()));
        let state = match self.run(init, &mut trouble).await {
            Followed::Ending(state) => state,
            Followed::Abandoned => return,
        };
        // On the heap only when it comes: a node has thousands of tasks that are followed.
        Box::pin(self.end(state, running, trouble)).await;
    }

    /// The main process has ended, with this state of the unit.
    async fn end(
        mut self: Box<Self>,
        state: UnitState,
        running: Option<Running>,
        mut trouble: Box<FailureReporter>,
    ) {
        // The last status may have come with the end of the task.
        if let Some(served) = outcome::served(&state.status_text).filter(|_| self.traits.serves) {
            self.take_note(served, &mut trouble);
            if let Some(word) = trouble.tell() {
                self.tell(failed_requests_event(&word, &state.status_text));
            }
        }
        let rest = Rest::of(&state);
        if rest == Rest::HoldsUpTheEnd {
            self.end_the_rest().await;
        }
        let state = self.unit.ended().await;
        if let Some(running) = running {
            let exit = Exit::of(&state).unwrap_or_else(Exit::removed);
            let is_asked = self.is_asked.load(Ordering::Relaxed);
            let guest = Outcome::of(&state.status_text).filter(|_| self.traits.guest);
            running.note_end(exit.reason(&state.result, is_asked), guest.map(|outcome| outcome.kind()));
        }
        self.tell_of_the_end(&state).await;
        if rest == Rest::RunsOn && !state.removed {
            self.end_the_rest().await;
        }
        self.close_sockets().await;
    }

    /// Follows the task until its main process ends.
    async fn run(&self, init: Option<InitWatch>, trouble: &mut FailureReporter) -> Followed {
        let mut rest = std::pin::pin!(InitWatch::end_what_is_left(init));
        let mut requests = std::pin::pin!(async {
            if self.traits.serves {
                Box::pin(self.follow_requests(trouble)).await;
            }
        });
        let (mut is_ended, mut serves) = (false, true);
        loop {
            tokio::select! {
                () = &mut rest, if !is_ended => is_ended = true,
                state = self.unit.main_ended() => return Followed::Ending(state),
                () = &mut requests, if serves => serves = false,
                () = self.phase.closed() => return Followed::Abandoned,
            }
        }
    }

    /// Follows what a guest that serves reports about its requests; never ends.
    async fn follow_requests(&self, trouble: &mut FailureReporter) {
        let mut status = self.unit.state().status_text;
        loop {
            tokio::select! {
                text = self.unit.status_other_than(&status) => {
                    status = text;
                    if let Some(served) = outcome::served(&status) {
                        self.take_note(served, trouble);
                    }
                }
                () = trouble.is_due() => {
                    if let Some(word) = trouble.tell() {
                        self.tell(failed_requests_event(&word, &status));
                    }
                }
            }
        }
    }

    fn take_note(&self, served: Served, trouble: &mut FailureReporter) {
        trouble.note(served);
        let before = self.served.lock().replace(served);
        telemetry::note_requests(before.unwrap_or_default(), served);
    }

    /// Events about the end are sent before the phase changes: whoever waits for the phase may look at the events.
    async fn tell_of_the_end(&self, state: &UnitState) {
        let unit = self.unit.name();
        let exit = Exit::of(state).unwrap_or_else(Exit::removed);
        tracing::info!(%unit, code = exit.code, signal = exit.signal, oom = exit.oom_killed, "task ended");
        if exit.oom_killed {
            // Until the end has been reported, the unit exists and can be queried.
            self.tell(out_of_memory(&self.systemd.service(unit).await.unwrap_or_default()));
        }
        let is_asked = self.is_asked.load(Ordering::Relaxed);
        if let Some(word) = end_event(state, &exit, self.traits, is_asked) {
            self.tell(word);
        }
        self.phase.send_replace(Phase::Exited(exit));
    }

    async fn end_the_rest(&self) {
        let unit = self.unit.name();
        if let Err(error) = self.systemd.kill(unit, KillWho::All, Signal::KILL.number()).await {
            let error = crate::chain(&error);
            tracing::debug!(%unit, error, "what the task left running was not ended");
        }
    }

    /// If the unit has failed, systemd has closed them.
    async fn close_sockets(&self) {
        let unit = self.unit.name();
        if self.traits.listens
            && let Err(error) = self.systemd.close_sockets(unit).await
        {
            tracing::debug!(%unit, error = crate::chain(&error), "the sockets of a task were not closed");
        }
    }

    fn tell(&self, (kind, message, details): Word) {
        self.events.tell(&self.identity, kind, message, &details);
    }
}
