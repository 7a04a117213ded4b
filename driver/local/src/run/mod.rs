//! `nomad-driver-systemd run JOB.nomad.hcl`: a job from its file to its last exit code.
//!
//! ```text
//! read the job ─► plugin: launch, configure, healthy? ─► per task: directories, artifacts, environment, config
//!                                                                 │
//!          exit code ◄─ shutdown ◄─ DestroyTask ◄─ WaitTask ◄─ StartTask
//!                                                   ▲
//!                      Ctrl-C: StopTask with the job's kill_signal and kill_timeout; again: kill
//! ```
//!
//! Nothing is ever restarted here. Every task that was started is destroyed, however the run ends.

mod lifecycle;
mod output;
mod prepare;
pub(crate) mod stop_signals;
mod tasks;

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::driver::FingerprintResponse;
use proto::driver::fingerprint_response::HealthState;
use proto::structs::attribute;

use crate::error::Error;
use crate::jobspec::Job;
use crate::node::DRIVER;
use crate::node::Node;
use crate::options::{Invocation, JobOptions};
use crate::plugin_client::{Launch, Plugin, Record};
use crate::terminal::note;

use self::stop_signals::StopSignals;
use self::tasks::Run;

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
    /// Where to make the allocation's directory; DIR is made, and stays. With `fs_isolation = "none"` other users must be able to pass through.
    #[arg(long, value_name = "DIR")]
    pub alloc_dir: Option<PathBuf>,
    /// Write the tasks' output as it is, without the task's name before each line.
    #[arg(long)]
    pub plain: bool,
    /// Print a JSON object per line on stdout: `task` with `stream` and `line`, with `event` and `details`, or with
    /// `exit_code`, `signal`, `oom_killed` and `error`.
    #[arg(long, conflicts_with = "plain")]
    pub json: bool,
}

/// Runs a job until all its tasks have ended; returns our exit code.
pub async fn run(options: RunOptions) -> Result<u8, Error> {
    let asked = options.job.read()?;
    asked.volumes.must_exist()?;
    note_differences(&asked.job);
    // From this point, Ctrl-C requests a stop and no longer ends this process.
    let mut stop_signals = StopSignals::watch()?;

    let ready = tokio::select! {
        ready = ready(&asked) => ready,
        () = stop_signals.next() => return Ok(130),
    };
    let (plugin, node) = ready?;

    let run = Run { plugin: &plugin, asked: &asked, node: &node, options: &options };
    let result = run.all(&mut stop_signals).await;
    plugin.shutdown().await;
    result.map_err(|error| error.marked_in(&asked.file))
}

/// A plugin that is configured and healthy, and the node with the driver's attributes.
async fn ready(asked: &Invocation) -> Result<(Plugin, Node), Error> {
    let wrong = |source| Error::Plugin { source: Box::new(source) };
    let plugin = Plugin::launch(Launch::new(&asked.program).records(tell_warnings)).await.map_err(wrong)?;
    let mut node = Node::of_this_machine();
    plugin.configure(&asked.config, &node).await.map_err(wrong)?;
    let fingerprint = plugin.fingerprint().await.map_err(wrong)?;
    if fingerprint.health() != HealthState::Healthy {
        return Err(Error::Unhealthy { description: fingerprint.health_description });
    }
    // The parts of the job's `resources` that have no effect on this machine.
    if let Some(lacks) = fingerprint.health_description.strip_prefix("Healthy, but ") {
        note(lacks);
    }
    node.attributes.extend(attributes(&fingerprint));
    Ok((plugin, node))
}

/// Notes once which parts of the job only have an effect under an agent.
fn note_differences(job: &Job) {
    if !job.ignored.is_empty() {
        note(&format!("job {}: ignored when running locally: {}", job.id, job.ignored.join(", ")));
    }
    if job.kind != "batch" {
        note(&format!("job {}: a {} job runs until its tasks end; `run` restarts nothing", job.id, job.kind));
    }
}

pub(crate) fn tell_warnings(record: &Record) {
    match record.level.as_str() {
        "warn" | "error" => {
            let fields = record.fields.iter().filter(|(key, _)| !key.starts_with('@'));
            let fields: Vec<_> = fields.map(|(key, value)| format!("{key}={value}")).collect();
            note(&format!("plugin: {}: {} {}", record.level, record.message, fields.join(" ")));
        }
        _ => tracing::debug!(target: "plugin", fields = ?record.fields, "{}", record.message),
    }
}

