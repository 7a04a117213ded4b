//! Attacks of a job's author on the node, its operator and other jobs: from the options of a job file, and from inside
//! a task. Each test fails if the attack succeeds, and also if the attack was not carried out.
//!
//! One test: `cargo test -p tests --test attacks -- NAME` as root.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use tests::{Host, Job, Node, Task, eventually, program_of};

/// The host, or the end of a test if the machine is not suitable.
macro_rules! host {
    () => {
        host!(with)
    };
    ($how:ident) => {
        match tests::Host::$how(tests::Need::Systemd).await {
            Some(host) => host,
            None => return,
        }
    };
}

mod access;
mod accomplices;
mod calls;
mod capabilities;
mod devices;
mod disguise;
mod entering;
mod identity;
mod inspecting;
mod journal;
mod lookups;
mod neighbours;
mod orphans;
mod paths;
mod policy;
mod ports;
mod privileges;
mod root_user;
mod roots;
mod sharing;
mod signals;
mod units;

/// A user of every Debian system that a job may ask for. Nothing runs as this user.
const USER: &str = "nobody";

/// A secret of another task, in its environment and in a file that only its user can read.
const SECRET: &str = "secret-of-the-victim";

/// The user namespace of a process, such as `user:[4026531837]`.
const NAMESPACE: &str = "readlink /proc/self/ns/user";

/// The version of the host's systemd, such as 252.
fn version(host: &Host) -> u32 {
    let output = host.run("systemctl", &["--version"]);
    let number = output.split_whitespace().nth(1).unwrap();
    number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// The plugin option that lets jobs run as root.
fn allow_root(word: &str) -> String {
    format!("allow_root = \"{word}\"")
}

/// A guest of `tests/guests`, from its text.
fn guest(name: &str) -> Vec<u8> {
    tests::wasm(&std::fs::read_to_string(tests::repository().join("tests/guests").join(name)).unwrap())
}

/// A perl script with arguments.
fn perl(script: &str, args: &[&str]) -> Job {
    Job::command("/usr/bin/perl").args(&[&["-e", script], args].concat())
}

/// The message with which the driver rejects a job permanently. Fails if the job is started.
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "a job is made for one attack")]
fn refusal<'a>(host: &'a Host, node: &'a Node, job: Job) -> impl Future<Output = String> + 'a {
    let caller = std::panic::Location::caller();
    let what = format!("{:?} {:?} as {:?}, at {caller}", job.options, job.args, job.request.user);
    let prepared = node.prepare(&job);
    async move {
        let id = prepared.config.alloc_id.clone();
        match node.begin(prepared).await {
            Err(refusal) => {
                assert!(!refusal.recoverable, "refused for now only: {refusal}: {what}");
                assert_eq!(host.units(&id), Vec::<String>::new(), "units are left: {what}");
                refusal.message
            }
            Ok(mut task) => {
                node.destroy(&task, true).await.unwrap();
                let (output, errors) = task.output().await;
                panic!("the attack was let through: {what}: {output}{errors}");
            }
        }
    }
}

/// Another tenant's task, which runs and has a secret.
struct Victim {
    task: Task,
    unit: String,
    pid: String,
    user: String,
    uid: String,
    gid: String,
}

impl Victim {
    async fn start(host: &Host, node: &Node, job: Job) -> Self {
        let job = job.env("TOKEN", SECRET);
        let mut task = node.run(job).await;
        task.says("ready").await;
        let unit = node.unit(&task).await;
        let [init, user, uid, gid] = ["MainPID", "User", "UID", "GID"].map(|name| host.property(&unit, name));
        // The init must not be inspectable.
        let pid = program_of(&init);
        assert!(std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().contains(SECRET));
        Self { task, unit, pid, user, uid, gid }
    }

    /// A task with a user of its own.
    async fn ephemeral(host: &Host, node: &Node) -> Self {
        Self::start(host, node, Self::job()).await
    }

    /// The program of the task.
    fn job() -> Job {
        let job = Job::shell("umask 077; echo $TOKEN > /local/token; echo ready; exec sleep infinity");
        // The tasks have another ephemeral user.
        job.with(|request| "victims".clone_into(&mut request.group))
    }

    /// The task was not ended, and is removed.
    async fn survives(self, host: &Host, node: &Node) {
        assert_eq!(host.property(&self.unit, "SubState"), "running", "the victim was ended");
        node.destroy(&self.task, true).await.unwrap();
    }
}

/// Switches to the user and group of another process, reads its private files, and sends it a signal. Arguments: its
/// PID, UID and GID.
const IMPERSONATE: &str = r#"
    use POSIX;
    my ($pid, $uid, $gid) = @ARGV;
    print POSIX::setgid($gid) ? "became group\n" : "setgid: " . ($! + 0) . "\n";
    print POSIX::setuid($uid) ? "became user\n" : "setuid: " . ($! + 0) . "\n";
    for my $file ("/proc/$pid/environ", "/proc/$pid/root/local/token", "/proc/$pid/cwd/token") {
        if (open(my $handle, "<", $file)) {
            local $/;
            print "opened $file\n", <$handle> =~ /secret-of-the-victim/ ? "leaked\n" : "";
        } else {
            print "open: " . ($! + 0) . "\n";
        }
    }
    print kill(0, $pid) ? "signalled\n" : "kill: " . ($! + 0) . "\n";
    print "done\n";
"#;

fn impersonate(victim: &Victim) -> Job {
    perl(IMPERSONATE, &[&victim.pid, &victim.uid, &victim.gid])
}

/// Runs an attack to its end and returns its output; the last line must be `done`.
async fn carried_out(node: &Node, job: Job) -> String {
    let task = node.run(job).await;
    let (exit, output, errors) = node.finish(task).await;
    assert!(output.ends_with("done\n"), "the attack did not come to its end: {exit:?} {output}{errors}");
    output
}

/// Waits until a file exists.
async fn appears(path: &std::path::Path) {
    eventually(&format!("{} is there", path.display()), async || path.exists().then_some(())).await;
}
