//! Paths that have changed by the time that systemd looks them up, and paths that lead out of the task through a link.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::driver::Mount;
use tests::{Exit, Job, MAY_LISTEN, Node, Task};

use super::refusal;

/// A directory of the host that the operator allows jobs to use, and that everybody can write to.
struct Allowed(tempfile::TempDir);

impl Allowed {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("allowed-").tempdir_in("/srv").unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `real`, an allowed directory, and `link`, a link to a path that the job may not use.
    fn trap(&self, to: &str) {
        std::fs::create_dir(self.path().join("real")).unwrap();
        std::os::unix::fs::symlink(to, self.path().join("link")).unwrap();
    }
}

const ALLOWED: &str = r#"allow_host_paths = ["/srv"]"#;

/// Exchanges two names repeatedly, until there is a file at the third; prints how often it did.
const SWAP: &str = r#"
    $| = 1;
    my ($first, $second, $end, $hold) = @ARGV;
    my $count = 0;
    print "ready\n";
    until ($count % 2 == 0 && -e $end) {
        # renameat2(2) with RENAME_EXCHANGE
        syscall(316, -100, $first, -100, $second, 2) == 0 or die "exchange: $!";
        $count++;
        # Each is there for as long as a check, or a mount, may take.
        select(undef, undef, undef, rand($hold)) if $hold;
    }
    print "exchanged $count times\n";
"#;

/// A task that exchanges `real` and `link` meanwhile.
struct Swapper(Task);

impl Swapper {
    async fn start(node: &Node, allowed: &Allowed, hold: &str) -> Self {
        let config = format!("files {{ bind_paths = [\"{}:/shared\"] }}", allowed.path().display());
        let job =
            super::perl(SWAP, &["/shared/real", "/shared/link", "/alloc/data/end", hold]).config(&config);
        let mut task = node.run(job).await;
        task.says("ready").await;
        Self(task)
    }

    /// How often the task exchanged them.
    async fn end(self, node: &Node) -> u64 {
        std::fs::write(self.0.alloc_dir().join("alloc/data/end"), "").unwrap();
        let (exit, output, errors) = node.finish(self.0).await;
        assert_eq!(exit, Exit::status(0), "{output}{errors}");
        let count = output.split("exchanged ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        count.parse().unwrap()
    }
}

/// Starts tasks of this kind while another task exchanges the target of the path. Each task prints `fine` if it sees
/// the allowed directory, and anything else if it sees a forbidden one. `hold` is the maximum time in seconds that each
/// task runs.
async fn no_start_loses_the_race(node: &Node, allowed: &Allowed, hold: &str, job: &Job) {
    // Some starts find the allowed path at the moment of the check; only these can lose the race.
    const STARTS: usize = 40;
    const TRIES: usize = 600;
    let swapper = Swapper::start(node, allowed, hold).await;
    let (mut fine, mut refused, mut leaked, mut last) = (0, 0, Vec::new(), String::new());
    for _ in 0..TRIES {
        if fine + leaked.len() >= STARTS {
            break;
        }
        let mut job = job.clone();
        job.request.alloc_id = nomad_local::task_request::new_alloc_id();
        match node.try_run(job).await {
            Err(refusal) => {
                last = refusal.message;
                refused += 1;
            }
            Ok(task) => match node.finish(task).await {
                (_, output, _) if output == "fine\n" => fine += 1,
                // A task whose path was exchanged while systemd mounted it could not be started.
                (_, output, errors) if output.is_empty() => {
                    last = errors;
                    refused += 1;
                }
                (exit, output, errors) => leaked.push(format!("{exit:?} {output}{errors}")),
            },
        }
    }
    let swaps = swapper.end(node).await;
    assert!(
        leaked.is_empty(),
        "{} of {fine} and as many starts leaked: {:?}: {}",
        leaked.len(),
        job.options,
        leaked[0]
    );
    assert!(
        fine >= 1,
        "the path is usable at all: {fine} fine, {refused} refused: {:?}: {last}",
        job.options
    );
    assert!(swaps >= STARTS as u64 / 2, "it was exchanged during the starts: {swaps}");
}

#[tokio::test]
async fn a_path_that_is_exchanged_after_the_check_leads_nowhere_else() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    for option in ["bind_paths", "bind_read_only_paths"] {
        let allowed = Allowed::new();
        allowed.trap("/etc");
        std::fs::write(allowed.path().join("real/fine"), "").unwrap();
        let script = "test -e /data/passwd && echo LEAKED; test -e /data/fine && echo fine";
        let config = format!("files {{ {option} = [\"{}/real:/data\"] }}", allowed.path().display());
        no_start_loses_the_race(&node, &allowed, "0.02", &Job::shell(script).config(&config)).await;
    }
}

