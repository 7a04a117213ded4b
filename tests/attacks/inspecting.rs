//! What processes of a task's user get to know of wasm-shim, or write into it: through its files in `/proc`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use proto::driver::PortMapping;
use tests::{Job, MAY_LISTEN, Node, Task, program, wasm};

/// Tasks of a group share a user, who may inspect and write to processes of that user. wasm-shim sets up the
/// confinement of a task, and such a neighbour can stop wasm-shim as soon as it is executed, before it protects itself.
#[tokio::test]
async fn nobody_gets_into_wasm_shim_not_even_before_it_protects_itself() {
    const NOBODY: u32 = 65534;
    let host = host!();
    let node = Node::start(&host).await;
    // The driver removes the read permission of the program when it starts a task.
    assert_eq!(node.output_of(Job::shell("echo started")).await, "started\n");
    let begun = |program: &Path, argument: &str| {
        let mut command = std::process::Command::new(program);
        let child = command.arg(argument).uid(NOBODY).gid(NOBODY).stderr(std::process::Stdio::null()).spawn();
        Begun(child.expect("everybody may execute it"))
    };
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let endless = directory.path().join("endless.wasm");
    let module = "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $l br $l)))";
    std::fs::write(&endless, wasm(module)).unwrap();
    // wasm-shim does not protect itself when it is run by hand.
    let shim = begun(&program("wasm-shim"), &endless.display().to_string());
    let other = begun(Path::new("/bin/sleep"), "infinity");
    let is_readable = |begun: &Begun| {
        let mut command = std::process::Command::new("/bin/cat");
        command.arg(format!("/proc/{}/environ", begun.0.id())).uid(NOBODY).gid(NOBODY);
        command.output().unwrap().status.success()
    };
    assert!(is_readable(&other), "the control");
    assert!(!is_readable(&shim));
    assert!(std::fs::metadata(format!("/proc/{}/exe", shim.0.id())).is_ok(), "it runs");
}

/// A server that has answered prepares more instances. It asks the kernel for no pages that a request has written: a page
/// that is swapped out would not be among them, and keep what is in it for the next request.
#[tokio::test]
async fn nobody_gets_into_a_server_which_has_no_page_map() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // The control: a program that can be read, without and with a user namespace of its own.
    for (private, answer) in [("no", "in by environ"), ("yes", "out")] {
        let config = format!("sandbox {{\n preset = \"off\"\n private_users = \"{private}\"\n}}");
        let job = Job::command("/bin/sleep").args(&["infinity"]).config(&config);
        let task = node.run(job).await;
        let init = pid_of(&node, &task).await;
        let program = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        assert_eq!(said(neighbour_of(program.trim(), Path::new("/"))), answer, "private_users = {private}");
        node.destroy(&task, true).await.unwrap();
    }

    for round in 0..5 {
        let job = Job::artifact("web.wasm", &super::guest("web.wat"))
            .config("wasm {\n serve {\n port = \"http\"\n }\n}");
        let mut prepared = node.prepare(&job);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        prepared.config.resources.get_or_insert_default().ports.push(PortMapping {
            label: "http".into(),
            value: port.into(),
            to: 0,
            host_ip: "127.0.0.1".into(),
        });
        let task = node.begin(prepared).await.unwrap();
        let pid = pid_of(&node, &task).await;
        let answered = directory.path().join(format!("answered-{round}"));
        let neighbour = neighbour_of(&pid, &answered);
        for _ in 0..100 {
            let answer = ureq::get(format!("http://127.0.0.1:{port}/")).call();
            assert_eq!(answer.unwrap().status(), 200);
        }
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let leads_to: Vec<_> = files.filter_map(|file| std::fs::read_link(file.path()).ok()).collect();
        assert!(!leads_to.iter().any(|path| path.ends_with("pagemap")), "{leads_to:?}");
        std::fs::write(&answered, "").unwrap();
        assert_eq!(said(neighbour), "out");
        node.destroy(&task, true).await.unwrap();
    }
}

/// A process of the same user that tries to inspect another one, until a file exists.
fn neighbour_of(pid: &str, until: &Path) -> std::process::Child {
    const TRY: &str = r#"
        my ($pid, $until) = @ARGV;
        for (my $tries = 0; $tries < 5 || !-e $until; $tries++) {
            for my $file ("environ", "mem", "maps", "pagemap", "auxv") {
                if (open(my $in, "<", "/proc/$pid/$file")) { print "in by $file"; exit }
            }
        }
        print "out";"#;
    let mut command = std::process::Command::new("/usr/bin/perl");
    command.args(["-e", TRY, pid]).arg(until).stdout(std::process::Stdio::piped());
    command.uid(number_of("Uid:", pid)).gid(number_of("Gid:", pid)).spawn().unwrap()
}

fn said(neighbour: std::process::Child) -> String {
    String::from_utf8(neighbour.wait_with_output().unwrap().stdout).unwrap()
}

/// The user or group of a process, which also decide who may inspect it.
fn number_of(kind: &str, pid: &str) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

async fn pid_of(node: &Node, task: &Task) -> String {
    node.inspect(task).await.unwrap().driver.unwrap().attributes["pid"].clone()
}

/// A process that is ended with the test.
struct Begun(std::process::Child);

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
