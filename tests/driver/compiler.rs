//! Compiling WebAssembly on the node: many modules, a compiler that is replaced, and tasks that are ended meanwhile.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use futures_util::future::join_all;
use proto::driver::StopTaskRequest;
use tests::{Exit, Host, Job, Node, eventually, exiting_guest, program, programs};

use super::cache::{compilations, entries, exit_of};

/// A guest that exits with this code and takes a while to compile.
fn slow_guest(code: i32, functions: usize) -> Vec<u8> {
    let step = "(local.set 0 (i32.rotl (i32.mul (local.get 0) (i32.const 7)) (local.get 0)))";
    let function = format!("(func (param i32) (result i32) {} (local.get 0))", step.repeat(100));
    tests::wasm(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            {}
            (func (export "_start") (call $exit (i32.const {code}))))"#,
        function.repeat(functions)
    ))
}

#[tokio::test]
async fn a_job_with_many_modules_leaves_others_a_place_at_the_compiler() {
    let host = host!();
    let node = Node::start(&host).await;
    let greedy = async |code| {
        let job = Job::artifact("slow.wasm", &slow_guest(code, 3000));
        node.run(job.with(|request| request.job_name = "greedy".to_owned())).await
    };
    let modest = async {
        eventually("the greedy job has one compiled", async || (compilations(&node) > 0).then_some(())).await;
        let job = Job::artifact("quick.wasm", &exiting_guest(7));
        let task = node.run(job.with(|request| request.namespace = "another".to_owned())).await;
        assert_eq!(node.finish(task).await.0, Exit::status(7));
        // The greedy job neither got both places, nor did others have to wait for it.
        assert_eq!(compilations(&node), 2);
    };
    tokio::join!(greedy(1), greedy(2), modest);
}

#[tokio::test]
async fn a_module_that_cannot_be_compiled_is_not_tried_again_at_once() {
    let host = host!();
    let node = Node::start(&host).await;
    let truncated = &exiting_guest(0)[..20];
    let start = || node.try_run(Job::artifact("cut.wasm", truncated));
    let refusals = join_all((0..4).map(|_| start())).await;
    let again = start().await;
    for refusal in refusals.into_iter().chain([again]) {
        let refusal = refusal.unwrap_err();
        assert!(refusal.message.contains("cut.wasm cannot be used: "), "{refusal}");
    }
    assert_eq!(compilations(&node), 1);
    assert_eq!(entries(&node.state_dir()), Vec::<PathBuf>::new());
    assert_eq!(exit_of(&node, &exiting_guest(0)).await, Exit::status(0), "another one is not refused");
}

/// The WebAssembly programs in a directory in which a test can replace them.
struct Shim(tempfile::TempDir);

impl Shim {
    fn new() -> Self {
        Self::below("/var/lib")
    }

    fn below(directory: &str) -> Self {
        let shim = Self(tempfile::tempdir_in(directory).unwrap());
        fs::copy(programs().join("wasm-shim"), shim.0.path().join("wasm-shim")).unwrap();
        shim.install(shim.compiler());
        shim
    }

    fn option(&self) -> String {
        format!("shim_dir = {:?}", self.0.path().display().to_string())
    }

    /// As a package manager does it: complete, and atomically in place of the old file.
    fn install(&self, new: PathBuf) {
        fs::rename(new, self.0.path().join("wasm-shim-compile")).unwrap();
    }

    /// The compiler, unchanged. A separate process copies it: a file that one of our processes has open for writing,
    /// even a child that another test is just starting, cannot be executed.
    fn compiler(&self) -> PathBuf {
        let new = self.0.path().join("new");
        let real = programs().join("wasm-shim-compile");
        assert!(std::process::Command::new("cp").arg(real).arg(&new).status().unwrap().success());
        new
    }

    /// A compiler of another version, which rejects everything.
    fn other_compiler(&self, host: &Host) -> PathBuf {
        let new = self.0.path().join("new");
        let script =
            "case $* in --engine-key) echo 0123456789abcdef ;; *) echo another compiler >&2; exit 1 ;; esac";
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\"; chmod 755 \"$0\"";
        host.run("sh", &["-c", write, new.to_str().unwrap(), script]);
        new
    }
}

#[tokio::test]
async fn programs_and_code_in_tmp_are_found_by_tasks_that_have_a_tmp_of_their_own() {
    let host = host!();
    let state = tempfile::tempdir_in("/tmp").unwrap();
    // systemd 247 creates the parent directories of mounts in such a /tmp for root only.
    let plain = (super::version(&host) >= 252).then_some("none");
    for isolation in ["image"].into_iter().chain(plain) {
        let shim = Shim::below("/tmp");
        let options =
            format!("{}\nfs_isolation = \"{isolation}\"\nstate_dir = {:?}", shim.option(), state.path());
        let node = Node::configured(&host, &options).await;
        assert_eq!(exit_of(&node, &exiting_guest(7)).await, Exit::status(7), "{isolation}");
    }
}

