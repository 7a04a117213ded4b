//! What WebAssembly is granted in a job (`wasm`), seen from inside the guest and from inside the unit around it; how it
//! ends; and how it serves.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proto::driver::network_isolation_spec::NetworkIsolationMode as Mode;
use proto::driver::{DnsConfig, Mount, NetworkIsolationSpec};
use proto::structs::attribute::Value;
use shim_interface::Proposal;
use tests::{Exit, Job, Node, SOON, Task, built_guest, eventually, exiting_guest, program, wasm};

use super::guest;
use super::network::Namespace;

/// A component that does what its arguments say, by the standard library of Rust, with these options in `wasm`; nothing
/// where it could not be built.
fn command(options: &str, args: &[&str]) -> Option<Job> {
    let guest = std::fs::read(built_guest("command_p2")?).unwrap();
    Some(Job::artifact("command.wasm", &guest).args(args).config(&format!("wasm {{\n{options}\n}}")))
}

/// The same, or the end of a test that needs it.
macro_rules! command {
    ($options:expr, $args:expr) => {
        match command($options, $args) {
            Some(job) => job,
            None => return,
        }
    };
}

/// A guest of `tests/guests`, with these options in `wasm`.
fn with(name: &str, options: &str) -> Job {
    Job::artifact("guest.wasm", &guest(name)).config(&format!("wasm {{\n{options}\n}}"))
}

// ---- What it sees

#[tokio::test]
async fn a_guest_sees_the_tasks_directories_and_its_volumes_unless_the_job_says_which() {
    let host = host!();
    let node = Node::start(&host).await;
    let volume = tempfile::tempdir_in("/srv").unwrap();
    std::fs::set_permissions(volume.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(volume.path(), Some(65534), None).unwrap();
    let mounted = |target: &str, readonly| Mount {
        task_path: target.into(),
        host_path: volume.path().display().to_string(),
        readonly,
        ..Default::default()
    };
    for (options, args, expected) in [
        ("", ["write", "/local/x", "x"], 0),
        ("", ["write", "/alloc/data/x", "x"], 0),
        ("", ["write", "/secrets/x", "x"], 0),
        ("", ["write", "/volume/x", "x"], 0),
        ("", ["write", "/fixed/y", "y"], 1),
        ("", ["write", "/etc/x", "x"], 1),
        ("dirs = []", ["write", "/local/x", "x"], 1),
        ("dirs = [\"/local::/data\"]", ["write", "/data/x", "x"], 0),
        ("dirs = [\"/local::/data\"]", ["write", "/local/x", "x"], 1),
        ("dirs = [\"/local::/data:ro\"]", ["write", "/data/x", "x"], 1),
        ("dirs = [\"/alloc/data::/\"]", ["write", "/x", "x"], 0),
    ] {
        let job = command!(options, &args).user("nobody").with(|request| {
            request.mounts = vec![mounted("/volume", false), mounted("/fixed", true)];
        });
        let prepared = node.prepare(&job);
        for directory in ["web/local", "web/secrets"] {
            let path = prepared.alloc_dir().join(directory);
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        }
        let task = node.begin(prepared).await.unwrap();
        let (exit, output, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(expected), "{options}, {args:?}: {output}{errors}");
    }
    assert_eq!(std::fs::read_to_string(volume.path().join("x")).unwrap(), "x");
    let job = command!("", &["read", "/fixed/x"])
        .user("nobody")
        .with(|request| request.mounts = vec![mounted("/fixed", true)]);
    assert_eq!(node.output_of(job).await, "x", "what cannot be written can be read");
}

#[tokio::test]
async fn relative_paths_of_a_guest_begin_in_its_working_directory() {
    let host = host!();
    let node = Node::start(&host).await;
    let seen = |options, work_dir: &str, args: &[&str]| {
        let job = command(options, args)?;
        Some(job.config(&format!("work_dir = {work_dir:?}")))
    };
    for (options, work_dir, args, expected) in [
        ("", "/local", ["list", "."], "command.wasm\n"),
        ("", "/local", ["list", "/local"], "command.wasm\n"),
        ("", "/alloc", ["list", "."], "data\nlogs\ntmp\n"),
        ("", "/alloc", ["list", "data/../data"], ""),
        ("dirs = [\"/local::/here:ro\"]", "/local", ["list", "."], "command.wasm\n"),
        ("dirs = [\"/alloc::/\"]", "/local", ["list", "."], "data\nlogs\ntmp\n"),
    ] {
        let Some(job) = seen(options, work_dir, &args) else { return };
        assert_eq!(node.output_of(job).await, expected, "{options}, {work_dir}, {args:?}");
    }
    for (options, args) in [
        ("dirs = [\"/local::/here:ro\"]", &["write", "x", "x"][..]),
        ("", &["read", "../etc/passwd"]),
        ("dirs = [\"/alloc::/alloc\"]", &["list", "."]),
    ] {
        let Some(job) = seen(options, "/local", args) else { return };
        let (exit, output, _) = node.finish(node.run(job).await).await;
        assert_eq!((exit, output.as_str()), (Exit::status(1), ""), "{options}, {args:?}");
    }
}

#[tokio::test]
async fn a_guest_sees_the_tasks_variables_that_the_job_names_and_none_of_the_drivers() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = |options| Some(command(options, &["env"])?.env("A", "1").env("B", "two\nlines"));
    let socket = "socket {\n name = \"ctl\"\n path = \"/alloc/ctl.sock\"\n}";
    for (options, expected) in [
        ("env = [\"B\"]", "B=two\nlines\n"),
        ("env = []", ""),
        ("env = [\"A\"]\n config = { name = \"value\" }", "A=1\n"),
    ] {
        let Some(job) = job(options) else { return };
        assert_eq!(node.output_of(job.config(socket)).await, expected, "{options}");
    }
    let Some(job) = job("config = { name = \"value\" }") else { return };
    let all = node.output_of(job.config(socket)).await;
    assert!(all.contains("A=1\n") && all.contains("NOMAD_TASK_DIR=/local\n"), "{all}");
    assert!(!all.contains("LISTEN_FDNAMES") && !all.contains("value"), "{all}");
}

