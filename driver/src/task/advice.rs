//! Advice for the author of a job when systemd could not set up the task's process: the option, and what to check.

use std::collections::BTreeMap;

use super::config::{NetworkMode, Port, settings};
use super::host::view::View;
use super::spec::{Identity, TaskSpec};
use crate::systemd::Assignment;

/// Advice where systemd refused a property of the job. `words` is systemd's error message, which names the property.
pub(super) fn of_refusal(words: &str, settings: &[Assignment]) -> Option<String> {
    let is_in = |name: &str| words.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name);
    // Otherwise the property is found by its value: `Invalid unit name x`.
    let by_value = || settings.iter().find(|setting| !setting.text().is_empty() && is_in(setting.text()));
    let setting = settings.iter().find(|setting| is_in(setting.name())).or_else(by_value)?;
    Some(format!(
        "{}: systemd on this node does not take `{}`",
        settings::shown(setting.name()),
        setting.text()
    ))
}

/// Advice for the author of a job about a failed step of systemd (systemd.exec(5), "Process Exit Codes").
pub(super) fn of_step(status: i32, task: &TaskSpec) -> String {
    by_option(status, &task.settings).unwrap_or_else(|| by_step(status, task))
}

/// Steps that apply one or two properties, and what to check on the node when such a step fails.
const STEPS: &[(i32, &[&str], &str)] = &[
    (201, &["Nice"], "is it within what the job may have?"),
    (206, &["OOMScoreAdjust"], "is it within what the job may have?"),
    (211, &["IOSchedulingClass", "IOSchedulingPriority"], "does the priority belong to the class?"),
    (212, &["TimerSlackNSec"], "does the kernel take it?"),
    (213, &["SecureBits"], "do they go together?"),
    (
        214,
        &["CPUSchedulingPolicy", "CPUSchedulingPriority"],
        "has the policy such a priority (`fifo` and `rr` have 1 to 99, others 0)?",
    ),
    (215, &["CPUAffinity"], "has the node these processors?"),
    (
        242,
        &["NUMAPolicy", "NUMAMask"],
        "has the node these NUMA nodes (`ls -d /sys/devices/system/node/node*`), and does the policy need them?",
    ),
];

/// Advice about a step that applies nothing but options of the job.
fn by_option(status: i32, settings: &[Assignment]) -> Option<String> {
    let (_, properties, question) = STEPS.iter().find(|(step, ..)| *step == status)?;
    let set = settings.iter().filter(|setting| properties.contains(&setting.name()));
    let options: Vec<_> =
        set.map(|setting| format!("{} is `{}`", settings::shown(setting.name()), setting.text())).collect();
    (!options.is_empty()).then(|| format!("{}: {question}", options.join(", ")))
}

/// The limits of the job on what systemd itself needs to set up the task's process, such as `` `ulimit.nofile` (4) ``.
fn small_limits(settings: &[Assignment]) -> Option<String> {
    let needed = ["LimitAS", "LimitDATA", "LimitNOFILE", "LimitSTACK"];
    let set = settings.iter().filter(|line| needed.contains(&line.name()));
    let named = set.map(|line| {
        let name = line.name().trim_start_matches("Limit").to_lowercase();
        format!("`ulimit.{name}` ({})", line.text())
    });
    let named: Vec<String> = named.collect();
    (!named.is_empty()).then(|| named.join(" and "))
}

fn by_step(status: i32, task: &TaskSpec) -> String {
    let small_limits = small_limits(&task.settings);
    match (status, &task.identity) {
        (203, _) if task.view == View::Own => format!(
            "`command`: {} cannot be executed; is it in the root that the job names, with its interpreter and libraries, may the \
             task's user execute it, and does `sandbox.system_call_filter` let it?",
            task.command
        ),
        (203, _) => format!(
            "`command`: {} cannot be executed; is the interpreter after `#!` or the program's loader in the task's \
             view, may the task's user execute it, and do `sandbox.system_call_filter`, `files.no_exec_paths` and \
             `files.inaccessible_paths` let it?",
            task.command
        ),
        (216 | 217, Identity::User(user)) => {
            format!(
                "`user`: this node has no user `{user}`, or it may not be used; create it or name another"
            )
        }
        (200, _) => format!(
            "`work_dir`: {} is not there in the task's view, or its user may not enter it",
            task.working_directory.display()
        ),
        (225, _) => by_network(&task.network, small_limits),
        (226, _) => by_view(task, small_limits),
        (228, _) => format!(
            "the filters of system calls cannot be set: see {}",
            small_limits.as_deref().unwrap_or("`sandbox.system_call_filter`")
        ),
        (229 | 231, _) => {
            "`properties.SELinuxContext` or `AppArmorProfile`: does the node know the label or the profile?".to_owned()
        }
        (233 | 238..=240, _) => {
            "a directory that systemd keeps for the task (`state_directory`, `cache_directory` and the like in `files`) \
             cannot be made: has the file system of /var and /run room?"
                .to_owned()
        }
        (243, _) => "a credential cannot be decrypted: was it encrypted on this node, and under this name?".to_owned(),
        _ => "systemd could not set up the task's process; `journalctl -t systemd` on the node has its words".to_owned(),
    }
}

