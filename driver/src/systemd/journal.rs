//! What systemd itself wrote of a start that failed.
//!
//! The bus says at which step it failed, not why; and before version 256 not even reliably whether it did: a program
//! that ends at once with one of the statuses that stand for steps looks the same. The journal knows both.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::unit::{InvocationId, MainExit, UnitName};

/// The message of a process that could not be set up (systemd, `sd-messages.h`, `SD_MESSAGE_SPAWN_FAILED`).
const SPAWN_FAILED: &str = "MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7";
/// The message of a process of a unit that has ended (`SD_MESSAGE_UNIT_PROCESS_EXIT`).
const PROCESS_EXIT: &str = "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15";
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
}

/// What the journal says of a failed set-up of this run of the unit.
///
/// `Ok(None)`: the journal can be read, and the set-up did not fail. `Err`: the journal cannot be read.
pub(super) async fn failed_step(unit: &UnitName, invocation: &InvocationId) -> Result<Option<String>, ()> {
    let Some(Entry { message, .. }) = last(SPAWN_FAILED, unit, invocation).await? else { return Ok(None) };
    // `<unit>: Failed at step EXEC spawning /x: No such file or directory`; the unit is named by whoever tells.
    let said =
        message.strip_prefix(unit.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&message);
    Ok(Some(said.to_owned()))
}

/// The last thing that systemd, or a process that it made for it, said of a unit that failed.
pub(super) async fn last_words(unit: &str) -> Option<String> {
    let about = format!("UNIT={unit}");
    // PID 1 says that it failed, and its child says why.
    journalctl(&["--sync"]).await.ok()?;
    let lines = journalctl(&["--boot", "--output=json", "--reverse", "--lines=8", "--priority=err", &about])
        .await
        .ok()?;
    let said =
        lines.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()).map(|entry| entry.message);
    let said = said.map(|message| message.strip_prefix(&format!("{unit}: ")).unwrap_or(&message).to_owned());
    let said: Vec<String> = said.collect();
    // That of the child, which PID 1 sums up as an error of input and output.
    said.iter()
        .find(|words| words.contains('(') && !words.contains("Input/output error"))
        .or(said.first())
        .cloned()
}

/// How the main process of this run of the unit ended, if it is written there.
pub(super) async fn main_exit(unit: &UnitName, invocation: &InvocationId) -> Option<MainExit> {
    let entry = last(PROCESS_EXIT, unit, invocation).await.ok()??;
    let number = entry.exit_status.parse().ok()?;
    match entry.exit_code.as_str() {
        "exited" => Some(MainExit::Status(number)),
        "killed" | "dumped" => Some(MainExit::Signal(number)),
        _ => None,
    }
}

/// The last message of that kind about this run of the unit.
async fn last(kind: &str, unit: &UnitName, invocation: &InvocationId) -> Result<Option<Entry>, ()> {
    // What was logged before this returns is there to be read.
    journalctl(&["--sync"]).await?;
    let (unit_field, invocation) = (format!("UNIT={unit}"), format!("INVOCATION_ID={}", invocation.0));
    let matches = [kind, &unit_field, &invocation];
    let line =
        journalctl(&[&["--boot", "--output=json", "--reverse", "--lines=1"][..], &matches].concat()).await?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(|_| ())
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
