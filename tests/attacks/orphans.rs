//! Tasks whose processes try to become children of systemd: systemd handles the exit of each one, and nothing else
//! meanwhile.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tests::{Exit, Host, Job, Node, Task, eventually, program_of};

async fn init_of(host: &Host, node: &Node, task: &Task) -> String {
    host.property(&node.unit(task).await, "MainPID")
}

/// Creates one process whose parent exits at once, and one sibling (`CLONE_PARENT`, clone(2)). Each prints the PID of
/// its parent when it has a new one.
const LEAVE: &str = r#"
    $| = 1;
    unless (fork) {
        my $parent = $$;
        unless (fork) {
            1 while getppid == $parent;
            print "orphan of ", getppid, "\n";
            sleep 1000;
        }
        exit;
    }
    # SIGCHLD
    unless (syscall(56, 0x8000 | 17, 0, 0, 0, 0)) {
        # getppid(2)
        print "sibling of ", syscall(110), "\n";
        sleep 1000;
    }
    sleep 1000;
"#;

#[tokio::test]
async fn what_a_task_leaves_is_its_inits_to_reap() {
    let host = host!();
    let node = Node::start(&host).await;
    for sandbox in ["", "sandbox {\n preset = \"off\"\n}", "sandbox {\n preset = \"strict\"\n}"] {
        let mut task = node.run(super::perl(LEAVE, &[]).config(sandbox)).await;
        let mut output = String::new();
        while output.lines().count() < 2 || !output.ends_with('\n') {
            output += &task.read_until("\n").await;
        }
        let init = init_of(&host, &node, &task).await;
        let mut lines: Vec<&str> = output.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, [format!("orphan of {init}"), format!("sibling of {init}")], "{sandbox}");
        node.destroy(&task, true).await.unwrap();
    }
}

/// The PID of a process's parent, while the process exists.
fn parent_of(pid: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:\t").map(str::to_owned))
}

#[tokio::test]
async fn what_a_command_in_a_task_leaves_is_reaped_beside_it_and_ends_with_the_task() {
    let host = host!();
    let node = Node::start(&host).await;
    // The filter of the second one answers in the kernel's place that no child is left.
    let lies = "sandbox {\n preset = \"off\"\n system_call_filter = [\"~waitid\"]\n system_call_error_number = \"ECHILD\"\n}";
    for sandbox in ["", lies] {
        what_a_command_leaves_is_reaped(&host, &node, sandbox).await;
    }
}

