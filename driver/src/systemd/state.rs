//! What systemd tells of a unit.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use zbus::{OwnedVariant, Variant};

/// Which run of a unit this is: systemd gives each start 16 new random bytes, here as 32 hex digits.
///
/// A name can be used again, an invocation id cannot: recovery compares it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct InvocationId(pub String);

/// How a unit's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainExit {
    /// It returned this status, 0 to 255.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What systemd has told us of a unit so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `not-found` for a unit that does not exist; systemd answers questions about it all the same.
    pub(super) load_state: String,
    /// `active`, `failed`, `activating`, …
    pub active_state: String,
    /// `running`, `exited`, `failed`, …
    pub sub_state: String,
    /// `success`, `exit-code`, `signal`, `oom-kill`, …
    pub result: String,
    /// What the service says of itself (`STATUS=`, sd_notify(3)).
    pub status_text: String,
    /// Zero when there is no main process.
    pub main_pid: u32,
    /// Which run of the unit all this is about.
    pub invocation: InvocationId,
    /// The unit is no longer in systemd's memory: nothing above will change again.
    pub removed: bool,
    /// `CLD_EXITED` 1, `CLD_KILLED` 2, `CLD_DUMPED` 3; zero before the end.
    code: i32,
    status: i32,
    started_usec: u64,
    exited_usec: u64,
    /// When the main process began to run the program itself; systemd tells since version 256.
    handoff_usec: Option<u64>,
    pub(super) main_pid_ever: u32,
}

impl UnitState {
    /// The signal that ended the main process, if one did.
    pub fn ended_by(&self) -> Option<i32> {
        matches!(self.code, 2 | 3).then_some(self.status)
    }

    /// How the main process ended, once the unit as a whole has come to rest.
    ///
    /// Under `RemainAfterExit` that is sub-state `exited` or `failed`; states we do not know count as not finished.
    pub fn exit(&self) -> Option<MainExit> {
        let at_rest =
            matches!(self.sub_state.as_str(), "exited" | "failed") || self.active_state == "inactive";
        if at_rest { self.end_of_main() } else { None }
    }

    /// The same as soon as the main process has ended, while others of the unit may still run.
    pub(crate) fn end_of_main(&self) -> Option<MainExit> {
        match self.code {
            1 => Some(MainExit::Status(self.status)),
            2 | 3 => Some(MainExit::Signal(self.status)),
            _ => None,
        }
    }

    /// The main process has ended, whatever else the unit still does.
    pub(super) fn main_has_ended(&self) -> bool {
        self.code != 0
    }

    /// It came to rest because somebody stopped it (`StopUnit`), or because it said that it would (`STOPPING=1`,
    /// sd_notify(3)): any other that ends by itself stays `active` or is `failed`, under `RemainAfterExit`. One that was
    /// stopped and then failed cannot be told from one that failed.
    pub fn was_stopped(&self) -> bool {
        self.active_state == "inactive" && self.main_has_ended()
    }

    /// The main process is there and the unit has not begun to end.
    pub fn is_running(&self) -> bool {
        self.active_state == "active" && self.main_pid != 0
    }

    /// systemd tells when it handed over to the program (256 and later).
    pub(super) fn tells_handoff(&self) -> bool {
        self.handoff_usec.is_some()
    }

    /// The main process runs, or has ended already.
    pub(super) fn has_begun(&self) -> bool {
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

    /// Did systemd give up before it ran the program? Then the main process ended with the status of a step, such as
    /// 203 for a failed `execve` (systemd.exec(5), "Process Exit Codes").
    ///
    /// From 256 on systemd tells when it handed over to the program, which is before `execve`: that may still fail, for
    /// want of an interpreter. Before that a program that itself ends at once with such a status looks the same.
    pub(super) fn failed_step(&self, start_job_failed: bool) -> Option<FailedStep> {
        let is_step = self.code == 1 && (200..=245).contains(&self.status);
        match self.handoff_usec {
            Some(0) if self.main_has_ended() => Some(FailedStep::Surely(self.status)),
            _ => (is_step && start_job_failed).then_some(FailedStep::Perhaps(self.status)),
        }
    }

    /// systemd could not even make the process.
    pub(super) fn never_forked(&self) -> bool {
        self.active_state == "failed" && self.main_pid_ever == 0
    }

    /// Takes in what changed, from a signal or an answer; names that we do not use are passed over.
    pub(super) fn apply(&mut self, changed: &HashMap<String, OwnedVariant>) {
        for (name, value) in changed {
            match name.as_str() {
                "LoadState" => set_text(&mut self.load_state, value),
                "ActiveState" => {
                    set_text(&mut self.active_state, value);
                    // Whoever has a state is there: what was removed had the same name.
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

/// What systemd knows of a service beside its state, asked for when it is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// The main process now; zero when there is none.
    pub main_pid: u32,
    /// The unit's cgroup below the hierarchy's root, such as `/system.slice/a.service`; empty without processes.
    pub control_group: String,
    /// `User=` as it was given, empty for root.
    pub user: String,
    /// `DynamicUser=`: the user is there as long as the unit is.
    pub dynamic_user: bool,
    /// The number of the user, zero for root.
    pub uid: u32,
    /// The number of the user's group.
    pub gid: u32,
    /// `AmbientCapabilities=`, one bit each.
    pub ambient_capabilities: u64,
    /// `WorkingDirectory=`, in the unit's view.
    pub working_directory: PathBuf,
    /// `MemoryMax=` in bytes.
    pub memory_max: Option<u64>,
    /// The most memory it ever had, in bytes; systemd tells since version 255.
    pub memory_peak: Option<u64>,
    /// `LogExtraFields=`, such as `NOMAD_JOB_ID=web`.
    pub log_extra_fields: Vec<String>,
    /// `PrivateUsers=`, in whatever way.
    pub private_users: bool,
    /// When the main process was started, in microseconds of the monotonic clock.
    pub(super) started_at: u64,
}

impl Service {
    /// Takes what it needs from all properties of a service.
    pub(super) fn of(all: &HashMap<String, OwnedVariant>) -> Self {
        let mut service = Self::default();
        let known = |bytes: u64| (bytes != u64::MAX).then_some(bytes);
        let number = |value: &OwnedVariant| u64::try_from(&**value).ok().and_then(known);
        // systemd's word for "none".
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

/// The status of a step at which systemd gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailedStep {
    /// It did.
    Surely(i32),
    /// It did, or the program ended with that status.
    Perhaps(i32),
}

impl FailedStep {
    pub(super) fn status(self) -> i32 {
        let (Self::Surely(status) | Self::Perhaps(status)) = self;
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
        assert_eq!(state(Some(0)).failed_step(false), Some(FailedStep::Surely(203)));
        assert_eq!(state(Some(9)).failed_step(true), Some(FailedStep::Perhaps(203)));
        assert_eq!(state(Some(9)).failed_step(false), None);
        assert_eq!(state(None).failed_step(true), Some(FailedStep::Perhaps(203)));
        assert_eq!(state(None).failed_step(false), None);
    }
}
