//! `nomad-driver-systemd run` on a real systemd: what it prints for programs.

use std::process::Command;

use serde_json::{Value, json};
use tests::program;

#[tokio::test]
async fn a_run_prints_its_lines_events_and_exits_as_json() {
    let _host = host!();
    let place = tempfile::tempdir().unwrap();
    let job = place.path().join("j.nomad.hcl");
    let config = r#"command = "/bin/sh"
          args = ["-c", "echo out; echo 'an \"error\"' >&2; exit 3"]"#;
    let task = format!("task \"t\" {{\n driver = \"systemd\"\n config {{\n {config}\n }}\n }}");
    let text = format!("job \"j\" {{\n type = \"batch\"\n group \"g\" {{\n {task}\n }}\n}}\n");
    std::fs::write(&job, text).unwrap();
    let mut run = Command::new(program("nomad-driver-systemd"));
    run.args(["run", "--json", "--plugin-config"]);
    run.arg(format!("shim_dir = \"{}\"", tests::programs().display())).arg(&job);
    let output = run.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for expected in [
        json!({ "task": "t", "stream": "stdout", "line": "out" }),
        json!({ "task": "t", "stream": "stderr", "line": "an \"error\"" }),
        json!({ "task": "t", "exit_code": 3, "signal": 0, "oom_killed": false, "error": "" }),
    ] {
        assert!(objects.contains(&expected), "{expected}: {printed}");
    }
    let started = objects.iter().find(|object| object["event"].is_string()).expect("an event");
    assert!(started["details"]["unit"].is_string(), "{started}");
}
