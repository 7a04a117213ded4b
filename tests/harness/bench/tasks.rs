//! The cost of starting, ending and running a task, compared with the floor.
//!
//! The floor of a start is the unit that the driver creates for the task, started over D-Bus by a client that does
//! nothing else. The floor of a guest is a native program.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{self, StreamExt};
use nomad_driver_systemd::task::live::cgroup::Cgroup;
use nomad_driver_systemd::task::live::stats::Reading;
use proto::driver::WaitTaskRequest;
use serde_json::json;
use tests::{Exit, Host, Job, Need, Node, Task};

use crate::floor::Floor;
use crate::process::{cpu_time, memory};
use crate::results::record;
use crate::{hello_guest, median, milliseconds};

/// Starts measured one at a time.
const ONE_BY_ONE: usize = 100;
/// Starts measured with this many in progress at once.
pub(crate) const AT_ONCE: usize = 32;
const MANY: usize = 256;
/// The number of tasks on a full node.
const FULL: usize = 1000;
/// The duration of an idle period.
const IDLE: Duration = Duration::from_secs(20);

/// Runs the measurements; `native` is a static C program that says hello.
#[tokio::main]
pub(crate) async fn measure(native: &Path) {
    let Some(host) = Host::alone(Need::Systemd).await else { std::process::exit(1) };
    println!("| what | ours | floor | ratio | to reach |");
    println!("|---|---|---|---|---|");
    starts(&host).await;
    hello(&host, native).await;
    exits(&host).await;
    many(&host).await;
}

