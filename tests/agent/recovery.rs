//! The agent stops and restarts, and tasks keep running.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::json;
use tests::{Agent, Desk, Spec, eventually};

use super::{served, waiting};

/// A task that counts; the test ends it by a file.
const COUNTING: &str = "i=0; trap 'echo heard' USR1
    until test -e $NOMAD_ALLOC_DIR/data/enough; do i=$((i + 1)); echo tick $i; sleep 0.2; done; exit 23";

async fn outlives(agent: &Agent, signal: Signal) {
    let alloc = agent.run(Spec::service(COUNTING)).await;
    alloc.says("tick 3\n").await;
    let main = alloc.processes()[0];
    agent.end(signal).await;
    agent.start().await;
    let output = alloc.says("tick 3\n").await;
    let last = output.lines().filter(|line| line.starts_with("tick")).count();
    alloc.says(&format!("tick {}\n", last + 5)).await;
    assert_eq!(alloc.processes()[0], main, "it is the same process");
    alloc.was_restarted(0).await;
    // The driver has recovered the task, too.
    alloc.order(&["signal", "-s", "SIGUSR1"]).await;
    alloc.says("heard").await;
    assert_eq!(alloc.exec("echo in it", "").await.out, "in it\n");
    fs::write(alloc.shared_file("enough"), "").unwrap();
    assert_eq!(alloc.end().await, (23, 0, false));
    let output = alloc.says("heard").await;
    let ticks: Vec<_> = output.lines().filter(|line| *line != "heard").collect();
    let whole: Vec<_> = (1..=ticks.len()).map(|number| format!("tick {number}")).collect();
    assert_eq!(ticks, whole, "nothing of its output is lost or told twice");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn it_outlives_a_restart_of_the_agent() {
    let agent = agent!(alone);
    for signal in [Signal::INT, Signal::TERM] {
        outlives(&agent, signal).await;
    }
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn it_outlives_the_agents_violent_death() {
    let agent = agent!(alone);
    outlives(&agent, Signal::KILL).await;
}

/// A starting agent opens the directories in `alloc` to everybody, and follows links.
#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_task_leads_no_agent_to_directories_of_the_host() {
    let agent = ours!(Agent::alone());
    let secret = tempfile::Builder::new().prefix("tenant-").tempdir_in("/srv").unwrap();
    let mode = || fs::metadata(secret.path()).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(secret.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let script = format!(
        "cd $NOMAD_ALLOC_DIR; for name in data tmp logs; do mv $name old-$name && ln -s {} $name; done; echo ready; exec sleep 1000",
        secret.path().display()
    );
    let alloc = agent.run(Spec::service(&script)).await;
    alloc.says("ready").await;
    agent.end(Signal::INT).await;
    agent.start().await;
    alloc.was_restarted(0).await;
    assert_eq!(mode(), 0o700);
}

/// The agent writes tokens there while the task runs, as root, and follows links.
#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_link_in_the_secrets_of_a_task_leads_nobody_anywhere() {
    let agent = ours!(Agent::alone());
    let script = "ln -s /etc/hostname $NOMAD_SECRETS_DIR/link; cat $NOMAD_SECRETS_DIR/link || echo refused; echo ready; exec sleep 1000";
    let alloc = agent.run(Spec::service(script)).await;
    let output = alloc.says("ready").await;
    let main =
        agent.host().property(&agent.host().units(&format!("{}-main", alloc.id())).remove(0), "MainPID");
    let mounts = fs::read_to_string(format!("/proc/{main}/mountinfo")).unwrap();
    let secrets = mounts.lines().find(|line| line.contains(" /secrets ")).unwrap();
    assert!(secrets.contains("nosymfollow"), "{secrets}");
    let of_agent = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_agent = of_agent.lines().find(|line| line.contains(&format!("{}/main/secrets", alloc.id())));
    assert!(of_agent.is_some_and(|line| line.contains("nosymfollow")), "{of_agent:?} {output:?}");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_guest_answers_requests_whatever_dies_around_it() {
    let agent = ours!(Agent::alone());
    let desk = Desk::new();
    let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let guest = served("web.wasm", fs::read(desk.guest("web")).unwrap());
    let alloc = agent
        .run_file(
            &format!("network {{\n port \"web\" {{\n static = {}\n }}\n}}", address.port()),
            &format!(
                "artifact {{\n source = \"{guest}\"\n}}
                config {{\n command = \"web.wasm\"\n wasm {{\n serve {{\n port = \"web\"\n }}\n }}\n}}"
            ),
        )
        .await;
    eventually("it answers", async || asked(address, "/").ok().filter(|answer| answer == "hello\n")).await;
    let unit = agent.host().units(&format!("{}-main", alloc.id())).remove(0);
    let main = agent.host().property(&unit, "MainPID");

    for signal in [Signal::INT, Signal::KILL] {
        agent.end(signal).await;
        assert_eq!(asked(address, "/").unwrap(), "hello\n", "without an agent");
        agent.start().await;
        agent.kill_plugin().await;
        assert_eq!(asked(address, "/").unwrap(), "hello\n", "with another plugin");
    }
    assert_eq!(agent.host().property(&unit, "MainPID"), main, "it is the same process");
    alloc.was_restarted(0).await;
    // The last plugin has recovered the task, too: it reports events about requests, and can end the task.
    asked(address, "/trap").unwrap_err();
    alloc.tells("1 request trapped").await;
    alloc.stop().await;
    assert_eq!(alloc.end().await, (0, 0, false));
    asked(address, "/").unwrap_err();
    assert_eq!(agent.host().units(alloc.id()), [""; 0], "its port's unit is gone, too");
}

/// The answer to a request for `path`, if it is a success.
fn asked(address: SocketAddr, path: &str) -> Result<String, ureq::Error> {
    let agent = ureq::Agent::config_builder().timeout_global(Some(tests::SOON)).build().new_agent();
    agent.get(format!("http://{address}{path}")).call()?.body_mut().read_to_string()
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_end_that_no_agent_saw_is_told_by_the_next() {
    let agent = agent!(alone);
    for signal in [Signal::INT, Signal::KILL] {
        let allocs = join_all([0, 23].map(async |code| {
            let script = format!(
                "echo ready; until test -e $NOMAD_ALLOC_DIR/data/enough; do sleep 0.1; done; exit {code}"
            );
            let alloc = agent.run(Spec::batch(&script)).await;
            alloc.says("ready").await;
            (code, alloc)
        }))
        .await;
        agent.end(signal).await;
        for (_, alloc) in &allocs {
            fs::write(alloc.shared_file("enough"), "").unwrap();
            alloc.has_no_process().await;
        }
        agent.start().await;
        for (code, alloc) in &allocs {
            assert_eq!(alloc.end().await, (*code, 0, false), "after {signal:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn what_an_agent_with_private_mounts_writes_to_secrets_reaches_its_tasks_also_after_its_restart() {
    let Some(agent) = Agent::alone().await else { return };
    agent.with_private_mounts().await;
    let spec = Spec::service(&waiting("trap 'cat $NOMAD_SECRETS_DIR/value' HUP")).task(
        "Templates",
        json!([{
            "EmbeddedTmpl": "{{ with nomadVar (print \"nomad/jobs/\" (env \"NOMAD_JOB_ID\")) }}{{ .word }}{{ end }}\n",
            "DestPath": "secrets/value", "ChangeMode": "signal", "ChangeSignal": "SIGHUP",
        }]),
    );
    let alloc = agent.run(spec).await;
    let set = |word: &str| {
        let path = format!("nomad/jobs/{}", alloc.job());
        agent.put(&format!("/v1/var/{path}"), &json!({ "Path": path, "Items": { "word": word } }));
    };
    set("first");
    alloc.says("ready").await;
    assert_eq!(alloc.exec("cat $NOMAD_SECRETS_DIR/value", "").await.out, "first\n");
    let mounts_of_systemd = fs::read_to_string("/proc/1/mountinfo").unwrap();
    assert!(!mounts_of_systemd.contains(alloc.id()), "systemd does not see its secrets: {mounts_of_systemd}");
    set("second");
    alloc.says("second").await;
    for (signal, word) in [(Signal::INT, "third"), (Signal::KILL, "fourth")] {
        agent.end(signal).await;
        agent.start().await;
        set(word);
        alloc.says(word).await;
        // A new task has its secrets of the new agent.
        let other =
            agent.run(Spec::batch("cat $NOMAD_SECRETS_DIR/x").task(
                "Templates",
                json!([{ "EmbeddedTmpl": "of the new agent\n", "DestPath": "secrets/x" }]),
            ));
        other.await.prints("of the new agent\n").await;
    }
    alloc.was_restarted(0).await;
    alloc.stop().await;
}
