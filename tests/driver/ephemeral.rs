//! The ephemeral user of tasks whose job sets none: which tasks share it, and which UID it has.

use nomad_driver_systemd::task::spec::ephemeral::number_of;
use nomad_local::task_request::new_alloc_id;
use tests::{Exit, Host, Job, Node, Task};

/// A task of a group of this job.
fn of_group(job: &str, group: &str, script: &str) -> Job {
    Job::shell(script).with(|request| {
        job.clone_into(&mut request.job_id);
        group.clone_into(&mut request.group);
    })
}

/// The output of the job in an allocation of its own.
async fn output_of(node: &Node, job: &Job) -> String {
    node.output_of(job.clone().with(|request| request.alloc_id = new_alloc_id())).await
}

/// A task of the job in an allocation of its own, and its first output.
async fn running(node: &Node, job: &Job) -> (Task, String) {
    let mut task = node.run(job.clone().with(|request| request.alloc_id = new_alloc_id())).await;
    let output = task.read_until("\n").await;
    (task, output)
}

#[tokio::test]
async fn the_tasks_of_a_group_have_one_user_and_other_groups_have_others() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = of_group("ephemeral-web", "web", "id -u");
    // It runs to the end of the test: another user may get the number of one that has no task.
    let lasting = of_group("ephemeral-web", "web", "id -u; exec sleep 1000");
    let (held, first) = running(&node, &lasting).await;
    let number: u32 = first.trim().parse().unwrap();
    // The range that systemd keeps for such users (systemd.exec(5), "DynamicUser=").
    assert!((61_184..=65_519).contains(&number), "{number}");
    assert_eq!(output_of(&node, &job).await, first, "another allocation");
    let periodic = of_group("ephemeral-web/periodic-1764380000", "web", "id -u");
    assert_eq!(output_of(&node, &periodic).await, first, "a child of the periodic job");
    let elsewhere = job.clone().with(|request| "team-b".clone_into(&mut request.namespace));
    for (job, what) in [
        (of_group("ephemeral-web", "db", "id -u"), "another group"),
        (of_group("ephemeral-db", "web", "id -u"), "another job"),
        (elsewhere, "another namespace"),
    ] {
        assert_ne!(output_of(&node, &job).await, first, "{what}");
    }
    let of_other_agent = output_of(&Node::start(&host).await, &job).await;
    assert_ne!(of_other_agent, first, "an agent of another cluster, with a directory of its own");
    let of_tasks = Node::configured(&host, "ephemeral_user = \"task\"").await;
    let (another, one) = running(&of_tasks, &lasting).await;
    let other = output_of(&of_tasks, &job).await;
    assert!(one != other && one != first && other != first, "{first}{one}{other}");
    of_tasks.destroy(&another, true).await.unwrap();
    node.destroy(&held, true).await.unwrap();
}

#[tokio::test]
async fn a_task_writes_the_files_that_a_task_of_its_group_has_left() {
    let host = host!();
    let node = Node::start(&host).await;
    let alloc_id = new_alloc_id();
    let job = |task: &str| {
        let script = "umask 077; id -u >> /alloc/data/users && sort -u /alloc/data/users | wc -l";
        of_group("ephemeral-files", "web", script).with(|request| {
            task.clone_into(&mut request.task);
            request.alloc_id.clone_from(&alloc_id);
        })
    };
    let prestart = node.run(job("prestart")).await;
    assert_eq!(node.wait(&prestart).await, Exit::status(0));
    // The directory of the allocation is removed with its last task.
    assert_eq!(node.output_of(job("main")).await, "1\n");
    node.destroy(&prestart, true).await.unwrap();
}

#[tokio::test]
async fn a_restarted_task_owns_what_it_left_and_has_a_home_there() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "umask 077; cd; pwd; if test -e secret; then cat secret; else echo mine > secret; fi";
    let prepared = node.prepare(&Job::shell(script));
    let mut again = prepared.config.clone();
    let task = node.begin(prepared).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(0));
    node.destroy(&task, true).await.unwrap();
    // As Nomad does it: a new id, the same directories.
    again.id.replace_range(again.id.len() - 8.., "00000000");
    let task = node.start_again(task, again).await.unwrap();
    assert_eq!(node.finish(task).await, (Exit::status(0), "/local\n/local\nmine\n".into(), String::new()));
}

/// A service of the host with an ephemeral user of this UID.
struct Thief(String);

impl Thief {
    fn of(host: &Host, number: u32) -> Self {
        let mut names = (0..).map(|index| format!("thief-{index}"));
        let name = names.find(|name| number_of(name) == number).unwrap();
        let unit = format!("nomad-test-{name}");
        let user = format!("User={name}");
        host.run(
            "systemd-run",
            &["--unit", &unit, "-p", "DynamicUser=yes", "-p", &user, "-p", "Type=exec", "sleep", "infinity"],
        );
        assert_eq!(host.property(&format!("{unit}.service"), "UID"), number.to_string());
        Self(unit)
    }
}

impl Drop for Thief {
    fn drop(&mut self) {
        let _ = std::process::Command::new("systemctl").args(["stop", &self.0]).status();
    }
}

#[tokio::test]
async fn a_group_whose_number_is_taken_has_another_as_long_as_a_task_of_it_runs() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = of_group("ephemeral-taken", "web", "id -u; exec sleep infinity");
    let (task, first) = running(&node, &job).await;
    node.destroy(&task, true).await.unwrap();
    let thief = Thief::of(&host, first.trim().parse().unwrap());
    let (stays, second) = running(&node, &job).await;
    assert_ne!(second, first, "the number is another user's");
    drop(thief);
    let (comes, third) = running(&node, &job).await;
    assert_eq!(third, second, "a task of the group still runs");
    for task in [comes, stays] {
        node.destroy(&task, true).await.unwrap();
    }
    let (task, fourth) = running(&node, &job).await;
    assert_eq!(fourth, first, "the number is free");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn an_allocation_keeps_the_user_that_owns_its_files() {
    let host = host!();
    let node = Node::start(&host).await;
    let job =
        of_group("ephemeral-sticky", "web", "umask 077; echo >> /alloc/data/db; id -u; exec sleep infinity");
    let (task, first) = running(&node, &job).await;
    node.destroy(&task, true).await.unwrap();
    let thief = Thief::of(&host, first.trim().parse().unwrap());
    let prepared = node.prepare(&job.clone().with(|request| request.alloc_id = new_alloc_id()));
    let mut again = prepared.config.clone();
    let mut task = node.begin(prepared).await.unwrap();
    let second = task.read_until("\n").await;
    node.destroy(&task, true).await.unwrap();
    drop(thief);
    again.id.replace_range(again.id.len() - 8.., "00000000");
    let mut task = node.start_again(task, again).await.unwrap();
    assert_eq!(
        task.read_until("\n").await,
        second,
        "the number of before is free, and so is that of the files"
    );
    node.destroy(&task, true).await.unwrap();
}
