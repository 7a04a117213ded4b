//! What systemd itself logged about a start that failed.
//!
//! The bus reports the step at which a start failed, but not why. Before version 256 it does not even reliably report
//! whether the start failed: a program that exits at once with one of the statuses that stand for steps looks the same.
//! The journal contains both.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::features::Manager;
use super::name::UnitName;
use super::state::{InvocationId, MainExit};
use super::tool;

/// The message of a process that could not be set up (systemd, `sd-messages.h`, `SD_MESSAGE_SPAWN_FAILED`).
const SPAWN_FAILED: &str = "MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7";
/// The message of a process of a unit that has ended (`SD_MESSAGE_UNIT_PROCESS_EXIT`).
const PROCESS_EXIT: &str = "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15";
/// The message that a unit is being stopped (`SD_MESSAGE_UNIT_STOPPING`).
const STOPPING: &str = "MESSAGE_ID=de5b426a63be47a7b6ac3eaac82e2f6f";
/// The message that a unit has failed, and with which result (`SD_MESSAGE_UNIT_FAILURE_RESULT`).
const FAILED: &str = "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c";
/// The pause between two reads of messages that are still being written.
const PAUSE: Duration = Duration::from_millis(50);
/// How long to wait until a user manager's messages are in the journal; no user can request a sync.
const LAG: Duration = Duration::from_secs(2);
/// journald may be busy. A start that failed is not urgent, but must be answered.
const DEADLINE: Duration = Duration::from_secs(5);

/// The directory in which systemd informs journald about units.
const UNITS: &str = "/run/systemd/units";
/// The prefix of the name of a file there: the unit's `LogExtraFields=`.
const FIELDS: &str = "log-extra-fields:";
/// The prefix of the name of a link there that is removed when the unit has ended.
const INVOCATION: &str = "invocation:";

/// Removes what systemd leaves behind for a unit: systemd looks for a file of another name (seen from 247 to 262).
///
/// Must be called after journald has read the unit's last lines, which would otherwise lose their fields.
pub(super) fn forget_fields(unit: &UnitName) {
    // It is not an error if the file does not exist.
    let _ = std::fs::remove_file(Path::new(UNITS).join(format!("{FIELDS}{unit}")));
}

/// Removes the same files of units that ended while no driver was running.
pub(super) fn sweep(prefix: &str) {
    for entry in std::fs::read_dir(UNITS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(unit) = name.to_str().and_then(|name| name.strip_prefix(FIELDS)) else { continue };
        let link = Path::new(UNITS).join(format!("{INVOCATION}{unit}"));
        if unit.starts_with(prefix) && std::fs::symlink_metadata(link).is_err() {
            forget_fields(&UnitName::known(unit));
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE")]
    message: String,
    /// `exited`, `killed` or `dumped`.
    #[serde(rename = "EXIT_CODE", default)]
    exit_code: String,
    /// The status, or the number of the signal.
    #[serde(rename = "EXIT_STATUS", default)]
    exit_status: String,
    /// For example `oom-kill` (org.freedesktop.systemd1(5), `Result`).
    #[serde(rename = "UNIT_RESULT", default)]
    unit_result: String,
    /// The time of the entry, in microseconds since 1970.
    #[serde(rename = "__REALTIME_TIMESTAMP", default)]
    time: String,
    /// The time of the entry, in microseconds since boot.
    #[serde(rename = "__MONOTONIC_TIMESTAMP", default)]
    at: String,
}

impl Entry {
    fn at(&self) -> u64 {
        self.at.parse().unwrap_or_default()
    }
}

/// The end of a run of a unit that no longer exists.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How the main process ended.
    pub exit: MainExit,
    /// The result with which the unit failed, for example `oom-kill`; empty if the unit did not fail.
    pub result: String,
    /// When the run ended.
    pub at: SystemTime,
    /// Whether the unit was stopped while the process ran.
    pub was_stopped: bool,
}

/// The journal's message about a failed set-up of this run of the unit.
///
/// `Ok(None)`: the journal can be read, and the set-up did not fail. `Err`: the journal cannot be read.
pub(super) async fn failed_step(
    manager: Manager,
    unit: &UnitName,
    invocation: &InvocationId,
    main_pid: u32,
) -> Result<Option<String>, ()> {
    if manager == Manager::User {
        // A user may not be permitted to read the system's journal, and then gets no error. systemd logs the end of a
        // process after the process has logged its set-up: without the former nothing can be concluded.
        let seen = async {
            while last(manager, PROCESS_EXIT, unit, invocation, None).await?.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(())
        };
        tokio::time::timeout(LAG, seen).await.map_err(drop)??;
    }
    let main_pid = Some(main_pid).filter(|pid| *pid != 0);
    let Some(Entry { message, .. }) = last(manager, SPAWN_FAILED, unit, invocation, main_pid).await? else {
        return Ok(None);
    };
    // `<unit>: Failed at step EXEC spawning /x: No such file or directory`; whoever logs the message adds the unit.
    let reason =
        message.strip_prefix(unit.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&message);
    Ok(Some(reason.to_owned()))
}

/// The last error that systemd, or a process that it created for the unit, logged about a unit that failed.
pub(super) async fn last_words(manager: Manager, unit: &str) -> Option<String> {
    let about = format!("{}={unit}", unit_field(manager));
    // systemd logs that the unit failed, and its child logs why.
    sync(manager).await.ok()?;
    // Messages of systemd, and of the children that open sockets for it.
    let from = format!("_UID={}", rustix::process::getuid().as_raw());
    let lines =
        journalctl(&["--boot", "--output=json", "--reverse", "--lines=8", "--priority=err", &about, &from])
            .await
            .ok()?;
    let logs =
        lines.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()).map(|entry| entry.message);
    let logs = logs.map(|message| message.strip_prefix(&format!("{unit}: ")).unwrap_or(&message).to_owned());
    let logs: Vec<String> = logs.collect();
    // The message of the child, which systemd sums up as an input/output error.
    logs.iter()
        .find(|words| words.contains('(') && !words.contains("Input/output error"))
        .or(logs.first())
        .cloned()
}