/// `StartTask` compared with the same unit started bare, and the private view compared with the plain one.
async fn starts(host: &Host) {
    let node = Node::start(host).await;
    let plain = Node::configured(host, r#"fs_isolation = "none""#).await;
    let floor = Floor::new().await;
    let (mut ours, mut bare, mut plain_view, mut forked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ONE_BY_ONE + 3 {
        let started = [
            timed_start(&node).await,
            floor.timed_start(&node).await,
            timed_start(&plain).await,
            timed_fork(),
        ];
        // The first rounds warm up.
        if round >= 3 {
            ours.push(started[0]);
            bare.push(started[1]);
            plain_view.push(started[2]);
            forked.push(started[3]);
        }
    }
    let without_isolation = "its start without a unit: fork and exec of the same program, by the bench";
    println!("| {without_isolation} | | {:.2} ms | | |", milliseconds(median(&mut forked)));
    row("StartTask to running, one at a time", median(&mut ours), median(&mut bare), "1.15");
    row("its private view beside the plain one", median(&mut ours), median(&mut plain_view), "");

    let mut rates = Vec::new();
    let mut floors = Vec::new();
    for _ in 0..3 {
        rates.push(all_at_once(MANY, || timed_start(&node)).await);
        floors.push(all_at_once(MANY, || floor.timed_start(&node)).await);
    }
    row(&format!("the same, {AT_ONCE} at once, per task"), median(&mut rates), median(&mut floors), "1.15");
}

async fn all_at_once<F: Future<Output = Duration>>(count: usize, start: impl Fn() -> F) -> Duration {
    let began = Instant::now();
    stream::iter((0..count).map(|_| start())).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    began.elapsed() / u32::try_from(count).unwrap()
}

/// One task, from the call to its answer; its end is not counted.
pub(crate) async fn timed_start(node: &Node) -> Duration {
    let prepared = node.prepare(&Job::command("/bin/sleep").args(&["infinity"]));
    let began = Instant::now();
    let task = node.begin(prepared).await.unwrap();
    let took = began.elapsed();
    destroy(node, task).await;
    took
}

/// A process of the same program, until it is executed.
fn timed_fork() -> Duration {
    let began = Instant::now();
    let mut child = std::process::Command::new("/bin/sleep").arg("infinity").spawn().unwrap();
    let took = began.elapsed();
    let _ = child.kill();
    let _ = child.wait();
    took
}

pub(crate) async fn destroy(node: &Node, task: Task) {
    node.destroy(&task, true).await.unwrap();
    std::mem::drop(task.ended());
}

/// A guest that says hello compared with a native program that does so, from `StartTask` to `WaitTask`'s answer.
async fn hello(host: &Host, native: &Path) {
    let node = Node::start(host).await;
    let (guest, native) = (hello_guest(), std::fs::read(native).unwrap());
    let (mut with_guest, mut bare) = (Vec::new(), Vec::new());
    for round in 0..ONE_BY_ONE + 3 {
        let ended = [
            timed_life(&node, &Job::artifact("hello.wasm", &guest)).await,
            timed_life(&node, &Job::artifact("hello", &native)).await,
        ];
        // The first rounds warm up; and the very first one compiles.
        if round >= 3 {
            with_guest.push(ended[0]);
            bare.push(ended[1]);
        }
    }
    row(
        "WASM hello beside a static C hello, start to end",
        median(&mut with_guest),
        median(&mut bare),
        "1.15",
    );
}

/// One task, from the call to `WaitTask`'s answer.
pub(crate) async fn timed_life(node: &Node, job: &Job) -> Duration {
    let prepared = node.prepare(job);
    let began = Instant::now();
    let task = node.begin(prepared).await.unwrap();
    let exit = node.wait(&task).await;
    let took = began.elapsed();
    assert_eq!(exit, Exit::status(0));
    destroy(node, task).await;
    took
}

/// From the end of the main process to `WaitTask`'s answer: from the moment at which systemd was told of it by the
/// kernel, and from the signal that ended it. Between the two, the kernel removes the task's mounts.
async fn exits(host: &Host) {
    let node = Node::start(host).await;
    let (mut since_exit, mut since_kill) = (Vec::new(), Vec::new());
    for _ in 0..ONE_BY_ONE {
        let task = node.run(Job::command("/bin/sleep").args(&["infinity"])).await;
        let (exit, kill) = timed_exit(&node, &task).await;
        since_exit.push(exit);
        since_kill.push(kill);
        destroy(&node, task).await;
    }
    let (since_exit, since_kill) =
        (milliseconds(median(&mut since_exit)), milliseconds(median(&mut since_kill)));
    println!("| exit, as systemd learns of it, to WaitTask's answer | {since_exit:.2} ms | | | 5 ms |");
    println!("| SIGKILL to WaitTask's answer | {since_kill:.2} ms | | | |");
}

pub(crate) async fn timed_exit(node: &Node, task: &Task) -> (Duration, Duration) {
    let status = node.inspect(task).await.unwrap().driver.unwrap();
    let pid: i32 = status.attributes["pid"].parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let wait = async {
        node.wait(task).await;
        SystemTime::now()
    };
    let kill = async {
        // The call waits in the driver before the process ends.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let began = SystemTime::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        began
    };
    let (answered, killed) = tokio::join!(wait, kill);
    let ended = node.inspect(task).await.unwrap().task.unwrap().completed_at.unwrap();
    let ended = SystemTime::try_from(ended).unwrap();
    (answered.duration_since(ended).unwrap_or_default(), answered.duration_since(killed).unwrap_or_default())
}

/// A full node, with each of its tasks being waited for, as Nomad does.
async fn many(host: &Host) {
    let mut node = Node::start(host).await;
    let start = || node.run(Job::command("/bin/sleep").args(&["infinity"]));
    let mut tasks: Vec<Task> =
        stream::iter((0..FULL).map(|_| start())).buffer_unordered(AT_ONCE).collect().await;
    let waiting: Vec<_> = tasks
        .iter()
        .map(|task| {
            let (mut driver, task_id) = (node.driver(), task.id.clone());
            tokio::spawn(async move { driver.wait_task(WaitTaskRequest { task_id }).await })
        })
        .collect();
    readings(&node, &tasks).await;

    let plugin = node.plugin().pid();
    // Everything that the starts have caused should be finished.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = cpu_time(plugin);
    tokio::time::sleep(IDLE).await;
    let used = milliseconds(cpu_time(plugin).saturating_sub(before));
    println!(
        "| the driver's CPU time in {} idle seconds with {FULL} tasks | {used:.0} ms | | | none |",
        IDLE.as_secs()
    );
    let mebibytes = memory(plugin);
    println!("| the driver's memory with {FULL} tasks | {mebibytes:.1} MiB | | | 40 MiB |");

    let mut since_exit = Vec::new();
    for _ in 0..ONE_BY_ONE {
        let task = tasks.pop().unwrap();
        since_exit.push(timed_exit(&node, &task).await.0);
        destroy(&node, task).await;
    }
    let since_exit = milliseconds(median(&mut since_exit));
    println!("| exit to WaitTask's answer, with {FULL} tasks | {since_exit:.2} ms | | | 20 ms |");

    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    node.restart().await;
    let began = Instant::now();
    for task in &tasks {
        node.recover(task).await.unwrap();
    }
    let each = milliseconds(began.elapsed()) / f64::from(u32::try_from(tasks.len()).unwrap());
    println!("| RecoverTask, one after the other, with {} tasks, each | {each:.2} ms | | | |", tasks.len());
    let node = &node;
    stream::iter(tasks).for_each_concurrent(AT_ONCE, |task| destroy(node, task)).await;
}

/// Our reader of the statistics compared with a bare read of the same files.
async fn readings(node: &Node, tasks: &[Task]) {
    let mut groups = Vec::new();
    for task in &tasks[..100] {
        let pid = node.inspect(task).await.unwrap().driver.unwrap().attributes["pid"].clone();
        let line = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let group = line.trim().rsplit_once(':').unwrap().1.to_owned();
        let group = Cgroup::of_unit(&group).unwrap();
        // Only existing files: a host need not have the memory controller.
        let names = [
            "cpu.stat",
            "memory.current",
            "memory.stat",
            "memory.swap.current",
            "memory.peak",
            "memory.pressure",
            "cgroup.procs",
        ];
        let files = names.iter().map(|name| group.path().join(name)).filter(|file| file.exists());
        let files: Vec<PathBuf> = files.chain([Path::new("/proc").join(pid).join("stat")]).collect();
        groups.push((group, files));
    }
    let (mut ours, mut bare, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..50 {
        let began = Instant::now();
        for (group, _) in &groups {
            Reading::of(group, &mut buffer).unwrap().since(None);
        }
        ours.push(began.elapsed() / 100);
        let began = Instant::now();
        for file in groups.iter().flat_map(|(_, files)| files) {
            std::fs::read(file).unwrap();
        }
        bare.push(began.elapsed() / 100);
    }
    row(
        "one task's statistics beside the bare reading of the files",
        median(&mut ours),
        median(&mut bare),
        "1.5",
    );
}

fn row(what: &str, ours: Duration, floor: Duration, target: &str) {
    let ratio = ours.as_secs_f64() / floor.as_secs_f64();
    let medians = json!({ "ours": milliseconds(ours), "floor": milliseconds(floor) });
    record(what, ratio, &medians);
    println!(
        "| {what} | {:.2} ms | {:.2} ms | {ratio:.2} | {target} |",
        milliseconds(ours),
        milliseconds(floor)
    );
}