/// Succeeds if its configuration has a `greeting`, and that is `hello`.
const CONFIGURED: &str = r#"(component
    (import "wasi:config/store@0.2.0-rc.1" (instance $store
        (type $failure (variant (case "upstream" string) (case "io" string)))
        (export "error" (type $error (eq $failure)))
        (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
    (core module $libc
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $libc (instantiate $libc))
    (core func $get (canon lower (func $store "get") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
    (core module $main
        (import "libc" "memory" (memory 1))
        (import "store" "get" (func $get (param i32 i32 i32)))
        (data (i32.const 0) "greeting")
        (data (i32.const 32) "hello")
        (func (export "run") (result i32)
            (call $get (i32.const 0) (i32.const 8) (i32.const 16))
            ;; It is there, has five letters, and four of them are these.
            (i32.or (i32.or
                (i32.ne (i32.load8_u (i32.const 20)) (i32.const 1))
                (i32.ne (i32.load (i32.const 28)) (i32.const 5)))
                (i32.ne (i32.load (i32.const 1024)) (i32.load (i32.const 32))))))
    (core instance $main (instantiate $main
        (with "libc" (instance $libc)) (with "store" (instance (export "get" (func $get))))))
    (func $run (result (result)) (canon lift (core func $main "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $command)))"#;

#[tokio::test]
async fn a_guest_may_ask_for_its_configuration_and_nobody_else_can_read_it() {
    let host = host!();
    let node = Node::start(&host).await;
    for (options, expected) in [
        ("config = { greeting = \"hello\" }", 0),
        ("config = { greeting = \"goodbye\" }", 1),
        ("config = { other = \"hello\" }", 1),
        ("", 1),
    ] {
        let job =
            Job::artifact("configured.wasm", &wasm(CONFIGURED)).config(&format!("wasm {{\n{options}\n}}"));
        let task = node.run(job).await;
        let (exit, _, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(expected), "{options}: {errors}");
    }
    let secret = "s3cr3t-0123456789";
    let task = node.run(with("spin.wat", &format!("config = {{ token = \"{secret}\" }}"))).await;
    let unit = node.unit(&task).await;
    let pid = host.property(&unit, "MainPID");
    let shown = host.run("systemctl", &["show", "--", &unit]) + &host.run("systemctl", &["cat", "--", &unit]);
    assert!(shown.contains("--config-env") && !shown.contains(secret), "{shown}");
    assert!(!std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains(secret));
    assert!(std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().contains(secret));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_guest_has_the_name_that_the_job_gives_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let output = node.output_of(with("echo.wat", "argv0 = \"--a name\"").args(&["b"])).await;
    assert!(
        output.contains("--a name") && output.contains('b') && !output.contains("guest.wasm"),
        "{output}"
    );
}

// ---- Network access

/// A listener on this machine that says hello to whoever comes.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.write_all(b"hello\n");
        }
    });
    address
}

#[tokio::test]
async fn a_guest_connects_to_what_it_is_granted_and_to_nothing_else() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let address = greeter().to_string();
    let other = greeter().to_string();
    for granted in [
        format!("connect = [\"tcp:{address}\"]"),
        format!("connect = [\"{address}\", \"tcp:192.0.2.0/24:80\"]"),
        "connect = [\"tcp:127.0.0.0/8:1024-65535\"]".to_owned(),
        "connect = [\"*:*\"]".to_owned(),
        "inherit_network = true".to_owned(),
    ] {
        let task = node.run(command!(&granted, &["connect", &address])).await;
        assert_eq!(node.finish(task).await, (Exit::status(0), "hello\n".into(), String::new()), "{granted}");
    }
    let rule = format!("`connect = [\"tcp:{address}\"]`");
    for (denied, advice) in [
        (format!("connect = [\"tcp:{other}\"]"), rule.as_str()),
        ("connect = [\"[::1]:*\"]".to_owned(), &rule),
        // Before it connects by TCP it would be bound.
        (format!("connect = [\"udp:{address}\"]"), "connect"),
        (format!("listen = [\"tcp:{address}\"]"), "connect"),
    ] {
        let task = node.run(command!(&denied, &["connect", &address])).await;
        let event = events.until(&task, "WebAssembly: ").await;
        assert!(event.message.contains(advice), "{denied}: {event:?}");
        assert_eq!(event.annotations["wasm_outcome"], "denied");
        assert_eq!(node.finish(task).await.0, Exit::status(1), "{denied}");
    }
    // The fence does not even give its runner a socket.
    let task = node.run(command!("", &["connect", &address])).await;
    assert_eq!(node.finish(task).await.0, Exit::status(1));
}

#[tokio::test]
async fn a_guest_listens_where_it_is_granted() {
    let host = host!();
    let node = Node::start(&host).await;
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let granted = format!("listen = [\"tcp:*:{}\"]", address.port());
    let mut task = node.run(command!(&granted, &["listen", &address.to_string()])).await;
    task.says(&address.to_string()).await;
    let mut answer = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello from a guest\n");
    assert_eq!(node.finish(task).await.0, Exit::status(0));
    for denied in ["", "connect = [\"*:*\"]", "listen = [\"tcp:*:9\"]"] {
        let task = node.run(command!(denied, &["listen", &address.to_string()])).await;
        assert_eq!(node.finish(task).await.0, Exit::status(1), "{denied}");
    }
}

/// A name server on an address of this machine that knows one address for all names.
struct NameServer(UdpSocket);

impl NameServer {
    fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 77, 1), 53)).unwrap();
        let ours = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, asker)) = ours.recv_from(&mut message) {
                let question = &message[..length];
                // The last of the name is an empty label, then come type and class (RFC 1035, section 4.1.2).
                let Some(end) = question.iter().skip(12).position(|byte| *byte == 0).map(|at| at + 12 + 5)
                else {
                    return;
                };
                let is_address = question[end - 3] == 1;
                let mut answer = question[..end].to_vec();
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
                if is_address {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                }
                let _ = ours.send_to(&answer, asker);
            }
        });
        Self(socket)
    }

    fn config(&self) -> DnsConfig {
        let servers = vec![self.0.local_addr().unwrap().ip().to_string()];
        DnsConfig { servers, searches: vec![], options: vec!["timeout:5".into()] }
    }
}

