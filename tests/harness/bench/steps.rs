//! Where a start goes: what each step of `StartTask` takes, from the records that the driver writes at the level `trace`,
//! and from the times that systemd keeps of a unit.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tests::{Host, Job, Need, Node};

use crate::tasks::destroy;
use crate::{hello_guest, median, milliseconds};

const ROUNDS: usize = 100;
/// Times that systemd keeps of a unit, and what it has done by then (org.freedesktop.systemd1(5)). The second is since 257.
const OF_UNIT: [(&str, &str); 3] = [
    ("ExecMainStartTimestamp", "systemd has forked the process"),
    ("ExecMainHandoffTimestamp", "systemd's process has set itself up and executes the program"),
    ("ActiveEnterTimestamp", "systemd counts the unit as started"),
];

/// Prints a table for a command and for a guest; `native` is a static C program.
#[tokio::main]
pub(crate) async fn measure(native: &Path) {
    let Some(host) = Host::alone(Need::Systemd).await else { std::process::exit(1) };
    let node = Node::tracing(&host).await;
    let native = std::fs::read(native).unwrap();
    one(&node, "a static C program", &Job::artifact("hello", &native)).await;
    one(
        &node,
        "a WebAssembly guest whose code is in the cache",
        &Job::artifact("hello.wasm", &hello_guest()),
    )
    .await;
}

async fn one(node: &Node, what: &str, job: &Job) {
    let mut steps: Vec<(String, Vec<Duration>)> = Vec::new();
    for round in 0..ROUNDS + 3 {
        let seen = node.records().len();
        let prepared = node.prepare(job);
        let began = SystemTime::now();
        let task = node.begin(prepared).await.unwrap();
        let answered = SystemTime::now();
        let unit = node.inspect(&task).await.unwrap().driver.unwrap().attributes["unit"].clone();
        let mut times: Vec<(String, SystemTime)> = node.records()[seen..]
            .iter()
            .filter(|record| record.level == "trace")
            .map(|record| {
                let at = humantime::parse_rfc3339(&record.fields["@timestamp"]).unwrap();
                (record.message.clone(), at)
            })
            .collect();
        times.extend(of_unit(&unit));
        times.push(("the answer is there".to_owned(), answered));
        times.sort_by_key(|(_, at)| *at);
        destroy(node, task).await;
        // The first rounds warm up.
        if round < 3 {
            continue;
        }
        for (step, at) in times {
            let since = at.duration_since(began).unwrap_or_default();
            match steps.iter_mut().find(|(known, _)| *known == step) {
                Some((_, all)) => all.push(since),
                None => steps.push((step, vec![since])),
            }
        }
    }
    let mut medians: Vec<(String, f64)> =
        steps.into_iter().map(|(step, mut all)| (step, milliseconds(median(&mut all)))).collect();
    medians.sort_by(|one, other| one.1.total_cmp(&other.1));
    println!("| StartTask of {what}: by when | since the call | since the step before |");
    println!("|---|---|---|");
    let mut before = 0.0;
    for (step, at) in medians {
        println!("| {step} | {at:.2} ms | {:.2} ms |", at - before);
        before = at;
    }
    println!();
}

/// The times of a unit that systemd knows.
fn of_unit(unit: &str) -> Vec<(String, SystemTime)> {
    let names = OF_UNIT.map(|(name, _)| format!("--property={name}"));
    let shown = Command::new("systemctl")
        .arg("show")
        .args(names)
        .args(["--timestamp=us+utc", unit])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let times = shown.lines().filter_map(|line| {
        let (name, text) = line.split_once('=')?;
        let (_, what) = OF_UNIT.iter().find(|(known, _)| *known == name)?;
        // Such as `Tue 2026-12-01 09:31:33.123456 UTC`.
        let mut words = text.split(' ').skip(1);
        let moment = format!("{}T{}Z", words.next()?, words.next()?);
        Some(((*what).to_owned(), humantime::parse_rfc3339(&moment).ok()?))
    });
    times.filter(|(_, at)| *at > UNIX_EPOCH).collect()
}
