//! What tasks share implicitly: memory, systemd's own memory, the compiler, name resolution.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::driver::NetworkIsolationSpec;
use proto::driver::network_isolation_spec::NetworkIsolationMode as Mode;
use tests::{Exit, Job, MAY_NOTIFY, Node, SOON, eventually};

use super::{USER, refusal};

// ---- Memory

#[tokio::test]
async fn no_task_finds_what_another_left_in_shared_memory() {
    let host = host!();
    let isolated = Node::start(&host).await;
    let open = Node::configured(&host, "fs_isolation = \"none\"").await;
    let id = nomad_local::task_request::new_alloc_id();
    let file = format!("/dev/shm/attack-{id}");
    let leave = format!("umask 0; echo left > {file} && echo ready; exec sleep infinity");
    let look =
        format!("test -d /dev/shm && touch {file}-mine && echo mine; cat {file} 2>/dev/null; ls /dev/shm");
    let mut found = Vec::new();
    for node in [&isolated, &open] {
        for sandbox in
            ["", "preset = \"off\"", "preset = \"strict\"", "private_devices = false", "private_ipc = true"]
        {
            // The same user in two jobs, and separate users.
            for user in [USER, ""] {
                let config = format!("sandbox {{ {sandbox} }}");
                let mut first = node.run(Job::shell(&leave).user(user).config(&config)).await;
                first.says("ready").await;
                let output = node.output_of(Job::shell(&look).user(user).config(&config)).await;
                assert!(output.starts_with("mine\n"), "{config}: there is a /dev/shm: {output}");
                let is_on_host = Path::new(&file).exists();
                if output.contains("left") || is_on_host {
                    found.push(format!("{config} as {user:?}: on the host: {is_on_host}: {output}"));
                }
                node.destroy(&first, true).await.unwrap();
                let _ = (std::fs::remove_file(&file), std::fs::remove_file(format!("{file}-mine")));
            }
        }
    }
    assert!(found.is_empty(), "shared memory is shared between jobs:\n{}", found.join("\n"));
}

/// The control for the test above, and what makes the memory private to the task.
#[tokio::test]
async fn a_command_in_a_task_shares_its_memory() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut task = node.run(Job::shell("echo left > /dev/shm/x && echo ready; exec sleep infinity")).await;
    task.says("ready").await;
    assert_eq!(node.output_in(&task, "cat /dev/shm/x").await, "left\n");
    node.destroy(&task, true).await.unwrap();
    assert!(!Path::new("/dev/shm/x").exists());
}

// ---- Descriptors in systemd

/// journald has systemd keep a descriptor for each stream that is connected to it, whoever owns the stream.
#[tokio::test]
async fn no_task_opens_streams_to_the_journal() {
    let host = host!();
    let connect = "/run/systemd/journal/stdout";
    let script = "use Socket; socket(my $s, PF_UNIX, SOCK_STREAM, 0); print connect($s, sockaddr_un($ARGV[0])) ? \"open\" : \"shut\"";
    assert_eq!(host.run("perl", &["-e", script, connect]), "open", "the control");
    let node = Node::start(&host).await;
    let own_root = "files { root_directory = \"/\" }";
    let own = Node::configured(&host, "allow_host_paths = [\"/\"]").await;
    for (node, config) in [(&node, ""), (&node, "sandbox { preset = \"off\" }"), (&own, own_root)] {
        let job = super::perl(script, &[connect]).config(config);
        match node.try_run(job).await {
            Ok(task) => assert_eq!(node.finish(task).await.1, "shut", "{config}"),
            Err(refusal) => assert!(config == own_root, "{config}: {refusal}"),
        }
    }
    // The task's own output still reaches the journal.
    let job = Job::shell("echo heard; exec sleep infinity").config("logging { driver = \"journald\" }");
    let task = node.run(job).await;
    let unit = node.unit(&task).await;
    eventually("the journal has it", async || {
        host.run("journalctl", &["--quiet", "--output=cat", &format!("--unit={unit}")])
            .contains("heard")
            .then_some(())
    })
    .await;
    node.destroy(&task, true).await.unwrap();
}

