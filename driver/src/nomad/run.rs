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
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::driver::FingerprintResponse;
use proto::driver::fingerprint_response::HealthState;
use proto::structs::attribute;

use super::desk::{Desk, Orders};
use super::jobspec::{self, Job};
use super::node::Node;
use super::plugin::{self, Launch, Plugin, Record};
use super::terminal::note;
use super::{allocdir, artifact};

/// The name that a job gives as its `driver`.
const DRIVER: &str = "systemd";

/// Run a Nomad job on this machine, without Nomad.
///
/// The job goes through the same plugin and the same unit as under a Nomad agent. What needs servers, other nodes or
/// other services is refused by name. The exit code is that of the first task that fails, 128 and its number for a
/// signal.
#[derive(Debug, Clone, clap::Args)]
pub struct RunOptions {
    /// The job file.
    #[arg(value_name = "JOB.nomad.hcl")]
    pub job: PathBuf,
    /// The value of a variable of the job; may be given several times.
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub variables: Vec<String>,
    /// The body of the plugin's `config` block: a file, or the text itself.
    #[arg(long, value_name = "FILE|HCL")]
    pub plugin_config: Option<String>,
    /// Another plugin binary than this one.
    #[arg(long, value_name = "BINARY")]
    pub plugin: Option<PathBuf>,
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
    let job = read_job(&options)?;
    let config = plugin_config(options.plugin_config.as_deref())?;
    tell_differences(&job);
    // From here on Ctrl-C is an order to us and no longer the end of this process.
    let mut orders = Orders::watch()?;

    let program = options.plugin.clone().map_or_else(std::env::current_exe, Ok);
    let program = program.map_err(|source| Error::Program { source })?;
    let ready = tokio::select! {
        ready = ready(program, &config) => ready,
        () = orders.next() => return Ok(130),
    };
    let (plugin, node) = ready?;

    let desk = Desk { plugin: &plugin, job: &job, node: &node, options: &options };
    let result = desk.play(&mut orders).await;
    plugin.shutdown().await;
    result
}

/// A plugin that is configured and healthy, and the node with what the driver says of it.
async fn ready(program: PathBuf, config: &hcl::Body) -> Result<(Plugin, Node), Error> {
    let wrong = |source| Error::Plugin { source: Box::new(source) };
    let plugin = Plugin::launch(Launch::new(program).records(tell_warnings)).await.map_err(wrong)?;
    let mut node = Node::of_this_machine();
    plugin.configure(config, &node).await.map_err(wrong)?;
    let fingerprint = plugin.fingerprint().await.map_err(wrong)?;
    if fingerprint.health() != HealthState::Healthy {
        return Err(Error::Unhealthy { description: fingerprint.health_description });
    }
    node.attributes.extend(attributes(&fingerprint));
    Ok((plugin, node))
}

fn read_job(options: &RunOptions) -> Result<Job, Error> {
    let path = options.job.clone();
    let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let mut variables = BTreeMap::new();
    for text in &options.variables {
        let (name, value) = text.split_once('=').ok_or_else(|| Error::Variable { text: text.clone() })?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    let job =
        jobspec::parse(&text, &variables).map_err(|source| Error::Job { path, source: Box::new(source) })?;
    match job.groups.iter().flat_map(|group| &group.tasks).find(|task| task.driver != DRIVER) {
        Some(task) => Err(Error::Driver { task: task.name.clone(), driver: task.driver.clone() }),
        None => Ok(job),
    }
}

/// The body of the plugin's configuration: a file when there is one of that name.
fn plugin_config(given: Option<&str>) -> Result<hcl::Body, Error> {
    let Some(given) = given else {
        return Ok(hcl::Body::default());
    };
    let text = if Path::new(given).is_file() {
        fs::read_to_string(given).map_err(|source| Error::Read { path: given.into(), source })?
    } else {
        given.to_owned()
    };
    hcl::parse(&text)
        .map_err(|source| Error::PluginConfig { text: given.to_owned(), source: Box::new(source) })
}

/// Says once what means something to an agent and nothing here.
fn tell_differences(job: &Job) {
    if !job.ignored.is_empty() {
        note(&format!("job {}: without effect at the desk: {}", job.id, job.ignored.join(", ")));
    }
    if job.kind != "batch" {
        note(&format!(
            "job {}: a {} job runs until its tasks end; nothing is restarted at the desk",
            job.id, job.kind
        ));
    }
}

fn tell_warnings(record: &Record) {
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
    use super::*;

    #[test]
    fn another_driver_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let job = directory.path().join("x.nomad.hcl");
        fs::write(&job, "job \"j\" {\n task \"t\" {\n driver = \"docker\"\n }\n}\n").unwrap();
        let options = RunOptions {
            job,
            variables: Vec::new(),
            plugin_config: None,
            plugin: None,
            keep: false,
            alloc_dir: None,
            plain: false,
        };
        assert_eq!(
            read_job(&options).unwrap_err().to_string(),
            "task t: its driver is `docker`; only `systemd` runs here"
        );
        let options = RunOptions { variables: vec!["x".to_owned()], ..options };
        assert!(matches!(read_job(&options), Err(Error::Variable { .. })));
    }

    struct Played {
        code: Result<u8, String>,
        calls: Vec<String>,
        /// What the tasks have written to `result` in the shared directory.
        result: String,
    }

    /// Runs a job whose groups are given, on a driver that runs plain processes.
    async fn played(groups: &str) -> Played {
        let directory = tempfile::tempdir().unwrap();
        let fake = super::super::fake::Fake::default();
        let job = directory.path().join("x.nomad.hcl");
        fs::write(&job, format!("job \"j\" {{\n type = \"batch\"\n{groups}\n}}\n")).unwrap();
        fs::write(directory.path().join("word"), "fetched").unwrap();
        let base = directory.path().join("allocs");
        let options = RunOptions {
            job,
            variables: Vec::new(),
            plugin_config: None,
            plugin: Some(fake.serve(directory.path())),
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
        Played { code, calls, result: result.unwrap_or_default() }
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

    #[test]
    fn the_plugins_configuration_is_text_or_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "x = 1\n").unwrap();
        let expected = hcl::parse("x = 1").unwrap();
        assert_eq!(plugin_config(Some("x = 1")).unwrap(), expected);
        assert_eq!(plugin_config(file.path().to_str()).unwrap(), expected);
        assert!(plugin_config(None).unwrap().0.is_empty());
        assert!(plugin_config(Some("no such file")).is_err());
    }
}