#[tokio::test]
async fn code_of_one_compiler_is_not_run_under_another_and_an_upgrade_needs_no_restart() {
    let host = host!();
    let shim = Shim::new();
    let node = Node::configured(&host, &shim.option()).await;
    assert_eq!(exit_of(&node, &exiting_guest(7)).await, Exit::status(7));
    shim.install(shim.other_compiler(&host));
    let refusal = node.try_run(Job::artifact("exit.wasm", &exiting_guest(7))).await.unwrap_err();
    assert!(refusal.message.contains("cannot be used: another compiler"), "{refusal}");
    shim.install(shim.compiler());
    assert_eq!(exit_of(&node, &exiting_guest(7)).await, Exit::status(7));
    assert_eq!(compilations(&node), 2, "one by each");
}

#[tokio::test]
async fn a_compiler_that_is_replaced_while_it_compiles_leaves_no_code_under_the_others_key() {
    let host = host!();
    let shim = Shim::new();
    let node = Node::configured(&host, &shim.option()).await;
    let (guest, new) = (slow_guest(8, 600), shim.compiler());
    let replace = async {
        eventually("it compiles", async || (compilations(&node) == 1).then_some(())).await;
        shim.install(new);
    };
    let (refused, ()) = tokio::join!(node.try_run(Job::artifact("slow.wasm", &guest)), replace);
    let refusal = refused.unwrap_err();
    assert!(refusal.message.contains("the compiler was replaced meanwhile"), "{refusal}");
    assert!(refusal.recoverable, "{refusal}");
    assert_eq!(entries(&node.state_dir()), Vec::<PathBuf>::new());
    assert_eq!(exit_of(&node, &guest).await, Exit::status(8));
}

#[tokio::test]
async fn a_driver_that_is_killed_while_it_compiles_leaves_nothing_and_the_next_one_compiles() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let guest = slow_guest(9, 600);
    let pid = node.plugin().pid().to_string();
    let kill = async {
        eventually("it compiles", async || (compilations(&node) == 1).then_some(())).await;
        host.run("kill", &["-KILL", &pid]);
    };
    let (refused, ()) = tokio::join!(node.try_run(Job::artifact("slow.wasm", &guest)), kill);
    refused.expect_err("nobody is left to answer");
    assert_eq!(entries(&node.state_dir()), Vec::<PathBuf>::new());
    node.restart().await;
    assert_eq!(exit_of(&node, &guest).await, Exit::status(9));
    assert_eq!(entries(&node.state_dir()).len(), 1);
    assert_eq!(host.units(&format!("nomad-wasm-compile-{pid}")), Vec::<String>::new());
}

#[tokio::test]
async fn a_task_that_is_stopped_while_its_module_is_compiled_does_not_wait_for_the_compiler() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let pid = node.plugin().pid();
    let guest = slow_guest(10, 3000);
    let first = node.prepare(&Job::artifact("slow.wasm", &guest));
    // The task waits for the compiler of the first one.
    let second = node.prepare(&Job::artifact("slow.wasm", &guest));
    let ids = [first.config.id.clone(), second.config.id.clone()];
    let stop = async {
        eventually("it compiles", async || (compilations(&node) == 1).then_some(())).await;
        for task_id in ids.into_iter().rev() {
            let request = StopTaskRequest { task_id, signal: String::new(), timeout: None };
            node.driver().stop_task(request).await.unwrap();
        }
    };
    let (first, second, ()) = tokio::join!(node.begin(first), node.begin(second), stop);
    for refusal in [first.unwrap_err(), second.unwrap_err()] {
        assert!(refusal.message.contains("was given up, since the task was stopped"), "{refusal}");
    }
    assert_eq!(compilations(&node), 1);
    assert_eq!(host.units(&format!("nomad-wasm-compile-{pid}")), Vec::<String>::new());
    assert_eq!(entries(&node.state_dir()), Vec::<PathBuf>::new());
    // The module was not at fault.
    assert_eq!(exit_of(&node, &guest).await, Exit::status(10));
}

#[tokio::test]
async fn control_c_ends_a_run_also_while_a_module_is_compiled() {
    let host = host!();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("slow.wasm"), slow_guest(11, 8000)).unwrap();
    let job = directory.path().join("slow.nomad.hcl");
    let task = "task \"t\" {\n driver = \"systemd\"\n artifact {\n source = \"slow.wasm\"\n }\n \
                config {\n command = \"slow.wasm\"\n }\n }";
    std::fs::write(&job, format!("job \"slow\" {{\n type = \"batch\"\n group \"g\" {{\n {task}\n }}\n}}\n"))
        .unwrap();
    let config = format!("state_dir = {:?}", directory.path().join("state"));
    let mut run = Command::new(program("nomad-driver-systemd"));
    let mut run =
        run.args(["run", "--plugin-config", &config]).arg(&job).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = lines.inspect(|line| eprintln!("{line}"));
    assert!(lines.any(|line| line.contains("Compiling slow.wasm")));
    host.run("kill", &["-INT", &run.id().to_string()]);
    let output: Vec<_> = lines.collect();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{output:?}");
    assert!(output.iter().any(|line| line.contains("task t: not started")), "{output:?}");
    assert!(!output.iter().any(|line| line.contains("exit code")), "{output:?}");
}