#[tokio::test]
async fn a_guest_looks_up_names_where_it_may() {
    let host = host!();
    let node = Node::start(&host).await;
    let server = NameServer::new();
    let job = |options, name: &str| {
        Some(command(options, &["lookup", name])?.with(|request| request.dns = Some(server.config())))
    };
    for (name, address) in [("db.example", "192.0.2.7\n"), ("localhost", "127.0.0.1\n")] {
        for options in ["name_lookup = true", "name_lookup = true\n connect = [\"tcp:192.0.2.7:80\"]"] {
            let Some(job) = job(options, name) else { return };
            let output = node.output_of(job).await;
            assert!(output.contains(address), "{name}, {options}: {output}");
        }
        let Some(job) = job("connect = [\"*:*\"]", name) else { return };
        let task = node.run(job).await;
        assert_eq!(node.finish(task).await.0, Exit::status(1), "{name}");
    }
}

/// Which filters the host's systemd has: of addresses, and of ports.
async fn filters(node: &mut Node) -> bool {
    let attributes = node.plugin().fingerprint().await.unwrap().attributes;
    format!("{:?}", attributes["driver.systemd.filters"]).contains("true")
}

#[tokio::test]
async fn the_unit_around_a_guest_has_the_network_that_the_guest_is_granted_and_no_more() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let filters = filters(&mut node).await;
    let sockets = "perl -MSocket -e 'print socket(S, PF_INET, SOCK_STREAM, 0) ? \"some\" : \"none\"'";
    for (options, expected) in [
        ("", ["yes", "AF_UNIX", "", "none"]),
        ("serve {\n port = \"http\"\n}", ["yes", "AF_UNIX", "", "none"]),
        ("connect = [\"tcp:10.0.0.0/8:80\"]", ["no", "AF_INET AF_INET6 AF_UNIX", "10.0.0.0/8", "some"]),
        ("listen = [\"tcp:*:80\"]", ["no", "AF_INET AF_INET6 AF_UNIX", "", "some"]),
        ("listen = [\"tcp:[::1]:80\"]", ["no", "AF_INET AF_INET6 AF_UNIX", "::1/128", "some"]),
        ("inherit_network = true", ["no", "AF_INET AF_INET6 AF_UNIX", "", "some"]),
    ] {
        let name = if options.contains("serve") { "web.wat" } else { "spin.wat" };
        let task = node.run(with(name, options).port("http", free_port())).await;
        let unit = node.unit(&task).await;
        let property = |name| {
            let shown = host.property(&unit, name);
            let mut words: Vec<&str> = shown.split_whitespace().collect();
            words.sort_unstable();
            words.join(" ")
        };
        let [private, families, allowed, kinds] = expected;
        assert_eq!(property("PrivateNetwork"), private, "{options}");
        assert_eq!(property("RestrictAddressFamilies"), families, "{options}");
        if filters {
            assert_eq!(property("IPAddressAllow"), allowed, "{options}");
            let denied = if allowed.is_empty() { "" } else { "0.0.0.0/0 ::/0" };
            assert_eq!(property("IPAddressDeny"), denied, "{options}");
        } else {
            assert_eq!(property("IPAddressDeny"), "", "{options}");
        }
        // A command in the unit is held by the same fence.
        assert_eq!(node.output_in(&task, sockets).await, kinds, "{options}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_job_says_of_its_sandbox_comes_after_the_fence() {
    let host = host!();
    let node = Node::start(&host).await;
    let granted = "wasm {\n connect = [\"tcp:10.0.0.0/8:80\"]\n}\n";
    for (config, expected) in [
        ("network { private = true }", ["yes", "AF_INET AF_INET6 AF_UNIX"]),
        ("sandbox { restrict_address_families = [\"\", \"AF_UNIX\"] }", ["no", "AF_UNIX"]),
        ("sandbox { preset = \"off\" }", ["no", "~"]),
    ] {
        let job = Job::artifact("spin.wasm", &guest("spin.wat")).config(&format!("{granted}{config}"));
        let task = node.run(job).await;
        let unit = node.unit(&task).await;
        let mut families: Vec<String> =
            host.property(&unit, "RestrictAddressFamilies").split_whitespace().map(str::to_owned).collect();
        families.sort_unstable();
        assert_eq!([host.property(&unit, "PrivateNetwork"), families.join(" ")], expected, "{config}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn the_network_of_a_group_is_that_of_a_guest_which_is_granted_some_of_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let namespace = Namespace::new(&host, "nomad-test-guests");
    let inode = host.run("stat", &["-Lc", "%i", &namespace.path]);
    let nothing = NetworkIsolationSpec { mode: Mode::None.into(), ..Default::default() };
    for (options, network, is_groups, is_private) in [
        ("connect = [\"*:*\"]", namespace.spec(), true, false),
        ("", namespace.spec(), false, true),
        ("connect = [\"*:*\"]", nothing, false, true),
    ] {
        let task = node.run(with("spin.wat", options).with(|request| request.network = Some(network))).await;
        let seen = node.output_in(&task, "stat -Lc %i /proc/self/ns/net").await;
        assert_eq!(seen == inode, is_groups, "{options}");
        let hosts = host.run("stat", &["-Lc", "%i", "/proc/self/ns/net"]);
        assert_ne!(seen, hosts, "{options}");
        assert_eq!(
            host.property(&node.unit(&task).await, "PrivateNetwork") == "yes",
            is_private,
            "{options}"
        );
        node.destroy(&task, true).await.unwrap();
    }
}

// ---- How it ends

/// Asks for a larger table until it is refused, and gives up.
const TABLES: &str = r#"(module
    (table $table 1 funcref)
    (func (export "_start")
        (loop $more
            (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))))
        unreachable))"#;

