//! The state of a unit, as systemd reports it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use zbus::{OwnedVariant, Variant};

/// Identifies a run of a unit: systemd gives each start 16 new random bytes, here as 32 hex digits.
///
/// A name can be used again, an invocation ID cannot: recovery compares it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct InvocationId(pub String);

/// How a unit's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainExit {
    /// The process exited with this status, 0 to 255.
    Status(i32),
    /// The process was killed by this signal.
    Signal(i32),
}

/// The properties of a unit that systemd has reported so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `not-found` for a unit that does not exist; systemd answers queries about it nevertheless.
    pub(super) load_state: String,
    /// `active`, `failed`, `activating`, …
    pub active_state: String,
    /// `running`, `exited`, `failed`, …
    pub sub_state: String,
    /// `success`, `exit-code`, `signal`, `oom-kill`, …
    pub result: String,
    /// The status that the service reports (`STATUS=`, sd_notify(3)).
    pub status_text: String,
    /// PID of the main process; zero if there is none.
    pub main_pid: u32,
    /// The run of the unit that this state belongs to.
    pub invocation: InvocationId,
    /// Whether the unit is no longer in systemd's memory: nothing above will change again.
    pub removed: bool,
    /// `CLD_EXITED` 1, `CLD_KILLED` 2, `CLD_DUMPED` 3; zero before the end.
    code: i32,
    status: i32,
    started_usec: u64,
    exited_usec: u64,
    /// When the main process began to run the program itself; systemd reports it since version 256.
    handoff_usec: Option<u64>,
    pub(super) main_pid_ever: u32,
}

impl UnitState {
    /// The signal that ended the main process, if a signal did.
    pub fn ended_by(&self) -> Option<i32> {
        matches!(self.code, 2 | 3).then_some(self.status)
    }

    /// How the main process ended, once the unit as a whole has come to rest.
    ///
    /// With `RemainAfterExit` that is sub-state `exited` or `failed`; unknown states count as not finished.
    pub fn exit(&self) -> Option<MainExit> {
        let at_rest =
            matches!(self.sub_state.as_str(), "exited" | "failed") || self.active_state == "inactive";
        if at_rest { self.end_of_main() } else { None }
    }

    /// How the main process ended, as soon as it has ended; other processes of the unit may still run.
    pub(crate) fn end_of_main(&self) -> Option<MainExit> {
        match self.code {
            1 => Some(MainExit::Status(self.status)),
            2 | 3 => Some(MainExit::Signal(self.status)),
            _ => None,
        }
    }

    /// Whether the main process has ended, whatever else the unit still does.
    pub(super) fn main_has_ended(&self) -> bool {
        self.code != 0
    }

    /// Whether the unit came to rest because it was stopped (`StopUnit`), or because the service announced that it
    /// would stop (`STOPPING=1`, sd_notify(3)). Under `RemainAfterExit` any other unit that ends by itself stays
    /// `active` or is `failed`. A unit that was stopped and then failed cannot be told from one that failed.
    pub fn was_stopped(&self) -> bool {
        self.active_state == "inactive" && self.main_has_ended()
    }

    /// Whether the main process exists and the unit has not begun to end.
    pub fn is_running(&self) -> bool {
        self.active_state == "active" && self.main_pid != 0
    }

    /// Whether systemd reports when it handed over to the program (256 and later).
    pub(super) fn reports_handoff(&self) -> bool {
        self.handoff_usec.is_some()
    }

    /// Whether the main process runs, or has ended already.
    pub(super) fn has_started(&self) -> bool {
        self.is_running() || self.main_has_ended()
    }

    /// When the main process was started.
    pub fn started_at(&self) -> Option<SystemTime> {
        at(self.started_usec)
    }

    /// When the main process ended.
    pub fn exited_at(&self) -> Option<SystemTime> {
        at(self.exited_usec)
    }

    /// Did systemd give up before it ran the program? Then the main process ended with the status of a step, for
    /// example 203 for a failed `execve` (systemd.exec(5), "Process Exit Codes").
    ///
    /// From 256 on systemd reports when it handed over to the program, which is before `execve`: that may still fail,
    /// for want of an interpreter. Before 256 a program that itself exits at once with this status looks the same.
    pub(super) fn failed_step(&self, start_job_failed: bool) -> Option<FailedStep> {
        let is_step = self.code == 1 && (200..=245).contains(&self.status);
        match self.handoff_usec {
            Some(0) if self.main_has_ended() => Some(FailedStep::Certain(self.status)),
            _ => (is_step && start_job_failed).then_some(FailedStep::Possible(self.status)),
        }
    }

    /// Whether systemd could not even create the process.
    pub(super) fn never_forked(&self) -> bool {
        self.active_state == "failed" && self.main_pid_ever == 0
    }

