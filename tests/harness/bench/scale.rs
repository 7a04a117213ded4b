//! How a node's costs grow with its tasks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use nomad_driver_systemd::task::live::cgroup::Cgroup;
use nomad_driver_systemd::task::live::stats::Reading;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tests::{Host, Job, Need, Node, Task};

use crate::process::{cpu_time, memory};
use crate::tasks::{AT_ONCE, destroy, timed_exit};
use crate::{median, milliseconds};

/// Tasks on the node, one size after the other.
const SIZES: [usize; 7] = [10, 100, 500, 1000, 2000, 3000, 5000];
/// Descriptors that systemd keeps open for a task: its streams, the filter of its cgroup, and others.
const FILES_OF_A_TASK: usize = 6;
/// Ends that are timed at each size.
const ENDS: usize = 20;

/// Sizes with the file systems that Nomad mounts: a start takes longer with each of them.
const WITH_MOUNTS: usize = 1000;

/// Prints a row for each number of tasks; as under an agent, the node has the mounts of Nomad if `as_nomad_does`.
#[tokio::main]
pub(crate) async fn measure(as_nomad_does: bool) {
    let Some(host) = Host::alone(Need::Systemd).await else { std::process::exit(1) };
    let mut node = Node::start(&host).await;
    let (mut tasks, mut made): (Vec<Task>, Vec<OfNomad>) = (Vec::new(), Vec::new());
    println!(
        "| tasks | starts a second, {AT_ONCE} at once | driver | systemd | CPU of the driver in 10 idle s | exit to WaitTask's \
         answer | statistics of a task | RecoverTask of all, {AT_ONCE} at once |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let most = files_of_systemd() / FILES_OF_A_TASK;
    let sizes = SIZES.into_iter().filter(|size| !as_nomad_does || *size <= WITH_MOUNTS);
    let mut growth: Vec<(usize, [f64; 7])> = Vec::new();
    for size in sizes {
        if size > most {
            eprintln!(
                "bench: ignored: {size} tasks, since systemd may open no more files than for {most} of them here"
            );
            continue;
        }
        let (began, missing) = (Instant::now(), size - tasks.len());
        let start = async || {
            let prepared = node.prepare(&Job::command("/bin/sleep").args(&["infinity"]));
            let of_nomad =
                as_nomad_does.then(|| OfNomad::mounted(&prepared.alloc_dir().join(&prepared.config.name)));
            (node.begin(prepared).await.unwrap(), of_nomad)
        };
        let started: Vec<(Task, Option<OfNomad>)> =
            stream::iter((0..missing).map(|_| start())).buffer_unordered(AT_ONCE).collect().await;
        let rate = per_second(missing, began.elapsed());
        for (task, of_nomad) in started {
            tasks.push(task);
            made.extend(of_nomad);
        }

        let plugin = node.plugin().pid();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = cpu_time(plugin);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let used = milliseconds(cpu_time(plugin).saturating_sub(before));
        let (driver, systemd) = (memory(plugin), memory(1));

        let mut ends = Vec::new();
        for _ in 0..ENDS.min(size / 2) {
            let task = tasks.pop().unwrap();
            ends.push(timed_exit(&node, &task).await.0);
            destroy(&node, task).await;
        }
        let statistics = statistics(&node, &tasks).await;
        node.restart().await;
        let began = Instant::now();
        let recover = async |task| node.recover(task).await.unwrap();
        stream::iter(&tasks).map(recover).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        let recovered = began.elapsed().as_secs_f64();
        let (exit, statistics) = (milliseconds(median(&mut ends)), milliseconds(statistics));
        println!(
            "| {size} | {rate:.0} | {driver:.1} MiB | {systemd:.1} MiB | {used:.0} ms | {exit:.2} ms | {statistics:.3} ms | \
             {recovered:.2} s |"
        );
        growth.push((size, [rate, driver, systemd, used, exit, statistics, recovered]));
    }
    plot(&growth);
    stop_all(&node, tasks).await;
}

async fn stop_all(node: &Node, tasks: Vec<Task>) {
    let (began, count) = (Instant::now(), tasks.len());
    stream::iter(tasks).for_each_concurrent(AT_ONCE, |task| destroy(node, task)).await;
    println!("\nAll stopped: {:.0} a second, {AT_ONCE} at once.", per_second(count, began.elapsed()));
}

/// The two file systems that Nomad mounts in the directory of a task, until they are dropped.
struct OfNomad([PathBuf; 2]);

impl OfNomad {
    fn mounted(task: &Path) -> Self {
        let paths = ["secrets", "private"].map(|name| task.join(name));
        for path in &paths {
            std::fs::create_dir_all(path).unwrap();
            mount("tmpfs", path, "tmpfs", MountFlags::NOEXEC, c"size=1m").unwrap();
        }
        Self(paths)
    }
}

impl Drop for OfNomad {
    fn drop(&mut self) {
        for path in &self.0 {
            // With the directory of a task that has ended its mounts may be gone.
            let _ = unmount(path, UnmountFlags::DETACH);
        }
    }
}

/// Draws how each value grows: a bar is as long as its part of the largest value of the same kind.
fn plot(growth: &[(usize, [f64; 7])]) {
    /// Blocks of the longest bar.
    const LONGEST: f64 = 40.0;
    const KINDS: [&str; 7] = [
        "starts a second",
        "memory of the driver, MiB",
        "memory of systemd, MiB",
        "CPU time of the driver in 10 idle seconds, ms",
        "exit to WaitTask's answer, ms",
        "statistics of a task, ms",
        "RecoverTask of all, s",
    ];
    for (kind, what) in KINDS.iter().enumerate() {
        println!("\n{what}");
        let most = growth.iter().map(|(_, values)| values[kind]).fold(f64::MIN_POSITIVE, f64::max);
        for (size, values) in growth {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a short bar")]
            let blocks = (values[kind] / most * LONGEST).round() as usize;
            println!("{size:>6} tasks  {:>8.2}  {}", values[kind], "█".repeat(blocks));
        }
    }
}

/// One reading of each task's counters, per task.
async fn statistics(node: &Node, tasks: &[Task]) -> Duration {
    let mut groups = Vec::new();
    for task in tasks.iter().take(100) {
        let pid = node.inspect(task).await.unwrap().driver.unwrap().attributes["pid"].clone();
        let line = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        groups.push(Cgroup::of_unit(line.trim().rsplit_once(':').unwrap().1).unwrap());
    }
    let (began, mut buffer) = (Instant::now(), Vec::new());
    for group in &groups {
        Reading::of(group, &mut buffer).unwrap().since(None);
    }
    began.elapsed() / u32::try_from(groups.len()).unwrap()
}

/// How many files the limits of systemd's process allow; it raises them to what the kernel allows, unless it may not.
fn files_of_systemd() -> usize {
    let limits = std::fs::read_to_string("/proc/1/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
}

fn per_second(count: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap()) / time.as_secs_f64()
}
