//! The `task` block and what is in it.

use std::collections::BTreeMap;
use std::time::Duration;

use hcl::{Map, Value};

use super::block::{Block, Error};
use super::expression::Scope;
use super::{AGENT, Notes, constraint, name, service};
use crate::node::SIGNALS;

/// A `volume_mount` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// The label of one of the group's volumes.
    pub volume: String,
    /// The path at which the task sees the volume.
    pub destination: String,
    /// The task mounts the volume read-only.
    pub read_only: bool,
    /// The propagation: `private`, `host-to-task` or `bidirectional`.
    pub propagation_mode: String,
    /// The SELinux label: `z`, `Z` or empty.
    pub selinux_label: String,
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// The name, such as `web`.
    pub name: String,
    /// The driver, such as `systemd`.
    pub driver: String,
    /// The user; empty if the job sets none.
    pub user: String,
    /// The driver's own block, decoded by [`Scope::body`].
    pub config: Map<String, Value>,
    /// The job's `env`.
    pub env: BTreeMap<String, String>,
    /// The task's `meta`.
    pub meta: BTreeMap<String, String>,
    /// The artifacts to fetch before the task starts.
    pub artifacts: Vec<Artifact>,
    /// The templates to render before the task starts.
    pub templates: Vec<Template>,
    /// The group's volumes that the task mounts.
    pub volume_mounts: Vec<VolumeMount>,
    /// The resources of the task.
    pub resources: Resources,
    /// The time that a stopped task has to exit; 5 s unless set.
    pub kill_timeout: Duration,
    /// The signal, such as `SIGTERM`; empty for the driver's default.
    pub kill_signal: String,
    /// When this task ends, the other tasks of the group are stopped.
    pub leader: bool,
    /// When the task runs, relative to the tasks of its group.
    pub lifecycle: Lifecycle,
    /// `logs { disabled = true }`: the output is discarded.
    pub logs_disabled: bool,
}

/// When a task runs, relative to the other tasks of its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hook {
    /// A task without a `lifecycle` block.
    #[default]
    Main,
    /// Before the main tasks.
    Prestart,
    /// After the main tasks have started.
    Poststart,
    /// After all others have ended.
    Poststop,
}

/// A `lifecycle` block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// The block's `hook`.
    pub hook: Hook,
    /// The task runs alongside the main tasks, until they have ended. Never true for a poststop task.
    pub sidecar: bool,
}

/// An `artifact` block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Artifact {
    /// A URL or a path.
    pub source: String,
    /// The destination, relative to the task's directory; `local/` unless set.
    pub destination: String,
    /// The mode: `any`, `file` or `dir`.
    pub mode: String,
    /// Options such as `checksum` and `archive`.
    pub options: BTreeMap<String, String>,
    /// Headers of the HTTP request.
    pub headers: BTreeMap<String, String>,
}

/// A `template` block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    /// The text itself, or else [`source`](Self::source).
    pub data: Option<String>,
    /// A file with the text, relative to the task's directory.
    pub source: Option<String>,
    /// The path of the result, relative to the task's directory.
    pub destination: String,
    /// The result also contains variables for the task, one `NAME=VALUE` per line.
    pub env: bool,
    /// The mode of the result, such as 0o644.
    pub mode: u32,
    /// The owner of the result, user and group, such as 1000; our own where the job sets none.
    pub owner: (Option<u32>, Option<u32>),
    /// The delimiters around an action, such as `{{` and `}}`.
    pub delimiters: (String, String),
}

/// A task's `resources` with Nomad's defaults (api/resources.go).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// MHz; 100 unless set, unused if `cores` is set.
    pub cpu: i64,
    /// Reserved cores, or zero.
    pub cores: u32,
    /// MiB; 300 unless set.
    pub memory: i64,
    /// MiB; zero for the value of `memory`, -1 for no limit.
    pub memory_max: i64,
}

