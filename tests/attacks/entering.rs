//! The way into a task (`nomad alloc exec`): a process of the driver enters the namespaces in which the attacker waits.

use std::time::{Duration, Instant};

use tests::{Exit, Host, Job, Node, Task, eventually, program_of};

use super::{allow_root, appears, version};

/// A root task that waits for processes in the cgroups of commands. It stops each with SIGSTOP, and tries to get a
/// descriptor of the program that it runs, in order to overwrite the program once it is no longer running
/// (CVE-2019-5736). Its argument is a file that ends it. The result for each process goes to stdout.
const AMBUSH: &str = r#"
    use strict;
    use POSIX;
    $| = 1;
    my ($end) = @ARGV;
    open(my $own, "<", "/proc/self/cgroup") or die "cgroup: $!";
    my ($path) = map { /^0::(.*)/ } <$own>;
    my (%seen, @held);
    print "ready\n";
    until (-e $end) {
        for my $procs (glob "/sys/fs/cgroup$path/exec-*/cgroup.procs") {
            open(my $list, "<", $procs) or next;
            for my $pid (map { /(\d+)/ } <$list>) {
                next if $seen{$pid}++;
                kill STOP => $pid;
                my $program = readlink "/proc/$pid/exe";
                my $error = $! + 0;
                if (!defined $program) {
                    # The helper lets nobody look; a command that has ended meanwhile does not exist.
                    print $error == ENOENT ? "gone\n" : "denied $error\n";
                } elsif ($program =~ m{/(sleep|sh|dash|bash)$}) {
                    print "late\n";
                } else {
                    print "found $program\n";
                    if (open(my $handle, "<", "/proc/$pid/exe")) {
                        push @held, $handle;
                    } else {
                        print "closed " . ($! + 0) . "\n";
                    }
                    # "Text file busy" protects it only as long as it runs somewhere.
                    my $now = open(my $file, ">>", "/proc/$pid/exe");
                    print $now || $! == ETXTBSY ? "WRITABLE\n" : "refused " . ($! + 0) . "\n";
                }
                kill CONT => $pid;
            }
        }
        for my $handle (splice @held) {
            my $again = open(my $file, ">>", "/proc/self/fd/" . fileno($handle));
            my $error = $! + 0;
            if (!$again && $error == ETXTBSY && !-e $end) {
                push @held, $handle;
                next;
            }
            print $again || $error == ETXTBSY ? "WRITABLE\n" : "refused $error\n";
        }
    }
    print "done\n";
"#;

#[tokio::test]
async fn a_root_task_gets_no_hold_of_the_drivers_program() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let job = super::perl(AMBUSH, &["/alloc/data/end"]).user("root");
    let mut task = node.run(job).await;
    task.says("ready\n").await;
    let mut commands = 0;
    while commands < 60 {
        let (exit, ..) = node.exec(&task, "exec sleep 0.05").await.finish().await;
        assert_eq!(exit, Exit::status(0));
        commands += 1;
    }
    std::fs::write(task.alloc_dir().join("alloc/data/end"), "").unwrap();
    let (_, output, errors) = node.finish(task).await;
    let count = |word: &str| output.lines().filter(|line| line.starts_with(word)).count();
    assert!(output.ends_with("done\n"), "{output}{errors}");
    assert_eq!(count("WRITABLE"), 0, "the driver's program can be overwritten: {output}");
    let caught = count("denied") + count("found");
    assert!(caught + count("late") >= 30, "most processes were seen: {output}");
    assert!(caught >= 3, "no helper was caught on its way, of {commands}: {output}");
}

/// Nor can the driver's own program be written through the path that a task may see.
#[tokio::test]
async fn no_way_leads_from_a_task_to_the_drivers_files() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let driver = tests::program("nomad-driver-systemd");
    let before = std::fs::metadata(&driver).unwrap().modified().unwrap();
    let script = format!(
        "for file in {} /run/nomad-driver-systemd /proc/1/root; do test -w $file && echo writable $file; done; ls /proc/*/exe > /dev/null 2>&1; echo done",
        driver.display()
    );
    for sandbox in ["", "sandbox { preset = \"off\" }"] {
        let job = Job::shell(&script).user("root").config(sandbox);
        assert_eq!(node.output_of(job).await, "done\n", "{sandbox}");
    }
    assert_eq!(std::fs::metadata(&driver).unwrap().modified().unwrap(), before);
}

