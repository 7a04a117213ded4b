//! How a guest serves (`wasm.serve`): ports and sockets, requests, stops, the watchdog.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tests::{Exit, Job, Node, SOON, Task, eventually};

use super::{free_port, server, with};
use crate::network::Namespace;

/// The answer to a request for a path on a connection of its own: the status, and the whole text.
fn get(mut connection: impl Read + Write, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer to {path}: {answer:?}")), answer)
}

/// The same, without blocking the test.
async fn fetch(port: u16, path: &'static str) -> (u16, String) {
    let answer = tokio::task::spawn_blocking(move || {
        let connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        get(connection, path)
    });
    answer.await.unwrap()
}

/// The driver's report on a server's requests.
async fn counted(node: &Node, task: &Task, name: &str) -> Option<u64> {
    let attributes = node.inspect(task).await.unwrap().driver.unwrap().attributes;
    attributes.get(name).map(|number| number.parse().unwrap())
}

#[tokio::test]
async fn a_guest_serves_on_a_port_without_any_network_of_its_own() {
    let host = host!();
    let node = Node::start(&host).await;
    // A port that only root may bind is no different.
    for port in [free_port(), 82] {
        let task = node.run(server(port, "")).await;
        let unit = node.unit(&task).await;
        assert_eq!(host.property(&unit, "Type"), "notify");
        assert_eq!(host.property(&unit, "PrivateNetwork"), "yes");
        // The server is ready: there is nothing to wait for.
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
        // The job's own variables have no effect.
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
    // Even a request that computes forever does not keep it from answering.
    let _spins =
        TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"GET /spin HTTP/1.1\r\nhost: x\r\n\r\n");
    for _ in 0..3 {
        let output = last();
        eventually("it says again that it is well", async || (last() != output).then_some(())).await;
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
