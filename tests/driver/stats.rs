//! The resource usage of a task, as Nomad requests it.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use proto::driver::cpu_usage::Fields as CpuFields;
use proto::driver::memory_usage::Fields as MemoryFields;
use tests::{Job, Node, SOON};

#[tokio::test]
async fn the_first_figures_come_at_once_and_the_next_after_each_interval() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("while :; do :; done")).await;
    let mut slow = node.stats(&task, Duration::from_hours(1)).await;
    let first = tokio::time::timeout(SOON, slow.message()).await.unwrap().unwrap().unwrap().stats.unwrap();
    assert_eq!(first.id, task.id);
    let at = SystemTime::try_from(first.timestamp.unwrap()).unwrap();
    assert!(at.elapsed().unwrap() < SOON);
    let mut stats = node.stats(&task, Duration::from_millis(300)).await;
    let mut samples = Vec::new();
    for _ in 0..3 {
        samples.push(stats.message().await.unwrap().unwrap().stats.unwrap());
    }
    let percent = |at: usize| {
        let cpu = samples[at].agg_resource_usage.clone().unwrap().cpu.unwrap();
        (cpu.percent, cpu.user_mode + cpu.system_mode, cpu.total_ticks)
    };
    assert!(percent(0).0.abs() < f64::EPSILON, "nothing to compare with: {samples:?}");
    // The task has a core to itself, as far as other processes leave it one.
    let (all, parts, ticks) = percent(2);
    assert!((5.0..130.0).contains(&all) && (parts - all).abs() < 20.0 && ticks > 0.0, "{samples:?}");
    node.destroy(&task, true).await.unwrap();
    // The task has ended: the stream stays open and silent until Nomad closes it.
    assert!(
        tokio::time::timeout(Duration::from_secs(1), async {
            while stats.message().await.unwrap().is_some() {}
        })
        .await
        .is_err()
    );
}

#[tokio::test]
async fn each_process_of_a_task_is_told_apart() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut task = node.run(Job::shell("sleep 1000 & echo $$ $!; while :; do :; done")).await;
    let output = task.read_until("\n").await;
    let mut stats = node.stats(&task, Duration::from_millis(300)).await;
    stats.message().await.unwrap();
    let sample = stats.message().await.unwrap().unwrap().stats.unwrap();
    let mut pids: Vec<_> = sample.resource_usage_by_pid.keys().cloned().collect();
    let mut expected: Vec<_> = output.split_whitespace().map(str::to_owned).collect();
    // The init.
    expected.push(host.property(&node.unit(&task).await, "MainPID"));
    pids.sort();
    expected.sort();
    assert_eq!(pids, expected);
    let of = |pid: &str| sample.resource_usage_by_pid[pid].clone();
    let (busy, idle) = output.trim().split_once(' ').unwrap();
    assert!(of(busy).cpu.unwrap().percent > of(idle).cpu.unwrap().percent + 1.0, "{sample:?}");
    assert!(of(idle).memory.unwrap().rss > 0, "{sample:?}");
    let measured: Vec<CpuFields> = of(busy).cpu.unwrap().measured_fields().collect();
    assert!(measured.contains(&CpuFields::Percent), "{measured:?}");
    let all = sample.agg_resource_usage.unwrap().memory.unwrap();
    let measured: Vec<MemoryFields> = all.measured_fields().collect();
    assert!(all.rss > 0 && measured.contains(&MemoryFields::Rss), "{all:?}");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn two_hundred_streams_are_served_side_by_side() {
    let host = host!();
    let node = Node::start(&host).await;
    let tasks = join_all((0..8).map(|_| node.run(Job::shell("exec sleep infinity")))).await;
    let streams =
        join_all((0..200).map(|at| node.stats(&tasks[at % tasks.len()], Duration::from_millis(200)))).await;
    join_all(streams.into_iter().map(async |mut stream| {
        for _ in 0..4 {
            let next = tokio::time::timeout(SOON, stream.message()).await.expect("it comes in time");
            assert!(next.unwrap().unwrap().stats.unwrap().agg_resource_usage.is_some());
        }
    }))
    .await;
    for task in &tasks {
        node.destroy(task, true).await.unwrap();
    }
}
