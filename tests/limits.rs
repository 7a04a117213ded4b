//! What limits a task, on a host with all cgroup controllers: in the virtual machine, unless this machine has them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use tests::{Exit, Host, Job, Need, Node, exiting_guest};

/// The host, or the end of a test that needs one.
macro_rules! host {
    () => {
        match Host::with(Need::Controllers).await {
            Some(host) => host,
            None => return,
        }
    };
}

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
async fn a_guest_has_the_limits_of_its_task_and_is_not_charged_for_its_compilation() {
    let host = host!();
    let node = Node::start(&host).await;
    let small = Job::artifact("exit.wasm", &exiting_guest(3)).with(|request| request.memory = 16);
    let task = node.run(small).await;
    assert_eq!(node.finish(task).await.0, Exit::status(3));
    // It takes all the memory it can get, and touches it.
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
    let task = node.run(Job::artifact("greedy.wasm", &greedy).with(|request| request.memory = 32)).await;
    assert_eq!(node.finish(task).await.0, Exit { oom_killed: true, ..Exit::signal(9) });
}
