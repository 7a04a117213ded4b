//! ROOM 3: systemd's side, and the only place that speaks D-Bus.
//!
//! It starts, watches, signals and removes units, and knows nothing of Nomad. One connection to the system bus serves
//! everybody; one future reads it, in order, and is the only writer of what we know of each unit:
//!
//! ```text
//!  StartTransientUnit ──► PID 1 ──► JobRemoved ───────────► whoever waits for the unit's job
//!                               └─► PropertiesChanged ────► UnitState, in a watch channel per unit
//!                               └─► UnitRemoved ──────────► UnitState::removed
//! ```
//!
//! Nothing is polled. When the bus goes away the reader connects again with growing pauses, subscribes again, and asks
//! once for the state of every unit that is still being watched, so a unit that ended in between is not missed.

pub mod assignment;
mod features;
mod journal;
mod unit;
mod unit_file;
mod unit_text;
mod vocabulary;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, watch};
use zbus::message::{Message, Type as MessageType};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Variant, connection, fdo};

pub use assignment::{
    Assignment, Error as AssignmentError, Meaning, Reach, all as properties, bytes, capability_mask,
    capability_names, known as property, quote as quoted, words,
};
pub use features::{Features, Manager};
use unit::FailedStep;
pub use unit::{
    Bind, InvocationId, MainExit, Property, Service, SocketUnit, Stream, TransientUnit, UnitName, UnitState,
};
pub use unit_file::unit_file;
pub use unit_text::{Checked, check_text};
use vocabulary::Vocabulary;

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT_PATHS: &str = "/org/freedesktop/systemd1/unit";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const SLICE: &str = "org.freedesktop.systemd1.Slice";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A `daemon-reload` with a thousand units blocks PID 1 for seconds; a call that takes longer than this is lost.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// How long systemd may take over a job of ours, starting and removing units, before we give up on it.
const JOB_TIMEOUT: Duration = Duration::from_mins(2);
/// How long the way to systemd may take to be set up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the removal of a unit is tried again while systemd cannot be asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a unit's end journald may still be busy with its last lines.
const JOURNAL_LAG: Duration = Duration::from_secs(10);
/// What we say of a job whose end we did not wait for, because the main process has ended.
const ENDED: &str = "ended";
/// Between two attempts at something that the bus did not let us do; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// dbus-daemon allows 128 unanswered calls on one connection (`max_replies_per_connection`).
const CALLS_AT_ONCE: usize = 64;

/// Why systemd did not do what we asked. The message names the act and the unit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bus, or nobody on it who answers as systemd.
    #[error(
        "connect to systemd on the {manager} bus (is this machine booted with systemd, and is dbus running?)"
    )]
    Connect {
        /// Which of them.
        manager: Manager,
        /// What the bus said.
        source: Box<zbus::Error>,
    },
    /// The bus or systemd refused a call.
    #[error("{act} {thing}")]
    Call {
        /// Such as `start unit`.
        act: &'static str,
        /// The unit or property it was about.
        thing: String,
        /// What systemd said.
        source: Box<zbus::Error>,
    },
    /// We are not root, and polkit does not let us.
    #[error(
        "start unit {unit}: polkit does not let this user start it; examples/nomad-driver-systemd.rules is a rule that does, \
         on systemd 257 or newer, which tells polkit which unit is meant"
    )]
    Denied {
        /// Its name.
        unit: UnitName,
    },
    /// The bus refuses to be asked because the name is taken.
    #[error("start unit {unit}: a unit of that name is there already")]
    Exists {
        /// The name that is taken.
        unit: UnitName,
    },
    /// The unit was made, but the program was never run.
    #[error("start unit {unit}: {words} ({status})")]
    Step {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's exit status for the step, 200 to 245 (systemd.exec(5), "Process Exit Codes").
        status: i32,
        /// systemd's own words, such as `Failed at step EXEC spawning /x: No such file or directory`.
        words: String,
    },
    /// The unit was made, and its program did not come to run.
    #[error("start unit {unit}: systemd did not run the program, the start ended as `{result}`")]
    NotStarted {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's word, such as `resources` or `canceled`.
        result: String,
    },
    /// The unit was made and its program ran, but it did not say that it was ready.
    #[error("start unit {unit}: the program was not ready: {how}")]
    NotReady {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// Such as `before it ended with status 1`.
        how: String,
        /// What it said of itself (`STATUS=`, sd_notify(3)).
        said: String,
    },
    /// A socket that the unit was to have could not be opened.
    #[error("open the sockets of unit {unit}: {words}")]
    Sockets {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's own words, such as `Failed to create listening socket (127.0.0.1:80): Address already in use`.
        words: String,
    },
    /// A value that could become more of the unit than what it is.
    #[error("unit {unit}, property `{property}`: {why}")]
    Unfit {
        /// The unit it was for.
        unit: String,
        /// As systemd calls it.
        property: String,
        /// A whole clause.
        why: String,
    },
    /// systemd took longer than we wait.
    #[error("{act} {unit}: systemd did not finish in time")]
    Slow {
        /// Such as `start unit`.
        act: &'static str,
        /// The unit it was about.
        unit: UnitName,
    },
    /// There is no such unit.
    #[error("find unit {unit}: systemd does not know it (it was removed, or the machine has rebooted)")]
    NoSuchUnit {
        /// The name that is not there.
        unit: UnitName,
    },
}

