//! A task that looks like a Nomad agent to the commands of an operator, and names programs of its own in what it says is
//! its configuration.

use std::fs;
use std::process::Command;

use tests::{Job, Node, exiting_guest, program};

/// Becomes a process whose command line is that of an agent, with a configuration in the task's own directory.
const DISGUISE: &str = r#"printf '#!/bin/sh\nid > OWNED\necho wasm-shim 0.1.0 (wasmtime 48.0.8)\n' > wasm-shim
    cp wasm-shim wasm-shim-compile && chmod 755 wasm-shim*
    mine=/proc/$$/root/local
    printf 'plugin "nomad-driver-systemd" {\n config {\n shim_dir = "%s"\n }\n}\n' $mine > a.hcl
    echo 'sleep 1 while 1;' > agent
    echo $$ > pid
    exec perl -e 'exec {"/usr/bin/perl"} "nomad", "agent", "-config=$ARGV[0]/a.hcl"' $mine"#;

#[tokio::test]
async fn no_task_makes_an_operator_run_its_programs_by_looking_like_an_agent() {
    let host = host!();
    let place = tempfile::tempdir().unwrap();
    let owned = place.path().join("owned");
    let node = Node::start(&host).await;
    let script = DISGUISE.replace("OWNED", owned.to_str().unwrap());
    let task = node.run(Job::shell(&script)).await;
    let pid = task.alloc_dir().join("web/local/pid");
    let pid = tests::eventually("the task is disguised", async || fs::read_to_string(&pid).ok()).await;
    let line = format!("/proc/{}/cmdline", pid.trim());
    tests::eventually("it is called nomad", async || {
        fs::read_to_string(&line).ok().filter(|line| line.starts_with("nomad\0agent\0-config="))
    })
    .await;
    let doctor = Command::new(program("nomad-driver-systemd")).arg("doctor").output().unwrap();
    let printed = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(printed.contains("is not believed"), "the attack is seen: {printed}");
    let module = place.path().join("x.wasm");
    fs::write(&module, exiting_guest(0)).unwrap();
    Command::new(program("nomad-driver-systemd")).arg("warm").arg(&module).output().unwrap();
    assert!(!owned.exists(), "a program of the task ran as {}", fs::read_to_string(&owned).unwrap());
    node.destroy(&task, true).await.unwrap();
}