/// Makes systemd store a descriptor, as often as the argument states (sd_pid_notify_with_fds(3)): sendmsg(2) with
/// SCM_RIGHTS.
const STORE: &str = r#"
    $| = 1;
    use Socket;
    my ($times) = @ARGV;
    my $path = $ENV{NOTIFY_SOCKET} or die "nobody listens";
    $path =~ s/^@/\0/;
    socket(my $socket, PF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
    connect($socket, sockaddr_un($path)) or die "connect: $!";
    my $text = "FDSTORE=1";
    my $sent = 0;
    my @kept;
    for my $time (1 .. $times) {
        # A file of its own each time: systemd keeps no file twice.
        open(my $file, ">", "/local/$time") or die "open: $!";
        my $vector = pack("PQ", $text, length $text);
        my $control = pack("Qllll", 20, 1, 1, fileno($file), 0);
        my $message = pack("QLLPQPQl", 0, 0, 0, $vector, 1, $control, length $control, 0) . pack("l", 0);
        $sent++ if syscall(46, fileno($socket), $message, 0) >= 0;
    }
    print "sent $sent\n";
    sleep 1000;
"#;

#[tokio::test]
async fn no_task_fills_systemd_with_descriptors() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    let notify = "notify {\n access = \"all\"\n ready_within = \"0\"\n watchdog = \"10m\"\n}";
    for property in [
        "FileDescriptorStoreMax = \"20000\"",
        "FileDescriptorStoreMax = \"1\"",
        "FileDescriptorStoreMax = \"0\\n20000\"",
        "FileDescriptorStorePreserve = \"yes\"",
    ] {
        let config = format!("{notify}\nproperties {{ {property} }}");
        let message = refusal(&host, &node, Job::shell("true").config(&config)).await;
        assert!(
            message.contains("allow_properties") || message.contains("systemd 254"),
            "{property}: {message}"
        );
    }
    // Without the option, systemd stores none.
    let mut task = node.run(super::perl(STORE, &["20"]).config(notify)).await;
    task.says("sent 20").await;
    let unit = node.unit(&task).await;
    assert_eq!(host.property(&unit, "NFileDescriptorStore"), "0");
    node.destroy(&task, true).await.unwrap();
    // The control: it does if the operator allows it.
    let node = Node::configured(
        &host,
        "allow_properties = [\"@confining\", \"FileDescriptorStoreMax\", \"NotifyAccess\"]",
    )
    .await;
    let config = format!("{notify}\nproperties {{ FileDescriptorStoreMax = \"5\" }}");
    let mut task = node.run(super::perl(STORE, &["20"]).config(&config)).await;
    task.says("sent 20").await;
    let unit = node.unit(&task).await;
    eventually("systemd has kept five", async || {
        (host.property(&unit, "NFileDescriptorStore") == "5").then_some(())
    })
    .await;
    node.destroy(&task, true).await.unwrap();
}

// ---- The compiler

