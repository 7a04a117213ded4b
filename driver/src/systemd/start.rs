//! Starts units, and decides what the result of a start means.

use std::sync::Arc;
use std::time::Duration;

use zbus::{OwnedObjectPath, Variant};

use super::checked::Checked;
use super::client::{Method, Systemd};
use super::error::{Error, is_named, unfit};
use super::jobs::{JOB_TIMEOUT, JobEnds, job_of};
use super::journal;
use super::name::UnitName;
use super::property;
use super::reload::{Moment, may_be_misread};
use super::retry::Retry;
use super::state::{FailedStep, MainExit, UnitState};
use super::transient::{Property, TransientUnit};
use super::watch::Unit;
use super::wire::Wire;

/// The result of a job that was not awaited to its end, because the main process has ended.
const ENDED: &str = "ended";
/// How often a start is tried if systemd spoils it by reloading in the middle of it.
const STARTS_MAX: usize = 8;

/// A unit that is ready to be started.
pub struct Startable {
    name: UnitName,
    request: Request,
}

impl Startable {
    /// Checks the properties of the unit.
    pub fn new(unit: TransientUnit) -> Result<Self, Error> {
        Ok(Self { name: unit.name.clone(), request: Request::new(unit)? })
    }

    /// Whether the process may be started a second time, if systemd reloads in the middle: all that it was given, such as
    /// sources of binds, must then still be there.
    pub fn may_start_again(&self) -> bool {
        self.request.may_be_misread
    }
}

/// The properties of a unit and of the units that come with it, as `StartTransientUnit` takes them.
struct Request {
    properties: Wire,
    others: Vec<(String, Wire)>,
    /// See [`TransientUnit::ready_within`].
    ready_within: Duration,
    /// Whether systemd would read something else in its own file of the unit.
    may_be_misread: bool,
}

/// The result of a request.
struct Requested {
    /// The start job. `None` if the answer was lost, but the unit exists.
    job: Option<OwnedObjectPath>,
    /// When the request was answered, or made if the answer was lost.
    at: Moment,
}

impl Request {
    fn new(unit: TransientUnit) -> Result<Self, Error> {
        let ready_within = unit.ready_within;
        let (name, properties, of_sockets) = unit.bound();
        let wire = |properties: Vec<Property>| {
            Checked::new(properties).map(Checked::into_wire).map_err(|wrong| unfit(name.as_str(), wrong))
        };
        let others = of_sockets.map(|of_sockets| Ok((name.socket(), wire(of_sockets)?)));
        let others = others.into_iter().collect::<Result<Vec<_>, _>>()?;
        let properties = wire(properties)?;
        let may_be_misread = properties.iter().any(|(name, value)| may_be_misread(name, value));
        Ok(Self { properties, others, ready_within, may_be_misread })
    }

    /// Rewinds the input, which the program may have read already. A pipe cannot be rewound; the process that copies a
    /// pipe continues where it was.
    fn rewind_input(&self) {
        for (name, value) in &self.properties {
            if let ("StandardInputFileDescriptor", Variant::Fd(input)) = (name.as_str(), value) {
                let _ = rustix::fs::seek(input, rustix::fs::SeekFrom::Start(0));
            }
        }
    }
}

impl Systemd {
    /// Creates, starts and follows the unit.
    ///
    /// Returns when the program runs, or has run and ended already. On failure nothing of the unit remains, or the unit
    /// is removed as soon as systemd can be reached again.
    pub async fn start(&self, unit: TransientUnit) -> Result<Unit, Error> {
        self.run(Startable::new(unit)?).await
    }

    /// Tells whether systemd has reloaded since this call.
    pub fn watch_reloads(&self) -> impl Fn() -> bool + Send + use<> {
        let (shared, at) = (Arc::clone(&self.shared), Moment::now());
        move || shared.reloads.any_since(&at)
    }

    /// The same for a unit whose properties are checked.
    pub async fn run(&self, Startable { name, request }: Startable) -> Result<Unit, Error> {
        for _ in 0..STARTS_MAX {
            // Registered before anything is requested, so that no signal is missed.
            let (followed, mut ends) = (self.follow(&name), self.job_ends(&name));
            let Requested { job, at } = self.request(&name, &request).await?;
            tracing::trace!(unit = %name, "systemd has taken the request");
            let started = match job {
                Some(job) => self.await_start(followed, &mut ends, &job, &request).await,
                None => self.adopt(&name, request.ready_within).await,
            };
            if !request.may_be_misread || !self.shared.reloads.any_since(&at) {
                return started;
            }
            if let Ok(unit) = started {
                match self.times_of(&name).await {
                    Ok((began, loaded)) if !self.shared.reloads.any_between(&at, began, loaded) => {
                        return Ok(unit);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.remove_eventually(&name).await;
                        return Err(error);
                    }
                }
            }
            tracing::warn!(unit = %name, "systemd reloaded before it started the unit; starting it again");
            if let Err(error) = self.remove(&name).await {
                self.remove_eventually(&name).await;
                return Err(error);
            }
            request.rewind_input();
        }
        Err(Error::NotStarted { unit: name, result: "reloading".to_owned() })
    }