impl Error {
    /// May the same succeed a little later? Not when systemd has understood what we want, and refuses.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Slow { .. }
            | Self::NotStarted { .. }
            | Self::NotReady { .. }
            | Self::Sockets { .. } => true,
            Self::Call { source, .. } => {
                !["InvalidArgs", "PropertyReadOnly", "ENXIO", "NoSuchUnit", "AccessDenied"]
                    .iter()
                    .any(|refusal| is_named(source, refusal))
            }
            Self::Denied { .. }
            | Self::Exists { .. }
            | Self::Step { .. }
            | Self::Unfit { .. }
            | Self::NoSuchUnit { .. } => false,
        }
    }
}

/// Who of a unit a signal is for.
#[derive(Debug, Clone, Copy)]
pub enum Whom {
    /// The main process alone.
    Main,
    /// Every process in the unit's cgroup.
    All,
}

/// A manager of units. Cheap to clone; connects when it is first needed.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manager: Mutex<Manager>,
    /// What the manager can do, until it may be another one: asked once per connection and reload.
    features: Mutex<Option<Features>>,
    connection: AsyncMutex<Option<Connection>>,
    units: Units,
    /// Who waits for a job, by the name of its unit: the signal may overtake the answer that names the job.
    jobs: Mutex<Vec<Waiter>>,
    calls: Semaphore,
}

/// The units somebody watches, by object path.
#[derive(Debug, Default)]
struct Units(Mutex<HashMap<String, Followed>>);

/// What is known of a unit that somebody watches.
#[derive(Debug)]
struct Followed {
    state: watch::Sender<UnitState>,
    /// How often it has changed: an answer that was on its way meanwhile may be older than what changed.
    changes: u64,
}

/// Somebody who waits for the end of a job of a unit.
#[derive(Debug)]
struct Waiter {
    unit: String,
    ends: mpsc::UnboundedSender<JobEnd>,
}

#[derive(Debug, Clone)]
enum JobEnd {
    /// systemd has told.
    Told { job: OwnedObjectPath, result: String },
    /// The bus was away: it may have ended without our being told.
    Missed,
}

/// A unit that we follow. Dropping it ends the following, not the unit.
#[derive(Debug)]
pub struct Unit {
    name: UnitName,
    state: watch::Receiver<UnitState>,
    shared: Weak<Shared>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            manager: Mutex::default(),
            features: Mutex::default(),
            connection: AsyncMutex::default(),
            units: Units::default(),
            jobs: Mutex::default(),
            calls: Semaphore::new(CALLS_AT_ONCE),
        }
    }
}

impl Systemd {
    /// Speaks with this manager from now on. To be said before anything is asked.
    pub fn choose(&self, manager: Manager) {
        *lock(&self.shared.manager) = manager;
    }

    /// Whose systemd it is.
    pub fn manager(&self) -> Manager {
        self.shared.manager()
    }

    /// What the manager can do.
    pub async fn features(&self) -> Result<Features, Error> {
        // Makes sure that somebody is there to ask.
        drop(self.connection().await?);
        if let Some(features) = lock(&self.shared.features).clone() {
            return Ok(features);
        }
        let manager = self.shared.manager();
        let version = self.manager_property("Version").await?;
        let options = self.manager_property("Features").await?;
        // The machine's own manager has all that the kernel has.
        let cgroup = match manager {
            Manager::System => String::new(),
            Manager::User => self.manager_property("ControlGroup").await?,
        };
        let vocabulary = Vocabulary::ask().await;
        let features = Features::new(manager, &version, &options, &cgroup, vocabulary);
        *lock(&self.shared.features) = Some(features.clone());
        Ok(features)
    }

    async fn manager_property(&self, name: &'static str) -> Result<String, Error> {
        let act = "read the property";
        let answer = self.call(act, name, MANAGER_PATH, PROPERTIES, "Get", &(MANAGER, name)).await?;
        let value: OwnedVariant = answer.body().deserialize().map_err(|source| Error::Call {
            act,
            thing: name.into(),
            source: Box::new(source),
        })?;
        Ok(<&str>::try_from(&*value).unwrap_or_default().to_owned())
    }

    /// Changes properties of a unit that may run, or of a slice, until the machine is booted anew.
    pub async fn set(&self, name: &str, properties: Vec<Property>) -> Result<(), Error> {
        let properties = Checked::new(properties).map_err(|wrong| unfit(name, wrong))?;
        let body = (name, true, properties.into_wire());
        self.call("change unit", name, MANAGER_PATH, MANAGER, "SetUnitProperties", &body).await.map(drop)
    }

