//! `nomad-driver-systemd run JOB.nomad.hcl`: a job from its file to its last exit code.
//!
//! ```text
//! read the job ─► plugin: launch, configure, healthy? ─► per task: directories, artifacts, environment, config
//!                                                                 │
//!          exit code ◄─ shutdown ◄─ DestroyTask ◄─ WaitTask ◄─ StartTask
//!                                                   ▲
//!                      Ctrl-C: StopTask with the job's signal and patience; again: kill
//! ```
//!
//! Nothing is ever restarted here. Whatever way this ends, every task that was started is destroyed.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use proto::driver::FingerprintResponse;
use proto::driver::fingerprint_response::HealthState;
use proto::structs::attribute;

use super::desk::{Desk, Orders};
use super::jobspec::{self, Job};
use super::node::Node;
use super::options::{Asked, DRIVER, JobOptions};
use super::plugin::{self, Launch, Plugin, Record};
use super::template;
use super::terminal::note;
use super::{allocdir, artifact};

/// Run a Nomad job on this machine, without Nomad.
///
/// The job goes through the same plugin and the same unit as under a Nomad agent. What needs servers, other nodes or
/// other services is refused by name. The exit code is that of the first task that fails, 128 and its number for a
/// signal.
#[derive(Debug, Clone, clap::Args)]
pub struct RunOptions {
    /// What to run.
    #[command(flatten)]
    pub job: JobOptions,
    /// Leave the allocation's directory in place and say where it is.
    #[arg(long)]
    pub keep: bool,
    /// Where to make the allocation's directory; other users must be able to pass through.
    #[arg(long, value_name = "DIR")]
    pub alloc_dir: Option<PathBuf>,
    /// Write the tasks' output as it is, without the task's name before each line.
    #[arg(long)]
    pub plain: bool,
}

/// Why a job was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The job file is wrong, or asks for what an agent is needed for.
    #[error("the job {path}")]
    Job {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<jobspec::Error>,
    },
    /// A `--var` without `=`.
    #[error("`--var {text}` has no `=`; write `--var NAME=VALUE`")]
    Variable {
        /// What was given.
        text: String,
    },
    /// A `--volume` without a name or a path.
    #[error(
        "`--volume {text}` lacks its name or its path; write `--volume NAME=PATH` or `--volume NAME=PATH:ro`"
    )]
    Volume {
        /// What was given.
        text: String,
    },
    /// A volume of the job that no `--volume` gives.
    #[error("volume `{name}`: this machine has no host volume `{wanted}`; add `--volume {wanted}=PATH`")]
    NoVolume {
        /// The group's name for it.
        name: String,
        /// Its `source`.
        wanted: String,
    },
    /// The place of a `--volume` is not there.
    #[error("find {path}, the host volume `{name}`; make it first")]
    VolumePath {
        /// The volume.
        name: String,
        /// Its place.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The driver mounts nothing, as it is configured.
    #[error(
        "task {task}: the driver takes no volumes; remove `volume_mount` or change the plugin's configuration"
    )]
    NoMounts {
        /// The task.
        task: String,
    },
    /// Ctrl-C, before anything was there to stop.
    #[error("interrupted")]
    Interrupted,
    /// The plugin's configuration is not HCL.
    #[error("the plugin's configuration `{text}` is neither a file nor HCL")]
    PluginConfig {
        /// What was given.
        text: String,
        /// The parser's reason.
        source: Box<hcl::Error>,
    },
    /// A task of another driver.
    #[error("task {task}: its driver is `{driver}`; only `{DRIVER}` runs here")]
    Driver {
        /// The task.
        task: String,
        /// The driver.
        driver: String,
    },
    /// We do not know our own binary.
    #[error("find this program's own binary; name the plugin with `--plugin`")]
    Program {
        /// The system's reason.
        source: io::Error,
    },
    /// The plugin did not start, or did not take its configuration.
    #[error("the plugin")]
    Plugin {
        /// What is wrong.
        source: Box<plugin::Error>,
    },
    /// The driver itself says that it cannot run tasks here.
    #[error("the driver is not healthy: {description}")]
    Unhealthy {
        /// The driver's words.
        description: String,
    },
    /// The allocation's directory.
    #[error("prepare the allocation")]
    AllocDir {
        /// What is wrong.
        source: allocdir::Error,
    },
    /// More cores than there are.
    #[error("task {task}: it asks for {cores} cores and no more are left on this machine")]
    Cores {
        /// The task.
        task: String,
        /// How many.
        cores: u32,
    },
    /// No port is free.
    #[error("port `{label}`: no port between 20000 and 32000 is free")]
    Port {
        /// The port's label.
        label: String,
    },
    /// A template.
    #[error("task {task}")]
    Template {
        /// The task.
        task: String,
        /// What is wrong.
        source: template::Error,
    },
    /// An artifact.
    #[error("task {task}")]
    Artifact {
        /// The task.
        task: String,
        /// What is wrong.
        source: artifact::Error,
    },
    /// A call about one task, or its configuration.
    #[error("task {task}")]
    Task {
        /// The task.
        task: String,
        /// What is wrong.
        source: Box<plugin::Error>,
    },
    /// Signals could not be watched.
    #[error("watch for Ctrl-C")]
    Signals {
        /// The system's reason.
        source: io::Error,
    },
}

