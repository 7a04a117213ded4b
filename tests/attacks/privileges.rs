//! Capabilities in user namespaces of a task (`PrivateUsers=`). In there, the host's root is root as well: a process
//! that may become user 0, or may act on the files of user 0, does so with UID 0 of the host.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::{Host, Job, MAY_NOTIFY, Node, eventually};

use super::{IMPERSONATE, SECRET, USER, allow_root, carried_out, perl, refusal, version};

/// A process of root on the host, which belongs to no task.
struct Daemon(Child);

impl Daemon {
    fn start() -> Self {
        let child = Command::new("sleep").arg("infinity").env("TOKEN", SECRET).stdin(Stdio::null()).spawn();
        Self(child.unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// Jobs of an ordinary user with capabilities that every node allows by default, and jobs of root where root is
/// allowed; each with its node.
async fn attackers(host: &Host) -> Vec<(Node, Vec<(String, &'static str)>)> {
    let capabilities = [
        "\"setuid\", \"setgid\", \"kill\"",
        "\"setuid\", \"setgid\", \"setpcap\"",
        "\"dac_override\", \"fowner\", \"fsetid\", \"chown\"",
        "\"setfcap\"",
    ];
    let configs = capabilities.iter().flat_map(|names| {
        ["", "preset = \"off\""].map(|preset| (format!("cap_add = [{names}]\nsandbox {{ {preset} }}"), USER))
    });
    let mut attackers = vec![(Node::start(host).await, configs.collect())];
    if version(host) >= 257 {
        let presets = ["standard", "off"].map(|name| (format!("sandbox {{ preset = \"{name}\" }}"), "root"));
        attackers.push((Node::configured(host, &allow_root("confined")).await, presets.into()));
    }
    attackers
}

/// The output of an attack, or none if the driver rejects the job for a reason related to the attack.
async fn tried(node: &Node, job: Job) -> Option<String> {
    match node.try_run(job).await {
        Ok(task) => {
            let (exit, output, errors) = node.finish(task).await;
            assert!(
                output.ends_with("done\n"),
                "the attack did not come to its end: {exit:?} {output}{errors}"
            );
            Some(output)
        }
        Err(refusal) => {
            let words = ["allow_caps", "allow_root", "allow_properties", "cap_add"];
            assert!(words.iter().any(|word| refusal.message.contains(word)), "{refusal}");
            None
        }
    }
}

#[tokio::test]
async fn no_task_signals_a_process_of_roots() {
    let host = host!();
    let daemon = Daemon::start();
    for (node, jobs) in attackers(&host).await {
        for (config, user) in jobs {
            let job = perl(IMPERSONATE, &[&daemon.pid(), "0", "0"]).user(user).config(&config);
            let Some(output) = tried(&node, job).await else { continue };
            assert!(!output.contains("signalled"), "{config} as {user}: {output}");
            assert!(!output.contains("leaked"), "{config} as {user}: {output}");
        }
    }
}

/// A root job needs no further permission where the operator allows root of the host.
#[tokio::test]
async fn root_of_the_host_signals_a_process_of_roots() {
    let host = host!();
    let daemon = Daemon::start();
    let node = Node::configured(&host, &allow_root("host")).await;
    let output = carried_out(&node, perl(IMPERSONATE, &[&daemon.pid(), "0", "0"]).user("root")).await;
    assert!(output.contains("signalled") && !output.contains("kill: "), "the control: {output}");
}

const READ: &str = r#"
    use POSIX;
    POSIX::setgid(0), POSIX::setuid(0);
    print "as $>\n";
    print open(my $file, "<", $ARGV[0]) ? "leaked: " . <$file> : "refused " . ($! + 0) . "\n";
    print "done\n";
"#;

#[tokio::test]
async fn no_capability_reads_the_files_of_root_that_a_task_can_see() {
    let host = host!();
    let file = tempfile::Builder::new().prefix("attack-key-").tempfile_in("/etc").unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let path = file.path().to_str().unwrap();
    let mut tries = 0;
    for (node, jobs) in attackers(&host).await {
        // root itself owns the files, and the operator has allowed root.
        for (config, user) in jobs.into_iter().filter(|(_, user)| *user != "root") {
            tries += 1;
            let Some(output) = tried(&node, perl(READ, &[path]).user(user).config(&config)).await else {
                continue;
            };
            assert!(!output.contains("leaked"), "{config} as {user}: {output}");
        }
    }
    assert!(tries > 0);
}

/// Creates a copy of a shell that has the privileges of root, in every possible way. Its argument is a directory.
const LEAVE: &str = r#"
    use POSIX;
    my ($directory) = @ARGV;
    my $try = sub {
        my ($name, $make) = @_;
        system("cp", "/bin/sh", "$directory/$name") == 0 or print "cp: $?\n";
        print "$name: ", $make->("$directory/$name") ? "made" : $! + 0, "\n";
    };
    # CAP_CHOWN and CAP_FSETID, or CAP_FOWNER
    $try->("owned", sub { chown(0, 0, $_[0]) && chmod(04755, $_[0]) });
    $try->("before", sub { chmod(04755, $_[0]) && chown(0, 0, $_[0]) });
    # CAP_SETFCAP: setxattr(2); version 2, effective, and all capabilities.
    my ($name, $all) = ("security.capability", pack("V5", 0x02000001, 0xffffffff, 0, 0x1ff, 0));
    $try->("capable", sub { my ($path) = @_; syscall(188, $path, $name, $all, length $all, 0) == 0 });
    # CAP_SETUID and CAP_SETGID, or root as it is
    POSIX::setgid(0), POSIX::setuid(0);
    $try->("root", sub { chmod(06755, $_[0]) });
    print "done\n";
"#;

/// Whether executing this file gives privileges on the host.
fn gives_privileges(path: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    let (mode, owner) = (metadata.mode(), metadata.uid());
    let mut capabilities = [0_u8; 64];
    let length = rustix::fs::getxattr(path, "security.capability", &mut capabilities).unwrap_or(0);
    // Version 3 contains the root UID that the capabilities are for.
    let of_root = match capabilities[3] {
        2 => length >= 20,
        3 => length >= 24 && capabilities[20..24] == [0; 4],
        _ => false,
    };
    (mode & 0o4000 != 0 && owner == 0) || (mode & 0o2010 == 0o2010 && metadata.gid() == 0) || of_root
}

#[tokio::test]
async fn no_task_leaves_a_program_that_gives_privileges_on_the_host() {
    let host = host!();
    for (node, jobs) in attackers(&host).await {
        for (config, user) in jobs {
            let job = perl(LEAVE, &["/alloc/data"]).user(user).config(&config);
            let task = match node.try_run(job).await {
                Ok(task) => task,
                Err(refusal) => {
                    assert!(
                        refusal.message.contains("allow_") || refusal.message.contains("cap_add"),
                        "{refusal}"
                    );
                    continue;
                }
            };
            node.wait(&task).await;
            let data = task.alloc_dir().join("alloc/data");
            let mut privileged = Vec::new();
            let mut made = 0;
            for entry in std::fs::read_dir(&data).unwrap().flatten() {
                made += 1;
                if gives_privileges(&entry.path()) {
                    privileged.push(entry.file_name());
                }
            }
            assert!(made >= 3, "it made its copies: {config} as {user}");
            assert!(privileged.is_empty(), "{config} as {user}: {privileged:?}");
            node.destroy(&task, true).await.unwrap();
        }
    }
}

/// The control for the test above: root on the host can create such a file there, and the test notices it.
#[tokio::test]
async fn a_program_that_gives_privileges_is_noticed() {
    let host = host!();
    let directory = tempfile::Builder::new().prefix("attack-").tempdir_in("/srv").unwrap();
    let output = host.run("perl", &["-e", LEAVE, directory.path().to_str().unwrap()]);
    assert!(output.ends_with("done\n"), "{output}");
    let noticed = ["owned", "capable", "root"].map(|name| gives_privileges(&directory.path().join(name)));
    assert_eq!(noticed, [true; 3], "{output}");
}

/// Tells systemd that its main process is another one. systemd accepts that from root, and ends that process with the
/// unit.
const ADOPT: &str = r#"
    $| = 1;
    use POSIX;
    use Socket;
    my ($pid) = @ARGV;
    POSIX::setgid(0), POSIX::setuid(0);
    my $path = $ENV{NOTIFY_SOCKET} or die "nobody listens";
    $path =~ s/^@/\0/;
    socket(my $socket, PF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
    my $sent = send($socket, "MAINPID=$pid\nREADY=1\nSTATUS=sent as $>\n", 0, sockaddr_un($path));
    print defined $sent ? "sent\n" : "failed: $!\n";
    sleep 1000;
"#;

#[tokio::test]
async fn no_task_has_systemd_end_another_process() {
    let host = host!();
    let mut attackers = attackers(&host).await;
    attackers
        .push((Node::configured(&host, MAY_NOTIFY).await, vec![(String::new(), USER), (String::new(), "")]));
    let mut tried = 0;
    for (node, jobs) in attackers {
        for (config, user) in jobs {
            let mut daemon = Daemon::start();
            let config = format!(
                "{config}\nnotify {{\n access = \"all\"\n ready_within = \"0\"\n watchdog = \"10m\"\n}}"
            );
            let job = perl(ADOPT, &[&daemon.pid()]).user(user).config(&config);
            let mut task = match node.try_run(job).await {
                Ok(task) => task,
                Err(refusal) => {
                    assert!(
                        refusal.message.contains("allow_") || refusal.message.contains("cap_add"),
                        "{refusal}"
                    );
                    continue;
                }
            };
            tried += 1;
            task.says("sent\n").await;
            let unit = node.unit(&task).await;
            eventually("systemd has heard it", async || {
                host.property(&unit, "StatusText").starts_with("sent as").then_some(())
            })
            .await;
            let (main, status) = (host.property(&unit, "MainPID"), host.property(&unit, "StatusText"));
            assert_ne!(main, daemon.pid(), "{config} as {user}: {status}");
            node.destroy(&task, true).await.unwrap();
            assert!(daemon.0.try_wait().unwrap().is_none(), "{config} as {user}: the daemon was ended");
        }
    }
    assert!(tried >= 2, "no attacker could try it");
}

#[tokio::test]
async fn no_other_kind_of_users_gives_back_what_was_taken() {
    let host = host!();
    if version(&host) < 257 {
        return; // there is one kind
    }
    let node = Node::configured(&host, &allow_root("confined")).await;
    let daemon = Daemon::start();
    for kind in ["identity", "full", "managed", "no"] {
        for form in ["sandbox { private_users = KIND }", "properties { PrivateUsers = KIND }"] {
            let form = form.replace("KIND", &format!("{kind:?}"));
            let config = format!("cap_add = [\"setuid\", \"setgid\", \"kill\"]\n{form}");
            let job = perl(IMPERSONATE, &[&daemon.pid(), "5", "0"]).user(USER).config(&config);
            let message = refusal(&host, &node, job).await;
            assert!(message.contains("PrivateUsers"), "{config}: {message}");
        }
    }
}

/// A task that may write kernel settings could pass their directory to confined root: the kernel compares UIDs.
#[tokio::test]
async fn beside_confined_root_no_task_may_change_the_kernels_settings() {
    let host = host!();
    let node = Node::configured(&host, &super::allow_root("confined")).await;
    let refusal = node.try_run(Job::shell("true").config("sandbox { preset = \"off\" }")).await.unwrap_err();
    for word in ["`sandbox.preset`", "`allow_root = \"confined\"`"] {
        assert!(refusal.message.contains(word), "{refusal}");
    }
    let script = "for file in /proc/sys/kernel/core_pattern /sys/fs/cgroup/cgroup.procs; do test -w $file && echo $file; done; true";
    let loosened = "sandbox { protect_kernel_tunables = false }";
    assert!(node.try_run(Job::shell(script).config(loosened)).await.is_err());
    assert_eq!(node.output_of(Job::shell(script)).await, "");
}
