//! Commands in a running task: `nomad alloc exec`.

use serde_json::json;
use tests::{Agent, Said, Spec};

use super::{Matter, differs, waiting};

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_command_in_it_has_streams_and_an_exit_code_of_its_own() {
    let agent = agent!();
    let alloc = agent.run(Spec::service(&waiting(""))).await;
    alloc.says("ready").await;
    let of = |status, out: &str, err: &str| Said { status, out: out.to_owned(), err: err.to_owned() };
    for (script, input, text) in [
        ("echo out; echo err >&2; exit 43", "", of(43, "out\n", "err\n")),
        ("for i in 1 2 3; do echo $i; sleep 0.5; done", "", of(0, "1\n2\n3\n", "")),
        ("head -n 1", "a line\nanother\n", of(0, "a line\n", "")),
        ("cat", "all\nof it", of(0, "all\nof it", "")),
        ("stty size", "", of(1, "", "stty: 'standard input': Inappropriate ioctl for device\n")),
        ("head -c 300000 /dev/zero | tr '\\0' o", "", of(0, &"o".repeat(300_000), "")),
    ] {
        assert_eq!(alloc.exec(script, input).await, text, "{script}");
    }
    let text = agent.nomad(&["alloc", "exec", "-t=false", alloc.id(), "/no/such/program"], "").await;
    assert!(text.status != 0 && format!("{}{}", text.out, text.err).contains("/no/such/program"), "{text:?}");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_command_in_it_finds_what_the_task_finds() {
    let agent = agent!();
    let probe = "pwd; id -un; echo $NOMAD_ALLOC_DIR $NOMAD_ALLOC_ID $OWN; cat /proc/self/cgroup";
    let spec =
        Spec::service(&waiting(probe)).task("User", json!("nobody")).task("Env", json!({ "OWN": "o w n" }));
    let alloc = agent.run(spec).await;
    let own = alloc.says("ready").await;
    let own = own.strip_suffix("\nready\n").unwrap();
    let output = alloc.exec(probe, "").await;
    let more = output.out.strip_prefix(own).unwrap_or_else(|| panic!("{own:?} in {output:?}"));
    let below = differs(&agent, Matter::Group) && more.starts_with("/exec-");
    assert!(output.status == 0 && (more == "\n" || below), "{output:?}");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_command_on_a_terminal_has_its_size_and_follows_it() {
    let agent = agent!();
    let alloc = agent.run(Spec::service(&waiting(""))).await;
    alloc.says("ready").await;
    // The terminal is resized when the command has reported, by a file, that it saw the first size.
    let script = format!(
        r#"stty rows 50 cols 40
        {{ until test -e {seen}; do sleep 0.1; done; stty rows 51 cols 100; }} </dev/tty &
        "$NOMAD" alloc exec -i=true -t=true {id} /bin/sh -c '
            until test "$(stty size)" = "50 40"; do sleep 0.1; done; touch $NOMAD_ALLOC_DIR/data/seen
            until test "$(stty size)" = "51 100"; do sleep 0.1; done
            echo err >&2; read line; echo "read $line"; sleep 1000 & exit 43'"#,
        seen = alloc.shared_file("seen").display(),
        id = alloc.id(),
    );
    let output = agent.on_a_terminal(&script, "typed\n").await;
    // What is typed is shown by the terminal; and by our own terminal as well, if it was typed before the command took
    // that one over.
    let (shown, said_in_it): (Vec<_>, Vec<_>) =
        output.out.split_terminator("\r\n").partition(|line| *line == "typed");
    assert!(output.status == 43 && !shown.is_empty() && said_in_it == ["err", "read typed"], "{output:?}");
}