/// A module that takes seconds to compile: many functions, none of which is ever called. Each `seed` results in another
/// module.
fn slow_module(seed: u64, functions: u32) -> Vec<u8> {
    fn number(mut value: u64, to: &mut Vec<u8>) {
        while value >= 0x80 {
            to.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        to.push(u8::try_from(value).unwrap());
    }
    fn section(id: u8, content: &[u8], to: &mut Vec<u8>) {
        to.push(id);
        number(content.len() as u64, to);
        to.extend(content);
    }
    const LOCAL: [u8; 2] = [0x20, 0]; // local.get 0
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    // () -> (), and (i64) -> i64
    section(1, &[2, 0x60, 0, 0, 0x60, 1, 0x7e, 1, 0x7e], &mut module);
    let mut list = Vec::new();
    number(u64::from(functions) + 1, &mut list);
    list.push(0);
    list.extend(std::iter::repeat_n(1, functions as usize));
    section(3, &list, &mut module);
    section(5, &[1, 0, 1], &mut module);
    let mut exports = vec![2];
    exports.extend(b"\x06_start\0\0");
    exports.extend(b"\x06memory\x02\0");
    section(7, &exports, &mut module);
    let mut code = Vec::new();
    number(u64::from(functions) + 1, &mut code);
    code.extend([2, 0, 0x0b]); // `_start` does nothing
    for function in 0..functions {
        let mut body = vec![0];
        body.extend(LOCAL);
        for step in 0..40_u64 {
            body.push(0x42); // i64.const, signed, so below 64 in its last byte
            number((seed * 31 + u64::from(function) * 7 + step) & 0x3f, &mut body);
            body.push([0x7c, 0x7e, 0x85, 0x89][usize::try_from(step % 4).unwrap()]); // add, mul, xor, rotl
            body.extend(LOCAL);
            body.push(0x7c);
        }
        body.push(0x0b);
        number(body.len() as u64, &mut code);
        code.extend(body);
    }
    section(10, &code, &mut module);
    module
}

#[tokio::test]
async fn one_tenant_does_not_hold_up_the_compiler_for_all() {
    const FUNCTIONS: u32 = 6_000;
    // Compilations of other tests would be counted too.
    let host = host!(alone);
    let node = Node::start(&host).await;
    let job = |seed, functions, namespace: &'static str| {
        Job::artifact("module.wasm", &slow_module(seed, functions)).with(|request| {
            namespace.clone_into(&mut request.namespace);
            request.job_name = format!("job-{seed}");
            request.job_id.clone_from(&request.job_name);
        })
    };
    // Start everything that each compilation needs.
    let task = node.run(job(0, 1, "default")).await;
    assert_eq!(node.finish(task).await.0, Exit::status(0));
    // Look in the cgroups, since a query to systemd takes longer than some of the compilations.
    let compilations = || {
        let groups = std::fs::read_dir("/sys/fs/cgroup/nomad_tasks.slice").unwrap().flatten();
        let groups =
            groups.filter(|group| group.file_name().to_string_lossy().starts_with("nomad-wasm-compile"));
        let lives =
            |path: PathBuf| std::fs::read(path.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty());
        groups.filter(|group| lives(group.path())).count()
    };
    let (mut most, mut seen, waited) = (0, 0, std::cell::OnceCell::new());
    let attacks = async {
        let modules = (1..5).map(|seed| node.try_run(job(seed, FUNCTIONS, "evil")));
        let tasks = futures_util::future::join_all(modules).await;
        for task in tasks {
            let task = task.expect("their modules are good ones");
            assert_eq!(node.finish(task).await.0, Exit::status(0));
        }
    };
    let observation = async {
        loop {
            let now = compilations();
            (most, seen) = (most.max(now), seen + usize::from(now > 0));
            // Once they are queued, a module of another user is not queued behind all of them.
            if seen == 20 {
                let began = std::time::Instant::now();
                let task = node.run(job(100, 10, "default")).await;
                waited.set((began.elapsed(), compilations())).unwrap();
                assert_eq!(node.finish(task).await.0, Exit::status(0));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = attacks => {}
        () = observation => {}
    }
    let (waited, at_work) = waited.get().expect("the attack was over before the victim came");
    assert!(*at_work > 0, "the attack was over before the victim's module was compiled");
    assert_eq!(most, 1, "one tenant has all places at the compiler; the victim waited for {waited:?}");
    assert!(*waited < Duration::from_secs(30), "the victim waited for {waited:?}");
}

// ---- Memory of /run

/// A credential is a copy in `/run`, which all services of the host share.
#[tokio::test]
async fn no_job_fills_run_with_credentials() {
    let host = host!();
    let node = Node::start(&host).await;
    let runtime = Path::new("/run/nomad-driver-systemd/tasks");
    for (count, bytes, reason) in [(3, 400 << 10, "1 MiB, together"), (65, 0, "64 credentials")] {
        let blocks =
            (0..count).map(|number| format!("credential {{\n name = \"c{number}\"\n path = \"c\"\n}}\n"));
        let prepared = node.prepare(&Job::shell("true").config(&blocks.collect::<String>()));
        std::fs::write(prepared.alloc_dir().join("web/secrets/c"), vec![b'x'; bytes]).unwrap();
        let message = node.begin(prepared).await.err().map(|refusal| refusal.message).unwrap_or_default();
        assert!(
            message.contains("credential") && message.contains(reason),
            "{count} times {bytes}: {message}"
        );
        let left = std::fs::read_dir(runtime).into_iter().flatten().flatten();
        let left = left.filter(|place| place.path().join("credentials").exists()).count();
        assert_eq!(left, 0, "copies that nobody needs");
    }
    // The control: what systemd accepts is accepted.
    let blocks = (0..64).map(|number| format!("credential {{\n name = \"c{number}\"\n path = \"c\"\n}}\n"));
    let count = Job::shell("ls $CREDENTIALS_DIRECTORY | wc -l").config(&blocks.collect::<String>());
    let prepared = node.prepare(&count);
    std::fs::write(prepared.alloc_dir().join("web/secrets/c"), vec![b'x'; 15 << 10]).unwrap();
    let task = node.begin(prepared).await.unwrap();
    let (exit, output, errors) = node.finish(task).await;
    assert_eq!((exit, output.as_str()), (Exit::status(0), "64\n"), "{errors}");
}

// ---- Name resolution

/// A socket of the host's name resolution, like the sockets of systemd-resolved, and a file of its own.
struct Resolved(PathBuf, #[allow(dead_code, reason = "it listens")] UnixListener);

impl Resolved {
    const DIRECTORY: &str = "/run/systemd/resolve";

    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(Self::DIRECTORY).unwrap();
        let id = nomad_local::task_request::new_alloc_id();
        let path = Path::new(Self::DIRECTORY).join(format!("attack-{id}"));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        Self(path, listener)
    }
}

impl Drop for Resolved {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const CONNECT: &str = r#"
    use Socket;
    socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
    print connect($socket, sockaddr_un($ARGV[0])) ? "connected\n" : "refused " . ($! + 0) . "\n";
    print "done\n";
"#;

#[tokio::test]
async fn no_name_is_asked_for_out_of_a_network_of_its_own() {
    let host = host!();
    let node = Node::start(&host).await;
    let resolved = Resolved::new();
    let path = resolved.0.to_str().unwrap();
    let attack = || super::perl(CONNECT, &[path]);
    // The control: in the host's network, a task resolves names like any other process.
    assert_eq!(super::carried_out(&node, attack()).await, "connected\ndone\n");
    let isolated = NetworkIsolationSpec { mode: Mode::None.into(), ..Default::default() };
    for (name, job) in [
        ("private", attack().config("network { private = true }")),
        ("property", attack().config("properties { PrivateNetwork = \"yes\" }")),
        ("off", attack().config("network { private = true }\nsandbox { preset = \"off\" }")),
        ("none", attack().with(|request| request.network = Some(isolated))),
    ] {
        assert_eq!(super::carried_out(&node, job).await, "refused 2\ndone\n", "{name}");
    }
    // A guest without grants, and the processes next to it.
    let task = node.run(Job::artifact("spin.wasm", &super::guest("spin.wat"))).await;
    let listed = node.output_in(&task, "ls /run/systemd/resolve 2>/dev/null; echo done").await;
    assert_eq!(listed, "done\n");
    node.destroy(&task, true).await.unwrap();
    // Naming the directory does not help either.
    for config in [
        "files { bind_paths = [\"/run/systemd/resolve\"] }\nnetwork { private = true }",
        "files { bind_read_only_paths = [\"/run/systemd/resolve:/r\"] }\nnetwork { private = true }",
    ] {
        let message = refusal(&host, &node, attack().config(config)).await;
        assert!(message.contains("allow_host_paths"), "{message}");
    }
}

/// A command of the job in the unit of a guest runs next to its runner, which sends notifications to systemd.
#[tokio::test]
async fn no_command_of_a_job_is_run_in_the_unit_of_a_guest_without_the_operators_word() {
    let host = host!();
    for (options, is_run) in [("", false), (MAY_NOTIFY, true)] {
        let node = Node::configured(&host, options).await;
        let task = node.run(Job::artifact("spin.wat", &super::guest("spin.wat"))).await;
        match node.check(&task, "exit 3", SOON).await {
            Ok((code, _)) => assert!(is_run && code == 3, "{code}"),
            Err(refusal) => {
                assert!(!is_run && refusal.message.contains("\"NotifyAccess\""), "{refusal}");
            }
        }
        // The operator's own command (`nomad alloc exec`) is run.
        assert_eq!(node.output_in(&task, "echo entered").await, "entered\n");
        node.destroy(&task, true).await.unwrap();
    }
}