pub(super) fn task(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Task, Error> {
    let name = name(block)?;
    let driver = block.string("driver", scope)?.ok_or_else(|| block.missing("driver"))?;
    let mut artifacts = Vec::new();
    for mut inner in block.blocks("artifact") {
        artifacts.push(artifact(&mut inner, scope, notes)?);
        inner.finish(&[], &[], notes)?;
    }
    let templates = templates(block, scope)?;
    let mut volume_mounts = Vec::new();
    for mut inner in block.blocks("volume_mount") {
        volume_mounts.push(volume_mount(&mut inner, scope)?);
        inner.finish(&[], &[], notes)?;
    }
    let lifecycle = match block.block("lifecycle")? {
        Some(inner) => lifecycle(inner, scope)?,
        None => Lifecycle::default(),
    };
    let mut logs_disabled = false;
    if let Some(mut logs) = block.block("logs")? {
        logs_disabled = logs.bool("disabled", scope)?.unwrap_or(false);
        for key in ["max_files", "max_file_size"] {
            at_least(&mut logs, key, 1, scope)?;
        }
        logs.finish(&["enabled"], &[], &mut Notes::default())?;
    }
    let resources = match block.block("resources")? {
        Some(inner) => resources(inner, scope, notes)?,
        None => Resources { cpu: 100, cores: 0, memory: 300, memory_max: 0 },
    };
    for inner in block.blocks("service") {
        service(inner, notes)?;
    }
    for inner in block.blocks("constraint") {
        constraint(inner, scope, 1, notes)?;
    }
    Ok(Task {
        name,
        driver,
        user: block.string("user", scope)?.unwrap_or_default(),
        config: block.free("config", scope)?,
        env: block.map("env", scope)?,
        meta: block.map("meta", scope)?,
        artifacts,
        templates,
        volume_mounts,
        resources,
        kill_timeout: block.duration("kill_timeout", scope)?.unwrap_or(Duration::from_secs(5)),
        kill_signal: offered_signal(block, "kill_signal", scope)?,
        leader: block.bool("leader", scope)?.unwrap_or(false),
        lifecycle,
        logs_disabled,
    })
}

/// A signal, which must be one of the signals that nodes offer.
fn offered_signal(block: &mut Block<'_>, key: &str, scope: &Scope) -> Result<String, Error> {
    let signal = block.string(key, scope)?.unwrap_or_default();
    if signal.is_empty() || SIGNALS.contains(&signal.as_str()) {
        return Ok(signal);
    }
    let full = format!("SIG{}", signal.to_uppercase());
    let intended = SIGNALS.iter().find(|known| **known == full || **known == signal.to_uppercase());
    let reason = match intended {
        Some(intended) => format!("`{signal}` is not a signal; write `{intended}`"),
        None => format!("`{signal}` is none of the signals that nodes offer: {}", SIGNALS.join(", ")),
    };
    Err(block.wrong(key, &reason))
}

pub(super) fn finish_task(block: Block<'_>, notes: &mut Notes) -> Result<(), Error> {
    block.finish(
        &["restart", "affinity", "shutdown_delay", "identity", "action"],
        &[
            ("vault", "it needs a Vault server; submit the job to a Nomad agent"),
            ("consul", "it needs a Consul server; submit the job to a Nomad agent"),
            ("secret", "it needs a secrets provider; submit the job to a Nomad agent"),
            ("csi_plugin", AGENT),
            ("dispatch_payload", "it needs a dispatch; submit the job to a Nomad agent"),
            ("scaling", AGENT),
            ("schedule", AGENT),
            ("kind", AGENT),
        ],
        notes,
    )
}

/// A `lifecycle` block (nomad/structs/structs.go).
fn lifecycle(mut block: Block<'_>, scope: &Scope) -> Result<Lifecycle, Error> {
    let hook = match block.string("hook", scope)?.as_deref() {
        Some("prestart") => Hook::Prestart,
        Some("poststart") => Hook::Poststart,
        Some("poststop") => Hook::Poststop,
        None | Some("") => return Err(block.missing("hook")),
        Some(other) => {
            return Err(block.wrong("hook", &format!("`{other}` is none of prestart, poststart, poststop")));
        }
    };
    let sidecar = block.bool("sidecar", scope)?.unwrap_or(false) && hook != Hook::Poststop;
    block.finish(&[], &[], &mut Notes::default())?;
    Ok(Lifecycle { hook, sidecar })
}

fn artifact(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Artifact, Error> {
    for key in ["insecure", "chown"] {
        if block.bool(key, scope)? == Some(true) {
            notes.need_agent(block.not_here(key, "remove it or submit the job to a Nomad agent"))?;
        }
    }
    let mode = block.string("mode", scope)?.unwrap_or_else(|| "any".to_owned());
    if !["any", "file", "dir"].contains(&mode.as_str()) {
        return Err(block.wrong("mode", &format!("`{mode}` is none of any, file, dir")));
    }
    let source = block.string("source", scope)?;
    let destination = block.string("destination", scope)?.unwrap_or_else(|| "local/".to_owned());
    let (options, headers) = (block.map("options", scope)?, block.map("headers", scope)?);
    let source = source.ok_or_else(|| block.misspelt(&[]).unwrap_or_else(|| block.missing("source")))?;
    Ok(Artifact { source, destination, mode, options, headers })
}

fn templates(block: &mut Block<'_>, scope: &Scope) -> Result<Vec<Template>, Error> {
    let mut templates = Vec::new();
    for mut inner in block.blocks("template") {
        let read = template(&mut inner, scope)?;
        if templates.iter().any(|other: &Template| other.destination == read.destination) {
            let reason = format!("two templates of the task have the destination `{}`", read.destination);
            return Err(inner.wrong("destination", &reason));
        }
        templates.push(read);
        // Later changes are not followed here.
        let later = ["splay", "wait", "once", "error_on_missing_key", "vault_grace"];
        inner.finish(&later, &[], &mut Notes::default())?;
    }
    Ok(templates)
}

fn template(block: &mut Block<'_>, scope: &Scope) -> Result<Template, Error> {
    let perms = block.string("perms", scope)?.unwrap_or_else(|| "644".to_owned());
    let mode = u32::from_str_radix(&perms, 8);
    // As Nomad does, without set-user-ID and its like.
    let mode =
        mode.map_err(|_| block.wrong("perms", &format!("`{perms}` is not a file mode such as 644")))? & 0o777;
    change(block, scope)?;
    let mut owner = |key| -> Result<Option<u32>, Error> {
        // Nomad treats -1 as not set.
        let number = block.integer(key, scope)?.filter(|number| *number != -1);
        let known = number.map(u32::try_from).transpose();
        known.map_err(|_| block.wrong(key, "a number of a user or group is wanted, such as 1000"))
    };
    let owner = (owner("uid")?, owner("gid")?);
    let template = Template {
        data: block.string("data", scope)?,
        source: block.string("source", scope)?,
        destination: block.string("destination", scope)?.ok_or_else(|| block.missing("destination"))?,
        env: block.bool("env", scope)?.unwrap_or(false),
        mode,
        owner,
        delimiters: (
            block.string("left_delimiter", scope)?.unwrap_or_else(|| "{{".to_owned()),
            block.string("right_delimiter", scope)?.unwrap_or_else(|| "}}".to_owned()),
        ),
    };
    if template.data.is_none() == template.source.is_none() {
        return Err(block.wrong("data", "a template has either `data` or `source`"));
    }
    Ok(template)
}

/// What happens when a template changes, which is not followed here, but Nomad refuses what is wrong with it.
fn change(block: &mut Block<'_>, scope: &Scope) -> Result<(), Error> {
    let signal = offered_signal(block, "change_signal", scope)?;
    let script = block.block("change_script")?;
    let has_script = script.is_some();
    if let Some(script) = script {
        let known = ["command", "args", "timeout", "fail_on_error"];
        script.finish(&known, &[], &mut Notes::default())?;
    }
    match block.string("change_mode", scope)?.as_deref() {
        Some("signal") if signal.is_empty() => Err(block.missing("change_signal")),
        Some("script") if !has_script => Err(block.missing("change_script")),
        None | Some("noop" | "restart" | "signal" | "script") => Ok(()),
        Some(other) => {
            Err(block.wrong("change_mode", &format!("`{other}` is none of noop, restart, signal, script")))
        }
    }
}

/// A number that Nomad's servers accept only from `least` on.
fn at_least(block: &mut Block<'_>, key: &str, least: i64, scope: &Scope) -> Result<Option<i64>, Error> {
    match block.integer(key, scope)? {
        Some(number) if number < least => {
            Err(block.wrong(key, &format!("is {number}, and Nomad accepts {least} or more")))
        }
        number => Ok(number),
    }
}

/// A `volume_mount` block; propagation and label are checked as in nomad/structs/volumes.go.
fn volume_mount(block: &mut Block<'_>, scope: &Scope) -> Result<VolumeMount, Error> {
    let mode = block.string("propagation_mode", scope)?.unwrap_or_default();
    let propagation_mode = if mode.is_empty() { "private".to_owned() } else { mode };
    if !["private", "host-to-task", "bidirectional"].contains(&propagation_mode.as_str()) {
        let reason = format!("`{propagation_mode}` is none of private, host-to-task, bidirectional");
        return Err(block.wrong("propagation_mode", &reason));
    }
    let selinux_label = block.string("selinux_label", scope)?.unwrap_or_default();
    if !["", "z", "Z"].contains(&selinux_label.as_str()) {
        return Err(block.wrong("selinux_label", &format!("`{selinux_label}` is neither z nor Z")));
    }
    Ok(VolumeMount {
        volume: block.string("volume", scope)?.ok_or_else(|| block.missing("volume"))?,
        destination: block.string("destination", scope)?.ok_or_else(|| block.missing("destination"))?,
        read_only: block.bool("read_only", scope)?.unwrap_or(false),
        propagation_mode,
        selinux_label,
    })
}

fn resources(mut block: Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Resources, Error> {
    let cores = block.integer("cores", scope)?.unwrap_or(0);
    let cores = u32::try_from(cores).map_err(|_| block.wrong("cores", "a number of cores is required"))?;
    let cpu = at_least(&mut block, "cpu", 1, scope)?;
    if cores > 0 && cpu.is_some() {
        return Err(block.wrong("cpu", "only one of `cpu` and `cores` may be given"));
    }
    // `MinResources` in nomad/structs/structs.go, in MiB.
    let memory = at_least(&mut block, "memory", 10, scope)?.unwrap_or(300);
    let memory_max = block.integer("memory_max", scope)?.unwrap_or(0);
    if memory_max > 0 && memory_max < memory {
        return Err(block.wrong("memory_max", "is less than `memory`"));
    }
    block.finish(
        &["disk", "iops", "secrets", "numa"],
        &[
            ("network", "write the `network` block in the group, where Nomad wants it since 0.12"),
            ("device", "it needs Nomad's device plugins; submit the job to a Nomad agent"),
        ],
        notes,
    )?;
    Ok(Resources { cpu: cpu.unwrap_or(100), cores, memory, memory_max })
}
