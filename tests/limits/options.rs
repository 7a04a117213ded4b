//! Every option of `limits` that is more than a resource limit of the process, as the task itself sees it.

use std::os::linux::fs::MetadataExt;
use std::path::Path;

use tests::{Exit, Job, Node};

use crate::cgroup;

/// The disk of a file, in the notation of `io.max`.
fn disk(path: &str) -> String {
    let device = std::fs::metadata(path).unwrap().st_dev();
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    // Limits apply to disks: for a partition, to the disk that contains it.
    let whole = Path::new("/sys/dev/block").join(&number).canonicalize().unwrap();
    let whole = if whole.join("partition").exists() { whole.parent().unwrap() } else { &whole };
    std::fs::read_to_string(whole.join("dev")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_task_has_in_its_cgroup_what_its_job_asks_for() {
    let host = host!();
    let node =
        Node::configured(&host, r#"allow_properties = ["@confining", "MemoryMin", "MemorySwapMax", "IO*"]"#)
            .await;
    let disk = disk("/var/lib");
    let io = format!("{disk} rbps=5000000 wbps=6291456 riops=700 wiops=1000");
    // None of the values is a default of a cgroup.
    let options = [
        (r#"cpu_quota = "150%""#, "cpu.max", "75000 50000"),
        (r#"cpu_quota_period = "50ms""#, "cpu.max", "75000 50000"),
        (r#"memory_high = "96M""#, "memory.high", "100663296"),
        (r#"memory_min = "16M""#, "memory.min", "16777216"),
        (r#"memory_swap_max = "64M""#, "memory.swap.max", "67108864"),
        (r#"tasks_max = "77""#, "pids.max", "77"),
        ("io_weight = 321", "io.weight", "default 321"),
        (r#"io_read_bandwidth_max = ["/var/lib 5M"]"#, "io.max", &io),
        (r#"io_write_bandwidth_max = ["/var/lib 6291456"]"#, "io.max", &io),
        (r#"io_read_iops_max = ["/var/lib 700"]"#, "io.max", &io),
        (r#"io_write_iops_max = ["/var/lib 1K"]"#, "io.max", &io),
        // With this option, the processes of a task are not killed together.
        (r#"oom_policy = "continue""#, "memory.oom.group", "0"),
    ];
    let config = options.map(|(option, ..)| option).join("\n");
    let files = options.map(|(_, file, _)| file).join(" ");
    let output = node.output_of(cgroup(&files).config(&format!("limits {{\n{config}\n}}"))).await;
    for (option, file, value) in options {
        assert!(output.contains(&format!("{file}:{value}\n")), "{option}: {output}");
    }
}

#[tokio::test]
async fn a_task_without_limits_is_killed_as_one_and_has_no_swap() {
    let host = host!();
    let node = Node::start(&host).await;
    let output = node.output_of(cgroup("memory.oom.group memory.swap.max cpu.max memory.high")).await;
    let usual = "memory.oom.group:1\nmemory.swap.max:0\ncpu.max:max 100000\nmemory.high:max\n";
    assert_eq!(output, usual);
}

#[tokio::test]
async fn a_task_feels_its_limits() {
    let host = host!();
    let node = Node::start(&host).await;
    // One process is the shell, and one is the init.
    let forks = Job::shell("for n in 1 2 3 4 5; do sleep 60 & echo $n; done");
    let task = node.run(forks.config(r#"limits { tasks_max = "5" }"#)).await;
    let (exit, output, errors) = node.finish(task).await;
    assert_eq!((exit, output.as_str()), (Exit::status(2), "1\n2\n3\n"), "{errors}");
    assert!(errors.contains("Cannot fork"), "{errors}");

    // The largest process is killed, and the others continue.
    let family = Job::shell("tail /dev/zero; echo $?").with(|request| request.memory = 24);
    assert_eq!(node.output_of(family.config(r#"limits { oom_policy = "continue" }"#)).await, "137\n");

    // The task needs more CPU time than one period allows.
    let script = "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done; \
                  grep nr_throttled /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/cpu.stat";
    let printed = node.output_of(Job::shell(script).config(r#"limits { cpu_quota = "5%" }"#)).await;
    let throttled: u64 = printed.trim().trim_start_matches("nr_throttled ").parse().unwrap();
    assert!(throttled > 0, "{printed}");

    let sends = Job::command("/bin/bash").args(&["-c", "echo x > /dev/udp/127.0.0.1/9 && echo sent"]);
    assert_eq!(node.output_of(sends.clone()).await, "sent\n");
    let task = node.run(sends.config(r#"network { ip_address_deny = ["any"] }"#)).await;
    let (_, output, errors) = node.finish(task).await;
    assert!(output.is_empty() && errors.contains("Operation not permitted"), "{output}{errors}");
}

#[tokio::test]
async fn a_task_that_runs_too_long_has_failed_however_it_ends() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    for script in ["exec sleep infinity", "trap 'exit 0' TERM; while :; do sleep 0.1; done"] {
        let task = node.run(Job::shell(script).config(r#"limits { runtime_max = "2s" }"#)).await;
        let event = events.until(&task, "`limits.runtime_max`").await;
        assert!(event.message.contains("exceeded"), "{event:?}");
        assert_eq!(node.finish(task).await.0, Exit::signal(15), "{script}");
    }
}

#[tokio::test]
async fn what_systemd_itself_acts_on_is_in_the_unit() {
    let host = host!();
    let node = Node::start(&host).await;
    let config = r#"limits {
        managed_oom_swap                  = "kill"
        managed_oom_memory_pressure       = "kill"
        managed_oom_memory_pressure_limit = "60%"
    }"#;
    let task = node.run(Job::shell("exec sleep infinity").config(config)).await;
    let unit = node.unit(&task).await;
    assert_eq!(host.property(&unit, "ManagedOOMSwap"), "kill");
    assert_eq!(host.property(&unit, "ManagedOOMMemoryPressure"), "kill");
    // In units of 1/2^32.
    let limit: u64 = host.property(&unit, "ManagedOOMMemoryPressureLimit").parse().unwrap();
    assert_eq!(limit * 100 / u64::from(u32::MAX), 60);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_task_is_told_of_memory_pressure_or_that_it_cannot_be() {
    let host = host!();
    let node = Node::start(&host).await;
    let version = host.run("systemctl", &["--version"]);
    let version: u32 = version.split_whitespace().nth(1).unwrap().parse().unwrap();
    let job = Job::shell("test -w \"$MEMORY_PRESSURE_WATCH\" && echo told")
        .config("limits {\n memory_pressure_watch = \"on\"\n memory_pressure_threshold = \"100ms\"\n }");
    if version >= 254 {
        assert_eq!(node.output_of(job).await, "told\n");
    } else {
        let refusal = node.try_run(job).await.expect_err("an older systemd knows nothing of it");
        assert!(refusal.message.contains("systemd 254"), "{refusal}");
    }
}