#[tokio::test]
async fn a_directory_on_the_way_that_is_exchanged_leads_nowhere_else() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let allowed = Allowed::new();
    allowed.trap("/etc");
    std::fs::create_dir(allowed.path().join("real/systemd")).unwrap();
    std::fs::write(allowed.path().join("real/systemd/fine"), "").unwrap();
    let script = "test -e /data/system && echo LEAKED; test -e /data/fine && echo fine";
    let config = format!("files {{ bind_paths = [\"{}/real/systemd:/data\"] }}", allowed.path().display());
    no_start_loses_the_race(&node, &allowed, "0.02", &Job::shell(script).config(&config)).await;
}

#[tokio::test]
async fn a_root_that_is_exchanged_is_not_the_hosts() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let allowed = Allowed::new();
    allowed.trap("/");
    let real = allowed.path().join("real");
    let fill = "cd $0 && mkdir -p usr etc proc sys dev run tmp var/tmp alloc local secrets && for file in /bin/sh \
        $(ldd /bin/sh | grep -o '/[^ ]*' | tr -d ':'); do mkdir -p .$(dirname $file) && cp -aL $file .$file; done";
    host.run("sh", &["-c", fill, real.to_str().unwrap()]);
    let script = "test -e /etc/passwd && echo LEAKED; test -e /usr/share && echo LEAKED; echo fine";
    let config = format!("files {{ root_directory = \"{}\" }}", real.display());
    let job = Job::command("/bin/sh").args(&["-c", script]).config(&config);
    no_start_loses_the_race(&node, &allowed, "0.02", &job).await;
}

#[tokio::test]
async fn a_credential_whose_path_is_exchanged_is_no_other_file() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let allowed = Allowed::new();
    allowed.trap("/etc");
    std::fs::write(allowed.path().join("real/passwd"), "fine\n").unwrap();
    let config =
        format!("credential {{\n name = \"x\"\n path = \"{}/real/passwd\"\n}}", allowed.path().display());
    let job = Job::shell("cat $CREDENTIALS_DIRECTORY/x").config(&config);
    no_start_loses_the_race(&node, &allowed, "0", &job).await;
}

/// Also without a race: the target of a path is determined when the task is started, and not later.
#[tokio::test]
async fn a_path_that_was_allowed_is_no_other_one_at_the_next_start() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let allowed = Allowed::new();
    allowed.trap("/etc");
    let link = allowed.path().join("link");
    for option in [
        format!("files {{ bind_paths = [\"{}:/data\"] }}", link.display()),
        format!("files {{ bind_paths = [\"{}/systemd:/data\"] }}", link.display()),
        format!("files {{ root_directory = \"{}\" }}", link.display()),
        format!("credential {{\n name = \"x\"\n path = \"{}/passwd\"\n}}", link.display()),
    ] {
        let message = refusal(&host, &node, Job::shell("true").config(&option)).await;
        assert!(message.contains("allow_host_paths") || message.contains("link"), "{option}: {message}");
    }
}

// ---- Links that the task itself has created

/// A name that does not exist in the host's `/etc`, and must not be created.
struct Absent(PathBuf);

impl Absent {
    fn new() -> Self {
        let id = nomad_local::task_request::new_alloc_id();
        Self(Path::new("/etc").join(format!("attack-{id}")))
    }

