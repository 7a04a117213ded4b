//! The metrics of a driver, as Prometheus reads them (plugin option `metrics_address`).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tests::{Exit, Job, Node, SOON, eventually, exiting_guest, repository};

use crate::guest;

/// The answer to one request.
fn answer(mut stream: impl Read + Write, method: &str, path: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    let mut answer = String::new();
    // Who is one client too many is not answered.
    let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    answer
}

fn metrics_at(socket: &Path) -> String {
    answer(UnixStream::connect(socket).unwrap(), "GET", "/metrics")
}

#[tokio::test]
async fn metrics_count_starts_and_ends_of_tasks_and_name_no_task() {
    let host = host!();
    let place = tempfile::tempdir_in("/run").unwrap();
    let socket = place.path().join("metrics");
    let node = Node::configured(&host, &format!("metrics_address = {socket:?}")).await;
    eventually("the socket", async || socket.exists().then_some(())).await;
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let task = node.run(Job::shell("exit 3")).await;
    assert_eq!(node.finish(task).await.0, Exit::status(3));
    let refused = node.try_run(Job::shell("true").user("no-such-user")).await;
    assert!(refused.is_err());
    for _ in 0..2 {
        let task = node.run(Job::artifact("exit.wasm", &exiting_guest(0))).await;
        node.finish(task).await;
    }
    let trapped = node.run(Job::artifact("trap.wasm", &guest("trap.wat"))).await;
    node.finish(trapped).await;
    let running = node.run(Job::command("/bin/sleep").args(&["infinity"])).await;
    let other = node.run(Job::command("/bin/sleep").args(&["infinity"])).await;
    node.stop(&other, "", SOON).await.unwrap();
    node.finish(other).await;

    let told = metrics_at(&socket);
    for line in [
        "HTTP/1.1 200 OK",
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8",
        r#"nomad_systemd_task_starts_total{result="running"} 6"#,
        r#"nomad_systemd_task_starts_total{result="refused"} 1"#,
        r#"nomad_systemd_task_start_seconds_count{kind="native"} 3"#,
        r#"nomad_systemd_task_start_seconds_count{kind="wasm"} 3"#,
        r#"nomad_systemd_tasks{kind="native"} 1"#,
        r#"nomad_systemd_tasks{kind="wasm"} 0"#,
        r#"nomad_systemd_task_ends_total{kind="native",reason="failure"} 1"#,
        r#"nomad_systemd_task_ends_total{kind="native",reason="stopped"} 1"#,
        r#"nomad_systemd_task_ends_total{kind="wasm",reason="success"} 2"#,
        r#"nomad_systemd_guest_ends_total{reason="trap"} 1"#,
        r#"nomad_systemd_cache_lookups_total{result="hit"} 1"#,
        r#"nomad_systemd_cache_lookups_total{result="miss"} 2"#,
        r#"nomad_systemd_compilations_total{result="compiled"} 2"#,
        "nomad_systemd_compilation_seconds_count 2",
    ] {
        assert!(told.contains(line), "{line} is not in:\n{told}");
    }
    let dashboard = fs::read_to_string(repository().join("driver/dist/dashboard.json")).unwrap();
    let queried = dashboard.match_indices("nomad_systemd_").map(|(start, _)| {
        let rest = &dashboard[start..];
        &rest[..rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_').unwrap()]
    });
    for metric in queried {
        assert!(
            told.lines().any(|line| line.starts_with(metric)),
            "{metric} of the dashboard is not in:\n{told}"
        );
    }
    assert!(!told.contains(&running.id) && !told.contains("sleep"), "{told}");
    assert!(answer(UnixStream::connect(&socket).unwrap(), "POST", "/metrics").starts_with("HTTP/1.1 405"));
    assert!(answer(UnixStream::connect(&socket).unwrap(), "GET", "/").starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn clients_that_say_nothing_keep_metrics_from_nobody_for_long() {
    let host = host!();
    let address = "127.0.0.83:9633";
    let _node = Node::configured(&host, &format!("metrics_address = {address:?}")).await;
    let connect = || TcpStream::connect(address);
    eventually("the port", async || connect().ok().map(drop)).await;
    let _silent: Vec<_> = (0..24).map(|_| connect().unwrap()).collect();
    let told = eventually("an answer", async || {
        let told = answer(connect().unwrap(), "GET", "/metrics");
        told.starts_with("HTTP/1.1 200").then_some(told)
    })
    .await;
    assert!(told.ends_with("# EOF\n"), "{told}");
}

#[tokio::test]
async fn an_address_that_is_in_use_is_told_and_harms_no_task() {
    let host = host!();
    let address = "127.0.0.84:9633";
    let _taken = std::net::TcpListener::bind(address).unwrap();
    let node = Node::configured(&host, &format!("metrics_address = {address:?}")).await;
    assert_eq!(node.output_of(Job::shell("echo ok")).await, "ok\n");
    let is_told = async || {
        let records = node.records();
        records.iter().any(|record| record.message.contains("`metrics_address`")).then_some(())
    };
    eventually("a warning", is_told).await;
}
