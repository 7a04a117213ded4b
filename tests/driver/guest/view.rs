//! The guest's view: directories, variables, its configuration, its name.

use proto::driver::Mount;
use tests::{Exit, Job, Node, wasm};

use super::{command, with};

#[tokio::test]
async fn a_guest_sees_the_tasks_directories_and_its_volumes_unless_the_job_says_which() {
    let host = host!();
    let node = Node::start(&host).await;
    let volume = tempfile::tempdir_in("/srv").unwrap();
    std::fs::set_permissions(volume.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(volume.path(), Some(65534), None).unwrap();
    let mounted = |target: &str, readonly| Mount {
        task_path: target.into(),
        host_path: volume.path().display().to_string(),
        readonly,
        ..Default::default()
    };
    for (options, args, expected) in [
        ("", ["write", "/local/x", "x"], 0),
        ("", ["write", "/alloc/data/x", "x"], 0),
        ("", ["write", "/secrets/x", "x"], 0),
        ("", ["write", "/volume/x", "x"], 0),
        ("", ["write", "/fixed/y", "y"], 1),
        ("", ["write", "/etc/x", "x"], 1),
        ("dirs = []", ["write", "/local/x", "x"], 1),
        ("dirs = [\"/local::/data\"]", ["write", "/data/x", "x"], 0),
        ("dirs = [\"/local::/data\"]", ["write", "/local/x", "x"], 1),
        ("dirs = [\"/local::/data:ro\"]", ["write", "/data/x", "x"], 1),
        ("dirs = [\"/alloc/data::/\"]", ["write", "/x", "x"], 0),
    ] {
        let job = command!(options, &args).user("nobody").with(|request| {
            request.mounts = vec![mounted("/volume", false), mounted("/fixed", true)];
        });
        let prepared = node.prepare(&job);
        for directory in ["web/local", "web/secrets"] {
            let path = prepared.alloc_dir().join(directory);
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        }
        let task = node.begin(prepared).await.unwrap();
        let (exit, output, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(expected), "{options}, {args:?}: {output}{errors}");
    }
    assert_eq!(std::fs::read_to_string(volume.path().join("x")).unwrap(), "x");
    let job = command!("", &["read", "/fixed/x"])
        .user("nobody")
        .with(|request| request.mounts = vec![mounted("/fixed", true)]);
    assert_eq!(node.output_of(job).await, "x", "what cannot be written can be read");
}

#[tokio::test]
async fn relative_paths_of_a_guest_begin_in_its_working_directory() {
    let host = host!();
    let node = Node::start(&host).await;
    let seen = |options, work_dir: &str, args: &[&str]| {
        let job = command(options, args)?;
        Some(job.config(&format!("work_dir = {work_dir:?}")))
    };
    for (options, work_dir, args, expected) in [
        ("", "/local", ["list", "."], "command.wasm\n"),
        ("", "/local", ["list", "/local"], "command.wasm\n"),
        ("", "/alloc", ["list", "."], "data\nlogs\ntmp\n"),
        ("", "/alloc", ["list", "data/../data"], ""),
        ("dirs = [\"/local::/here:ro\"]", "/local", ["list", "."], "command.wasm\n"),
        ("dirs = [\"/alloc::/\"]", "/local", ["list", "."], "data\nlogs\ntmp\n"),
    ] {
        let Some(job) = seen(options, work_dir, &args) else { return };
        assert_eq!(node.output_of(job).await, expected, "{options}, {work_dir}, {args:?}");
    }
    for (options, args) in [
        ("dirs = [\"/local::/here:ro\"]", &["write", "x", "x"][..]),
        ("", &["read", "../etc/passwd"]),
        ("dirs = [\"/alloc::/alloc\"]", &["list", "."]),
    ] {
        let Some(job) = seen(options, "/local", args) else { return };
        let (exit, output, _) = node.finish(node.run(job).await).await;
        assert_eq!((exit, output.as_str()), (Exit::status(1), ""), "{options}, {args:?}");
    }
}

#[tokio::test]
async fn a_guest_sees_the_tasks_variables_that_the_job_names_and_none_of_the_drivers() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = |options| Some(command(options, &["env"])?.env("A", "1").env("B", "two\nlines"));
    let socket = "socket {\n name = \"ctl\"\n path = \"/alloc/ctl.sock\"\n}";
    for (options, expected) in [
        ("env = [\"B\"]", "B=two\nlines\n"),
        ("env = []", ""),
        ("env = [\"A\"]\n config = { name = \"value\" }", "A=1\n"),
    ] {
        let Some(job) = job(options) else { return };
        assert_eq!(node.output_of(job.config(socket)).await, expected, "{options}");
    }
    let Some(job) = job("config = { name = \"value\" }") else { return };
    let all = node.output_of(job.config(socket)).await;
    assert!(all.contains("A=1\n") && all.contains("NOMAD_TASK_DIR=/local\n"), "{all}");
    assert!(!all.contains("LISTEN_FDNAMES") && !all.contains("value"), "{all}");
}