async fn what_a_command_leaves_is_reaped(host: &Host, node: &Node, sandbox: &str) {
    let mut task = node.run(Job::shell("echo ready; exec sleep 1000").config(sandbox)).await;
    task.says("ready").await;
    let script = "(sh -c 'echo $$ > /local/left; exec sleep 1000' > /dev/null 2>&1 &); \
                  until test -s /local/left; do sleep 0.01; done";
    node.output_in(&task, script).await;
    let left = std::fs::read_to_string(task.alloc_dir().join("web/local/left")).unwrap().trim().to_owned();
    let parent = parent_of(&left).unwrap();
    assert_ne!(parent, "1", "{sandbox}");
    let command = std::fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap();
    assert!(command.starts_with("nomad-driver-systemd\0enter"), "{command:?}");
    // Ending the init ends the processes that it reaps.
    host.run("kill", &["-9", &parent]);
    eventually("it is gone", async || parent_of(&left).is_none().then_some(())).await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_command_that_ends_its_init_is_ended_at_once_with_all_that_holds_its_output() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut task = node.run(Job::shell("echo ready; exec sleep 1000")).await;
    task.says("ready").await;
    let script = "sleep 1000 & echo $! > /local/left; until test -e /alloc/data/go; do sleep 0.01; done; \
                  kill -9 $PPID; wait";
    let session = node.exec(&task, script).await;
    std::fs::write(task.alloc_dir().join("alloc/data/go"), "").unwrap();
    let (exit, ..) = session.finish().await;
    assert_eq!(exit, Exit::signal(9));
    let left = std::fs::read_to_string(task.alloc_dir().join("web/local/left")).unwrap().trim().to_owned();
    eventually("what it left is gone", async || parent_of(&left).is_none().then_some(())).await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_filter_that_says_that_all_is_well_does_not_take_a_task_its_init() {
    let host = host!();
    let node = Node::start(&host).await;
    for filter in [
        "system_call_filter = [\"~clone\"]\n system_call_error_number = \"0\"",
        "system_call_filter = [\"~clone:0\"]",
        "system_call_filter = [\"~prctl\"]\n system_call_error_number = \"EPERM\"",
        "system_call_filter = [\"~prctl\"]",
    ] {
        let sandbox = format!("sandbox {{\n preset = \"off\"\n {filter}\n}}");
        let refusal = node.try_run(Job::shell("exec sleep 1000").config(&sandbox)).await.expect_err(filter);
        let names = ["system_call", "SystemCallErrorNumber"];
        assert!(names.iter().any(|name| refusal.message.contains(name)), "{filter}: {refusal}");
    }
}

#[tokio::test]
async fn a_program_that_stops_its_init_before_it_has_reported_holds_no_start_up() {
    let host = host!();
    let node = Node::start(&host).await;
    // Some starts are fast enough: each start must be answered.
    for _ in 0..4 {
        match node.try_run(super::perl("kill STOP => getppid; sleep 1000", &[])).await {
            Ok(task) => node.destroy(&task, true).await.unwrap(),
            Err(refusal) => assert!(refusal.message.contains("init has not reported"), "{refusal}"),
        }
    }
}

#[tokio::test]
async fn a_task_that_ends_its_init_is_ended_at_once_with_all_that_it_has() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "trap '' TERM INT HUP; (trap '' TERM INT HUP; while :; do sleep 1000; done) & echo $! > /alloc/data/left; \
                  echo ready; until test -e /alloc/data/go; do sleep 0.01; done; kill -9 $PPID; while :; do sleep 1000; done";
    let job = Job::shell(script);
    let mut task = node.run(job).await;
    task.says("ready").await;
    let left = std::fs::read_to_string(task.alloc_dir().join("alloc/data/left")).unwrap().trim().to_owned();
    let began = Instant::now();
    std::fs::write(task.alloc_dir().join("alloc/data/go"), "").unwrap();
    assert_eq!(node.wait(&task).await, Exit::signal(9));
    let gone = || (!std::path::Path::new(&format!("/proc/{left}")).exists()).then_some(());
    eventually("what it left is gone", async || gone()).await;
    // systemd would have checked first, and waited.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_stop_signal_stops_the_program_and_another_lets_it_go_on() {
    let host = host!();
    let node = Node::start(&host).await;
    // One process: a shell that waits in vfork(2) for a child that the signal stopped is not stopped itself.
    let mut task = node.run(Job::shell("echo ready; exec sleep 1000")).await;
    task.says("ready").await;
    let program = program_of(&init_of(&host, &node, &task).await);
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{program}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    };
    node.signal(&task, "SIGSTOP").await.unwrap();
    eventually("it is stopped", async || is_stopped().then_some(())).await;
    node.signal(&task, "SIGCONT").await.unwrap();
    eventually("it goes on", async || (!is_stopped()).then_some(())).await;
    node.signal(&task, "SIGTERM").await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::signal(15));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn an_init_and_its_program_have_filters_of_their_own() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = Job::shell("echo ready; exec sleep 1000").config("sandbox {\n preset = \"off\"\n}");
    let mut task = node.run(job).await;
    task.says("ready").await;
    let init = init_of(&host, &node, &task).await;
    let filters = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:\t").map(str::to_owned)).unwrap()
    };
    let (of_init, of_program) = (filters(&init), filters(&program_of(&init)));
    // The init has one; the program has one for each of two architectures, and one for calls with one number on all.
    assert_eq!(of_init.parse::<u32>().unwrap() + 2, of_program.parse::<u32>().unwrap());
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_number_of_sockets_that_a_job_makes_up_takes_the_init_nothing() {
    let host = host!();
    let node = Node::start(&host).await;
    for count in ["5", "1000", "-1", "x"] {
        let env = [("LISTEN_FDS".to_owned(), count.to_owned()), ("LISTEN_PID".to_owned(), "1".to_owned())];
        let job = Job::shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
        let mut task = node.run(job.with(|request| request.env.extend(env))).await;
        task.says("ready").await;
        node.stop(&task, "SIGTERM", tests::SOON).await.unwrap();
        assert_eq!(node.wait(&task).await, Exit::status(7), "{count}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_else_sends_to_the_init_of_a_task_that_speaks_with_systemd() {
    let host = host!();
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"NotifyAccess\"]").await;
    let says = "perl -MIO::Socket::UNIX -e '$| = 1; IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $ENV{NOTIFY_SOCKET})->\
                send(\"READY=1\") or die; print \"$ENV{NOTIFY_SOCKET}\\n\"; sleep 1000'";
    for sandbox in ["", "sandbox {\n preset = \"strict\"\n}\nfiles {\n read_only_paths = [\"/\"]\n}"] {
        let config = format!("notify {{\n ready_within = \"10s\"\n}}\n{sandbox}");
        let mut task = node.run(Job::shell(&format!("exec {says}")).config(&config)).await;
        let socket = task.read_until("\n").await;
        let init = init_of(&host, &node, &task).await;
        // On a file system that exists only in the task's own namespace: everybody could use an abstract name.
        let inside = format!("/proc/{init}/root{}", socket.trim());
        assert!(std::fs::symlink_metadata(&inside).is_ok(), "{inside}");
        assert!(std::fs::symlink_metadata(socket.trim()).is_err(), "{socket}");
        let as_nobody = format!(
            "! setpriv --reuid nobody --clear-groups perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => shift)' {inside}"
        );
        host.run("sh", &["-c", &as_nobody]);
        node.destroy(&task, true).await.unwrap();
    }
}

/// By a task of another driver in the group: our tasks cannot take leases.
#[tokio::test]
async fn a_command_whose_file_is_leased_holds_up_nobody() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut holder = node.run(Job::shell("echo ready; exec sleep 1000")).await;
    holder.says("ready").await;
    let lease = "$| = 1; $SIG{IO} = 'IGNORE'; my $name = $ARGV[0]; open my $file, '>', $name or die; chmod 0755, $file; \
                 close $file; open $file, '+<', $name or die; fcntl($file, 1024, 1) or die; print \"leased\\n\"; sleep 1000";
    let mut other = std::process::Command::new("perl");
    other.args(["-e", lease]).arg(holder.alloc_dir().join("alloc/data/leased")).stdout(Stdio::piped());
    let mut other = other.spawn().unwrap();
    let mut output = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut output).unwrap();
    assert_eq!(output, "leased\n");
    let begun = Instant::now();
    let alloc_id = holder.handle.config.as_ref().unwrap().alloc_id.clone();
    let beside = Job::command("/alloc/data/leased").with(|request| {
        request.alloc_id = alloc_id;
        "other".clone_into(&mut request.task);
    });
    let (started, _) = tokio::join!(node.try_run(beside), node.output_in(&holder, "true"));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let refusal = started.expect_err("nobody reads a leased file");
    assert!(refusal.message.contains("/alloc/data/leased"), "{refusal}");
    other.kill().unwrap();
    other.wait().unwrap();
    node.destroy(&holder, true).await.unwrap();
}

#[tokio::test]
async fn commands_that_leave_something_are_counted() {
    const MOST: usize = 256;
    let host = host!();
    let node = Node::start(&host).await;
    let mut task = node.run(Job::shell("echo ready; exec sleep 1000")).await;
    task.says("ready").await;
    let leave = "sleep 1000 > /dev/null 2>&1 &";
    for _ in 0..MOST / 8 {
        let eight = (0..8).map(|_| node.check(&task, leave, tests::SOON));
        for left in futures_util::future::join_all(eight).await {
            left.unwrap();
        }
    }
    let refusal = node.check(&task, leave, tests::SOON).await.expect_err("one too many");
    assert!(refusal.message.contains("256 commands"), "{refusal}");
    node.destroy(&task, true).await.unwrap();
}
