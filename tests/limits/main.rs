//! Limits of a task, on a host with all cgroup controllers: in the virtual machine, unless this machine has them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use proto::driver::memory_usage::Fields;
use tests::{Exit, Job, Node, exiting_guest};

/// The host, or the end of a test if the machine is not suitable.
macro_rules! host {
    () => {
        host!(with)
    };
    ($how:ident) => {
        match tests::Host::$how(tests::Need::Controllers).await {
            Some(host) => host,
            None => return,
        }
    };
}

mod clock;
mod devices;
mod images;
mod options;
mod slices;

/// Prints files of the task's own cgroup.
fn cgroup(files: &str) -> Job {
    Job::shell(&format!("cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && grep -H . {files}"))
}

#[tokio::test]
async fn memory_is_a_ceiling_without_swap() {
    let host = host!();
    let node = Node::start(&host).await;
    let output = node
        .output_of(cgroup("memory.max memory.low memory.swap.max").with(|request| request.memory = 64))
        .await;
    assert_eq!(output, "memory.max:67108864\nmemory.low:0\nmemory.swap.max:0\n");
}

#[tokio::test]
async fn memory_max_is_the_ceiling_and_memory_a_promise() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = cgroup("memory.max memory.low").with(|request| (request.memory, request.memory_max) = (32, 96));
    assert_eq!(node.output_of(job).await, "memory.max:100663296\nmemory.low:33554432\n");
    let job = cgroup("memory.max memory.low").with(|request| (request.memory, request.memory_max) = (32, -1));
    assert_eq!(node.output_of(job).await, "memory.max:max\nmemory.low:33554432\n");
}

#[tokio::test]
async fn cpu_is_a_weight_on_the_curve_of_nomads_other_drivers() {
    let host = host!();
    let node = Node::start(&host).await;
    for (cpu, weight) in [(100, 17), (1024, 100)] {
        let output = node.output_of(cgroup("cpu.weight").with(|request| request.cpu = cpu)).await;
        assert_eq!(output, format!("cpu.weight:{weight}\n"));
    }
}

#[tokio::test]
async fn a_task_that_needs_more_memory_is_killed_as_a_whole_and_told_so() {
    let host = host!();
    let node = Node::start(&host).await;
    for script in ["exec tail /dev/zero", "tail /dev/zero; echo not reached; exit 0"] {
        let task = node.run(Job::shell(script).with(|request| request.memory = 24)).await;
        let (exit, output, _) = node.finish(task).await;
        assert_eq!(exit, Exit { oom_killed: true, ..Exit::signal(9) }, "{script}");
        assert_eq!(output, "");
    }
    let task = node.run(Job::shell("kill -9 $$")).await;
    assert_eq!(node.finish(task).await.0, Exit::signal(9), "another SIGKILL is not taken for it");
}

#[tokio::test]
async fn a_reload_of_systemd_takes_no_limit_away() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("exec sleep infinity").with(|request| request.memory = 32)).await;
    let unit = node.unit(&task).await;
    for action in ["daemon-reload", "daemon-reexec"] {
        host.run("systemctl", &[action]);
        assert_eq!(host.property(&unit, "LoadState"), "loaded", "after {action}");
        let cgroup = host.property(&unit, "ControlGroup");
        let limits = std::fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/memory.max")).unwrap();
        assert_eq!(limits, "33554432\n", "after {action}");
    }
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn an_operator_is_told_which_limit_a_task_hit() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let task = node.run(Job::shell("exec tail /dev/zero").with(|request| request.memory = 24)).await;
    let event = events.until(&task, "Out of memory").await;
    assert!(event.message.contains("MemoryMax is 24 MiB"), "{event:?}");
    assert_eq!(event.annotations["memory_max"], (24 << 20).to_string());
    assert!(node.wait(&task).await.oom_killed);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn the_memory_of_a_task_is_what_its_cgroup_counts() {
    let host = host!();
    let node = Node::start(&host).await;
    // 16 MiB of anonymous memory, and the same amount of a file.
    let script = "head -c 16M /dev/zero > /alloc/data/file; cat /alloc/data/file > /dev/null
                  keep=$(head -c 16M /dev/zero | tr '\\0' x); echo ready; exec 3<&0; while :; do sleep 0.2; done";
    let mut task = node.run(Job::shell(script).with(|request| request.memory = 128)).await;
    task.says("ready").await;
    let mut stats = node.stats(&task, Duration::from_millis(500)).await;
    let usage = stats.message().await.unwrap().unwrap().stats.unwrap().agg_resource_usage.unwrap();
    let memory = usage.memory.unwrap();
    for (name, bytes) in [("rss", memory.rss), ("cache", memory.cache)] {
        assert!((12 << 20..64 << 20).contains(&bytes), "{name} in {memory:?}");
    }
    assert!(memory.usage >= memory.rss + memory.cache && memory.max_usage >= memory.usage, "{memory:?}");
    let mut measured: Vec<_> = memory.measured_fields().collect();
    measured.sort_unstable_by_key(|field| *field as i32);
    let expected =
        [Fields::Rss, Fields::Cache, Fields::MaxUsage, Fields::KernelUsage, Fields::Usage, Fields::Swap];
    assert_eq!(measured, expected);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_command_in_a_task_has_the_tasks_limits() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("exec sleep infinity").with(|request| request.memory = 32)).await;
    // The task and its commands are killed together, as all processes of a unit.
    let (exit, output, _) = node.exec(&task, "tail /dev/zero; echo not reached").await.finish().await;
    assert_eq!((exit, output.as_str()), (Exit::signal(9), ""));
    assert!(node.wait(&task).await.oom_killed);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_guest_has_the_limits_of_its_task_and_is_not_charged_for_its_compilation() {
    let host = host!();
    let node = Node::start(&host).await;
    let small = Job::artifact("exit.wasm", &exiting_guest(3)).with(|request| request.memory = 16);
    let task = node.run(small).await;
    assert_eq!(node.finish(task).await.0, Exit::status(3));
    // The guest allocates all the memory it can get, and touches it.
    let greedy = tests::wasm(
        r#"(module
            (memory (export "memory") 1)
            (func (export "_start") (local $at i32)
                (loop $more
                    (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
                    (local.set $at (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1048576)))
                    (memory.fill (local.get $at) (i32.const 1) (i32.const 1048576))
                    (br $more))))"#,
    );
    // By default, memory.grow fails in time; with a higher `max_memory`, the guest hits the limit of its cgroup.
    let greedy = || Job::artifact("greedy.wasm", &greedy).with(|request| request.memory = 32);
    let task = node.run(greedy()).await;
    assert_eq!(node.finish(task).await.0, Exit::status(122));
    let task = node.run(greedy().config("wasm { max_memory = \"1G\" }")).await;
    assert_eq!(node.finish(task).await.0, Exit { oom_killed: true, ..Exit::signal(9) });
}