/// The mounts of the task.
fn by_view(task: &TaskSpec, small_limits: Option<String>) -> String {
    const NEEDED: &str = "`/local`, `/alloc`, `/secrets`, `/dev`, `/proc`, `/sys`, `/run`, `/tmp`, `/var/tmp` and the targets of binds \
                          and volumes must be there";
    let has = |name: &str| task.settings.iter().any(|line| line.name() == name);
    if has("RootVerity") {
        return "the image cannot be mounted with its `files.root_hash` and `files.root_verity`: does it fit them, and has the node \
                libcryptsetup, which systemd looks for when it needs it (package libcryptsetup12 since Debian 13)?"
            .to_owned();
    }
    if has("RootImage") {
        return format!(
            "the image cannot be mounted (has it a file system or a partition table that this node knows, and the node loop \
             devices?), or it lacks a directory on which something is mounted: {NEEDED}"
        );
    }
    if task.view == View::Own {
        return format!(
            "the root that the job names lacks a directory on which something is mounted: {NEEDED}"
        );
    }
    if let Some(limits) = small_limits {
        return format!(
            "the task's view of the host cannot be made: does {limits} leave systemd enough memory and open files for it?"
        );
    }
    format!(
        "the task's view of the host cannot be made from {}; is every path there that the job names in `files` \
         (`inaccessible_paths`, `read_only_paths` and the like; with `-` before it one may be missing), and are \
         the options of `temporary_file_system` those of tmpfs(5), such as `size=64M`?",
        task.dirs.alloc_dir.display(),
    )
}

fn by_network(network: &NetworkMode, small_limits: Option<String>) -> String {
    match (network, small_limits) {
        (NetworkMode::Group { namespace, .. }, _) => {
            format!("`network`: the network namespace of the group, {}, is not there", namespace.display())
        }
        (_, Some(limits)) => {
            format!(
                "the task's network cannot be made: does {limits} leave systemd enough memory and open files for it?"
            )
        }
        _ => "the task's network cannot be made".to_owned(),
    }
}

/// Advice about a port whose `to` nothing applies: the host's network has no ports of a task's own.
pub(super) fn of_ports(ports: &BTreeMap<String, Port>, network: &NetworkMode) -> Option<String> {
    let (label, port) = ports.iter().find(|(_, port)| port.inside != port.host.port())?;
    (*network == NetworkMode::Host).then(|| {
        format!(
            "the port {label:?} has `to = {inside}`, and in the host's network nothing leads from port {outside} to {inside}: a task \
             that listens on ${{NOMAD_PORT_{label}}}, which is {inside} then, is not reached; remove `to`, or give the group a \
             network of its own (`mode = \"bridge\"`)",
            inside = port.inside,
            outside = port.host.port()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_applies_an_option_names_the_option_and_its_value() {
        let settings =
            [Assignment::parse("CPUAffinity", "4000").unwrap(), Assignment::parse("Nice", "5").unwrap()];
        let advice = by_option(215, &settings).unwrap();
        assert!(
            advice.starts_with("`limits.cpu_affinity` (CPUAffinity) is `4000`: has the node"),
            "{advice}"
        );
        assert_eq!(by_option(242, &settings), None, "no option of the job");
        assert_eq!(by_option(203, &settings), None, "more than options");
    }

    #[test]
    fn a_refusal_names_the_option_whose_property_systemd_names() {
        let settings = [Assignment::parse("Nice", "5").unwrap()];
        let advice = of_refusal("Invalid Nice setting: 5", &settings).unwrap();
        assert_eq!(advice, "`limits.nice` (Nice): systemd on this node does not take `5`");
        assert_eq!(of_refusal("Invalid NiceLevel setting", &settings), None);
        let settings = [Assignment::parse("Wants", "x").unwrap()];
        let advice = of_refusal("Invalid unit name x", &settings).unwrap();
        assert_eq!(advice, "`Wants`: systemd on this node does not take `x`");
    }
}
