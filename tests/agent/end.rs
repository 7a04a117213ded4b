//! How a task ends: by exiting, by a signal, by a stop.

use std::fs;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::{Agent, Spec, eventually};

use super::{Matter, differs, ends, has_controller, waiting};

/// A script that leaves children, one of them in a session of its own.
fn children(agent: &Agent) -> &'static str {
    if !has_controller("memory") && differs(agent, Matter::Strays) {
        return "sleep 1000 & sleep 1001 &\ntrue";
    }
    "mark=$NOMAD_ALLOC_DIR/data/mark; sleep 1000 & setsid sh -c \"touch $mark; exec sleep 1001\" &
    until test -e $mark; do sleep 0.1; done"
}

// ---- How a task ends

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_exit_code_arrives_as_it_was() {
    let agent = agent!();
    join_all([0, 1, 42, 255].map(async |code| {
        let alloc = agent.run(Spec::batch(&format!("exit {code}"))).await;
        let (status, events) = alloc.ended().await;
        assert_eq!(ends(&events), [(code, 0)], "{events:?}");
        assert_eq!(status, if code == 0 { "complete" } else { "failed" });
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_death_by_signal_arrives_with_the_signals_number() {
    let agent = agent!();
    join_all([("KILL", 9), ("TERM", 15), ("SEGV", 11)].map(async |(name, number)| {
        let alloc = agent.run(Spec::batch(&format!("kill -{name} $$"))).await;
        assert_eq!(alloc.end().await, (128 + number, number, false), "SIG{name}");
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn with_its_main_process_a_task_ends_and_its_children_too() {
    let agent = agent!();
    let alloc = agent.run(Spec::batch(&format!("{}; exit 3", children(&agent)))).await;
    assert_eq!(alloc.end().await, (3, 0, false));
    alloc.has_no_process().await;
}

// ---- Signals and stops

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_signal_of_the_operator_reaches_it() {
    let agent = agent!();
    let alloc = agent.run(Spec::service(&waiting("trap 'echo got USR1' USR1"))).await;
    alloc.says("ready").await;
    alloc.order(&["signal", "-s", "SIGUSR1"]).await;
    alloc.says("got USR1").await;
    alloc.was_restarted(0).await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_changed_template_signals_it() {
    let agent = agent!();
    let spec = Spec::service(&waiting("trap 'cat $NOMAD_TASK_DIR/value' HUP")).task(
        "Templates",
        json!([{
            "EmbeddedTmpl": "{{ with nomadVar (print \"nomad/jobs/\" (env \"NOMAD_JOB_ID\")) }}{{ .word }}{{ end }}\n",
            "DestPath": "local/value", "ChangeMode": "signal", "ChangeSignal": "SIGHUP",
        }]),
    );
    // The task waits for its template, and the template for the variable.
    let alloc = agent.run(spec).await;
    let set = async |word: &str| {
        let path = format!("nomad/jobs/{}", alloc.job());
        agent.put(&format!("/v1/var/{path}"), &json!({ "Path": path, "Items": { "word": word } }));
    };
    set("before").await;
    alloc.says("ready").await;
    set("afterwards").await;
    alloc.says("afterwards").await;
    alloc.was_restarted(0).await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn asked_by_its_kill_signal_it_ends_in_its_own_way() {
    let agent = agent!();
    // SIGINT is the signal that Nomad's own drivers send when the job sets none.
    join_all([(None, "INT"), (Some("SIGTERM"), "TERM"), (Some("SIGUSR2"), "USR2")].map(async |(named, sent)| {
        let traps = "for name in INT TERM USR2; do trap \"echo got $name; sleep 1; echo done; exit 9\" $name; done";
        let spec = Spec::service(&waiting(traps)).task("KillTimeout", json!(30_000_000_000_u64));
        let alloc = agent.run(named.map_or(spec.clone(), |name| spec.task("KillSignal", json!(name)))).await;
        alloc.says("ready").await;
        alloc.stop().await;
        assert_eq!(alloc.end().await, (9, 0, false), "{named:?}");
        assert_eq!(alloc.says("done").await, format!("ready\ngot {sent}\ndone\n"));
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn one_that_ignores_its_kill_signal_is_killed_with_its_children() {
    let agent = agent!();
    let script = waiting(&format!("trap '' INT; {}", children(&agent)));
    let alloc = agent.run(Spec::service(&script).task("KillTimeout", json!(2_000_000_000_u64))).await;
    alloc.says("ready").await;
    alloc.stop().await;
    let (_, events) = alloc.ended().await;
    assert_eq!(ends(&events), [(137, 9)], "{events:?}");
    let at = |kind: &str| events.iter().find(|event| event.kind == kind).unwrap().at;
    let took = at("Terminated").saturating_sub(at("Killing"));
    assert!((Duration::from_secs(2)..Duration::from_secs(7)).contains(&took), "{took:?}");
    alloc.has_no_process().await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_purged_job_leaves_nothing() {
    let agent = agent!();
    let alloc = agent.run(Spec::service(&waiting("sleep 1000 &"))).await;
    alloc.says("ready").await;
    let output = agent.nomad(&["job", "stop", "-purge", "-detach", alloc.job()], "").await;
    assert_eq!(output.status, 0, "{output:?}");
    alloc.has_no_process().await;
    eventually("its directory is collected", async || {
        agent.put("/v1/system/gc", &Value::Null);
        (!alloc.dir().exists()).then_some(())
    })
    .await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(alloc.id()), "{mounts}");
    // systemd takes a moment to notice that a mount was removed.
    eventually("no unit is left", async || agent.host().units(&alloc.id()[..8]).is_empty().then_some(()))
        .await;
}