/// Imports an interface that is there, and of it a function that is not.
const NO_FUNCTION: &str = r#"(component
    (import "wasi:cli/environment@0.2.0" (instance (export "get-rocket" (func))))
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;

#[tokio::test]
async fn each_way_in_which_a_guest_can_end_has_its_exit_code_and_an_event_of_its_own() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let tables = |options: &str| {
        Job::artifact("tables.wasm", &wasm(TABLES)).config(&format!("wasm {{\n{options}\n}}"))
    };
    for (job, code, outcome, word) in [
        (with("spin.wat", "fuel = 100000"), 121, "out of fuel", "`wasm.fuel`"),
        (with("spin.wat", "timeout = \"100ms\""), 124, "deadline", "`wasm.timeout`"),
        (tables("max_table_elements = 5000"), 122, "memory limit", "`wasm.max_table_elements`"),
        (with("deep.wat", "max_stack = \"64K\""), 134, "trap", "stack"),
        (with("trap.wat", ""), 134, "trap", "out of bounds"),
        (Job::artifact("guest.wasm", &wasm(NO_FUNCTION)), 127, "missing import", "get-rocket"),
        (with("no_start.wat", ""), 126, "bad module", "_start"),
        (with("hello.wat", "dirs = [\"/no/such\"]"), 125, "failed", "/no/such"),
    ] {
        let what = format!("{:?}", job.options);
        let task = node.run(job).await;
        let event = events.until(&task, "WebAssembly: ").await;
        assert!(event.message.starts_with(&format!("WebAssembly: {outcome}: ")), "{what}: {event:?}");
        assert!(event.message.contains(word), "{what}: {event:?}");
        assert_eq!(event.annotations["wasm_outcome"], outcome);
        assert!(event.message.contains(&event.annotations["wasm_message"]), "{event:?}");
        let (exit, _, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(code), "{what}: {errors}");
    }
}