/// Runs a job until all its tasks have ended; the result is our exit code.
pub async fn run(options: RunOptions) -> Result<u8, Error> {
    let asked = options.job.read()?;
    asked.volumes.must_exist()?;
    tell_differences(&asked.job);
    // From here on Ctrl-C is an order to us and no longer the end of this process.
    let mut orders = Orders::watch()?;

    let ready = tokio::select! {
        ready = ready(&asked) => ready,
        () = orders.next() => return Ok(130),
    };
    let (plugin, node) = ready?;

    let desk = Desk { plugin: &plugin, asked: &asked, node: &node, options: &options };
    let result = desk.play(&mut orders).await;
    plugin.shutdown().await;
    result
}

/// A plugin that is configured and healthy, and the node with what the driver says of it.
async fn ready(asked: &Asked) -> Result<(Plugin, Node), Error> {
    let wrong = |source| Error::Plugin { source: Box::new(source) };
    let plugin = Plugin::launch(Launch::new(&asked.program).records(tell_warnings)).await.map_err(wrong)?;
    let mut node = Node::of_this_machine();
    plugin.configure(&asked.config, &node).await.map_err(wrong)?;
    let fingerprint = plugin.fingerprint().await.map_err(wrong)?;
    if fingerprint.health() != HealthState::Healthy {
        return Err(Error::Unhealthy { description: fingerprint.health_description });
    }
    node.attributes.extend(attributes(&fingerprint));
    Ok((plugin, node))
}

/// Says once what means something to an agent and nothing here.
fn tell_differences(job: &Job) {
    if !job.ignored.is_empty() {
        note(&format!("job {}: ignored when running locally: {}", job.id, job.ignored.join(", ")));
    }
    if job.kind != "batch" {
        note(&format!("job {}: a {} job runs until its tasks end; `run` restarts nothing", job.id, job.kind));
    }
}

pub(super) fn tell_warnings(record: &Record) {
    match record.level.as_str() {
        "warn" | "error" => {
            let fields = record.fields.iter().filter(|(key, _)| !key.starts_with('@'));
            let fields: Vec<_> = fields.map(|(key, value)| format!("{key}={value}")).collect();
            note(&format!("plugin: {}: {} {}", record.level, record.message, fields.join(" ")));
        }
        _ => tracing::debug!(target: "plugin", fields = ?record.fields, "{}", record.message),
    }
}

