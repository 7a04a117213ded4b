//! What a task sees: variables, directories, artifacts, templates, its user.

use std::fs;

use serde_json::{Value, json};
use tests::{Agent, Spec, eventually};

use super::served;

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn the_environment_is_the_jobs_and_nomads() {
    let agent = agent!();
    let values = ["", " a  b ", "a \"b\" 'c'", "$HOME $$ %n %%", "\\ \\n", "one\ntwo\n", "ünïcode 🐎", "A=B"];
    let given: Value =
        values.iter().enumerate().map(|(at, value)| (format!("V{at}"), json!(value))).collect();
    let spec =
        Spec::batch("cat /proc/self/environ").task("Env", given).task("Meta", json!({ "answer": "42" }));
    let alloc = agent.run(spec).await;
    assert_eq!(alloc.end().await, (0, 0, false));
    let output = format!("\0{}", alloc.says("NOMAD_ALLOC_ID=").await);
    let values = values.iter().enumerate().map(|(at, value)| format!("V{at}={value}"));
    let nomads = [
        format!("NOMAD_ALLOC_ID={}", alloc.id()),
        format!("NOMAD_JOB_ID={}", alloc.job()),
        "NOMAD_GROUP_NAME=group".to_owned(),
        "NOMAD_TASK_NAME=main".to_owned(),
        "NOMAD_CPU_LIMIT=50".to_owned(),
        "NOMAD_MEMORY_LIMIT=64".to_owned(),
        "NOMAD_META_answer=42".to_owned(),
    ];
    for expected in values.chain(nomads) {
        assert!(output.contains(&format!("\0{expected}\0")), "{expected:?} in {output:?}");
    }
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn its_directories_are_its_own_and_alloc_is_the_groups() {
    let agent = agent!();
    let writer =
        "for dir in $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR $NOMAD_ALLOC_DIR/data; do echo own > $dir/own; done
        cat $NOMAD_TASK_DIR/own $NOMAD_SECRETS_DIR/own
        until cat $NOMAD_ALLOC_DIR/data/answer 2>/dev/null; do sleep 0.1; done";
    let answerer = "until test -e $NOMAD_ALLOC_DIR/data/own; do sleep 0.1; done
        ls $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR | grep -q own || echo answer > $NOMAD_ALLOC_DIR/data/new
        mv $NOMAD_ALLOC_DIR/data/new $NOMAD_ALLOC_DIR/data/answer";
    let alloc = agent.run(Spec::batch(writer).beside("other", answerer)).await;
    alloc.prints("own\nown\nanswer\n").await;
    assert_eq!(fs::read_to_string(alloc.dir().join("main/local/own")).unwrap(), "own\n");
    assert_eq!(fs::read_to_string(alloc.shared_file("own")).unwrap(), "own\n");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_artifact_and_a_rendered_template_lie_where_the_job_says() {
    let agent = agent!();
    let spec = Spec::batch(". $NOMAD_TASK_DIR/bin/greet; cat $NOMAD_TASK_DIR/plain $NOMAD_SECRETS_DIR/token")
        .task(
            "Artifacts",
            json!([{ "GetterSource": served("greet", "echo fetched\n"), "RelativeDest": "local/bin" }]),
        )
        .task(
            "Templates",
            json!([
                { "EmbeddedTmpl": "{{ env \"NOMAD_TASK_NAME\" }}\n", "DestPath": "local/plain" },
                { "EmbeddedTmpl": "{{ \"s3cr3t\" | toUpper }}\n", "DestPath": "secrets/token" },
            ]),
        );
    agent.run(spec).await.prints("fetched\nmain\nS3CR3T\n").await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn the_jobs_user_runs_it_and_can_write_to_its_directories() {
    let agent = agent!();
    let script = "id -un; for dir in $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR $NOMAD_ALLOC_DIR/data; do
        echo own > $dir/own && cat $dir/own; done";
    let alloc = agent.run(Spec::batch(script).task("User", json!("nobody"))).await;
    alloc.prints("nobody\nown\nown\nown\n").await;
}

/// An agent started as SECURITY.md recommends, with a task that was already running.
#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_agent_that_follows_no_links_writes_no_token_through_one() {
    let agent = ours!(Agent::alone());
    let earlier = agent.run(Spec::service("echo ready; exec sleep 1000")).await;
    earlier.says("ready").await;
    let directory = earlier.dir();
    agent.follow_no_links().await;
    drop(earlier);
    eventually("the directory of an allocation of before is removed", async || {
        agent.put("/v1/system/gc", &Value::Null);
        (!directory.exists()).then_some(())
    })
    .await;

    let victim = agent.volume().join("victim");
    fs::write(&victim, "mine").unwrap();
    let script = format!(
        "cd $NOMAD_TASK_DIR && test -s token && ln -sf {} token && echo ready; exec sleep 1000",
        victim.display()
    );
    let identity = "identity {\n name = \"other\"\n aud = [\"x\"]\n file = true\n filepath = \"local/token\"\n ttl = \"10s\"\n}";
    let config = format!("config {{\n command = \"/bin/sh\"\n args = [\"-c\", {script:?}]\n}}");
    let alloc = agent.run_file("", &format!("{identity}\n{config}")).await;
    alloc.says("ready").await;
    eventually("the agent is kept from it", async || {
        let log = agent.log();
        log.lines()
            .find(|line| line.contains(alloc.id()) && line.contains("too many levels of symbolic links"))
            .map(drop)
    })
    .await;
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
}