#[tokio::test]
async fn a_guest_is_refused_memory_before_the_task_is_killed_for_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    for (options, memory, asks, refused) in [
        ("max_memory = \"16M\"", 256, "50000000", true),
        ("max_memory = \"128M\"", 256, "50000000", false),
        ("", 64, "60000000", true),
        ("", 64, "40000000", false),
    ] {
        let job = command!(options, &["memory", asks]).with(|request| request.memory = memory);
        let task = node.run(job).await;
        if refused {
            let event = events.until(&task, "WebAssembly: memory limit: ").await;
            assert!(event.message.contains("`wasm.max_memory`"), "{event:?}");
        }
        let (exit, _, errors) = node.finish(task).await;
        let expected = Exit::status(if refused { 122 } else { 0 });
        assert_eq!(exit, expected, "{options}, {memory} MiB, {asks}: {errors}");
    }
}

#[tokio::test]
async fn a_guest_that_was_built_for_debugging_shows_the_lines_where_it_trapped() {
    let host = host!();
    let node = Node::start(&host).await;
    let source = tests::repository().join("tests/guests/trap.wat");
    let guest = wat::Parser::new().generate_dwarf(wat::GenerateDwarf::Lines).parse_file(source).unwrap();
    for (options, has_lines) in [("backtrace_details = true", true), ("", false)] {
        let job = Job::artifact("trap.wasm", &guest).config(&format!("wasm {{\n{options}\n}}"));
        let task = node.run(job).await;
        let (_, _, errors) = node.finish(task).await;
        assert_eq!(errors.contains("trap.wat:"), has_lines, "{options}: {errors}");
    }
}

#[tokio::test]
async fn an_exit_code_of_the_guests_own_is_no_outcome() {
    let host = host!();
    let node = Node::start(&host).await;
    for code in [121, 122, 124, 125, 126, 127, 134] {
        let mut events = node.events().await;
        let task = node.run(Job::artifact("exit.wasm", &exiting_guest(code))).await;
        assert_eq!(node.wait(&task).await, Exit::status(code));
        let next = node.run(Job::shell("true")).await;
        let told = events.before(&next).await;
        assert_eq!(told.len(), 1, "that it runs, and no more: {told:?}");
        for task in [task, next] {
            node.destroy(&task, true).await.unwrap();
        }
    }
}

/// Uses a vector.
const VECTOR: &str = r#"(module (func (export "_start") (drop (i32x4.splat (i32.const 1)))))"#;

#[tokio::test]
async fn parts_of_the_language_can_be_switched_and_code_is_not_shared_between_ways_of_compiling() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = |options: &str| {
        Job::artifact("vector.wasm", &wasm(VECTOR)).config(&format!("wasm {{\n{options}\n}}"))
    };
    for options in ["", "proposals = { simd = \"true\" }", "fuel = 1000", "fuel = 2000"] {
        let task = node.run(job(options)).await;
        let (exit, _, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(0), "{options}: {errors}");
    }
    let without = job("proposals = { simd = \"false\", relaxed_simd = \"false\" }");
    let refusal = node.try_run(without).await.unwrap_err();
    assert!(refusal.message.contains("SIMD") && !refusal.recoverable, "{refusal}");
    let compiled = node.records().iter().filter(|record| record.message == "compiling WebAssembly").count();
    assert!((3..=4).contains(&compiled), "it depends on fuel, and not on how much: {compiled}");
}