// ---- Namespaces that the task creates

/// The inode of a namespace of a process.
fn namespace(pid: &str, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

async fn main_pid(host: &Host, node: &Node, task: &Task) -> String {
    host.property(&node.unit(task).await, "MainPID")
}

#[tokio::test]
async fn no_command_follows_a_program_into_namespaces_that_it_made() {
    let host = host!();
    let node = Node::start(&host).await;
    let ours = namespace("self", "user");
    let kinds_of_namespaces = ["cgroup", "ipc", "mnt", "net", "time", "user", "uts"];
    for kinds in [
        "--user --map-current-user",
        "--user --map-current-user --mount",
        "--user --map-current-user --net",
        "--user --map-current-user --uts",
        "--user --map-current-user --ipc",
        "--user --map-current-user --cgroup",
        "--user --map-current-user --time --mount",
        "--user --map-root-user",
    ] {
        let script = format!("echo ready; exec unshare {kinds} sleep infinity");
        let job = Job::shell(&script).config("sandbox { preset = \"off\" }");
        let mut task = node.run(job).await;
        task.says("ready").await;
        let init = main_pid(&host, &node, &task).await;
        let pid = program_of(&init);
        eventually("it is in a namespace of its own", async || {
            (namespace(&pid, "user") != ours).then_some(())
        })
        .await;
        eventually("it sleeps", async || {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name == "sleep\n")
                .then_some(())
        })
        .await;
        // The task runs where systemd has started it, and so does its init.
        let script = "cd /proc/self/ns; readlink cgroup ipc mnt net time user uts";
        let output = node.output_in(&task, script).await;
        let of_init = kinds_of_namespaces.map(|kind| namespace(&init, kind));
        assert_eq!(output.lines().collect::<Vec<_>>(), of_init, "{kinds}");
        assert_eq!(namespace(&init, "user"), ours);
        node.destroy(&task, true).await.unwrap();
    }
}