    fn name(&self) -> String {
        self.0.file_name().unwrap().to_str().unwrap().to_owned()
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs a script in a task, and returns the id of its allocation, in which the results remain.
async fn first_run(node: &Node, script: &str) -> (Task, String) {
    let mut task = node.run(Job::shell(script)).await;
    assert_eq!(node.wait(&task).await, Exit::status(0));
    node.destroy(&task, false).await.unwrap();
    let alloc_id = task.handle.config.as_ref().unwrap().alloc_id.clone();
    task.close_logs();
    (task.ended(), alloc_id)
}

fn again(alloc_id: &str, config: &str) -> Job {
    Job::shell("true").config(config).with(|request| alloc_id.clone_into(&mut request.alloc_id))
}

#[tokio::test]
async fn no_mount_point_is_made_where_a_link_of_the_task_leads() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let allowed = Allowed::new();
    std::fs::write(allowed.path().join("file"), "").unwrap();
    let script = "for d in /local /secrets /alloc/data; do ln -s /etc $d/l; ln -s ../../../../../../../etc $d/r; mkdir $d/d; \
                  ln -s /etc $d/d/l; done";
    let (_task, alloc_id) = first_run(&node, script).await;
    let source = allowed.path().display();
    for directory in ["/local", "/secrets", "/alloc/data"] {
        for link in ["l", "r", "d/l", "d/../l"] {
            let absent = Absent::new();
            let target = format!("{directory}/{link}/{}", absent.name());
            for config in [
                format!("files {{ bind_paths = [\"{source}:{target}\"] }}"),
                format!("files {{ bind_paths = [\"{source}/file:{target}\"] }}"),
                format!("files {{ bind_read_only_paths = [\"{source}:{target}\"] }}"),
                format!("files {{ temporary_file_system = [\"{target}\"] }}"),
                format!("properties {{ TemporaryFileSystem = \"{target}:ro\" }}"),
            ] {
                let refused = node.try_run(again(&alloc_id, &config)).await;
                assert!(!absent.0.exists(), "made on the host by {config}");
                let message = refused.err().unwrap_or_else(|| panic!("started: {config}")).message;
                assert!(message.contains(&absent.name()) || message.contains(".."), "{config}: {message}");
            }
            let mount =
                Mount { task_path: target.clone(), host_path: source.to_string(), ..Default::default() };
            let job = again(&alloc_id, "").with(|request| request.mounts = vec![mount]);
            let refused = node.try_run(job).await;
            assert!(!absent.0.exists(), "made on the host for a volume at {target}");
            assert!(refused.is_err(), "a volume at {target} was mounted");
        }
    }
}

/// The control for the test above: elsewhere it is an ordinary mount.
#[tokio::test]
async fn a_mount_point_outside_of_the_tasks_directories_is_made_there() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let allowed = Allowed::new();
    std::fs::write(allowed.path().join("fine"), "").unwrap();
    for target in ["/data/d/e", "/new"] {
        let config = format!("files {{ bind_paths = [\"{}:{target}\"] }}", allowed.path().display());
        assert_eq!(node.output_of(Job::shell(&format!("ls {target}")).config(&config)).await, "fine\n");
    }
}

/// A directory that is shared with other tasks can change while systemd mounts.
#[tokio::test]
async fn no_mount_point_lies_in_a_directory_that_other_tasks_can_write() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let allowed = Allowed::new();
    // A task with a descriptor of its own directory could have passed it to a neighbour.
    for target in ["/alloc/data/x", "/alloc/x", "/alloc/tmp/x/y", "/local/x", "/local/x/y", "/secrets/x"] {
        for config in [
            format!("files {{ bind_paths = [\"{}:{target}\"] }}", allowed.path().display()),
            format!("files {{ temporary_file_system = [\"{target}\"] }}"),
        ] {
            let message = refusal(&host, &node, Job::shell("true").config(&config)).await;
            assert!(message.contains(target) && message.contains("can change"), "{config}: {message}");
        }
    }
}

#[tokio::test]
async fn a_socket_takes_the_place_of_nothing_outside_of_the_task() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let prize = tempfile::Builder::new().prefix("prize-").tempdir_in("/srv").unwrap();
    let file = prize.path().join("passwd");
    std::fs::write(&file, "root\n").unwrap();
    let script = format!(
        "ln -s {0} /local/s; ln -s {1}/new /local/n; ln -s {1} /local/d",
        file.display(),
        prize.path().display()
    );
    let (task, alloc_id) = first_run(&node, &script).await;
    // What a task can no longer create there.
    std::os::unix::fs::symlink(&file, task.alloc_dir().join("alloc/s")).unwrap();
    std::fs::create_dir(task.alloc_dir().join("alloc/m")).unwrap();
    for path in [
        "/local/s",
        "/alloc/s",
        "/local/n",
        "/local/d",
        "/local/d/new",
        "/alloc/../etc/s",
        "/local/d/passwd",
        "/alloc/logs/s",
        "/alloc/m",
    ] {
        let config = format!("socket {{\n name = \"x\"\n path = {path:?}\n mode = \"0666\"\n}}");
        match node.try_run(again(&alloc_id, &config)).await {
            Ok(task) => {
                node.wait(&task).await;
                node.destroy(&task, true).await.unwrap();
            }
            Err(refusal) => assert!(refusal.message.contains("socket.path"), "{path}: {refusal}"),
        }
        let entries = std::fs::read_dir(prize.path()).unwrap().count();
        let kind = std::fs::symlink_metadata(&file).unwrap().file_type();
        let content = if kind.is_socket() { String::new() } else { std::fs::read_to_string(&file).unwrap() };
        assert_eq!((content.as_str(), entries), ("root\n", 1), "{path} led to the host");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644, "{path} changed the mode of a file of the host");
    }
}

