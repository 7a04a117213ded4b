//! Restarts, and starts that fail.

use futures_util::future::join_all;
use serde_json::json;
use tests::{Agent, Spec};

use super::{ends, waiting};

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_failed_task_is_started_again_in_the_directories_it_had() {
    let agent = agent!();
    let script = "umask 077
        for dir in $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR $NOMAD_ALLOC_DIR/data; do
            echo x >> $dir/tries && wc -l < $dir/tries
        done
        test $(wc -l < $NOMAD_TASK_DIR/tries) = 3 || exit 5";
    let alloc = agent.run(Spec::batch(script).restarts(2)).await;
    let (status, events) = alloc.ended().await;
    assert_eq!((status.as_str(), ends(&events)), ("complete", vec![(5, 0), (5, 0), (0, 0)]), "{events:?}");
    alloc.was_restarted(2).await;
    assert_eq!(alloc.says("3\n3\n3\n").await, "1\n1\n1\n2\n2\n2\n3\n3\n3\n");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_operator_can_restart_it() {
    let agent = agent!();
    let script = waiting("echo x >> $NOMAD_TASK_DIR/tries; echo try $(wc -l < $NOMAD_TASK_DIR/tries)");
    let alloc = agent.run(Spec::service(&script)).await;
    alloc.says("try 1\nready\n").await;
    let before = alloc.processes();
    alloc.order(&["restart"]).await;
    alloc.says("try 2\nready\n").await;
    let after = alloc.processes();
    assert!(!after.iter().any(|pid| before.contains(pid)), "{before:?} {after:?}");
    alloc.was_restarted(1).await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_start_that_fails_is_a_driver_failure_that_names_the_reason() {
    let agent = agent!();
    let no_command = Spec::batch("").task("Config", json!({ "command": "/no/such/program" }));
    let no_user = Spec::batch("").task("User", json!("nosuchuser"));
    join_all([(no_command, "/no/such/program"), (no_user, "nosuchuser")].map(async |(spec, name)| {
        let alloc = agent.run(spec).await;
        let (status, events) = alloc.ended().await;
        let failure = events.iter().find(|event| event.kind == "Driver Failure");
        assert!(failure.is_some_and(|failure| failure.message.contains(name)), "{name}: {events:?}");
        assert_eq!((status.as_str(), ends(&events)), ("failed", vec![]), "{events:?}");
        alloc.has_no_process().await;
    }))
    .await;
}