    /// When the service started, and when systemd last read its units; microseconds of the monotonic clock.
    async fn times_of(&self, name: &UnitName) -> Result<(u64, u64), Error> {
        Ok((self.service(name).await?.started_at, self.last_load().await?))
    }

    async fn await_start(
        &self,
        followed: Unit,
        ends: &mut JobEnds,
        job: &OwnedObjectPath,
        request: &Request,
    ) -> Result<Unit, Error> {
        let name = followed.name();
        let outcome = self.wait_until_started(&followed, job, ends, request.ready_within).await;
        let outcome = match outcome {
            Err(Error::NotStarted { unit, result })
                if !request.others.is_empty() && result == "dependency" =>
            {
                let words = journal::last_words(self.manager(), &name.socket()).await;
                let words = words.unwrap_or_else(|| "the journal has no details".to_owned());
                Err(Error::Sockets { unit, words })
            }
            other => other,
        };
        if outcome.is_err() {
            self.remove_eventually(name).await;
        }
        outcome.map(|()| followed)
    }

    /// Asks systemd to create and start the unit.
    async fn request(&self, name: &UnitName, request: &Request) -> Result<Requested, Error> {
        let unit = name.clone();
        let requested = self.request_until_known(name, request).await;
        requested.map_err(|error| match error {
            Error::Call { source, .. } if is_named(&source, "UnitExists") => Error::Exists { unit },
            Error::Call { source, .. }
                if is_named(&source, "AccessDenied")
                    || is_named(&source, "InteractiveAuthorizationRequired") =>
            {
                Error::Denied { unit }
            }
            error => error,
        })
    }

    /// If the connection is lost before the answer, it is unknown whether the request was read. The unit is then looked
    /// for, and requested again if it does not exist.
    async fn request_until_known(&self, name: &UnitName, request: &Request) -> Result<Requested, Error> {
        let mut retry = Retry::new();
        loop {
            // A follower may still have the state of an earlier unit with this name.
            self.shared.units.update(&name.object_path(), |state| *state = UnitState::default());
            let body = (name.as_str(), "fail", &request.properties, &request.others);
            let answer =
                self.call("start unit", name.as_str(), Method::of_manager("StartTransientUnit"), &body);
            let (asked, connection) = (Moment::now(), self.shared.reloads.connection());
            let error = match answer.await {
                Ok(answer) => {
                    let job = Some(job_of(&answer, "start unit", name)?);
                    let at = self.shared.reloads.moment_of(&answer, connection);
                    return Ok(Requested { job, at });
                }
                Err(error) => error,
            };
            if error.is_lost_connection() {
                let found = match retry.with(error).await {
                    Ok(()) => self.find(name).await.map(drop),
                    Err(error) => Err(error),
                };
                match found {
                    Ok(()) => return Ok(Requested { job: None, at: asked }),
                    Err(Error::NoSuchUnit { .. }) => {}
                    // It may be there, or come when systemd can be reached.
                    Err(error) => {
                        self.remove_eventually(name).await;
                        return Err(error);
                    }
                }
            } else {
                // A refusal creates nothing. Any other failure may have created a unit: a call that took too long may
                // be executed later.
                if error.may_pass() {
                    self.remove_eventually(name).await;
                }
                return Err(error);
            }
        }
    }

    /// Waits for the start job, and decides what its result means. On systemd before 257 `failed` may mean that the
    /// program ran and failed quickly.
    async fn wait_until_started(
        &self,
        unit: &Unit,
        job: &OwnedObjectPath,
        ends: &mut JobEnds,
        ready_within: Duration,
    ) -> Result<(), Error> {
        let name = unit.name().clone();
        let job_result = loop {
            let end = tokio::select! {
                biased;
                end = ends.wait_for(job, "start unit", JOB_TIMEOUT + ready_within) => end?,
                // The main process ended at once, and the job waits for the processes that it left running.
                () = unit.wait_for(|state| state.main_has_ended() && !state.reports_handoff()) => {
                    Some(ENDED.to_owned())
                }
            };
            let is_over = match end {
                Some(result) if result != ENDED => break result,
                other => other.is_some(),
            };
            // This may be late news of an earlier unit with this name.
            self.refresh_with_retries(&name).await?;
            match unit.state() {
                state if is_over && state.main_has_ended() => break ENDED.to_owned(),
                state if !is_over && state.has_started() => break "missed".to_owned(),
                _ => {}
            }
        };
        if job_result != "done" || !unit.state().has_started() {
            self.refresh_with_retries(&name).await?;
        }
        let reports_ready = !ready_within.is_zero();
        if reports_ready && (job_result == "failed" || job_result == ENDED || job_result == "timeout") {
            self.classify_start(unit, job_result).await?;
            return Err(not_ready(name, unit.state(), ready_within));
        }
        self.classify_start(unit, job_result).await
    }

