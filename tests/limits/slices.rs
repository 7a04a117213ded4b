//! What all tasks share: the cores that Nomad lets them share, the memory reserved for them, and the operator's
//! settings for their slice.

use std::fs;
use std::path::{Path, PathBuf};

use tests::{Exit, Host, Job, Node, Task, eventually};

use crate::cgroup;

const CGROUPS: &str = "/sys/fs/cgroup";
const MIB: u64 = 1 << 20;

/// The cpuset of the cores that tasks share, at Nomad's path and as Nomad writes it (v2.0.5, client/lib/cgroupslib).
struct Pool(PathBuf);

impl Pool {
    const SLICE: &str = "/sys/fs/cgroup/nomad.slice/share.slice";

    fn of(cores: &str) -> Self {
        fs::create_dir_all(Self::SLICE).unwrap();
        for above in [CGROUPS, "/sys/fs/cgroup/nomad.slice"] {
            fs::write(Path::new(above).join("cgroup.subtree_control"), "+cpuset").unwrap();
        }
        let pool = Self(Path::new(Self::SLICE).join("cpuset.cpus"));
        pool.holds(cores);
        pool
    }

    fn holds(&self, cores: &str) {
        fs::write(&self.0, cores).unwrap();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for slice in [Self::SLICE, "/sys/fs/cgroup/nomad.slice"] {
            fs::remove_dir(slice).unwrap();
        }
    }
}

/// The operator's settings for the slice of all tasks, until this value is dropped.
struct Operator<'a>(&'a Host, &'static str);

impl<'a> Operator<'a> {
    fn sets(host: &'a Host, property: &'static str, value: &str) -> Self {
        let assignment = format!("{property}={value}");
        host.run("systemctl", &["set-property", "--runtime", "nomad_tasks.slice", &assignment]);
        Self(host, property)
    }
}

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        let nothing = format!("{}=infinity", self.1);
        self.0.run("systemctl", &["set-property", "--runtime", "nomad_tasks.slice", &nothing]);
    }
}

/// The cores on which the task's main process may run.
async fn cores(host: &Host, node: &Node, task: &Task) -> String {
    let pid = host.property(&node.unit(task).await, "MainPID");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("every process has some").trim().to_owned()
}

async fn run_on(host: &Host, node: &Node, task: &Task, wanted: &str) {
    let what = format!("the task runs on {wanted}");
    eventually(&what, async || (cores(host, node, task).await == wanted).then_some(())).await;
}

fn waiting() -> Job {
    Job::shell("exec sleep infinity")
}

#[tokio::test]
async fn cores_are_a_tasks_own_and_the_others_run_where_nomad_says_now_and_later() {
    let host = host!(alone);
    let pool = Pool::of("1");
    let mut node = Node::start(&host).await;
    let shared = node.run(waiting()).await;
    assert_eq!(cores(&host, &node, &shared).await, "1");
    let job = Job::shell(
        "cut -d: -f3 /proc/self/cgroup | cut -d/ -f-3; cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/cpuset.cpus",
    );
    let own = node.output_of(job.with(|request| request.cores = vec![0])).await;
    assert_eq!(own, "/nomad_tasks.slice/nomad_tasks-reserve.slice\n0\n");
    // As Nomad does when a task of any driver gets reserved cores, and when it releases them.
    for cores in ["0", "0-1", "1"] {
        pool.holds(cores);
        run_on(&host, &node, &shared, cores).await;
    }
    // A driver that recovers its tasks, and starts none.
    node.restart().await;
    pool.holds("0");
    node.recover(&shared).await.unwrap();
    run_on(&host, &node, &shared, "0").await;
    pool.holds("0-1");
    run_on(&host, &node, &shared, "0-1").await;
    node.destroy(&shared, true).await.unwrap();
}

/// The memory reserved in the slices of tasks, in MiB, the outer slice first.
fn promised() -> [u64; 3] {
    ["", "nomad_tasks-share.slice", "nomad_tasks-reserve.slice"].map(|slice| {
        let file = Path::new(CGROUPS).join("nomad_tasks.slice").join(slice).join("memory.low");
        // A slice that has never been used.
        fs::read_to_string(file).map_or(0, |bytes| bytes.trim().parse::<u64>().unwrap() / MIB)
    })
}

#[tokio::test]
async fn the_memory_that_tasks_are_promised_is_promised_to_their_slices_as_well() {
    let host = host!(alone);
    let mut node = Node::start(&host).await;
    let with = |memory, cores| {
        waiting().with(|request| (request.memory, request.memory_max, request.cores) = (memory, 64, cores))
    };
    // The tasks of a group are started at once.
    let (one, two, own) =
        tokio::join!(node.run(with(16, vec![])), node.run(with(32, vec![])), node.run(with(8, vec![0])));
    assert_eq!(promised(), [56, 56, 56]);
    // A task without reserved memory changes nothing.
    let without = node.run(waiting()).await;
    node.destroy(&without, true).await.unwrap();
    node.destroy(&two, true).await.unwrap();
    assert_eq!(promised(), [24, 24, 24]);
    let output =
        node.output_of(cgroup("memory.low memory.max").with(|r| (r.memory, r.memory_max) = (8, -1))).await;
    assert_eq!(output, "memory.low:8388608\nmemory.max:max\n");
    assert_eq!(promised(), [24, 24, 24]);
    // By another process of the driver, too.
    node.restart().await;
    for task in [&one, &own] {
        node.recover(task).await.unwrap();
        node.destroy(task, true).await.unwrap();
    }
    assert_eq!(promised(), [0, 0, 0]);
}

#[tokio::test]
async fn what_an_operator_sets_for_the_slice_of_tasks_holds_for_all_of_them() {
    let host = host!(alone);
    let node = Node::start(&host).await;
    // Creates the slice, as on any node that is in use.
    let other = node.run(waiting().with(|request| (request.memory, request.memory_max) = (8, 16))).await;
    let memory = Operator::sets(&host, "MemoryMax", "48M");
    let mut events = node.events().await;
    let task = node.run(Job::shell("exec tail /dev/zero").with(|request| request.memory = 500)).await;
    events.until(&task, "Out of memory").await;
    assert_eq!(node.finish(task).await.0, Exit { oom_killed: true, ..Exit::signal(9) });
    assert_eq!(node.output_of(Job::shell("echo well")).await, "well\n");
    assert_eq!(node.output_in(&other, "echo well").await, "well\n", "only who took most has ended");
    drop(memory);
    let tasks = Operator::sets(&host, "TasksMax", "12");
    let forks = Job::shell("for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done");
    let task = node.run(forks).await;
    let (exit, _, errors) = node.finish(task).await;
    assert!(exit == Exit::status(2) && errors.contains("Cannot fork"), "{exit:?} {errors}");
    drop(tasks);
    node.destroy(&other, true).await.unwrap();
}