    /// Makes the unit, starts it, and follows it.
    ///
    /// Returns when its program runs, or has run and ended already. When it fails, nothing of the unit remains, or is
    /// removed as soon as systemd can be asked again.
    pub async fn start(&self, unit: TransientUnit) -> Result<Unit, Error> {
        let TransientUnit { name, properties, sockets, patience } = unit;
        let followed = self.follow(&name);
        // Somebody may have followed a unit of this name that is no more.
        self.shared.units.update(&name.object_path(), |state| *state = UnitState::default());
        let mut ends = self.job_ends(&name);
        let wire = |properties: Vec<Property>| {
            Checked::new(properties).map(Checked::into_wire).map_err(|wrong| unfit(name.as_str(), wrong))
        };
        let (mut properties, mut others) = (properties, Vec::new());
        let listens = sockets.is_some();
        if let Some(SocketUnit { properties: mut of_sockets }) = sockets {
            let socket = name.socket();
            properties
                .extend([Property::Requires(vec![socket.clone()]), Property::After(vec![socket.clone()])]);
            of_sockets.extend([
                // It goes with the service: whoever connected after its end would have it started again.
                Property::BindsTo(vec![name.to_string()]),
                Property::CollectMode("inactive-or-failed"),
            ]);
            others.push((socket, wire(of_sockets)?));
        }
        let body = (name.as_str(), "fail", wire(properties)?, others);
        let made =
            self.call("start unit", name.as_str(), MANAGER_PATH, MANAGER, "StartTransientUnit", &body).await;
        drop(body); // our copies of the descriptors, so that their readers see the end of the task
        let outcome = match made {
            Ok(answer) => {
                let started = self.started(&followed, &answer, &mut ends, patience).await;
                match started {
                    Err(Error::NotStarted { unit, result }) if listens && result == "dependency" => {
                        let words = journal::last_words(self.manager(), &name.socket()).await;
                        Err(Error::Sockets {
                            unit,
                            words: words.unwrap_or_else(|| "the journal says no more".to_owned()),
                        })
                    }
                    other => other,
                }
            }
            Err(Error::Call { source, .. }) if is_named(&source, "UnitExists") => {
                return Err(Error::Exists { unit: name });
            }
            Err(Error::Call { source, .. })
                if is_named(&source, "AccessDenied")
                    || is_named(&source, "InteractiveAuthorizationRequired") =>
            {
                return Err(Error::Denied { unit: name });
            }
            Err(error) => Err(error),
        };
        // A refusal made nothing. Anything else may have: a call whose answer was lost was perhaps obeyed.
        if let Err(error) = &outcome
            && (error.may_pass() || matches!(error, Error::Step { .. }))
        {
            self.remove_surely(&name).await;
        }
        outcome.map(|()| followed)
    }

    /// Waits for the start job, and decides what its end means; on systemd before 257 `failed` may mean that the
    /// program ran and was quick to fail.
    async fn started(
        &self,
        unit: &Unit,
        answer: &Message,
        ends: &mut JobEnds<'_>,
        patience: Duration,
    ) -> Result<(), Error> {
        let name = unit.name.clone();
        let job = job_of(answer, "start unit", &name)?;
        let mut state = unit.state.clone();
        let job_result = loop {
            let end = tokio::select! {
                end = ends.wait_for(&job, "start unit", JOB_TIMEOUT + patience) => end?,
                // It ended at once, and the job waits for what it left running.
                _ = state.wait_for(|state| state.main_has_ended() && !state.tells_handoff()) => {
                    Some(ENDED.to_owned())
                }
            };
            if let Some(result) = end {
                break result;
            }
            self.refresh(&name).await?;
            if unit.state().has_begun() {
                break "missed".to_owned();
            }
        };
        if job_result != "done" || !unit.state().has_begun() {
            self.refresh(&name).await?;
        }
        let says_when_ready = !patience.is_zero();
        if says_when_ready && (job_result == "failed" || job_result == ENDED || job_result == "timeout") {
            self.judge(unit, job_result).await?;
            let (state, unit) = (unit.state(), name);
            let how = match (state.result.as_str(), state.exit()) {
                ("timeout", _) => format!("within {} s", patience.as_secs_f32()),
                (_, Some(MainExit::Status(status))) => format!("before it ended with status {status}"),
                (_, Some(MainExit::Signal(signal))) => format!("before signal {signal} ended it"),
                (result, None) => format!("and systemd says `{result}`"),
            };
            return Err(Error::NotReady { unit, how, said: state.status_text });
        }
        self.judge(unit, job_result).await
    }