    /// Applies changed properties from a signal or an answer; unused names are ignored.
    pub(super) fn apply(&mut self, changed: &HashMap<String, OwnedVariant>) {
        for (name, value) in changed {
            match name.as_str() {
                "LoadState" => set_text(&mut self.load_state, value),
                "ActiveState" => {
                    set_text(&mut self.active_state, value);
                    // A unit that has a state exists: the removed unit had the same name.
                    self.removed = false;
                }
                "SubState" => set_text(&mut self.sub_state, value),
                "Result" => set_text(&mut self.result, value),
                "StatusText" => set_text(&mut self.status_text, value),
                "MainPID" => set(&mut self.main_pid, value),
                "ExecMainPID" => set(&mut self.main_pid_ever, value),
                "ExecMainCode" => set(&mut self.code, value),
                "ExecMainStatus" => set(&mut self.status, value),
                "ExecMainStartTimestamp" => set(&mut self.started_usec, value),
                "ExecMainExitTimestamp" => set(&mut self.exited_usec, value),
                "ExecMainHandoffTimestamp" => self.handoff_usec = u64::try_from(&**value).ok(),
                "InvocationID" => {
                    if let Ok(bytes) = value.try_clone().and_then(Vec::<u8>::try_from) {
                        self.invocation = InvocationId(hex::encode(bytes));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Properties of a service that are not part of its state, read when they are needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// PID of the current main process; zero if there is none.
    pub main_pid: u32,
    /// The unit's cgroup below the hierarchy's root, for example `/system.slice/a.service`; empty without processes.
    pub control_group: String,
    /// `User=` as given, empty for root.
    pub user: String,
    /// `DynamicUser=`: the user exists as long as the unit does.
    pub dynamic_user: bool,
    /// UID of the user, zero for root.
    pub uid: u32,
    /// GID of the user's group.
    pub gid: u32,
    /// `AmbientCapabilities=`, one bit each.
    pub ambient_capabilities: u64,
    /// `WorkingDirectory=`, in the unit's view.
    pub working_directory: PathBuf,
    /// `MemoryMax=` in bytes.
    pub memory_max: Option<u64>,
    /// The highest memory usage so far, in bytes; systemd reports it since version 255.
    pub memory_peak: Option<u64>,
    /// `LogExtraFields=`, such as `NOMAD_JOB_ID=web`.
    pub log_extra_fields: Vec<String>,
    /// Whether `PrivateUsers=` is enabled, in whatever mode.
    pub private_users: bool,
    /// When the main process was started, in microseconds of the monotonic clock.
    pub(super) started_at: u64,
}

impl Service {
    /// When the main process was started, on the monotonic clock.
    pub fn started_since_boot(&self) -> Option<Duration> {
        (self.started_at != 0).then(|| Duration::from_micros(self.started_at))
    }

    /// Reads the fields from all properties of a service.
    pub(super) fn of(all: &HashMap<String, OwnedVariant>) -> Self {
        let mut service = Self::default();
        let known = |bytes: u64| (bytes != u64::MAX).then_some(bytes);
        let number = |value: &OwnedVariant| u64::try_from(&**value).ok().and_then(known);
        // systemd's value for "none".
        let id =
            |value: &OwnedVariant| u32::try_from(&**value).ok().filter(|id| *id != u32::MAX).unwrap_or(0);
        for (name, value) in all {
            match name.as_str() {
                "MainPID" => set(&mut service.main_pid, value),
                "ControlGroup" => set_text(&mut service.control_group, value),
                "User" => set_text(&mut service.user, value),
                "DynamicUser" => set(&mut service.dynamic_user, value),
                "UID" => service.uid = id(value),
                "GID" => service.gid = id(value),
                "AmbientCapabilities" => set(&mut service.ambient_capabilities, value),
                "WorkingDirectory" => {
                    let mut path = String::new();
                    set_text(&mut path, value);
                    service.working_directory = path.into();
                }
                "ExecMainStartTimestampMonotonic" => set(&mut service.started_at, value),
                "PrivateUsers" => set(&mut service.private_users, value),
                "MemoryMax" => service.memory_max = number(value),
                "MemoryPeak" => service.memory_peak = number(value),
                "LogExtraFields" => {
                    let fields = value.try_clone().and_then(Vec::<Vec<u8>>::try_from).unwrap_or_default();
                    service.log_extra_fields =
                        fields.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
                }
                _ => {}
            }
        }
        service
    }
}

/// The exit status of a step at which systemd gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailedStep {
    /// systemd gave up at the step.
    Certain(i32),
    /// systemd gave up at the step, or the program exited with that status.
    Possible(i32),
}

impl FailedStep {
    pub(super) fn status(self) -> i32 {
        let (Self::Certain(status) | Self::Possible(status)) = self;
        status
    }
}

fn set<'a, T: TryFrom<&'a Variant<'static>>>(field: &mut T, value: &'a OwnedVariant) {
    if let Ok(new) = T::try_from(value) {
        *field = new;
    }
}

fn set_text(field: &mut String, value: &OwnedVariant) {
    if let Ok(new) = <&str>::try_from(&**value) {
        new.clone_into(field);
    }
}

fn at(microseconds: u64) -> Option<SystemTime> {
    (microseconds != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_at_rest_tells_its_exit_and_a_running_one_does_not() {
        let state =
            |sub: &str, code| UnitState { sub_state: sub.into(), code, status: 7, ..Default::default() };
        assert_eq!(state("running", 0).exit(), None);
        assert_eq!(state("final-sigterm", 1).exit(), None);
        assert_eq!(state("failed", 1).exit(), Some(MainExit::Status(7)));
        assert_eq!(state("exited", 2).exit(), Some(MainExit::Signal(7)));
        assert_eq!(state("a-state-of-the-future", 1).exit(), None);
    }

    #[test]
    fn a_failed_set_up_is_told_from_a_program_that_ends_with_the_same_status() {
        let state = |handoff_usec| UnitState { code: 1, status: 203, handoff_usec, ..Default::default() };
        assert_eq!(state(Some(0)).failed_step(false), Some(FailedStep::Certain(203)));
        assert_eq!(state(Some(9)).failed_step(true), Some(FailedStep::Possible(203)));
        assert_eq!(state(Some(9)).failed_step(false), None);
        assert_eq!(state(None).failed_step(true), Some(FailedStep::Possible(203)));
        assert_eq!(state(None).failed_step(false), None);
    }
}