/// Succeeds if the configuration has a `greeting` with the value `hello`.
const CONFIGURED: &str = r#"(component
    (import "wasi:config/store@0.2.0-rc.1" (instance $store
        (type $failure (variant (case "upstream" string) (case "io" string)))
        (export "error" (type $error (eq $failure)))
        (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
    (core module $libc
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $libc (instantiate $libc))
    (core func $get (canon lower (func $store "get") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
    (core module $main
        (import "libc" "memory" (memory 1))
        (import "store" "get" (func $get (param i32 i32 i32)))
        (data (i32.const 0) "greeting")
        (data (i32.const 32) "hello")
        (func (export "run") (result i32)
            (call $get (i32.const 0) (i32.const 8) (i32.const 16))
            ;; It is there, has five letters, and four of them are these.
            (i32.or (i32.or
                (i32.ne (i32.load8_u (i32.const 20)) (i32.const 1))
                (i32.ne (i32.load (i32.const 28)) (i32.const 5)))
                (i32.ne (i32.load (i32.const 1024)) (i32.load (i32.const 32))))))
    (core instance $main (instantiate $main
        (with "libc" (instance $libc)) (with "store" (instance (export "get" (func $get))))))
    (func $run (result (result)) (canon lift (core func $main "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $command)))"#;

#[tokio::test]
async fn a_guest_may_ask_for_its_configuration_and_nobody_else_can_read_it() {
    let host = host!();
    let node = Node::start(&host).await;
    for (options, expected) in [
        ("config = { greeting = \"hello\" }", 0),
        ("config = { greeting = \"goodbye\" }", 1),
        ("config = { other = \"hello\" }", 1),
        ("", 1),
    ] {
        let job =
            Job::artifact("configured.wasm", &wasm(CONFIGURED)).config(&format!("wasm {{\n{options}\n}}"));
        let task = node.run(job).await;
        let (exit, _, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(expected), "{options}: {errors}");
    }
    let secret = "s3cr3t-0123456789";
    let task = node.run(with("spin.wat", &format!("config = {{ token = \"{secret}\" }}"))).await;
    let unit = node.unit(&task).await;
    let pid = host.property(&unit, "MainPID");
    let shown = host.run("systemctl", &["show", "--", &unit]) + &host.run("systemctl", &["cat", "--", &unit]);
    assert!(shown.contains("--config-env") && !shown.contains(secret), "{shown}");
    assert!(!std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains(secret));
    assert!(std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().contains(secret));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_guest_has_the_name_that_the_job_gives_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let output = node.output_of(with("echo.wat", "argv0 = \"--a name\"").args(&["b"])).await;
    assert!(
        output.contains("--a name") && output.contains('b') && !output.contains("guest.wasm"),
        "{output}"
    );
}
