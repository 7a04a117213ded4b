//! A task and a user of the node who cooperate: what a task leaves for the user, and which files of the user, or of the
//! host's root, the task reaches.

use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;

use tests::{Job, Node};

use super::allow_root;

/// The system call numbers of openat(2) and fcntl(2) on this machine, for perl.
fn number(call: i64) -> String {
    call.to_string()
}

/// systemd's filter checks files that are created by name. An agent that fetches an artifact into such a file writes as
/// root, and keeps the mode bits.
#[tokio::test]
async fn no_program_makes_a_file_that_is_set_user_id_from_its_first_moment() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let perl = "my $directory = '/alloc/data'; for my $mode (0600, 04755, 02755, 06755) {
            my $made = syscall(OPENAT, -100, $directory, 020200002, $mode);
            printf '%o %s ', $mode, $made < 0 ? $!{EPERM} ? 'refused' : \"failed: $!\" : 'made';
        }
        open(my $file, '<', '/alloc/data/own') or die $!;
        print fcntl($file, 1024, 0) ? 'leased ' : $!{EPERM} ? 'refused ' : \"failed: $! \";
        print syscall(425, 1, 0) < 0 && $!{EPERM} ? 'refused' : 'a ring';"
        .replace("OPENAT", &number(libc::SYS_openat));
    let script = format!(
        "touch /alloc/data/own; cp /bin/true /alloc/data/x; chmod 4755 /alloc/data/x 2>/dev/null && echo 'set by name'
        exec perl -MErrno -e '{}'",
        perl.replace('\'', "'\\''")
    );
    for user in ["", "nobody", "root"] {
        for preset in ["standard", "off"] {
            let config = format!("sandbox {{ preset = \"{preset}\" }}");
            let task = node.run(Job::shell(&script).user(user).config(&config)).await;
            let (_, output, errors) = node.finish(task).await;
            let expected = "600 made 4755 refused 2755 refused 6755 refused refused refused";
            assert_eq!(output, expected, "{user} {preset}: {errors}");
        }
    }
}

/// A command that runs in the task has the same author.
#[tokio::test]
async fn no_command_in_a_task_does_so_either() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut task = node.run(Job::shell("echo ready; exec sleep infinity")).await;
    task.says("ready").await;
    let perl = format!(
        "exec perl -MErrno -e '$d = \"/alloc/data\"; exit(syscall({}, -100, $d, 020200002, 06755) < 0 && $!{{EPERM}} ? 7 : 1)'",
        number(libc::SYS_openat)
    );
    let (exit, out, errors) = node.exec(&task, &perl).await.finish().await;
    assert_eq!(exit.code, 7, "{out}{errors}");
    node.destroy(&task, true).await.unwrap();
}

/// The owner of a terminal may read what is typed there: this may be a task of the same user, or a root task.
#[tokio::test]
async fn the_terminals_of_the_host_are_not_in_the_view() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
    let name = rustix::pty::ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    assert!(name.starts_with("/dev/pts/"));
    for user in ["nobody", "root"] {
        let script = "ls /dev/pts; SHELL=/bin/sh script -qc 'tty; echo in a terminal' /dev/null </dev/null | tr -d '\\r'";
        let task = node.run(Job::shell(script).user(user)).await;
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, "ptmx\n/dev/pts/0\nin a terminal\n", "{user}: {errors}");
    }
}

/// Nomad makes the allocation's directory, or the directory of all allocations, writable for everybody for a task named
/// `.` or `..`.
#[tokio::test]
async fn no_task_starts_where_everybody_can_exchange_its_directories() {
    let host = host!();
    let node = Node::start(&host).await;
    let prepared = node.prepare(&Job::shell("true"));
    let alloc_dir = prepared.alloc_dir().to_owned();
    std::fs::set_permissions(&alloc_dir, PermissionsExt::from_mode(0o777)).unwrap();
    lchown(&alloc_dir, Some(65534), Some(65534)).unwrap();
    let refusal = node.begin(prepared).await.unwrap_err();
    assert!(
        refusal.message.contains("can exchange what is in") && refusal.message.contains("chown root:"),
        "{refusal}"
    );
}

/// At its start, the agent opens what it has created in `alloc` to everybody, and it writes logs as root; both follow
/// links.
#[tokio::test]
async fn a_task_that_sees_the_host_exchanges_nothing_of_the_agents_either() {
    let host = host!();
    let node = Node::configured(&host, "fs_isolation = \"none\"").await;
    let script = "cd ../../alloc; for name in data tmp logs; do mv $name old || rmdir $name; done 2>/dev/null
        touch logs/x 2>/dev/null; touch mine 2>/dev/null && echo written; touch data/x tmp/x && ls -d *";
    for user in ["", "nobody"] {
        let task = node.run(Job::shell(script).user(user)).await;
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, "data\nlogs\ntmp\n", "{user}: {errors}");
    }
}

/// Another process of the user sees the host without the task's mounts, and does not know about them.
#[tokio::test]
async fn a_task_of_a_named_user_reaches_no_allocation_through_other_processes_of_that_user() {
    let host = host!();
    let node = Node::configured(&host, "fs_isolation = \"none\"").await;
    let nobody = 65534;
    let mut other =
        std::process::Command::new("/bin/sleep").arg("infinity").uid(nobody).gid(nobody).spawn().unwrap();
    let script = format!(
        "alloc=$(cd ../../alloc && pwd); cd /proc/{pid} && echo there; ls root/etc >/dev/null && echo seen
         ln -s /etc root$alloc/link && echo made",
        pid = other.id()
    );
    let task = node.run(Job::shell(&script).user("nobody").config("sandbox { preset = \"off\" }")).await;
    let (_, output, errors) = node.finish(task).await;
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(output, "there\n", "{errors}");
}

/// systemd passes a directory that it keeps to the next task's user, with the modes of the files in it.
#[tokio::test]
async fn what_one_user_keeps_is_not_given_to_root() {
    let host = host!();
    let node = Node::configured(
        &host,
        &format!("{}\nallow_properties = [\"@confining\", \"StateDirectory\"]", allow_root("host")),
    )
    .await;
    let config = "files { state_directory = [\"kept\"] }";
    let mut paths = Vec::new();
    for user in ["nobody", "root", ""] {
        let task = node.run(Job::shell("printf $STATE_DIRECTORY").user(user).config(config)).await;
        let (_, output, errors) = node.finish(task).await;
        assert!(output.starts_with("/var/lib/"), "{user}: {errors}");
        paths.push(output);
    }
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 3, "{paths:?}");
    host.run("sh", &["-c", "rm -r /var/lib/task-*-kept /var/lib/private/task-*-kept"]);
}
