//! The unit files that systemd writes for arbitrary jobs, on a real systemd: after a reload, they mean what was sent.
//!
//! systemd keeps a transient unit as a file, and reads this file at every `daemon-reload`. A value that is not written
//! there as it was sent is lost then, or becomes something else: another line, another property, another command.
//!
//! `FUZZ_SECONDS=3600` tests new jobs for an hour; without it there are few jobs, and the same ones at every run.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "what other fuzz tests need")]
mod corpus;
mod jobs;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tests::{Host, Job, Need, Node, Refusal, Task};

use jobs::OddJob;
use units::{Properties, properties};

/// The number of jobs that run while systemd reads its files again.
const AT_ONCE: usize = 30;
/// The number of rounds if no time is set.
const ROUNDS: usize = 4;

/// A running job, and the properties of its units before systemd read their files again.
struct Running {
    job: OddJob,
    task: Task,
    units: Vec<(String, Properties)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_every_unit_means_what_was_sent() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::configured(&host, "allow_properties = [\"*\"]\nallow_host_paths = [\"/srv\"]").await;
    let odd_job = jobs::odd_job(version(&host));
    let expected = keys_of_a_plain_job(&host, &node).await;
    let seconds: Option<u64> = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let mut runner = match seconds {
        Some(_) => TestRunner::new(Config::default()),
        None => {
            TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::XorShift))
        }
    };
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or_default());
    let (mut accepted, mut refusals, mut wrong) = (0, BTreeMap::new(), Vec::new());
    let mut rounds = 0;
    while rounds < ROUNDS || Instant::now() < end {
        rounds += 1;
        let jobs = (0..AT_ONCE).map(|_| odd_job.new_tree(&mut runner).unwrap().current());
        let started = join_all(jobs.map(|job| start(&host, &node, job))).await;
        let mut running = Vec::new();
        for outcome in started {
            match outcome {
                Ok(job) => running.push(job),
                Err((job, refusal)) => drop(refusals.insert(refusal.message, job)),
            }
        }
        accepted += running.len();
        host.run("systemctl", &["daemon-reload"]);
        let complaints = complaints(&host);
        for Running { job, units, .. } in &running {
            for (unit, before) in units {
                let lost = units::lost(before);
                let of_this = complaints.iter().filter(|complaint| {
                    complaint.contains(unit.as_str()) && !is_about(complaint, unit, &lost)
                });
                wrong.extend(of_this.map(|complaint| format!("{job:?}: {complaint}")));
                let differences = units::differences(before, &properties(&host, unit));
                wrong.extend(differences.iter().map(|difference| format!("{job:?}: {difference}")));
                let unexpected = unexpected_lines(unit, &expected, &job.keys());
                wrong.extend(
                    unexpected.iter().map(|line| format!("{job:?}: the file of {unit} holds {line:?}")),
                );
            }
        }
        join_all(running.iter().map(|running| node.destroy(&running.task, true))).await;
        for Running { task, .. } in running {
            drop(task.ended());
        }
    }
    let jobs = rounds * AT_ONCE;
    eprintln!("{accepted} of {jobs} jobs were started");
    for (refusal, job) in &refusals {
        eprintln!("refused: {refusal} {job:?}");
    }
    assert!(wrong.is_empty(), "{} of {accepted} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(accepted * 2 >= jobs, "only {accepted} of {jobs} jobs were started");
}