    /// Makes a process that is not the manager's one of its own, in a scope of this name, until it leaves it.
    pub async fn take_in(&self, scope: &UnitName, pid: u32) -> Result<(), Error> {
        let act = "take a process into";
        let mut ends = self.job_ends(scope);
        let properties = vec![Property::PIDs(vec![pid]), Property::CollectMode("inactive-or-failed")];
        let properties = Checked::new(properties).map_err(|wrong| unfit(scope.as_str(), wrong))?.into_wire();
        let others: Vec<(String, Vec<(String, Variant<'_>)>)> = Vec::new();
        let body = (scope.as_str(), "fail", properties, others);
        let answer =
            self.call(act, scope.as_str(), MANAGER_PATH, MANAGER, "StartTransientUnit", &body).await?;
        match ends.wait_for(&job_of(&answer, act, scope)?, act, JOB_TIMEOUT).await? {
            Some(result) if result != "done" => Err(Error::NotStarted { unit: scope.clone(), result }),
            _ => Ok(()),
        }
    }

    /// Takes over a unit whose start somebody else asked for, and did not live to see it through.
    ///
    /// Fails as that start would have failed; then nothing of the unit remains.
    pub async fn adopt(&self, name: &UnitName, patience: Duration) -> Result<Unit, Error> {
        let mut unit = self.find(name).await?;
        let over = |state: &UnitState| state.has_begun() || state.never_forked() || state.removed;
        let waited = tokio::time::timeout(JOB_TIMEOUT + patience, unit.state.wait_for(over)).await;
        let outcome = match waited.map(drop) {
            Ok(()) if unit.state().removed => return Err(Error::NoSuchUnit { unit: name.clone() }),
            // Nobody has kept the end of its job: the journal decides.
            Ok(()) => self.judge(&unit, ENDED.to_owned()).await,
            Err(_) => Err(Error::Slow { act: "start unit", unit: name.clone() }),
        };
        if outcome.is_err() {
            self.remove_surely(name).await;
        }
        outcome.map(|()| unit)
    }

    /// Did the program come to run?
    async fn judge(&self, unit: &Unit, job_result: String) -> Result<(), Error> {
        let (name, state) = (unit.name.clone(), unit.state());
        // Those that tell of the handoff tell a program that was quick to fail apart as well, from 257 on.
        let surely_failed = job_result == "failed" && state.tells_handoff();
        if let Some(failure) = state.failed_step(matches!(job_result.as_str(), "failed" | ENDED)) {
            let words = match (
                journal::failed_step(self.manager(), &name, &state.invocation, state.main_pid_ever).await,
                failure,
            ) {
                (Ok(Some(words)), _) => Some(words),
                // The program ran, and ended with a status that looks like a step.
                (Ok(None), FailedStep::Perhaps(_)) if !surely_failed => None,
                (_, FailedStep::Surely(status) | FailedStep::Perhaps(status)) => {
                    Some(step_name(status).map_or_else(
                        || "systemd failed before it ran the program".to_owned(),
                        |step| format!("systemd failed at step {step}"),
                    ))
                }
            };
            if let Some(words) = words {
                return Err(Error::Step { unit: name, status: failure.status(), words });
            }
        }
        if !state.has_begun() {
            let result = if state.never_forked() { state.result } else { job_result };
            return Err(Error::NotStarted { unit: name, result });
        }
        Ok(())
    }

    /// Removes a unit that is nobody's, now or, when systemd cannot be asked now, a little later.
    async fn remove_surely(&self, name: &UnitName) {
        if self.remove(name).await.is_ok() {
            return;
        }
        let (this, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            for pause in [1, 5, 30, 120].map(Duration::from_secs) {
                tokio::time::sleep(pause).await;
                if this.remove(&name).await.is_ok() {
                    return;
                }
            }
            tracing::error!(unit = %name, "a unit that failed to start could not be removed; run `systemctl stop` on it");
        });
    }

    /// Follows a unit that is there already.
    pub async fn find(&self, name: &UnitName) -> Result<Unit, Error> {
        let followed = self.follow(name);
        let mut patience = Patience::new();
        while let Err(error) = self.refresh(name).await {
            patience.with(error).await?;
        }
        if followed.state().removed {
            return Err(Error::NoSuchUnit { unit: name.clone() });
        }
        Ok(followed)
    }

    /// Removes what an earlier process of ours could not remove of units whose names begin so.
    pub fn sweep(&self, prefix: &str) {
        journal::sweep(prefix);
    }

    /// How the main process of a unit that is no more ended, if systemd wrote of it: it does when the end was not clean.
    pub async fn exit_in_journal(&self, name: &UnitName, invocation: &InvocationId) -> Option<MainExit> {
        journal::main_exit(self.manager(), name, invocation).await
    }

    /// What systemd knows of a service beside its state.
    pub async fn service(&self, name: &UnitName) -> Result<Service, Error> {
        let path = name.object_path();
        let answer = self.call("read unit", name.as_str(), &path, PROPERTIES, "GetAll", &(SERVICE,)).await?;
        let all = answer.body().deserialize().map_err(|source| Error::Call {
            act: "read unit",
            thing: name.to_string(),
            source: Box::new(source),
        })?;
        Ok(Service::of(&all))
    }

    /// Does this slice deny addresses to the units in it (`IPAddressDeny=`)? Also of one that is not active yet.
    pub async fn denies_addresses(&self, slice: &str) -> Result<bool, Error> {
        let act = "read slice";
        let path = UnitName::known(slice).object_path();
        let answer = self.call(act, slice, &path, PROPERTIES, "Get", &(SLICE, "IPAddressDeny")).await?;
        let value: OwnedVariant = answer.body().deserialize().map_err(|source| Error::Call {
            act,
            thing: slice.to_owned(),
            source: Box::new(source),
        })?;
        Ok(matches!(&*value, Variant::Array(prefixes) if !prefixes.is_empty()))
    }

    /// Sends a signal, or finds that nobody is left to get it, which is no error.
    pub async fn kill(&self, name: &UnitName, whom: Whom, signal: i32) -> Result<(), Error> {
        let whom = match whom {
            Whom::Main => "main",
            Whom::All => "all",
        };
        let body = (name.as_str(), whom, signal);
        let sent = self.call("signal unit", name.as_str(), MANAGER_PATH, MANAGER, "KillUnit", &body).await;
        match sent {
            Err(Error::Call { source, .. })
                if is_named(&source, "NoSuchUnit")
                    || is_named(&source, "NoSuchProcess")
                    || is_named(&source, "UnixProcessIdUnknown") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Closes the sockets of a service that has ended, which stays as it is.
    pub async fn close_sockets(&self, name: &UnitName) -> Result<(), Error> {
        let socket = name.socket();
        // In any other mode the service, which requires them, would be stopped too, and forget how it ended.
        let body = (socket.as_str(), "ignore-dependencies");
        match self.call("stop unit", &socket, MANAGER_PATH, MANAGER, "StopUnit", &body).await {
            Err(Error::Call { source, .. }) if is_named(&source, "NoSuchUnit") => Ok(()),
            other => other.map(drop),
        }
    }

    /// The names of all units in systemd's memory that begin so.
    pub async fn list(&self, prefix: &str) -> Result<Vec<UnitName>, Error> {
        /// What systemd tells of a unit in a list: name, description, load, active and sub state, whom it follows, its
        /// path, and its job's number, kind and path.
        type Row =
            (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
        // A backslash takes the meaning of what follows in a pattern.
        let pattern = format!("{}*", prefix.replace('\\', "\\\\"));
        let body = (Vec::<&str>::new(), vec![pattern.as_str()]);
        let mut patience = Patience::new();
        let answer = loop {
            match self.call("list units", &pattern, MANAGER_PATH, MANAGER, "ListUnitsByPatterns", &body).await
            {
                Err(error) => patience.with(error).await?,
                Ok(answer) => break answer,
            }
        };
        let rows: Vec<Row> = answer.body().deserialize().map_err(|source| Error::Call {
            act: "list units",
            thing: pattern,
            source: Box::new(source),
        })?;
        Ok(rows.into_iter().filter(|row| row.2 != "not-found").map(|row| UnitName::known(row.0)).collect())
    }

    /// Ends whatever runs in the unit, at once, and makes systemd forget it. A unit that is not there is fine.
    ///
    /// When this returns no process of the unit is left, and its name is free. While systemd cannot be asked it is asked
    /// again, since nobody else would.
    pub async fn remove(&self, name: &UnitName) -> Result<(), Error> {
        let mut patience = Patience::new();
        while let Err(error) = self.unload(name).await {
            patience.with(error).await?;
        }
        let name = name.clone();
        tokio::spawn(async move {
            tokio::time::sleep(JOURNAL_LAG).await;
            journal::forget_fields(&name);
        });
        Ok(())
    }

    async fn unload(&self, name: &UnitName) -> Result<(), Error> {
        const SIGKILL: i32 = 9;
        let followed = self.follow(name);
        let mut ends = self.job_ends(name);
        self.kill(name, Whom::All, SIGKILL).await?;
        let body = (name.as_str(), "replace");
        let stopped = self.call("stop unit", name.as_str(), MANAGER_PATH, MANAGER, "StopUnit", &body).await;
        let answer = match stopped {
            Err(Error::Call { source, .. }) if is_named(&source, "NoSuchUnit") => return Ok(()),
            other => other?,
        };
        // Missed or told: what follows finds out.
        ends.wait_for(&job_of(&answer, "stop unit", name)?, "stop unit", JOB_TIMEOUT).await?;
        let body = (name.as_str(),);
        let reset =
            self.call("reset unit", name.as_str(), MANAGER_PATH, MANAGER, "ResetFailedUnit", &body).await;
        match reset {
            Err(Error::Call { source, .. }) if is_named(&source, "NoSuchUnit") => return Ok(()),
            other => other?,
        };
        let mut state = followed.state.clone();
        let gone = state.wait_for(|state| state.removed);
        match tokio::time::timeout(JOB_TIMEOUT, gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Slow { act: "remove unit", unit: name.clone() }),
        }
    }

    /// Registers interest in a unit before anything is asked about it, so that no signal falls between.
    fn follow(&self, name: &UnitName) -> Unit {
        let state = self.shared.units.subscribe(&name.object_path());
        Unit { name: name.clone(), state, shared: Arc::downgrade(&self.shared) }
    }

    fn job_ends(&self, name: &UnitName) -> JobEnds<'_> {
        let (ends, receiver) = mpsc::unbounded_channel();
        lock(&self.shared.jobs).push(Waiter { unit: name.as_str().to_owned(), ends });
        JobEnds { unit: name.clone(), receiver, shared: &self.shared }
    }

    async fn refresh(&self, name: &UnitName) -> Result<(), Error> {
        let connection = self.connection().await?;
        self.shared.refresh(&connection, &name.object_path()).await.map_err(|source| Error::Call {
            act: "read unit",
            thing: name.to_string(),
            source: Box::new(source),
        })
    }

    async fn call<B>(
        &self,
        act: &'static str,
        thing: &str,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, Error>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        let connection = self.connection().await?;
        let _permit = self.shared.calls.acquire().await;
        let answer = connection.call_method(Some(DESTINATION), path, Some(interface), method, body).await;
        answer.map_err(|source| Error::Call { act, thing: thing.to_owned(), source: Box::new(source) })
    }

    /// The living connection, made now if there is none.
    async fn connection(&self) -> Result<Connection, Error> {
        let connected = self.shared.connect().await;
        let manager = self.shared.manager();
        connected.map_err(|source| Error::Connect { manager, source: Box::new(source) })
    }
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
        if let Some(shared) = self.shared.upgrade() {
            shared.units.forget_if_alone(&self.name.object_path());
        }
    }
}

/// The ends of a unit's jobs, while somebody waits for one.
struct JobEnds<'a> {
    unit: UnitName,
    receiver: mpsc::UnboundedReceiver<JobEnd>,
    shared: &'a Shared,
}