/// How this run of the unit ended, if the journal contains it.
pub(super) async fn end(manager: Manager, unit: &UnitName, invocation: &InvocationId) -> Option<Ended> {
    sync(manager).await.ok()?;
    let failed = written(manager, FAILED, unit, invocation, None).await.ok()?;
    let process = written(manager, PROCESS_EXIT, unit, invocation, None).await.ok()?;
    let result = failed.as_ref().map(|failed| failed.unit_result.clone()).unwrap_or_default();
    let (ended, exit) = match (process, failed) {
        (Some(process), _) => {
            let number = process.exit_status.parse().ok()?;
            let exit = match process.exit_code.as_str() {
                "exited" => MainExit::Status(number),
                "killed" | "dumped" => MainExit::Signal(number),
                _ => return None,
            };
            (process, exit)
        }
        // systemd does not log the end of a process that was terminated and exited successfully.
        (None, Some(failed)) if ["oom-kill", "timeout", "watchdog"].contains(&result.as_str()) => {
            (failed, MainExit::Status(0))
        }
        (None, _) => return None,
    };
    // The unit of a task that had already ended is stopped by the driver.
    let stopping = written(manager, STOPPING, unit, invocation, None).await.ok()?;
    let was_stopped = stopping.is_some_and(|stopping| stopping.at() < ended.at());
    let time = Duration::from_micros(ended.time.parse().unwrap_or_default());
    Some(Ended { exit, result, at: SystemTime::UNIX_EPOCH + time, was_stopped })
}

/// The last message of this kind about this run of the unit, including everything logged before the call.
async fn last(
    manager: Manager,
    kind: &str,
    unit: &UnitName,
    invocation: &InvocationId,
    or_from: Option<u32>,
) -> Result<Option<Entry>, ()> {
    sync(manager).await?;
    written(manager, kind, unit, invocation, or_from).await
}

/// The last message of this kind about this run of the unit, among those already written.
///
/// Every process can send any message with any of these fields, but the PID of the sender comes from the kernel. So
/// only systemd, which is process 1, and `or_from`, the process that systemd created for the unit, are believed.
async fn written(
    manager: Manager,
    kind: &str,
    unit: &UnitName,
    invocation: &InvocationId,
    or_from: Option<u32>,
) -> Result<Option<Entry>, ()> {
    let of_systemd = match manager {
        Manager::System => "_PID=1".to_owned(),
        // A process of this user could change the unit anyway.
        Manager::User => format!("_UID={}", rustix::process::getuid().as_raw()),
    };
    let of_process = or_from.filter(|_| manager == Manager::System).map(|pid| format!("_PID={pid}"));
    let of_user = if manager == Manager::User { "USER_" } else { "" };
    let unit = format!("{}={unit}", unit_field(manager));
    let invocation = format!("{of_user}INVOCATION_ID={}", invocation.0);
    let mut matches = vec![kind, &unit, &invocation, &of_systemd];
    // Two values of one field match either.
    matches.extend(of_process.as_deref());
    let line =
        journalctl(&[&["--boot", "--output=json", "--reverse", "--lines=1"][..], &matches].concat()).await?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(|_| ())
}

/// The field in which a manager names the unit of a message.
fn unit_field(manager: Manager) -> &'static str {
    match manager {
        Manager::System => "UNIT",
        Manager::User => "USER_UNIT",
    }
}

/// Makes everything that was logged before this returns readable; only root can request that.
async fn sync(manager: Manager) -> Result<(), ()> {
    match manager {
        Manager::System => journalctl(&["--sync"]).await.map(drop),
        Manager::User => Ok(()),
    }
}

async fn journalctl(args: &[&str]) -> Result<String, ()> {
    tool::output("journalctl", &[&["--quiet", "--no-pager"][..], args].concat(), DEADLINE).await.ok_or(())
}
