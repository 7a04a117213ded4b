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
    /// Where the task sees it.
    pub destination: String,
    /// The task may not write to it.
    pub read_only: bool,
    /// `private`, `host-to-task` or `bidirectional`.
    pub propagation_mode: String,
    /// `z`, `Z` or empty.
    pub selinux_label: String,
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Such as `web`.
    pub name: String,
    /// Such as `systemd`.
    pub driver: String,
    /// Empty when the job gives none.
    pub user: String,
    /// The driver's own block, see [`Scope::body`].
    pub config: Map<String, Value>,
    /// The job's `env`.
    pub env: BTreeMap<String, String>,
    /// The task's `meta`.
    pub meta: BTreeMap<String, String>,
    /// What to fetch before the task starts.
    pub artifacts: Vec<Artifact>,
    /// What to render before the task starts.
    pub templates: Vec<Template>,
    /// The group's volumes that it sees.
    pub volume_mounts: Vec<VolumeMount>,
    /// What the task may use.
    pub resources: Resources,
    /// How long a stopped task may take; 5 s unless given.
    pub kill_timeout: Duration,
    /// Such as `SIGTERM`; empty for the driver's default.
    pub kill_signal: String,
    /// When it ends, the group's other tasks are stopped.
    pub leader: bool,
    /// When it runs, compared with the tasks of its group.
    pub lifecycle: Lifecycle,
    /// `logs { disabled = true }`: its output goes nowhere.
    pub logs_disabled: bool,
}

/// When a task runs, compared with the other tasks of its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hook {
    /// Without a `lifecycle` block.
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
    /// Its `hook`.
    pub hook: Hook,
    /// It runs beside the main tasks, until they have ended. Never a poststop task.
    pub sidecar: bool,
}

/// An `artifact` block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Artifact {
    /// A URL or a path.
    pub source: String,
    /// Relative to the task's directory; `local/` unless given.
    pub destination: String,
    /// `any`, `file` or `dir`.
    pub mode: String,
    /// Such as `checksum` and `archive`.
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
    /// Where the result goes, relative to the task's directory.
    pub destination: String,
    /// The result also holds variables of the task, `NAME=VALUE` on each line.
    pub env: bool,
    /// The mode of the result, such as 0o644.
    pub mode: u32,
    /// Who owns the result, user and group, such as 1000; ourselves where the job does not say.
    pub owner: (Option<u32>, Option<u32>),
    /// What stands around an action, such as `{{` and `}}`.
    pub delimiters: (String, String),
}

/// A task's `resources` with Nomad's defaults (api/resources.go).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// MHz; 100 unless given, not used when `cores` is.
    pub cpu: i64,
    /// Whole cores, or zero.
    pub cores: u32,
    /// MiB; 300 unless given.
    pub memory: i64,
    /// MiB; zero for `memory`, -1 for no ceiling.
    pub memory_max: i64,
}

pub(super) fn task(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Task, Error> {
    let name = name(block)?;
    let driver = block.string("driver", scope)?.ok_or_else(|| block.missing("driver"))?;
    let mut artifacts = Vec::new();
    for mut inner in block.blocks("artifact") {
        artifacts.push(artifact(&mut inner, scope)?);
        inner.finish(&[], &[], notes)?;
    }
    let mut templates = Vec::new();
    for mut inner in block.blocks("template") {
        templates.push(template(&mut inner, scope)?);
        // What changes later is not followed here.
        let later = ["change_mode", "change_script", "splay", "wait", "once"];
        inner.finish(
            &[&later[..], &["error_on_missing_key", "vault_grace"]].concat(),
            &[],
            &mut Notes::default(),
        )?;
    }
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
        logs.finish(&["max_files", "max_file_size", "enabled"], &[], &mut Notes::default())?;
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

/// A signal, one of those that nodes offer.
fn offered_signal(block: &mut Block<'_>, key: &str, scope: &Scope) -> Result<String, Error> {
    let signal = block.string(key, scope)?.unwrap_or_default();
    if signal.is_empty() || SIGNALS.contains(&signal.as_str()) {
        return Ok(signal);
    }
    let full = format!("SIG{}", signal.to_uppercase());
    let meant = SIGNALS.iter().find(|known| **known == full || **known == signal.to_uppercase());
    let reason = match meant {
        Some(meant) => format!("`{signal}` is not a signal; write `{meant}`"),
        None => format!("`{signal}` is none of the signals that nodes offer: {}", SIGNALS.join(", ")),
    };
    Err(block.wrong(key, &reason))
}

pub(super) fn finish_task(block: Block<'_>, notes: &mut Notes) -> Result<(), Error> {
    block.finish(
        &["restart", "affinity", "shutdown_delay", "identity"],
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

fn artifact(block: &mut Block<'_>, scope: &Scope) -> Result<Artifact, Error> {
    for key in ["insecure", "chown"] {
        if block.bool(key, scope)? == Some(true) {
            return Err(block.not_here(key, "remove it or submit the job to a Nomad agent"));
        }
    }
    let mode = block.string("mode", scope)?.unwrap_or_else(|| "any".to_owned());
    if !["any", "file", "dir"].contains(&mode.as_str()) {
        return Err(block.wrong("mode", &format!("`{mode}` is none of any, file, dir")));
    }
    Ok(Artifact {
        source: block.string("source", scope)?.ok_or_else(|| block.missing("source"))?,
        destination: block.string("destination", scope)?.unwrap_or_else(|| "local/".to_owned()),
        mode,
        options: block.map("options", scope)?,
        headers: block.map("headers", scope)?,
    })
}

fn template(block: &mut Block<'_>, scope: &Scope) -> Result<Template, Error> {
    let perms = block.string("perms", scope)?.unwrap_or_else(|| "644".to_owned());
    let mode = u32::from_str_radix(&perms, 8);
    let mode =
        mode.map_err(|_| block.wrong("perms", &format!("`{perms}` is not a file mode such as 644")))?;
    // Nothing changes here, and a wrong name is wrong all the same.
    offered_signal(block, "change_signal", scope)?;
    let mut owner = |key| -> Result<Option<u32>, Error> {
        // Nomad takes -1 for none.
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
    let cpu = block.integer("cpu", scope)?;
    if cores > 0 && cpu.is_some() {
        return Err(block.wrong("cpu", "only one of `cpu` and `cores` may be given"));
    }
    let memory = block.integer("memory", scope)?.unwrap_or(300);
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