impl JobEnds<'_> {
    /// The job's result, or nothing when its end may have been missed.
    async fn wait_for(
        &mut self,
        job: &OwnedObjectPath,
        act: &'static str,
        limit: Duration,
    ) -> Result<Option<String>, Error> {
        let ours = async {
            loop {
                match self.receiver.recv().await {
                    Some(JobEnd::Told { job: ended, result }) if ended == *job => return Some(result),
                    Some(JobEnd::Told { .. }) => {}
                    Some(JobEnd::Missed) | None => return None,
                }
            }
        };
        let waited = tokio::time::timeout(limit, ours).await;
        waited.map_err(|_| Error::Slow { act, unit: self.unit.clone() })
    }
}

impl Drop for JobEnds<'_> {
    fn drop(&mut self) {
        // Ours is the one whose other end is being dropped.
        self.receiver.close();
        lock(&self.shared.jobs).retain(|waiter| !waiter.ends.is_closed());
    }
}

impl Units {
    fn subscribe(&self, path: &str) -> watch::Receiver<UnitState> {
        let mut units = lock(&self.0);
        let new = || Followed { state: watch::Sender::new(UnitState::default()), changes: 0 };
        units.entry(path.to_owned()).or_insert_with(new).state.subscribe()
    }

    /// Called by a follower that is about to go: it still counts as one receiver.
    fn forget_if_alone(&self, path: &str) {
        let mut units = lock(&self.0);
        if units.get(path).is_some_and(|unit| unit.state.receiver_count() <= 1) {
            units.remove(path);
        }
    }