/// A main process that creates its namespaces at the very moment at which a command starts: it waits for the cgroup of
/// the command, and then for the given number of rounds. Its argument is that number.
const SWITCH: &str = r#"
    $| = 1;
    my ($rounds) = @ARGV;
    open(my $own, "<", "/proc/self/cgroup") or die "cgroup: $!";
    my ($path) = map { /^0::(.*)/ } <$own>;
    print "ready\n";
    while (1) {
        my ($group) = glob "/sys/fs/cgroup$path/exec-*";
        last if $group;
    }
    for (1 .. $rounds) { getppid }
    # CLONE_NEWUSER and CLONE_NEWNS
    my ($uid, $gid) = ($<, $( + 0);
    my $done = syscall(272, 0x10020000) == 0;
    for (["setgroups", "deny"], ["uid_map", "$uid $uid 1"], ["gid_map", "$gid $gid 1"]) {
        open(my $file, ">", "/proc/self/$_->[0]") or next;
        syswrite $file, $_->[1];
    }
    print $done ? "switched\n" : "failed: $!\n";
    sleep 1000;
"#;

#[tokio::test]
async fn no_command_is_caught_by_a_task_that_switches_namespaces_meanwhile() {
    let host = host!();
    let node = Node::start(&host).await;
    let ours = namespace("self", "user");
    let (mut switched, mut ran, mut refused) = (0, 0, 0);
    for attempt in 0..40_u32 {
        let rounds = (attempt * 2500).to_string();
        let job = super::perl(SWITCH, &[&rounds]).config("sandbox { preset = \"off\" }");
        let mut task = node.run(job).await;
        task.says("ready").await;
        let pid = program_of(&main_pid(&host, &node, &task).await);
        let before = namespace(&pid, "mnt");
        // The command reports where it runs, and stays until the attacker enters.
        let script = "readlink /proc/self/ns/user /proc/self/ns/mnt; until test -e /alloc/data/go; do sleep 0.01; done";
        match node.exec_command(&task, &["/bin/sh", "-c", script], false).await {
            Err(refusal) => {
                assert!(refusal.message.contains("namespace"), "{refusal}");
                refused += 1;
            }
            Ok(session) => {
                task.says("switched").await;
                std::fs::write(task.alloc_dir().join("alloc/data/go"), "").unwrap();
                match session.finish().await {
                    (exit, output, _) if exit == Exit::status(0) => {
                        let honest = format!("{ours}\n{before}\n");
                        assert_eq!(output, honest, "the command is where the attacker wants it");
                        ran += 1;
                    }
                    (exit, output, errors) => {
                        assert!(errors.contains("namespace"), "{exit:?} {output}{errors}");
                        refused += 1;
                    }
                }
            }
        }
        // The driver refused the command while the namespaces were being created, or because they existed.
        eventually("it switched", async || (namespace(&pid, "user") != ours).then_some(())).await;
        switched += 1;
        node.destroy(&task, true).await.unwrap();
    }
    assert_eq!(switched, 40, "it switched in all of them: {ran} ran, {refused} were refused");
}

#[tokio::test]
async fn a_command_comes_at_once_into_process_numbers_of_the_tasks_own() {
    let host = host!();
    if version(&host) < 257 {
        return; // it cannot be had there
    }
    let node = Node::start(&host).await;
    for sandbox in [
        "private_pids = \"yes\"",
        "private_pids = \"yes\"\n private_users = \"yes\"",
        "preset = \"off\"\n private_pids = \"yes\"",
    ] {
        let job =
            Job::shell("echo ready; exec sleep infinity").config(&format!("sandbox {{\n {sandbox}\n}}"));
        let mut task = node.run(job).await;
        task.says("ready").await;
        let began = Instant::now();
        let output = node.output_in(&task, "readlink /proc/[0-9]*/exe /proc/self/ns/pid").await;
        assert!(output.contains("/sleep"), "{sandbox}: it sees the task's processes: {output}");
        assert!(output.contains("pid:["), "{sandbox}: {output}");
        assert!(began.elapsed() < Duration::from_secs(5), "{sandbox}: it took {:?}", began.elapsed());
        node.destroy(&task, true).await.unwrap();
    }
}

// ---- Variables

#[tokio::test]
async fn variables_that_no_task_has_no_command_has_either() {
    let host = host!();
    let mut node = Node::configured(&host, "denied_envvars = [\"LD_PRELOAD\", \"ATTACK\"]").await;
    let job = Job::shell("echo ready; exec sleep infinity")
        .env("ATTACK", "x")
        .env("LD_PRELOAD", "/local/x.so")
        .env("KEPT", "y");
    let mut task = node.run(job).await;
    task.says("ready").await;
    let script = "echo \"<${ATTACK-}${LD_PRELOAD-}$KEPT>\"";
    let limit = Duration::from_secs(20);
    assert_eq!(node.output_in(&task, script).await, "<y>\n");
    let (status, output) = node.check(&task, script, limit).await.unwrap();
    assert_eq!((status, String::from_utf8_lossy(&output).as_ref()), (0, "<y>\n"));
    // A later driver gets the variables from the state that Nomad kept.
    node.restart().await;
    node.recover(&task).await.unwrap();
    assert_eq!(node.output_in(&task, script).await, "<y>\n");
    node.destroy(&task, true).await.unwrap();
}

/// The working directory of a command is looked up in the task's view, wherever a link of the task leads.
#[tokio::test]
async fn a_command_starts_nowhere_outside_of_the_tasks_view() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = Job::shell(
        "rm -rf /local/d; ln -s /proc/1/root/root /local/d; touch /alloc/data/ready; exec sleep infinity",
    )
    .config("work_dir = \"/local\"");
    let task = node.run(job).await;
    appears(&task.alloc_dir().join("alloc/data/ready")).await;
    let output =
        node.output_in(&task, "pwd; ls -A /proc/self/cwd/d/ 2>&1 | head -1; stat -c '%d %i' /").await;
    // On another file system, a directory may have the same inode number.
    let root = host.run("stat", &["-c", "%d %i", "/"]);
    assert!(output.starts_with("/local\n") && !output.contains(&format!("\n{root}")), "{output}");
    assert!(output.contains("denied") || output.contains("No such file"), "{output}");
    node.destroy(&task, true).await.unwrap();
}