#[tokio::test]
async fn every_proposal_that_a_job_may_name_is_one_that_the_compiler_knows() {
    let _host = host!();
    for name in Proposal::ALL.map(Proposal::name) {
        let mut compiler = std::process::Command::new(program("wasm-shim-compile"));
        let output = compiler.args(["--engine-key", "-W", &format!("{name}=y")]).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

// ---- How it serves

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server on a port of this machine, with these options in `serve`.
fn server(port: u16, options: &str) -> Job {
    with("web.wat", &format!("serve {{\n port = \"http\"\n{options}\n}}")).port("http", port)
}

/// What is answered to a request for a path on a connection of its own: the status, and all that was said.
fn get(mut connection: impl Read + Write, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer to {path}: {answer:?}")), answer)
}

/// The same, without holding up the test.
async fn fetch(port: u16, path: &'static str) -> (u16, String) {
    let answer = tokio::task::spawn_blocking(move || {
        let connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        get(connection, path)
    });
    answer.await.unwrap()
}

/// What the driver says of a server's requests.
async fn counted(node: &Node, task: &Task, name: &str) -> Option<u64> {
    let attributes = node.inspect(task).await.unwrap().driver.unwrap().attributes;
    attributes.get(name).map(|number| number.parse().unwrap())
}

#[tokio::test]
async fn a_guest_serves_on_a_port_without_any_network_of_its_own() {
    let host = host!();
    let node = Node::start(&host).await;
    // One that only root may bind is no other.
    for port in [free_port(), 82] {
        let task = node.run(server(port, "")).await;
        let unit = node.unit(&task).await;
        assert_eq!(host.property(&unit, "Type"), "notify");
        assert_eq!(host.property(&unit, "PrivateNetwork"), "yes");
        // It is ready: nothing is waited for.
        let (status, answer) = fetch(port, "/").await;
        assert!(status == 200 && answer.contains("hello"), "{answer}");
        node.stop(&task, "", Duration::from_secs(5)).await.unwrap();
        assert_eq!(node.wait(&task).await, Exit::status(0));
        eventually("the socket is closed", async || {
            TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
        })
        .await;
        node.destroy(&task, false).await.unwrap();
        assert_eq!(host.units(unit.strip_suffix(".service").unwrap()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_guest_serves_on_a_socket_block_of_the_job() {
    let host = host!();
    let node = Node::start(&host).await;
    let sockets = "socket {\n name = \"other\"\n path = \"/alloc/other.sock\"\n}\nsocket {\n name = \"web\"\n path = \"/alloc/web.sock\"\n}";
    let task = node.run(with("web.wat", "serve {\n socket = \"web\"\n}").config(sockets)).await;
    let path = task.alloc_dir().join("alloc/web.sock");
    let connection = UnixStream::connect(path).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    let (status, answer) = tokio::task::spawn_blocking(|| get(connection, "/")).await.unwrap();
    assert!(status == 200 && answer.contains("hello"), "{answer}");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_guest_serves_in_the_network_of_its_group() {
    let host = host!();
    let node = Node::start(&host).await;
    let namespace = Namespace::new(&host, "nomad-test-serving");
    let inside = format!("--net={}", namespace.path);
    let up = "use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); my $lo = pack(\"a16s14x\", \"lo\", 0x41); \
        ioctl(S, 0x8914, $lo) or die $!";
    host.run("nsenter", &[&inside, "perl", "-e", up]);
    let job = with("web.wat", "serve {\n port = \"http\"\n}")
        // The job's own variables count for nothing.
        .env("NOMAD_PORT_http", "1")
        .env("NOMAD_ADDR_http", "127.0.0.1:1")
        .port("http", 8080)
        .with(|request| request.network = Some(namespace.spec()));
    let task = node.run(job).await;
    let client = "use IO::Socket::INET; my $s = IO::Socket::INET->new(\"127.0.0.1:8080\") or die $!; \
        print $s \"GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n\"; print <$s>";
    let answer = host.run("nsenter", &[&inside, "perl", "-e", client]);
    assert!(answer.contains(" 200 ") && answer.contains("hello"), "{answer}");
    let own = node.output_in(&task, "stat -Lc %i /proc/self/ns/net").await;
    assert_ne!(own, host.run("stat", &["-Lc", "%i", &namespace.path]), "it needs no more than the socket");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_stopped_finishes_what_it_has_also_under_a_later_driver() {
    let host = host!();
    let mut node = Node::start(&host).await;
    for restarted in [false, true] {
        let port = free_port();
        let task = node.run(server(port, "")).await;
        if restarted {
            node.restart().await;
            node.recover(&task).await.unwrap();
        }
        let slow = tokio::spawn(fetch(port, "/slow"));
        eventually("it works on the request", async || {
            (counted(&node, &task, "wasm_active").await == Some(1)).then_some(())
        })
        .await;
        node.stop(&task, "", Duration::from_secs(5)).await.unwrap();
        assert_eq!(slow.await.unwrap().0, 200);
        assert_eq!(node.wait(&task).await, Exit::status(0));
        node.destroy(&task, false).await.unwrap();
    }
}

#[tokio::test]
async fn requests_are_counted_and_those_that_go_wrong_are_told_once_a_minute_and_at_the_end() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let port = free_port();
    let task = node.run(server(port, "timeout = \"1s\"\naccess_log = true")).await;
    assert_eq!(fetch(port, "/").await.0, 200);
    assert_eq!(fetch(port, "/trap").await.0, 500);
    let event = events.until(&task, "WebAssembly: ").await;
    assert!(event.message.starts_with("WebAssembly: 1 request trapped"), "{event:?}");
    assert_eq!(event.annotations["wasm_traps"], "1");
    assert_eq!(fetch(port, "/spin").await.0, 504);
    assert_eq!(fetch(port, "/trap").await.0, 500);
    eventually("all four are counted", async || {
        (counted(&node, &task, "wasm_requests").await == Some(4)).then_some(())
    })
    .await;
    for (name, count) in [("wasm_traps", 2), ("wasm_timeouts", 1), ("wasm_active", 0)] {
        assert_eq!(counted(&node, &task, name).await, Some(count), "{name}");
    }
    let next = node.run(Job::shell("true")).await;
    let told = events.before(&next).await;
    assert!(told.is_empty(), "nothing more was told within the minute: {told:?}");
    node.stop(&task, "", Duration::from_secs(5)).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(0));
    let event = events.until(&task, "WebAssembly: ").await;
    assert!(event.message.contains("1 request trapped and 1 request took longer"), "{event:?}");
    node.destroy(&next, true).await.unwrap();
    let (_, _, errors) = node.finish(task).await;
    assert!(errors.contains("access: GET / 200") && errors.contains("GET /spin 504"), "{errors}");
}

#[tokio::test]
async fn a_server_that_is_well_says_so_and_one_that_hangs_is_ended() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let port = free_port();
    let job = server(port, "").config("notify {\n watchdog = \"2s\"\n}");
    let task = node.run(job).await;
    let unit = node.unit(&task).await;
    let last = || host.property(&unit, "WatchdogTimestampMonotonic");
    let before = last();
    // Not even one that computes for ever keeps it from answering.
    let _spins =
        TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"GET /spin HTTP/1.1\r\nhost: x\r\n\r\n");
    for _ in 0..3 {
        let said = last();
        eventually("it says again that it is well", async || (last() != said).then_some(())).await;
    }
    assert_ne!(last(), before);
    assert_eq!(host.property(&unit, "SubState"), "running");
    node.signal(&task, "SIGSTOP").await.unwrap();
    let event = events.until(&task, "WATCHDOG=1").await;
    assert!(event.message.contains("`notify.watchdog`"), "{event:?}");
    assert_ne!(node.wait(&task).await, Exit::status(0));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_is_not_what_the_job_says_of_it_is_refused_before_it_starts() {
    let host = host!();
    let node = Node::start(&host).await;
    let serving = |name| with(name, "serve {\n port = \"http\"\n}").port("http", free_port());
    for (name, job, words) in [
        ("a component", serving("run_ok.wat"), "leave the block `wasm.serve` out"),
        ("a module", serving("hello.wat"), "leave the block `wasm.serve` out"),
        ("a server", with("web.wat", ""), "add a block `serve` with `port = \"LABEL\"`"),
    ] {
        let alloc = job.request.alloc_id.clone();
        let refusal = node.try_run(job).await.expect_err(name);
        assert!(refusal.message.contains(words), "{name}: {refusal}");
        assert!(!refusal.recoverable, "trying again does not help: {name}: {refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new(), "{name} leaves no unit");
    }
    let job =
        with("web.wat", "dirs = [\"/no/such\"]\nserve {\n port = \"http\"\n}").port("http", free_port());
    let refusal = node.try_run(job).await.unwrap_err();
    assert!(refusal.message.contains("failed: ") && refusal.message.contains("/no/such"), "{refusal}");
    assert!(refusal.recoverable, "it may be there later: {refusal}");
}

// ---- What is refused, and what is known of it elsewhere

#[tokio::test]
async fn what_no_guest_can_be_given_is_refused_by_option_and_value_before_anything_is_started() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut precompiled = std::fs::read("/bin/true").unwrap();
    precompiled[7] = 200;
    let cases = vec![
        (
            with("hello.wat", "connect = [\"10.0.0.1\"]"),
            "`wasm.connect`: `10.0.0.1` is not addresses and ports",
        ),
        (with("hello.wat", "connect = [\"db.example:80\"]"), "`wasm.connect`: `db.example:80`"),
        (with("hello.wat", "listen = [\"*:90-80\"]"), "`wasm.listen`: `*:90-80`"),
        (with("hello.wat", "dirs = [\"data\"]"), "`wasm.dirs`: `data`"),
        (with("hello.wat", "dirs = [\"/local::/x:RO\"]"), "`wasm.dirs`: `/local::/x:RO`"),
        (with("hello.wat", "dirs = [\"/local:/x:ro\"]"), "`wasm.dirs`: `/local:/x:ro`"),
        (with("hello.wat", "dirs = [\"/local:ro\"]"), "`wasm.dirs`: `/local:ro`"),
        (with("hello.wat", "dirs = [\"/local/../../etc\"]"), "`wasm.dirs`: `/local/../../etc`"),
        (with("hello.wat", "env = [\"NO_SUCH\"]"), "`wasm.env`: `NO_SUCH`"),
        (with("hello.wat", "fuel = 0"), "`wasm.fuel`: `0`"),
        (with("hello.wat", "max_memory = \"much\""), "`wasm.max_memory`: `much`"),
        (with("hello.wat", "max_stack = \"2G\""), "`wasm.max_stack`: `2G`"),
        (with("hello.wat", "timeout = \"soon\""), "`wasm.timeout`: `soon`"),
        (with("hello.wat", "timeout = \"0\""), "`wasm.timeout`: `0`"),
        (with("hello.wat", "proposals = { sims = \"true\" }"), "`wasm.proposals`: `sims`"),
        (with("hello.wat", "proposals = { simd = \"perhaps\" }"), "`wasm.proposals`: `simd = perhaps`"),
        (with("web.wat", "serve {\n}"), "`wasm.serve`: it needs either a `port` or a `socket`"),
        (with("web.wat", "serve {\n port = \"absent\"\n}"), "`wasm.serve.port`: `absent`"),
        (with("web.wat", "serve {\n socket = \"absent\"\n}"), "`wasm.serve.socket`: `absent`"),
        (server(1, "reuse = 0"), "`wasm.serve.reuse`: `0`"),
        (server(1, "timeout = \"never\""), "`wasm.serve.timeout`: `never`"),
        (server(1, "").args(&["x"]), "`args`: a guest that serves"),
        (
            with("web.wat", "timeout = \"1s\"\nserve {\n port = \"x\"\n}").port("x", 1),
            "`wasm.timeout`: a guest that serves runs until it is stopped",
        ),
        (server(1, "").config("notify {\n access = \"all\"\n}"), "`notify.access`"),
        (
            with("hello.wat", "").config("notify {\n ready_within = \"1s\"\n}"),
            "`notify`: a WebAssembly guest",
        ),
        (Job::shell("true").config("wasm {\n fuel = 5\n}"), "`wasm`: `command` is a native program"),
        (Job::artifact("code.cwasm", &precompiled), "precompiled native code is not accepted from jobs"),
    ];
    for (job, reason) in cases {
        let alloc = job.request.alloc_id.clone();
        let refusal = node.try_run(job).await.expect_err(reason);
        assert!(refusal.message.contains(reason), "{reason}: {refusal}");
        assert!(!refusal.recoverable && !refusal.message.contains('\n'), "{refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new(), "{reason}");
    }
}

#[tokio::test]
async fn the_node_says_which_wasmtime_it_has() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let attributes = node.plugin().fingerprint().await.unwrap().attributes;
    let Some(Value::StringVal(version)) = &attributes["driver.systemd.wasmtime"].value else {
        panic!("a text")
    };
    let said = host.run(&program("wasm-shim").display().to_string(), &["--version"]);
    assert!(
        version.split('.').count() == 3 && said.contains(&format!("wasmtime {version}+")),
        "{version}: {said}"
    );
}

#[tokio::test]
async fn at_the_desk_the_block_means_the_same() {
    let host = host!();
    let directory = tempfile::tempdir().unwrap();
    let guest = directory.path().join("echo.wasm");
    std::fs::write(&guest, super::guest("echo.wat")).unwrap();
    let job = format!(
        r#"job "j" {{
            type = "batch"
            group "g" {{
                network {{
                    port "http" {{}}
                }}
                task "t" {{
                    driver = "systemd"
                    env {{
                        GREETING = "good morning"
                        OTHER    = "x"
                    }}
                    artifact {{
                        source = "{}"
                    }}
                    config {{
                        command = "echo.wasm"
                        wasm {{
                            env     = ["GREETING"]
                            connect = ["tcp:10.0.0.0/8:${{NOMAD_PORT_http}}"]
                            config {{
                                token = "s3cret"
                            }}
                            proposals {{
                                relaxed_simd = false
                            }}
                        }}
                    }}
                }}
            }}
        }}"#,
        guest.display()
    );
    let path = directory.path().join("j.nomad.hcl");
    std::fs::write(&path, job).unwrap();
    let (driver, path) = (program("nomad-driver-systemd").display().to_string(), path.display().to_string());
    let unit = host.run(&driver, &["unit", &path]);
    for part in [
        "--connect tcp:10.0.0.0/8:2",
        "--env GREETING",
        "relaxed-simd=n",
        "PrivateNetwork=no",
        "IPAddressAllow=",
    ] {
        assert!(unit.contains(part), "{part} in {unit}");
    }
    assert!(!unit.contains("--env OTHER") && !unit.contains("s3cret"), "{unit}");
    // What an operator denies to jobs, since it would count more than what its slice denies, no fence says either.
    let denied =
        host.run(&driver, &["unit", "--plugin-config", "deny_properties = [\"IPAddressAllow\"]", &path]);
    assert!(denied.contains("--connect tcp:10.0.0.0/8:2") && !denied.contains("IPAddress"), "{denied}");
    let config = format!("shim_dir = {:?}", tests::programs().display().to_string());
    let said = host.run(&driver, &["run", "--plugin-config", &config, &path]);
    assert!(said.contains("GREETING=good morning") && !said.contains("OTHER=x"), "{said}");
}
