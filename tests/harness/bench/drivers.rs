//! Our driver beside others. `systemd-run` and `crun`, which `CRUN` names, are commands. A plugin that the bench starts is
//! driven over its socket: exec2, which `EXEC2` names. The drivers that are part of Nomad are driven by a real agent, which
//! `NOMAD` names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nomad_local::node::Node as Machine;
use nomad_local::plugin_client::{Launch, Plugin};
use proto::driver::{DestroyTaskRequest, StartTaskRequest};
use serde_json::json;
use tests::{Agent, Host, Job, Need, Node, Spec, eventually};

use crate::results::record;
use crate::tasks::{destroy, timed_life};
use crate::{median, milliseconds};

/// Starts of each plugin, in turn.
const STARTS: usize = 40;
/// Jobs of each driver under an agent, in turn; in a virtual machine, where `exec` needs half a minute for each, at least
/// three, and no more after this time.
const JOBS: usize = 20;
const LONG: Duration = Duration::from_mins(3);
/// The kernel removes what a task leaves, such as its mounts, after its end: the next start should not wait for that.
const REST: Duration = Duration::from_millis(100);
/// More MHz than the node has.
const ALL_CORES: i64 = 100_000;
/// The name of the task's program in `local/`.
const PROGRAM: &str = "hello";

/// Prints how long a task takes to run with each driver; `native` is a static C program that says hello.
#[tokio::main]
pub(crate) async fn measure(native: &Path) {
    println!("| start of a task | ours | other | ratio |");
    println!("|---|---|---|---|");
    commands(native).await;
    plugins(native).await;
    if std::env::var_os("NOMAD").is_some() {
        under_an_agent().await;
    } else {
        eprintln!("bench: ignored: raw_exec and exec, since NOMAD names no Nomad");
    }
}

/// A program from its start to its end: a task of ours, and commands that put it into a unit or a container.
async fn commands(native: &Path) {
    let Some(host) = Host::alone(Need::Systemd).await else { std::process::exit(1) };
    let (node, job) = (Node::start(&host).await, Job::artifact(PROGRAM, &fs::read(native).unwrap()));
    let bundle = Bundle::new(native);
    let mut others = vec![("systemd-run, a bare unit", {
        let mut command = Command::new("systemd-run");
        command.args(["--quiet", "--wait", "--collect"]).arg(native);
        command
    })];
    match std::env::var_os("CRUN") {
        Some(crun) => {
            others.push(("crun, a container with namespaces and without limits", bundle.command(&crun)));
        }
        None => eprintln!("bench: ignored: crun, since CRUN names none"),
    }
    let mut times = vec![Vec::new(); others.len() + 1];
    for round in 0..STARTS + 3 {
        let mut of_round = vec![timed_life(&node, &job).await];
        for (what, command) in &mut others {
            let began = Instant::now();
            let status = command.stdout(Stdio::null()).status().unwrap();
            of_round.push(began.elapsed());
            assert!(status.success(), "{what}: {status}");
        }
        for (times, time) in times.iter_mut().zip(of_round).filter(|_| round >= 3) {
            times.push(time);
        }
    }
    let (ours, theirs) = times.split_first_mut().unwrap();
    for ((what, _), theirs) in others.iter().zip(theirs) {
        row(&format!("{what}, start to end"), ours, theirs);
    }
}

/// An OCI bundle with a program, as `crun spec` makes it, without a terminal.
struct Bundle(tempfile::TempDir);

impl Bundle {
    fn new(program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        fs::create_dir(&root).unwrap();
        fs::copy(program, root.join(PROGRAM)).unwrap();
        let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
        let mount = |kind: &str, at: &str| json!({ "destination": at, "type": kind, "source": kind });
        let config = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": [format!("/{PROGRAM}")], "cwd": "/", "noNewPrivileges": true,
                "capabilities": { "bounding": [], "effective": [], "permitted": [] },
            },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [mount("proc", "/proc"), mount("tmpfs", "/dev"), mount("mqueue", "/dev/mqueue")],
            "linux": { "namespaces": namespaces },
        });
        fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        Self(directory)
    }

    fn command(&self, crun: &OsStr) -> Command {
        let mut command = Command::new(crun);
        command.args(["--cgroup-manager=disabled", "run", "--bundle"]).arg(self.0.path()).arg("bench");
        command
    }
}

/// From `StartTask` to the first byte that the program writes.
async fn plugins(native: &Path) {
    let Some(exec2) = std::env::var_os("EXEC2").map(PathBuf::from) else {
        eprintln!("bench: ignored: exec2, since EXEC2 names no plugin");
        return;
    };
    let Some(host) = Host::alone(Need::Systemd).await else { std::process::exit(1) };
    let node = Node::start(&host).await;
    // With the first task on a node its slice starts, too.
    let other = node.run(Job::command("/bin/sleep").args(&["infinity"])).await;
    let exec2 = Exec2::start(&exec2).await;
    let job = Job::artifact(PROGRAM, &fs::read(native).unwrap());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..STARTS + 3 {
        tokio::time::sleep(REST).await;
        let ours_took = ours_to_output(&node, &job).await;
        tokio::time::sleep(REST).await;
        let times = (ours_took, exec2.to_output(&node, &job, round).await);
        // The first rounds warm up.
        if round >= 3 {
            ours.push(times.0);
            theirs.push(times.1);
        }
    }
    let what = |until: &str| format!("exec2, over its socket, from StartTask to {until}");
    for (until, of) in [("its answer", 0), ("the first byte of its program", 1)] {
        let pick = |times: &[[Duration; 2]]| times.iter().map(|time| time[of]).collect::<Vec<_>>();
        row(&what(until), &mut pick(&ours), &mut pick(&theirs));
    }
    exec2.plugin.shutdown().await;
    destroy(&node, other).await;
}