    fn update(&self, path: &str, change: impl FnOnce(&mut UnitState)) {
        if let Some(unit) = lock(&self.0).get_mut(path) {
            unit.update(change);
        }
    }

    /// How often the unit has changed so far.
    fn changes(&self, path: &str) -> u64 {
        lock(&self.0).get(path).map_or(0, |unit| unit.changes)
    }

    /// Takes in an answer, unless the unit has changed since it was asked for; false then.
    fn update_unless_changed(&self, path: &str, changes: u64, change: impl FnOnce(&mut UnitState)) -> bool {
        match lock(&self.0).get_mut(path) {
            Some(unit) if unit.changes != changes => false,
            Some(unit) => {
                unit.update(change);
                true
            }
            None => true,
        }
    }

    fn follows(&self, path: &str) -> bool {
        lock(&self.0).contains_key(path)
    }

    fn paths(&self) -> Vec<String> {
        lock(&self.0).keys().cloned().collect()
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

impl Shared {
    fn manager(&self) -> Manager {
        *lock(&self.manager)
    }

    async fn connect(self: &Arc<Self>) -> zbus::Result<Connection> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let hung = || zbus::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let connection =
            tokio::time::timeout(CONNECT_TIMEOUT, self.connect_anew()).await.map_err(|_| hung())??;
        *lock(&self.features) = None;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn connect_anew(self: &Arc<Self>) -> zbus::Result<Connection> {
        let builder = match self.manager() {
            Manager::System => connection::Builder::system(),
            // Where every user's bus is (systemd's `user@.service`), unless the environment says so.
            Manager::User if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_none() => {
                let uid = rustix::process::getuid().as_raw();
                connection::Builder::address(format!("unix:path=/run/user/{uid}/bus").as_str())
            }
            Manager::User => connection::Builder::session(),
        };
        let connection = builder.method_timeout(CALL_TIMEOUT).build().await?;
        // One stream for all messages keeps their order. It is read before anything is asked for: a full queue would
        // hold up the answers.
        tokio::spawn(read(Arc::downgrade(self), MessageStream::from(&connection)));
        let bus = fdo::DBusProxy::new(&connection).await?;
        for rule in rules()? {
            bus.add_match_rule(rule).await?;
        }
        // systemd sends no signals of jobs and units to a connection that did not ask for them.
        connection.call_method(Some(DESTINATION), MANAGER_PATH, Some(MANAGER), "Subscribe", &()).await?;
        Ok(connection)
    }

    /// Asks for everything we follow of one unit.
    async fn refresh(&self, connection: &Connection, path: &str) -> zbus::Result<()> {
        loop {
            let changes = self.units.changes(path);
            let mut all = HashMap::new();
            for interface in [UNIT, SERVICE] {
                let answer = connection
                    .call_method(Some(DESTINATION), path, Some(PROPERTIES), "GetAll", &(interface,))
                    .await?;
                let properties: HashMap<String, OwnedVariant> = answer.body().deserialize()?;
                all.extend(properties);
            }
            let taken = self.units.update_unless_changed(path, changes, |state| {
                state.apply(&all);
                // Of a unit that is not there systemd says "inactive, success": only this tells.
                state.removed = state.load_state == "not-found";
            });
            if taken {
                return Ok(());
            }
        }
    }

    /// Asks for everything we follow of every unit, until it has been told: something may have happened meanwhile.
    async fn catch_up(self: Arc<Self>) {
        for waiter in lock(&self.jobs).iter() {
            let _ = waiter.ends.send(JobEnd::Missed);
        }
        let mut behind = self.units.paths();
        let mut pause = FIRST_PAUSE;
        loop {
            let mut still = Vec::new();
            for path in behind {
                let asked = async { self.refresh(&self.connect().await?, &path).await };
                if let Err(error) = asked.await {
                    tracing::debug!(
                        path,
                        error = crate::chain(&error),
                        "a unit could not be asked for its state"
                    );
                    still.push(path);
                }
            }
            still.retain(|path| self.units.follows(path));
            if still.is_empty() {
                return;
            }
            behind = still;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A `daemon-reload` takes all units out of memory and back in: only a unit that cannot be found is gone.
    async fn confirm_removal(self: Arc<Self>, name: String, path: OwnedObjectPath, changes: u64) {
        let found = async {
            let connection = self.connect().await?;
            connection.call_method(Some(DESTINATION), MANAGER_PATH, Some(MANAGER), "GetUnit", &(name,)).await
        };
        match found.await {
            Err(error) if is_named(&error, "NoSuchUnit") => {
                self.units.update_unless_changed(path.as_str(), changes, |state| state.removed = true);
            }
            // The bus went away: who connects again asks for every unit.
            Err(error) => {
                tracing::debug!(%path, error = crate::chain(&error), "a removed unit could not be looked for");
            }
            Ok(_) => {}
        }
    }

    fn take(self: &Arc<Self>, message: &Message) -> zbus::Result<()> {
        let header = message.header();
        let (Some(interface), Some(member), Some(path)) =
            (header.interface(), header.member(), header.path())
        else {
            return Ok(());
        };
        match (interface.as_str(), member.as_str()) {
            (PROPERTIES, "PropertiesChanged") if self.units.follows(path.as_str()) => {
                let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                    message.body().deserialize()?;
                self.units.update(path.as_str(), |state| state.apply(&changed));
            }
            (MANAGER, "JobRemoved") => {
                let (_, job, unit, result): (u32, OwnedObjectPath, String, String) =
                    message.body().deserialize()?;
                for waiter in lock(&self.jobs).iter().filter(|waiter| waiter.unit == unit) {
                    // Whoever waited may have given up just now.
                    let _ = waiter.ends.send(JobEnd::Told { job: job.clone(), result: result.clone() });
                }
            }
            (MANAGER, "UnitRemoved") => {
                let (name, unit): (String, OwnedObjectPath) = message.body().deserialize()?;
                if self.units.follows(unit.as_str()) {
                    let changes = self.units.changes(unit.as_str());
                    tokio::spawn(Arc::clone(self).confirm_removal(name, unit, changes));
                }
            }
            (MANAGER, "Reloading") => {
                let (begins,): (bool,) = message.body().deserialize()?;
                if !begins {
                    *lock(&self.features) = None;
                    tokio::spawn(Arc::clone(self).catch_up());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// For what may be done twice: it is done again while systemd cannot be asked.
struct Patience {
    until: tokio::time::Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { until: tokio::time::Instant::now() + PATIENCE, pause: FIRST_PAUSE }
    }

    /// Waits a little, or gives the error back: it will not pass, or has not in all this time.
    async fn with(&mut self, error: Error) -> Result<(), Error> {
        let cannot_be_asked = matches!(error, Error::Connect { .. } | Error::Call { .. }) && error.may_pass();
        if !cannot_be_asked || tokio::time::Instant::now() > self.until {
            return Err(error);
        }
        tracing::debug!(error = crate::chain(&error), "systemd cannot be asked, trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Reads the bus until it goes away, then connects again.
///
/// Boxed, because connecting starts a reader and a reader connects: the type would contain itself.
fn read(shared: Weak<Shared>, mut messages: MessageStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        while let Some(Ok(message)) = messages.next().await {
            let Some(shared) = shared.upgrade() else { return };
            if message.message_type() != MessageType::Signal {
                continue;
            }
            if let Err(error) = shared.take(&message) {
                tracing::warn!(error = crate::chain(&error), "a signal of systemd could not be read");
            }
        }
        tracing::warn!("lost the connection to systemd; reconnecting (tasks keep running)");
        reconnect(shared).await;
    })
}

async fn reconnect(shared: Weak<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        match shared.connect().await {
            Ok(_) => {
                tracing::info!("connected to the bus of systemd again");
                return shared.catch_up().await;
            }
            Err(error) => tracing::debug!(error = crate::chain(&error), "the bus of systemd is not back yet"),
        }
        drop(shared);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What we ask the bus to send us: jobs and removals, and the changes of all units. The bus cannot select units by a
/// part of their name, and allows no rule per unit beyond 512 of them.
fn rules() -> zbus::Result<[MatchRule<'static>; 2]> {
    let signals = || MatchRule::builder().msg_type(MessageType::Signal).sender(DESTINATION);
    Ok([
        signals().interface(MANAGER).path(MANAGER_PATH).build()?,
        signals().interface(PROPERTIES).path_namespace(UNIT_PATHS).build()?,
    ])
}

fn job_of(answer: &Message, act: &'static str, unit: &UnitName) -> Result<OwnedObjectPath, Error> {
    answer.body().deserialize().map_err(|source| Error::Call {
        act,
        thing: unit.to_string(),
        source: Box::new(source),
    })
}

fn unfit(unit: &str, (property, why): (String, String)) -> Error {
    Error::Unfit { unit: unit.to_owned(), property, why }
}

/// Is this the D-Bus error whose name ends so, such as `NoSuchUnit`?
fn is_named(error: &zbus::Error, end: &str) -> bool {
    use zbus::DBusError;
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str().to_owned(),
        zbus::Error::FDO(error) => error.name().to_string(),
        _ => return false,
    };
    name.rsplit('.').next() == Some(end)
}

/// Locks a map that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// systemd's word for a step of setting up a process (systemd.exec(5), "Process Exit Codes").
fn step_name(status: i32) -> Option<&'static str> {
    let name = match status {
        200 => "CHDIR",
        201 => "NICE",
        202 => "FDS",
        203 => "EXEC",
        204 => "MEMORY",
        205 => "LIMITS",
        206 => "OOM_ADJUST",
        207 => "SIGNAL_MASK",
        208 => "STDIN",
        209 => "STDOUT",
        210 => "CHROOT",
        211 => "IOPRIO",
        212 => "TIMERSLACK",
        213 => "SECUREBITS",
        214 => "SETSCHEDULER",
        215 => "CPUAFFINITY",
        216 => "GROUP",
        217 => "USER",
        218 => "CAPABILITIES",
        219 => "CGROUP",
        220 => "SETSID",
        222 => "STDERR",
        224 => "PAM",
        225 => "NETWORK",
        226 => "NAMESPACE",
        227 => "NO_NEW_PRIVILEGES",
        228 => "SECCOMP",
        229 => "SELINUX_CONTEXT",
        230 => "PERSONALITY",
        231 => "APPARMOR",
        232 => "ADDRESS_FAMILIES",
        233 => "RUNTIME_DIRECTORY",
        235 => "CHOWN",
        236 => "SMACK",
        237 => "KEYRING",
        238 => "STATE_DIRECTORY",
        239 => "CACHE_DIRECTORY",
        240 => "LOGS_DIRECTORY",
        241 => "CONFIGURATION_DIRECTORY",
        242 => "NUMA_POLICY",
        243 => "CREDENTIALS",
        245 => "BPF",
        _ => return None,
    };
    Some(name)
}
