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

#[tokio::test]
async fn a_program_on_a_disk_that_is_mounted_noexec_is_refused_with_the_line_of_the_job_and_a_guest_runs() {
    let host = host!();
    let place = tempfile::tempdir_in("/var/lib").unwrap();
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let allocations = place.path().join("allocations");
    std::fs::create_dir(&allocations).unwrap();
    std::fs::write(place.path().join("exit.wasm"), tests::exiting_guest(5)).unwrap();
    let job = |command: &str, more: &str| {
        let task = format!(
            "task \"t\" {{\n driver = \"systemd\"\n config {{\n command = \"{command}\"\n }}\n{more} }}"
        );
        format!("job \"j\" {{\n type = \"batch\"\n group \"g\" {{\n {task}\n }}\n}}\n")
    };
    let script = "template {\n data = \"#!/bin/sh\\nexit 5\\n\"\n destination = \"local/run.sh\"\n perms = \"755\"\n }\n";
    let guest = format!("artifact {{\n source = \"{}\"\n }}\n", place.path().join("exit.wasm").display());
    let run = |text: String| {
        let file = place.path().join("j.nomad.hcl");
        std::fs::write(&file, text).unwrap();
        let mut run = Command::new(program("nomad-driver-systemd"));
        run.args(["run", "--plain", "--plugin-config"]);
        run.arg(format!("shim_dir = \"{}\"", tests::programs().display()));
        run.arg("--alloc-dir").arg(&allocations).arg(file).output().unwrap()
    };
    assert_eq!(run(job("local/run.sh", script)).status.code(), Some(5), "it runs elsewhere");
    let shown = allocations.display().to_string();
    host.run("mount", &["-t", "tmpfs", "-o", "noexec,mode=755", "none", &shown]);
    let (refused, ran) = (run(job("local/run.sh", script)), run(job("local/exit.wasm", &guest)));
    host.run("umount", &["--lazy", &shown]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("mounts `noexec`") && message.contains("j.nomad.hcl:7:"), "{message}");
    assert_eq!(ran.status.code(), Some(5), "{}", String::from_utf8_lossy(&ran.stderr));
}