/// The attributes that the driver adds to the node's, as text with their units.
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
    use diagnostics::with_causes;
    use std::fs;

    use proto::driver::Mount;

    use super::*;

    struct Played {
        code: Result<u8, String>,
        calls: Vec<String>,
        mounts: Vec<Mount>,
        /// What the tasks wrote to `result` in the shared directory.
        result: String,
    }

    /// Runs a job with these groups, on a driver that runs plain processes.
    async fn played(groups: &str) -> Played {
        let directory = tempfile::tempdir().unwrap();
        let fake = crate::fake::Fake::default();
        let file = directory.path().join("x.nomad.hcl");
        fs::write(&file, format!("job \"j\" {{\n type = \"batch\"\n{groups}\n}}\n")).unwrap();
        fs::write(directory.path().join("word"), "fetched").unwrap();
        let base = directory.path().join("allocs");
        let options = RunOptions {
            job: JobOptions {
                file,
                variables: Vec::new(),
                variable_files: Vec::new(),
                volumes: vec!["etc=/etc".to_owned()],
                plugin_config: None,
                plugin: Some(fake.serve(directory.path())),
            },
            keep: true,
            alloc_dir: Some(base.clone()),
            plain: false,
            json: false,
        };
        let code = run(options).await.map_err(|error| with_causes(&error));
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
    async fn a_configuration_names_what_the_templates_of_its_task_make_known() {
        let script = "printf %s ${WORD} > $NOMAD_ALLOC_DIR/data/result";
        let template = "template {\n data = \"WORD=made\"\n destination = \"secrets/env\"\n env = true\n}";
        let played = played(&format!("group \"g\" {{\n{}\n}}", shell("t", template, script))).await;
        assert_eq!((played.code, played.result.as_str()), (Ok(0), "made"));
    }

    #[tokio::test]
    async fn a_rendered_template_belongs_to_whom_the_job_says() {
        let us = rustix::process::geteuid();
        let owner = if us.is_root() { 12345 } else { us.as_raw() };
        let script = "stat -c '%u %a' ${NOMAD_SECRETS_DIR}/token > $NOMAD_ALLOC_DIR/data/result";
        let more = format!(
            "template {{\n data = \"x\"\n destination = \"secrets/token\"\n perms = \"0640\"\n uid = {owner}\n gid = -1\n}}"
        );
        let played = played(&format!("group \"g\" {{\n{}\n}}", shell("t", &more, script))).await;
        assert_eq!((played.code, played.result), (Ok(0), format!("{owner} 640\n")));
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
    async fn tasks_run_in_the_order_of_their_lifecycles() {
        let hook = |hook: &str| format!("lifecycle {{\n hook = \"{hook}\"\n}}");
        let sidecar = "lifecycle {\n hook = \"prestart\"\n sidecar = true\n}";
        let write = |word: &str| format!("echo {word} >> $NOMAD_ALLOC_DIR/data/result");
        let template =
            "template {\n source = \"${NOMAD_ALLOC_DIR}/data/result\"\n destination = \"local/seen\"\n}";
        let groups = format!(
            "group \"g\" {{\n{}{}{}{}{}\n}}",
            shell("clean", &hook("poststop"), &write("clean")),
            shell("main", template, &format!("grep -q init $NOMAD_TASK_DIR/seen && {}", write("main"))),
            shell("init", &hook("prestart"), &format!("sleep 0.1; {}", write("init"))),
            shell("proxy", sidecar, "exec sleep 1000"),
            shell("after", &hook("poststart"), "exit 0"),
        );
        let played = played(&groups).await;
        assert_eq!((played.code, played.result.as_str()), (Ok(0), "init\nmain\nclean\n"));
        let starts: Vec<_> = played.calls.iter().filter_map(|call| call.strip_prefix("start ")).collect();
        assert_eq!(starts, ["init", "proxy", "main", "after", "clean"]);
        assert!(played.calls.contains(&"stop proxy".to_owned()), "{:?}", played.calls);
    }

    #[tokio::test]
    async fn after_a_prestart_task_that_fails_nothing_starts_but_what_cleans_up() {
        let hook = |hook: &str| format!("lifecycle {{\n hook = \"{hook}\"\n}}");
        let groups = format!(
            "group \"g\" {{\n{}{}{}\n}}",
            shell("init", &hook("prestart"), "exit 4"),
            shell("main", "", "exit 0"),
            shell("clean", &hook("poststop"), "exit 0"),
        );
        let played = played(&groups).await;
        assert_eq!(played.code, Ok(4));
        let starts: Vec<_> = played.calls.iter().filter_map(|call| call.strip_prefix("start ")).collect();
        assert_eq!(starts, ["init", "clean"]);
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
        assert_eq!(played.calls, ["start first", "start broken", "stop first", "destroy first"]);
    }

    #[tokio::test]
    async fn what_cleans_up_runs_also_after_a_task_that_cannot_start() {
        let hook = |hook: &str| format!("lifecycle {{\n hook = {hook:?}\n}}");
        let groups = format!(
            "group \"g\" {{\n{}{}task \"broken\" {{\n driver = \"systemd\"\n config {{\n command = \"/no/such\"\n }}\n}}\n}}",
            shell("after", &hook("poststart"), "exit 0"),
            shell("clean", &hook("poststop"), "exit 0"),
        );
        let played = played(&groups).await;
        assert!(played.code.unwrap_err().contains("task broken"));
        assert_eq!(played.calls, ["start broken", "start clean", "destroy clean"]);
    }

    #[tokio::test]
    async fn a_wrong_key_in_the_config_is_told_before_anything_starts() {
        let groups =
            "group \"g\" {\n task \"t\" {\n driver = \"systemd\"\n config {\n comand = \"x\"\n }\n }\n}";
        let played = played(groups).await;
        let error = played.code.unwrap_err();
        assert!(error.contains("(did you mean `command`?); known here: args, command"), "{error}");
        assert!(played.calls.is_empty());
    }
}
