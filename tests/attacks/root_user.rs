//! A task that tries to run as root.

use tests::{Host, Job, Node};

use super::{NAMESPACE, Victim, allow_root, carried_out, impersonate, refusal, version};

/// A second name for the user with UID 0.
struct Alias;

impl Alias {
    const NAME: &str = "attack-toor";

    fn new(host: &Host) -> Self {
        let line = format!("{}:x:0:0::/:/bin/sh", Self::NAME);
        host.run(
            "sh",
            &["-c", &format!("grep -q ^{0}: /etc/passwd || echo {line} >> /etc/passwd", Self::NAME)],
        );
        Self
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let expression = format!("/^{}:/d", Self::NAME);
        let _ = std::process::Command::new("sed").args(["-i", &expression, "/etc/passwd"]).status();
    }
}

#[tokio::test]
async fn no_job_is_root_without_the_operators_word() {
    // Other tests look up users.
    let host = host!(alone);
    let node = Node::start(&host).await;
    let _alias = Alias::new(&host);
    for user in ["root", "0", "00", Alias::NAME] {
        let native = Job::shell("id -u").user(user);
        let guest = Job::artifact("exit.wasm", &tests::exiting_guest(0)).user(user);
        let unconfined = native.clone().config("sandbox { preset = \"off\" }");
        for job in [native, guest, unconfined] {
            let message = refusal(&host, &node, job).await;
            assert!(message.contains("allow_root"), "{user:?}: {message}");
        }
    }
    for user in ["+0", "-0", " 0", "0 ", "0x0", "root ", "0:0", "4294967296", "-4294967296"] {
        let message = refusal(&host, &node, Job::shell("id -u").user(user)).await;
        assert!(message.contains("user") || message.contains("allow_root"), "{user:?}: {message}");
    }
}

#[tokio::test]
async fn a_confined_root_is_root_of_nothing_but_its_task() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("confined")).await;
    if version(&host) < 257 {
        let message = refusal(&host, &node, Job::shell("id -u").user("root")).await;
        assert!(message.contains("systemd 257") && message.contains("`allow_root = \"host\"`"), "{message}");
        return;
    }
    let victim = Victim::ephemeral(&host, &node).await;
    for preset in ["standard", "strict"] {
        let script = "id -u; readlink /proc/self/ns/user /proc/self/ns/pid; echo $PPID";
        let sandbox = format!("sandbox {{ preset = \"{preset}\" }}");
        let output = node.output_of(Job::shell(script).user("root").config(&sandbox)).await;
        let lines: Vec<&str> = output.lines().collect();
        let theirs = host.run("readlink", &["/proc/self/ns/user", "/proc/self/ns/pid"]);
        assert_eq!(
            (lines[0], lines[3]),
            ("0", "1"),
            "root, and the child of the first process of its own: {output}"
        );
        assert!(!theirs.contains(lines[1]) && !theirs.contains(lines[2]), "{output}");
        let output = carried_out(&node, impersonate(&victim).user("root").config(&sandbox)).await;
        assert!(!output.contains("leaked") && !output.contains("became user"), "{preset}: {output}");
        assert!(output.contains("kill: 3"), "there is no such process: {preset}: {output}");
        // Nor with these values in the job.
        for escape in [
            "sandbox { private_users = \"no\" }",
            "sandbox { private_pids = \"no\" }",
            "properties { PrivateUsers = \"no\" }",
            "sandbox { private_users = \"identity\" }",
            "sandbox { preset = \"off\" }",
            "sandbox { protect_kernel_tunables = false }",
        ] {
            let message = refusal(&host, &node, Job::shell("id -u").user("root").config(escape)).await;
            assert!(
                message.contains("allow_properties") || message.contains("allow_root"),
                "{escape}: {message}"
            );
        }
    }
    victim.survives(&host, &node).await;
}

/// The control for the tests above: if the operator allows root of the host, the attacks succeed.
#[tokio::test]
async fn root_of_the_host_is_what_the_operators_word_says() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let victim = Victim::ephemeral(&host, &node).await;
    let output = carried_out(&node, impersonate(&victim).user("root")).await;
    // systemd 257 removes CAP_SETUID from a root user that is given by name; its effect is tested below.
    if version(&host) < 257 {
        assert!(
            output.contains("became user") && output.contains("leaked") && output.contains("signalled"),
            "{output}"
        );
    }
    let theirs = host.run("readlink", &["/proc/self/ns/user"]);
    assert_eq!(node.output_of(Job::shell(NAMESPACE).user("root")).await, theirs);
    victim.survives(&host, &node).await;
}
