//! Tasks of an agent in a mount namespace of its own (`PrivateMounts=yes` in its service): systemd, which starts the tasks,
//! does not see what this agent mounts.

use std::process::Command;

use proto::driver::NetworkIsolationSpec;
use proto::driver::network_isolation_spec::NetworkIsolationMode as Mode;
use tests::{Host, Job, Node, Prepared, eventually};

/// Runs a script as this agent.
fn as_agent(node: &mut Node, script: &str) {
    let pid = node.plugin().pid().to_string();
    let mut command = Command::new("nsenter");
    let ended = command.args(["--mount", "--target", &pid, "sh", "-euc", script]).status().unwrap();
    assert!(ended.success(), "{script}");
}

/// Mounts the file system for secrets, as the agent does, and returns where.
fn mount_secrets(node: &mut Node, prepared: &Prepared) -> String {
    let secrets = prepared.alloc_dir().join(&prepared.config.name).join("secrets").display().to_string();
    as_agent(node, &format!("mkdir -p {secrets}; mount -t tmpfs -o mode=777 tmpfs {secrets}"));
    secrets
}

/// The job, prepared with a file system for secrets that the agent has mounted, and where that is.
fn with_secrets(node: &mut Node, job: &Job, view: &str) -> (Prepared, String) {
    let mut prepared = node.prepare(job);
    let secrets = mount_secrets(node, &prepared);
    if view == "none" {
        prepared.config.env.insert("NOMAD_SECRETS_DIR".to_owned(), secrets.clone());
    }
    (prepared, secrets)
}

/// What the agent has mounted at a path.
fn mounts_at(node: &mut Node, path: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", node.plugin().pid())).unwrap();
    let at = format!(" {path} ");
    mounts.lines().filter(|line| line.contains(&at)).map(str::to_owned).collect()
}

async fn no_pin_is_left(host: &Host, node: &mut Node) {
    let ours = format!("{}-", node.plugin().pid());
    eventually("no pin is left", async || {
        let pins = host.run("ls", &["-A", "/run/nomad-driver-systemd/pins"]);
        (!pins.lines().any(|name| name.starts_with(&ours))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_task_has_the_secrets_that_the_agent_mounts_and_those_that_it_writes_later() {
    const SCRIPT: &str =
        "cat $NOMAD_SECRETS_DIR/one; until cat $NOMAD_SECRETS_DIR/two 2>&-; do sleep 0.01; done; sleep 1000";
    let host = host!();
    for view in ["image", "none"] {
        let options = format!("fs_isolation = {view:?}");
        let mut node = Node::with_private_mounts(&host, &options).await;
        let (prepared, secrets) = with_secrets(&mut node, &Job::shell(SCRIPT), view);
        as_agent(&mut node, &format!("echo first > {secrets}/one"));
        let mut task = node.begin(prepared).await.unwrap();
        task.says("first").await;
        as_agent(&mut node, &format!("echo second > {secrets}/two"));
        task.says("second").await;
        no_pin_is_left(&host, &mut node).await;
        let of_systemd = host.run("cat", &["/proc/1/mountinfo"]);
        assert!(!of_systemd.contains(&secrets), "the control: systemd does not see them: {of_systemd}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_new_agent_gets_the_secrets_of_a_running_task_back() {
    const SCRIPT: &str = "echo its > $NOMAD_SECRETS_DIR/own; echo began; until cat $NOMAD_SECRETS_DIR/new 2>&-; do sleep 0.01; done; sleep 1000";
    let host = host!();
    for view in ["image", "none"] {
        let options = format!("fs_isolation = {view:?}");
        let mut node = Node::with_private_mounts(&host, &options).await;
        let (prepared, secrets) = with_secrets(&mut node, &Job::shell(SCRIPT), view);
        let mut task = node.begin(prepared).await.unwrap();
        task.says("began").await;
        node.restart().await;
        as_agent(&mut node, &format!("! mountpoint -q {secrets}"));
        // The second time there is nothing to do.
        for _ in 0..2 {
            node.recover(&task).await.unwrap();
            let of_agent = mounts_at(&mut node, &secrets);
            assert!(of_agent.len() == 1 && of_agent[0].contains("nosymfollow"), "{of_agent:?}");
        }
        as_agent(&mut node, &format!("grep -q its {secrets}/own; echo new > {secrets}/new"));
        task.says("new").await;
        let of_systemd = host.run("cat", &["/proc/1/mountinfo"]);
        assert!(!of_systemd.contains(&secrets), "systemd still does not see them: {of_systemd}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_else_that_a_task_has_there_is_mounted_for_the_agent() {
    let host = host!();
    let closed = Job::shell("echo began; sleep 1000").config("files { inaccessible_paths = [\"/secrets\"] }");
    // An agent that keeps its mounts, and one that loses them.
    for (mut node, left) in [(Node::start(&host).await, 1), (Node::with_private_mounts(&host, "").await, 0)] {
        let (prepared, secrets) = with_secrets(&mut node, &closed, "image");
        let mut task = node.begin(prepared).await.unwrap();
        task.says("began").await;
        node.restart().await;
        node.recover(&task).await.unwrap();
        let mounts = mounts_at(&mut node, &secrets);
        assert_eq!(mounts.len(), left, "{mounts:?}");
        node.destroy(&task, true).await.unwrap();
        as_agent(&mut node, &format!("umount {secrets} || true"));
    }
}

#[tokio::test]
async fn a_socket_in_the_secrets_is_there_for_the_task() {
    let host = host!();
    let mut node = Node::with_private_mounts(&host, tests::MAY_LISTEN).await;
    let job = Job::shell("test -S /secrets/s.sock && echo there")
        .config("socket {\n name = \"s\"\n path = \"/secrets/s.sock\"\n}");
    let prepared = node.prepare(&job);
    mount_secrets(&mut node, &prepared);
    let task = node.begin(prepared).await.unwrap();
    assert_eq!(node.finish(task).await.1, "there\n");
}

#[tokio::test]
async fn a_task_gets_the_network_of_its_group() {
    let host = host!();
    let mut node = Node::with_private_mounts(&host, "").await;
    let path = "/run/netns/nomad-test-private";
    as_agent(&mut node, &format!("mkdir -p /run/netns; touch {path}; unshare --net={path} true"));
    let network = NetworkIsolationSpec { mode: Mode::Group.into(), path: path.into(), ..Default::default() };
    let script = "readlink /proc/self/ns/net | tr -dc 0-9";
    let job = Job::shell(script).with(|request| request.network = Some(network));
    let found = node.output_of(job).await;
    as_agent(&mut node, &format!("test \"$(stat -Lc %i {path})\" = {found}; umount {path}; rm {path}"));
    no_pin_is_left(&host, &mut node).await;
}