/// A path is resolved when the task starts, and files that a task created before may have any name.
#[tokio::test]
async fn a_file_to_which_a_link_leads_adds_no_line() {
    const LINE: &str = "x\nExecStopPost=+";
    let Some(host) = Host::with(Need::Systemd).await else { return };
    let node =
        Node::configured(&host, "allow_properties = [\"*\"]\nallow_host_paths = [\"local\", \"/srv\"]").await;
    let mut wrong = Vec::new();
    for (directory, config) in [
        ("secrets", "credential {\n name = \"a\"\n path = \"link\"\n}"),
        ("secrets", "credential {\n name = \"a\"\n path = \"link\"\n encrypted = true\n}"),
        ("local", "files { bind_paths = [\"link:/odd\"] }"),
        ("local", "files { bind_read_only_paths = [\"link:/odd\"] }"),
        ("local", "files { root_directory = \"link\" }"),
        ("local", "files { root_image = \"link\" }"),
        ("local", "files { mount_images = [\"link:/odd\"] }"),
        ("local", "properties { LoadCredential = \"a:link\" }"),
        ("local", "properties { RootVerity = \"link\" }"),
    ] {
        let prepared = node.prepare(&Job::shell("exec /bin/sleep infinity").config(config));
        let directory = prepared.alloc_dir().join("web").join(directory);
        let is_directory = config.contains("bind") || config.contains("root_directory");
        let file = directory.join(LINE).join("bin/true ");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        if is_directory {
            std::fs::create_dir(&file).unwrap();
        } else {
            std::fs::write(&file, "x").unwrap();
        }
        std::os::unix::fs::symlink(file.strip_prefix(&directory).unwrap(), directory.join("link")).unwrap();
        match node.begin(prepared).await {
            Ok(task) => {
                let unit = node.unit(&task).await;
                if file_of(&unit).contains("\nExecStopPost") {
                    wrong.push(format!("{config} adds a line"));
                }
                node.destroy(&task, true).await.unwrap();
                drop(task.ended());
            }
            Err(refusal) => eprintln!("{config}: {refusal}"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn start(host: &Host, node: &Node, job: OddJob) -> Result<Running, (OddJob, Refusal)> {
    let asked = job.asked();
    let prepared = node.prepare(&asked);
    job.lay_out(prepared.alloc_dir());
    let task = match node.begin(prepared).await {
        Ok(task) => task,
        Err(refusal) => return Err((job, refusal)),
    };
    let service = node.unit(&task).await;
    let socket = job.has_sockets().then(|| service.replace(".service", ".socket"));
    let units = [service].into_iter().chain(socket);
    let units = units.map(|unit| (unit.clone(), properties(host, &unit))).collect();
    Ok(Running { job, task, units })
}

/// The release of the host's systemd, such as 252.
fn version(host: &Host) -> u32 {
    let output = host.run("systemctl", &["--version"]);
    let number = output.split_whitespace().nth(1).unwrap();
    number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// The messages of PID 1 about transient units whose files it could not read.
fn complaints(host: &Host) -> Vec<String> {
    host.run("journalctl", &["--sync"]);
    let output = host.run("journalctl", &["--quiet", "--boot", "--output=cat", "_PID=1"]);
    output.lines().filter(|line| line.starts_with("/run/systemd/transient/")).map(str::to_owned).collect()
}

/// Whether a message such as `…/UNIT:26: BindPaths= path is not absolute` is about one of these properties.
fn is_about(complaint: &str, unit: &str, names: &[&str]) -> bool {
    let number = complaint.split_once(&format!("{unit}:")).and_then(|(_, behind)| behind.split_once(':'));
    let number: usize = number.and_then(|(number, _)| number.parse().ok()).expect("the number of a line");
    let line = file_of(unit).lines().nth(number - 1).unwrap_or_default().to_owned();
    names.iter().any(|name| line.strip_prefix(name).is_some_and(|behind| behind.starts_with('=')))
}

fn file_of(unit: &str) -> String {
    std::fs::read_to_string(Path::new("/run/systemd/transient").join(unit)).unwrap()
}

/// The sections and keys in a unit's file, such as `[Service] ExecStart`, and lines that are neither.
fn keys(unit: &str) -> BTreeSet<String> {
    let text = file_of(unit);
    let mut section = String::new();
    let lines = text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.map(|line| {
        if line.starts_with('[') {
            line.clone_into(&mut section);
        }
        let key = line.split_once('=').map_or(line, |(key, _)| key);
        if line.starts_with('[') { line.to_owned() } else { format!("{section} {key}") }
    });
    keys.collect()
}

/// The content of every unit's file, or of the file of a plain job.
async fn keys_of_a_plain_job(host: &Host, node: &Node) -> BTreeSet<String> {
    let plain = Job::shell("exec sleep infinity")
        .config("socket {\n name = \"a\"\n path = \"/alloc/a\"\n mode = \"0600\"\n}\nextra_hosts = [\"a:10.0.0.1\"]\nlogging {\n rate_limit_burst = 1\n rate_limit_interval = \"1s\"\n}");
    let task = node.run(plain).await;
    let service = node.unit(&task).await;
    let socket = service.replace(".service", ".socket");
    assert_eq!(
        units::differences(&properties(host, &service), &properties(host, &service)),
        Vec::<String>::new()
    );
    let keys = &keys(&service) | &keys(&socket);
    node.destroy(&task, true).await.unwrap();
    drop(task.ended());
    keys
}

/// Lines of a unit's file that neither a plain job has nor this job requests.
fn unexpected_lines(unit: &str, expected: &BTreeSet<String>, asked: &[String]) -> Vec<String> {
    let is_asked = |key: &str| {
        let name = key.split_once("] ").map_or(key, |(_, name)| name);
        asked.iter().any(|asked| asked == name)
    };
    keys(unit).into_iter().filter(|key| !expected.contains(key) && !is_asked(key)).collect()
}