    /// Moves a process that does not belong to the manager into a scope of this name, until the process leaves the
    /// scope.
    pub async fn start_scope(&self, scope: &UnitName, pid: u32) -> Result<(), Error> {
        let act = "take a process into";
        let mut ends = self.job_ends(scope);
        let properties = vec![Property::PIDs(vec![pid]), Property::CollectMode("inactive-or-failed")];
        let properties = Checked::new(properties).map_err(|wrong| unfit(scope.as_str(), wrong))?.into_wire();
        let others: Vec<(String, Wire)> = Vec::new();
        let body = (scope.as_str(), "fail", properties, others);
        let answer = self.call(act, scope.as_str(), Method::of_manager("StartTransientUnit"), &body).await?;
        match ends.wait_for(&job_of(&answer, act, scope)?, act, JOB_TIMEOUT).await? {
            Some(result) if result != "done" => Err(Error::NotStarted { unit: scope.clone(), result }),
            _ => Ok(()),
        }
    }

    /// Takes over a unit whose start another process requested, and did not live to complete.
    ///
    /// Fails as that start would have failed; then nothing of the unit remains.
    pub async fn adopt(&self, name: &UnitName, ready_within: Duration) -> Result<Unit, Error> {
        let unit = match self.find(name).await {
            Err(error) if !matches!(error, Error::NoSuchUnit { .. }) => {
                self.remove_eventually(name).await;
                return Err(error);
            }
            found => found?,
        };
        let over = |state: &UnitState| state.has_started() || state.never_forked() || state.removed;
        let waited = tokio::time::timeout(JOB_TIMEOUT + ready_within, unit.wait_for(over)).await;
        let outcome = match waited {
            Ok(()) if unit.state().removed => return Err(Error::NoSuchUnit { unit: name.clone() }),
            // The result of its job is lost: the journal decides.
            Ok(()) => match self.classify_start(&unit, ENDED.to_owned()).await {
                // The result of a service that ended before it was ready (systemd.service(5), "protocol").
                Ok(()) if !ready_within.is_zero() && unit.state().result == "protocol" => {
                    Err(not_ready(name.clone(), unit.state(), ready_within))
                }
                classified => classified,
            },
            Err(_) => Err(Error::Slow { act: "start unit", unit: name.clone() }),
        };
        if outcome.is_err() {
            self.remove_eventually(name).await;
        }
        outcome.map(|()| unit)
    }

    /// Was the program executed?
    async fn classify_start(&self, unit: &Unit, job_result: String) -> Result<(), Error> {
        let (name, state) = (unit.name().clone(), unit.state());
        // From 257 on a systemd that reports the handoff also recognizes a program that failed quickly.
        let surely_failed = job_result == "failed" && state.reports_handoff();
        if let Some(failure) = state.failed_step(matches!(job_result.as_str(), "failed" | ENDED)) {
            let words = match (
                journal::failed_step(self.manager(), &name, &state.invocation, state.main_pid_ever).await,
                failure,
            ) {
                (Ok(Some(words)), _) => Some(words),
                // The program ran, and ended with a status that looks like a step.
                (Ok(None), FailedStep::Possible(_)) if !surely_failed => None,
                (_, FailedStep::Certain(status) | FailedStep::Possible(status)) => {
                    Some(property::step(status).map_or_else(
                        || "systemd failed before it ran the program".to_owned(),
                        |step| format!("systemd failed at step {step}"),
                    ))
                }
            };
            if let Some(words) = words {
                return Err(Error::Step { unit: name, status: failure.status(), words });
            }
        }
        if !state.has_started() {
            let result = if state.never_forked() { state.result } else { job_result };
            return Err(Error::NotStarted { unit: name, result });
        }
        Ok(())
    }

    /// Removes a unit that has no owner, now or, if systemd cannot be reached now, a little later.
    pub(crate) async fn remove_eventually(&self, name: &UnitName) {
        if self.remove(name).await.is_ok() {
            return;
        }
        let (this, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            for pause in [1, 5, 30, 120, 600].map(Duration::from_secs) {
                tokio::time::sleep(pause).await;
                if this.remove(&name).await.is_ok() {
                    return;
                }
            }
            tracing::error!(unit = %name, "a unit that failed to start could not be removed; run `systemctl stop` and `systemctl reset-failed` on it");
        });
    }
}

/// The error of a service that was not ready in time, or ended before.
fn not_ready(unit: UnitName, state: UnitState, ready_within: Duration) -> Error {
    let how = match (state.result.as_str(), state.exit()) {
        ("timeout", _) => format!("within {} s", ready_within.as_secs_f32()),
        (_, Some(MainExit::Status(status))) => format!("before it ended with status {status}"),
        (_, Some(MainExit::Signal(signal))) => format!("before signal {signal} ended it"),
        (result, None) => format!("and systemd reports `{result}`"),
    };
    Error::NotReady { unit, how, said: state.status_text }
}