/// What the driver adds to the node's attributes, as text with its unit.
fn attributes(fingerprint: &FingerprintResponse) -> BTreeMap<String, String> {
    let text = |attribute: &proto::structs::Attribute| {
        let value = match &attribute.value {
            Some(attribute::Value::FloatVal(number)) => number.to_string(),
            Some(attribute::Value::IntVal(number)) => number.to_string(),
            Some(attribute::Value::StringVal(text)) => text.clone(),
            Some(attribute::Value::BoolVal(bool)) => bool.to_string(),
            None => String::new(),
        };
        format!("{value}{}", attribute.unit)
    };
    let mut all: BTreeMap<_, _> =
        fingerprint.attributes.iter().map(|(name, attribute)| (name.clone(), text(attribute))).collect();
    all.insert(format!("driver.{DRIVER}"), "1".to_owned());
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::driver::Mount;

    use super::*;

    struct Played {
        code: Result<u8, String>,
        calls: Vec<String>,
        mounts: Vec<Mount>,
        /// What the tasks have written to `result` in the shared directory.
        result: String,
    }

    /// Runs a job whose groups are given, on a driver that runs plain processes.
    async fn played(groups: &str) -> Played {
        let directory = tempfile::tempdir().unwrap();
        let fake = super::super::fake::Fake::default();
        let file = directory.path().join("x.nomad.hcl");
        fs::write(&file, format!("job \"j\" {{\n type = \"batch\"\n{groups}\n}}\n")).unwrap();
        fs::write(directory.path().join("word"), "fetched").unwrap();
        let base = directory.path().join("allocs");
        let options = RunOptions {
            job: JobOptions {
                file,
                variables: Vec::new(),
                volumes: vec!["etc=/etc".to_owned()],
                plugin_config: None,
                plugin: Some(fake.serve(directory.path())),
            },
            keep: true,
            alloc_dir: Some(base.clone()),
            plain: false,
        };
        let code = run(options).await.map_err(|error| {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        });
        let alloc = fs::read_dir(base).into_iter().flatten().flatten().next();
        let result =
            alloc.map(|alloc| fs::read_to_string(alloc.path().join("alloc/data/result")).unwrap_or_default());
        let calls = fake.calls.lock().unwrap().clone();
        let mounts = fake.mounts.lock().unwrap().clone();
        Played { code, calls, mounts, result: result.unwrap_or_default() }
    }

    fn shell(name: &str, more: &str, script: &str) -> String {
        format!(
            "task \"{name}\" {{\n driver = \"systemd\"\n{more}\n config {{\n command = \"/bin/sh\"\n \
             args = [\"-c\", {script:?}]\n }}\n}}\n"
        )
    }

    #[tokio::test]
    async fn a_job_runs_from_its_file_to_its_exit_code() {
        let script = "cat ${NOMAD_TASK_DIR}/word > $NOMAD_ALLOC_DIR/data/result; echo $GREETING; exit 3";
        let more = "env {\n GREETING = \"hello from ${NOMAD_JOB_ID}\"\n}\nartifact {\n source = \"word\"\n}";
        let played = played(&format!("group \"g\" {{\n{}\n}}", shell("t", more, script))).await;
        assert_eq!(played.code, Ok(3));
        assert_eq!(played.result, "fetched");
        assert_eq!(played.calls, ["start t", "destroy t"]);
    }

    #[tokio::test]
    async fn templates_are_rendered_before_a_task_starts() {
        let script = "cat ${NOMAD_TASK_DIR}/made/x.conf > $NOMAD_ALLOC_DIR/data/result; printf '%s' $WORD >> $NOMAD_ALLOC_DIR/data/result";
        let more = "template {\n data = \"task {{ env \\\"NOMAD_TASK_NAME\\\" }}, \"\n destination = \"local/made/x.conf\"\n}\n\
                    template {\n data = \"WORD='from a template'\"\n destination = \"secrets/env\"\n env = true\n}";
        let played = played(&format!("group \"g\" {{\n{}\n}}", shell("t", more, script))).await;
        assert_eq!((played.code, played.result.as_str()), (Ok(0), "task t, fromatemplate"));
    }

    #[tokio::test]
    async fn a_volume_is_mounted_and_one_that_nobody_gave_ends_it() {
        let volume = |source: &str| format!("volume \"v\" {{\n type = \"host\"\n source = {source:?}\n}}\n");
        let mount = "volume_mount {\n volume = \"v\"\n destination = \"/data\"\n read_only = true\n}";
        let task = shell("t", mount, "exit 0");
        let given = played(&format!("group \"g\" {{\n{}{task}\n}}", volume("etc"))).await;
        assert_eq!(given.code, Ok(0));
        let mount = &given.mounts[0];
        assert_eq!((mount.host_path.as_str(), mount.task_path.as_str()), ("/etc", "/data"));
        assert_eq!((mount.readonly, mount.propagation_mode.as_str()), (true, "private"));

        let missing = played(&format!("group \"g\" {{\n{}{task}\n}}", volume("srv"))).await;
        let error = missing.code.unwrap_err();
        assert!(error.contains("add `--volume srv=PATH`"), "{error}");
        assert!(missing.calls.is_empty());
    }

    #[tokio::test]
    async fn when_the_leader_ends_the_others_are_stopped() {
        let groups = format!(
            "group \"g\" {{\n{}{}\n}}",
            shell("follower", "", "exec sleep 1000"),
            shell("leader", "leader = true", "exit 0")
        );
        let played = played(&groups).await;
        assert_eq!(played.code, Ok(0));
        assert!(played.calls.contains(&"stop follower".to_owned()), "{:?}", played.calls);
        assert_eq!(played.calls.iter().filter(|call| call.starts_with("destroy")).count(), 2);
    }

    #[tokio::test]
    async fn a_task_that_cannot_start_ends_the_others() {
        let groups = format!(
            "group \"g\" {{\n{}task \"broken\" {{\n driver = \"systemd\"\n config {{\n command = \"/no/such\"\n }}\n}}\n}}",
            shell("first", "", "exec sleep 1000"),
        );
        let played = played(&groups).await;
        let error = played.code.unwrap_err();
        assert!(error.contains("task broken") && error.contains("/no/such"), "{error}");
        assert_eq!(played.calls, ["start first", "start broken", "destroy first"]);
    }

    #[tokio::test]
    async fn a_wrong_key_in_the_config_is_told_before_anything_starts() {
        let groups =
            "group \"g\" {\n task \"t\" {\n driver = \"systemd\"\n config {\n comand = \"x\"\n }\n }\n}";
        let played = played(groups).await;
        let error = played.code.unwrap_err();
        assert!(error.contains("unknown key `comand`; known here: args, command"), "{error}");
        assert!(played.calls.is_empty());
    }
}