/// Files that a task can write are mounted at no path that systemd or the driver reads for the task.
#[tokio::test]
async fn no_file_of_a_task_stands_in_the_place_of_what_runs_or_describes_it() {
    let host = host!();
    let node = Node::start(&host).await;
    for target in [
        "/.wasm",
        "/.wasm/shim",
        "/.wasm/guest.cwasm",
        "/proc",
        "/proc/self/attr/exec",
        "/proc/sys/kernel",
        "/sys",
        "/sys/fs/cgroup",
        "/run",
        "/run/systemd",
        "/run/systemd/notify",
        "/run/systemd/journal/socket",
        "/run/credentials",
        "/run/credentials/x",
        "/run/.wasm",
        "/run/.wasm/shim",
        "/run/host",
        "/run/host/x",
        "/alloc/logs",
        "/",
        "/etc",
        "/..",
    ] {
        for option in ["bind_paths", "bind_read_only_paths"] {
            let config = format!("files {{ {option} = [\"/local/x:{target}\"] }}");
            for job in [Job::shell("true"), Job::artifact("x.wasm", &tests::exiting_guest(0))] {
                let message = refusal(&host, &node, job.file("x", b"#!/bin/sh\n").config(&config)).await;
                assert!(
                    message.contains("BindPaths") || message.contains("BindReadOnlyPaths"),
                    "{config}: {message}"
                );
            }
        }
    }
}

/// root opens the pipes of the logs: a task that could replace one would choose what root opens.
#[tokio::test]
async fn no_task_writes_among_its_logs_by_another_path() {
    let host = host!();
    let node = Node::start(&host).await;
    let leave = Job::shell("ln -s ../logs /alloc/data/logs; ln -s .. /alloc/data/up; mkdir /alloc/data/ok");
    let alloc_id = leave.request.alloc_id.clone();
    let left = node.run(leave).await;
    assert_eq!(node.wait(&left).await, Exit::status(0));
    for (source, is_open) in [
        ("/alloc/../web/local", false),
        ("alloc/../web/secrets", false),
        ("/alloc/..", false),
        ("/alloc/../alloc/logs", false),
        ("/alloc/data/../logs", false),
        ("/alloc/data/ok", true),
        ("/alloc/data/logs", false),
        ("/alloc/data/up", false),
        ("/alloc/data/up/logs", false),
        ("/alloc/./logs", false),
    ] {
        let config = format!("files {{ bind_paths = [\"{source}:/x\"] }}");
        let job = Job::shell("touch /x/mine && echo written").config(&config).with(|request| {
            request.alloc_id.clone_from(&alloc_id);
            "second".clone_into(&mut request.task);
        });
        match node.try_run(job).await {
            Ok(task) => {
                let (_, output, _) = node.finish(task).await;
                assert!(is_open && output == "written\n", "{source}: {output}");
            }
            Err(refusal) => assert!(!is_open, "{source}: {refusal}"),
        }
    }
    node.destroy(&left, true).await.unwrap();
}

/// systemd splits the options into words again: the kernel gets the value without the backslash, which may be another
/// mount.
#[tokio::test]
async fn a_file_system_of_the_tasks_own_is_no_other_mount_whatever_the_spelling() {
    let host = host!();
    let node = Node::start(&host).await;
    for option in ["bind", r"bi\\nd", r"bi\\\\nd", r"bi\\\\x6ed", "'bind'", r"remo\\\\unt", "size=1M,bind"] {
        let config = format!("files {{ temporary_file_system = [\"/mnt:{option}\"] }}");
        let message = refusal(&host, &node, Job::shell("true").config(&config)).await;
        assert!(message.contains("option of a tmpfs") || message.contains("not one"), "{option}: {message}");
    }
    let config = "files { temporary_file_system = [\"/mnt:size=1M,mode=1777\"] }";
    assert_eq!(node.output_of(Job::shell("touch /mnt/x && echo mine").config(config)).await, "mine\n");
}
