//! What systemd itself wrote of a start that failed.
//!
//! The bus says at which step it failed, not why; and before version 256 not even reliably whether it did: a program
//! that ends at once with one of the statuses that stand for steps looks the same. The journal knows both.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::process::Command;

use super::features::Manager;
use super::name::UnitName;
use super::state::{InvocationId, MainExit};

/// The message of a process that could not be set up (systemd, `sd-messages.h`, `SD_MESSAGE_SPAWN_FAILED`).
const SPAWN_FAILED: &str = "MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7";
/// The message of a process of a unit that has ended (`SD_MESSAGE_UNIT_PROCESS_EXIT`).
const PROCESS_EXIT: &str = "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15";
/// The message that a unit is being stopped (`SD_MESSAGE_UNIT_STOPPING`).
const STOPPING: &str = "MESSAGE_ID=de5b426a63be47a7b6ac3eaac82e2f6f";
/// The message that a unit has failed, and as what (`SD_MESSAGE_UNIT_FAILURE_RESULT`).
const FAILED: &str = "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c";
/// Between two looks at what is still being written.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a user's systemd is waited for to have its words in the journal, which no user can ask for.
const LAG: Duration = Duration::from_secs(2);
/// journald may be busy; a start that failed is in no hurry, but must be answered.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where systemd tells journald of units.
const UNITS: &str = "/run/systemd/units";
/// The begin of the name of a file there: the unit's `LogExtraFields=`.
const FIELDS: &str = "log-extra-fields:";
/// The begin of the name of a link there that goes when the unit has ended.
const INVOCATION: &str = "invocation:";

/// Removes what systemd leaves of a unit: it looks for a file of another name (seen from 247 to 262).
///
/// To be called when journald has read the unit's last lines, which would lose their fields otherwise.
pub(super) fn forget_fields(unit: &UnitName) {
    // Not there is as good.
    let _ = std::fs::remove_file(Path::new(UNITS).join(format!("{FIELDS}{unit}")));
}

/// The same for units that ended while nobody of us was there.
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
    /// Such as `oom-kill` (org.freedesktop.systemd1(5), `Result`).
    #[serde(rename = "UNIT_RESULT", default)]
    unit_result: String,
    /// When it came, in microseconds since 1970.
    #[serde(rename = "__REALTIME_TIMESTAMP", default)]
    time: String,
    /// When it came, in microseconds of the boot.
    #[serde(rename = "__MONOTONIC_TIMESTAMP", default)]
    at: String,
}

impl Entry {
    fn at(&self) -> u64 {
        self.at.parse().unwrap_or_default()
    }
}

/// The end of a run of a unit that is gone.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How its main process ended.
    pub exit: MainExit,
    /// As what the unit had failed, such as `oom-kill`; empty if it had not.
    pub result: String,
    /// When.
    pub at: SystemTime,
    /// The unit was stopped while the process ran.
    pub was_stopped: bool,
}

/// What the journal says of a failed set-up of this run of the unit.
///
/// `Ok(None)`: the journal can be read, and the set-up did not fail. `Err`: the journal cannot be read.
pub(super) async fn failed_step(
    manager: Manager,
    unit: &UnitName,
    invocation: &InvocationId,
    main_pid: u32,
) -> Result<Option<String>, ()> {
    if manager == Manager::User {
        // Of the whole system's journal a user may see nothing, and is told of no error. What systemd says of the end
        // of a process comes after what the process says of its set-up: without it there is nothing to be concluded.
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
    // `<unit>: Failed at step EXEC spawning /x: No such file or directory`; the unit is named by whoever tells.
    let said =
        message.strip_prefix(unit.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&message);
    Ok(Some(said.to_owned()))
}

/// The last thing that systemd, or a process that it made for it, said of a unit that failed.
pub(super) async fn last_words(manager: Manager, unit: &str) -> Option<String> {
    let about = format!("{}={unit}", unit_field(manager));
    // systemd says that it failed, and its child says why.
    sync(manager).await.ok()?;
    // systemd, and the children by which it opens sockets.
    let from = format!("_UID={}", rustix::process::getuid().as_raw());
    let lines =
        journalctl(&["--boot", "--output=json", "--reverse", "--lines=8", "--priority=err", &about, &from])
            .await
            .ok()?;
    let said =
        lines.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()).map(|entry| entry.message);
    let said = said.map(|message| message.strip_prefix(&format!("{unit}: ")).unwrap_or(&message).to_owned());
    let said: Vec<String> = said.collect();
    // That of the child, which systemd sums up as an error of input and output.
    said.iter()
        .find(|words| words.contains('(') && !words.contains("Input/output error"))
        .or(said.first())
        .cloned()
}

/// How this run of the unit ended, if it is written there.
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
        // systemd does not write of a process that was ended and says that all is well.
        (None, Some(failed)) if ["oom-kill", "timeout", "watchdog"].contains(&result.as_str()) => {
            (failed, MainExit::Status(0))
        }
        (None, _) => return None,
    };
    // That of a task which had ended is stopped by its driver.
    let stopping = written(manager, STOPPING, unit, invocation, None).await.ok()?;
    let was_stopped = stopping.is_some_and(|stopping| stopping.at() < ended.at());
    let time = Duration::from_micros(ended.time.parse().unwrap_or_default());
    Some(Ended { exit, result, at: SystemTime::UNIX_EPOCH + time, was_stopped })
}

/// The last message of that kind about this run of the unit, all that was logged before included.
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

/// The same of what is written already.
///
/// Every process can send any message with any of these fields; the number of the process that sent it comes from the
/// kernel. So only systemd is believed, which is process 1, and `or_from`, the process that systemd had made for the unit.
async fn written(
    manager: Manager,
    kind: &str,
    unit: &UnitName,
    invocation: &InvocationId,
    or_from: Option<u32>,
) -> Result<Option<Entry>, ()> {
    let of_systemd = match manager {
        Manager::System => "_PID=1".to_owned(),
        // Whoever is this user could as well change the unit.
        Manager::User => format!("_UID={}", rustix::process::getuid().as_raw()),
    };
    let of_process = or_from.filter(|_| manager == Manager::System).map(|pid| format!("_PID={pid}"));
    let of_user = if manager == Manager::User { "USER_" } else { "" };
    let unit = format!("{}={unit}", unit_field(manager));
    let invocation = format!("{of_user}INVOCATION_ID={}", invocation.0);
    let mut matches = vec![kind, &unit, &invocation, &of_systemd];
    // Two values of one field: either.
    matches.extend(of_process.as_deref());
    let line =
        journalctl(&[&["--boot", "--output=json", "--reverse", "--lines=1"][..], &matches].concat()).await?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(|_| ())
}

/// The field in which a manager names the unit of which it tells.
fn unit_field(manager: Manager) -> &'static str {
    match manager {
        Manager::System => "UNIT",
        Manager::User => "USER_UNIT",
    }
}

/// What was logged before this returns is there to be read; nobody but root can ask for that.
async fn sync(manager: Manager) -> Result<(), ()> {
    match manager {
        Manager::System => journalctl(&["--sync"]).await.map(drop),
        Manager::User => Ok(()),
    }
}

async fn journalctl(args: &[&str]) -> Result<String, ()> {
    let output = Command::new("journalctl")
        .args(["--quiet", "--no-pager"])
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(DEADLINE, output).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(()),
    }
}
