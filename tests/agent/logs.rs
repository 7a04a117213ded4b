//! What a task prints.

use tests::{Agent, Said, Spec, eventually};

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn stdout_and_stderr_are_kept_apart_and_whole() {
    let agent = agent!();
    let script = "head -c 200000 /dev/zero | tr '\\0' o & head -c 200000 /dev/zero | tr '\\0' e >&2; wait";
    let alloc = agent.run(Spec::batch(script)).await;
    assert_eq!(alloc.end().await, (0, 0, false));
    for (option, letter) in [("-stderr=false", "o"), ("-stderr=true", "e")] {
        eventually("all of it is there, and nothing else", async || {
            let output = agent.nomad(&["alloc", "logs", option, alloc.id()], "").await;
            (output == Said { status: 0, out: letter.repeat(200_000), err: String::new() }).then_some(())
        })
        .await;
    }
}
