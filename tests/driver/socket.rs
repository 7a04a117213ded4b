//! Sockets that are open before a task starts, and tasks that notify readiness.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use proto::driver::StopTaskRequest;
use tests::{Exit, Job, MAY_LISTEN, MAY_NOTIFY, Node, SOON, eventually};

/// Serves one connection on the first of the sockets that it was passed, and prints what it was passed.
const SERVER: &str = "perl -MIO::Socket -e '$| = 1; print \"$ENV{LISTEN_FDS} $ENV{LISTEN_FDNAMES}\\n\"; \
    my $s = IO::Socket->new; $s->fdopen(3, \"r+\"); while (my $c = $s->accept) { print $c \"hello from $<\\n\"; close $c; \
    last if @ARGV }'";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn fetched(port: u16) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    connection.read_to_string(&mut text).map(|_| text)
}

#[tokio::test]
async fn a_task_serves_on_sockets_that_were_open_before_it_began() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let port = free_port();
    let config = "socket {\n name = \"http\"\n port = \"http\"\n}\nsocket {\n name = \"ctl\"\n path = \"/alloc/ctl.sock\"\n}";
    let job = Job::shell(&format!("exec {SERVER}")).config(config).port("http", port);
    let mut task = node.run(job).await;
    task.says("2 http:ctl").await;
    let answer = tokio::task::spawn_blocking(move || fetched(port).unwrap()).await.unwrap();
    assert!(answer.starts_with("hello from ") && !answer.contains(" 0\n"), "{answer}");
    assert!(task.alloc_dir().join("alloc/ctl.sock").exists());
    let unit = node.unit(&task).await;
    node.stop(&task, "SIGTERM", Duration::from_secs(5)).await.unwrap();
    node.wait(&task).await;
    eventually("the socket is closed", async || {
        TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    })
    .await;
    node.destroy(&task, false).await.unwrap();
    let stem = unit.strip_suffix(".service").unwrap();
    assert_eq!(host.units(stem), Vec::<String>::new());
}

#[tokio::test]
async fn a_port_that_only_root_may_bind_is_bound_for_a_task_that_is_not() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let job = Job::shell(&format!("exec {SERVER} once"))
        .config("socket {\n name = \"low\"\n port = \"low\"\n}")
        .port("low", 81);
    let mut task = node.run(job).await;
    task.says("1 low").await;
    let answer = tokio::task::spawn_blocking(|| fetched(81).unwrap()).await.unwrap();
    assert!(!answer.contains(" 0\n"), "{answer}");
    assert_eq!(node.finish(task).await.0, Exit::status(0));
}