/// To the answer, and to the first byte of output.
async fn ours_to_output(node: &Node, job: &Job) -> [Duration; 2] {
    let prepared = node.prepare(job);
    let began = Instant::now();
    let mut task = node.begin(prepared).await.unwrap();
    let answered = began.elapsed();
    task.says("hello").await;
    let said = began.elapsed();
    destroy(node, task).await;
    [answered, said]
}

/// The plugin of the driver exec2, and the part of a client that it relies on.
struct Exec2 {
    plugin: Plugin,
    /// The parent of the tasks' control groups, which Nomad makes.
    group: PathBuf,
}

impl Exec2 {
    async fn start(program: &Path) -> Self {
        let plugin = Plugin::launch(Launch::new(program)).await.unwrap();
        plugin.configure(&hcl::Body::default(), &Machine::of_this_machine()).await.unwrap();
        let group = PathBuf::from("/sys/fs/cgroup/bench.slice");
        fs::create_dir_all(&group).unwrap();
        for directory in [group.parent().unwrap(), &group] {
            if fs::write(directory.join("cgroup.subtree_control"), "+cpu +memory +pids").is_err() {
                eprintln!("bench: this host has no cgroup controllers, which exec2 needs for its limits");
            }
        }
        Self { plugin, group }
    }

    async fn to_output(&self, node: &Node, job: &Job, number: usize) -> [Duration; 2] {
        let mut prepared = node.prepare(job);
        let directory = prepared.alloc_dir().join("web");
        let program = directory.join("local").join(PROGRAM);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let group = self.group.join(number.to_string());
        fs::create_dir(&group).unwrap();
        let config = &mut prepared.config;
        config.msgpack_driver_config = Job::command(program.to_str().unwrap()).msgpack();
        // A user as Nomad allocates it for the driver: the name is enough.
        config.user = format!("nomad-{}", 80_000 + number);
        let resources = config.resources.as_mut().unwrap();
        resources.linux_resources.as_mut().unwrap().cpuset_cgroup = group.display().to_string();
        // It takes `cpu` as a limit: with the usual 100 MHz its own start would take seconds.
        let allocated = resources.allocated_resources.as_mut().unwrap();
        allocated.cpu.as_mut().unwrap().cpu_shares = ALL_CORES;
        let paths = [
            ("NOMAD_TASK_DIR", directory.join("local")),
            ("NOMAD_SECRETS_DIR", directory.join("secrets")),
            ("NOMAD_ALLOC_DIR", shared(&directory)),
        ];
        config.env.extend(paths.map(|(variable, path)| (variable.to_owned(), path.display().to_string())));
        let (mut driver, task_id) = (self.plugin.driver(), config.id.clone());
        let request = StartTaskRequest { task: Some(config.clone()) };
        let began = Instant::now();
        let handle = driver.start_task(request).await.unwrap().into_inner().handle.unwrap();
        let answered = began.elapsed();
        let mut task = node.begun(prepared, handle);
        task.says("hello").await;
        let said = began.elapsed();
        // Its program has ended, or is about to: then the answer is an error.
        let _ = driver.destroy_task(DestroyTaskRequest { task_id, force: true }).await;
        drop(task.ended());
        eventually("its control group is empty", async || fs::remove_dir(&group).ok()).await;
        [answered, said]
    }
}

/// The directory that the tasks of the group share.
fn shared(task: &Path) -> PathBuf {
    task.parent().unwrap().join("alloc")
}

/// From the event "Task Setup" to the event "Started", as Nomad reports them.
async fn under_an_agent() {
    let Some(agent) = Agent::alone().await else { std::process::exit(1) };
    let others: Vec<_> = ["raw_exec", "exec"]
        .into_iter()
        .filter(|driver| {
            let is_healthy = agent.has_driver(driver);
            if !is_healthy {
                eprintln!("bench: ignored: {driver}, which the agent says is not healthy on this host");
            }
            is_healthy
        })
        .collect();
    let mut times = vec![Vec::new(); others.len() + 1];
    let began = Instant::now();
    for round in 0..JOBS {
        if round >= 3 && began.elapsed() > LONG {
            eprintln!("bench: {round} jobs of each driver only: they take long here");
            break;
        }
        for (times, driver) in times.iter_mut().zip([&["systemd"][..], &others].concat()) {
            times.push(started(&agent, driver).await);
        }
    }
    let (ours, theirs) = times.split_first_mut().unwrap();
    for (driver, theirs) in others.iter().zip(theirs) {
        row(&format!("{driver}, under an agent, from \"Task Setup\" to \"Started\""), ours, theirs);
    }
}

async fn started(agent: &Agent, driver: &str) -> Duration {
    let alloc = agent
        .run_on(
            driver,
            Spec::batch("true")
                .task("LogConfig", json!({ "Disabled": true, "MaxFiles": 1, "MaxFileSizeMB": 2 })),
        )
        .await;
    let (status, events) = alloc.ended().await;
    assert_eq!(status, "complete", "{driver}: {events:?}");
    let at = |kind: &str| events.iter().find(|event| event.kind == kind).unwrap().at;
    at("Started").checked_sub(at("Task Setup")).unwrap()
}

fn row(what: &str, ours: &mut [Duration], theirs: &mut [Duration]) {
    let (ours, theirs) = (milliseconds(median(ours)), milliseconds(median(theirs)));
    record(what, ours / theirs, &json!({ "ours": ours, "other": theirs }));
    println!("| {what} | {ours:.2} ms | {theirs:.2} ms | {:.2} |", ours / theirs);
}