#[tokio::test]
async fn a_task_that_ended_is_never_started_again_by_a_connection() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    for status in [0, 3] {
        let port = free_port();
        let job =
            Job::shell(&format!("echo begun >> /alloc/data/starts; read x < /alloc/data/end; exit {status}"))
                .config("socket {\n name = \"http\"\n port = \"http\"\n}")
                .port("http", port);
        let prepared = node.prepare(&job);
        let pipe = prepared.alloc_dir().join("alloc/data/end");
        host.run("mkfifo", &["-m", "666", pipe.to_str().unwrap()]);
        let task = node.begin(prepared).await.unwrap();
        // A client that connects all the time.
        let flood = std::thread::spawn(move || {
            for _ in 0..300 {
                let _ = TcpStream::connect(("127.0.0.1", port));
                std::thread::yield_now();
            }
        });
        std::fs::write(&pipe, "\n").unwrap();
        assert_eq!(node.wait(&task).await, Exit::status(status));
        flood.join().unwrap();
        for _ in 0..50 {
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
        let starts = std::fs::read_to_string(task.alloc_dir().join("alloc/data/starts")).unwrap();
        assert_eq!(starts, "begun\n");
        assert_eq!(node.wait(&task).await, Exit::status(status), "and its status is still known");
        node.destroy(&task, false).await.unwrap();
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_and_may_be_free_later() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let job =
        || Job::shell("true").config("socket {\n name = \"http\"\n port = \"http\"\n}").port("http", port);
    let prepared = job();
    let alloc = prepared.request.alloc_id.clone();
    let refusal = node.try_run(prepared).await.unwrap_err();
    assert!(refusal.message.contains("Address already in use") && refusal.recoverable, "{refusal}");
    assert_eq!(host.units(&alloc), Vec::<String>::new());
    drop(taken);
    let task = node.run(job()).await;
    assert_eq!(node.finish(task).await.0, Exit::status(0));
}

#[tokio::test]
async fn a_task_is_started_when_it_says_that_it_is_ready() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    let notify = "notify {\n access = \"all\"\n ready_within = \"10s\"\n }";
    let script =
        "test -e /alloc/data/go || sleep 0.3; echo before; systemd-notify --ready; exec sleep infinity";
    let mut task = node.run(Job::shell(script).config(notify)).await;
    task.says("before").await;
    node.destroy(&task, true).await.unwrap();
    for (script, reason) in [
        ("exit 0", "before it ended with status 0"),
        ("exit 4", "before it ended with status 4"),
        ("exec sleep infinity", "within 1"),
    ] {
        let job = Job::shell(script).config("notify { ready_within = \"1s\" }");
        let alloc = job.request.alloc_id.clone();
        let refusal = node.try_run(job).await.expect_err(script);
        assert!(refusal.message.contains(reason) && refusal.recoverable, "{script}: {refusal}");
        assert!(refusal.message.contains("`notify.access = \"all\"`"), "{refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_task_that_is_not_waited_for_speaks_all_the_same() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    let notifier = "perl -MIO::Socket::UNIX -e '$| = 1; my $to = $ENV{NOTIFY_SOCKET}; $to =~ s/^@/\\0/; \
                my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $to) or die $!; \
                $socket->send(\"STATUS=all is well\"); print \"said\\n\"; sleep 1000'";
    for access in ["main", "all"] {
        let notify = format!("notify {{\n ready_within = \"0\"\n access = {access:?}\n}}");
        let mut task = node.run(Job::shell(&format!("exec {notifier}")).config(&notify)).await;
        task.says("said").await;
        let unit = node.unit(&task).await;
        eventually("systemd has heard it", async || {
            (host.property(&unit, "StatusText") == "all is well").then_some(())
        })
        .await;
        node.destroy(&task, true).await.unwrap();
    }
    // Notifications from a child count only if the job allows it.
    let job = Job::shell(&format!("({notifier})")).config("notify { ready_within = \"0\" }");
    let mut task = node.run(job).await;
    task.says("said").await;
    assert_eq!(host.property(&node.unit(&task).await, "StatusText"), "");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_start_that_waits_for_a_task_is_ended_by_a_stop() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    let job =
        Job::shell("touch /alloc/data/up; exec sleep infinity").config("notify { ready_within = \"1h\" }");
    let prepared = node.prepare(&job);
    let (id, alloc) = (prepared.config.id.clone(), job.request.alloc_id.clone());
    let up = prepared.alloc_dir().join("alloc/data/up");
    let stop = async {
        eventually("the program runs", async || up.exists().then_some(())).await;
        let timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let request = StopTaskRequest { task_id: id, timeout, signal: String::new() };
        node.driver().stop_task(request).await.expect("StopTask answers");
    };
    let both = async { tokio::join!(node.begin(prepared), stop).0 };
    let started = tokio::time::timeout(SOON, both).await.expect("the start ends");
    let refusal = started.expect_err("the task never said that it is ready");
    assert!(refusal.message.contains("`notify`"), "{refusal}");
    assert_eq!(host.units(&alloc), Vec::<String>::new());
}

#[tokio::test]
async fn a_task_that_stops_answering_its_watchdog_is_ended_and_told_so() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    let mut events = node.events().await;
    let config = "notify {\n access = \"all\"\n ready_within = \"0\"\n watchdog = \"1s\"\n }";
    let job = Job::shell(
        "for i in 1 2 3; do systemd-notify WATCHDOG=1; sleep 0.5; done; echo silent; exec sleep infinity",
    );
    let mut task = node.run(job.config(config)).await;
    task.says("silent").await;
    let event = events.until(&task, "atchdog").await;
    assert!(event.message.contains("`notify.watchdog`"), "{event:?}");
    let exit = node.wait(&task).await;
    assert_eq!(exit.signal, 6, "{exit:?}");
    node.destroy(&task, false).await.unwrap();
}
