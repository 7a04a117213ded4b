//! Where a start goes: what each property of a task's unit adds to it.

use std::collections::BTreeMap;
use std::time::Duration;

use nomad_driver_systemd::systemd::Checked;
use tests::{Host, Job, Need, Node};

use crate::floor::{Floor, Properties};
use crate::{median, milliseconds};

const ROUNDS: usize = 40;
/// What a unit cannot be without, and what only names it.
const KEPT: [&str; 3] = ["ExecStart", "ExecStartEx", "Type"];

/// Measures the unit of a command with each of the presets, or with all: bare, whole, and whole without one property.
#[tokio::main]
pub(crate) async fn measure(presets: &[&str]) {
    let Some(host) = Host::alone(Need::Systemd).await else { std::process::exit(1) };
    let all: &[&str] = &["standard", "strict", "off"];
    for preset in if presets.is_empty() { all } else { presets } {
        one_preset(&host, preset).await;
    }
}

async fn one_preset(host: &Host, preset: &str) {
    let node = Node::start(host).await;
    let floor = Floor::new().await;
    let job = Job::command("/bin/sleep").args(&["infinity"]).block("sandbox", &[("preset", preset)]);
    // The driver makes what units share with its first task.
    let _task = node.run(job.clone()).await;
    let prepared = node.prepare(&job);
    let (unit, _env_file) = floor.unit(&prepared).await;
    let whole = Checked::new(unit.properties).unwrap().into_wire();
    let mut names: Vec<String> = whole.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| !KEPT.contains(&name.as_str()));

    let mut variants: BTreeMap<String, Properties> = BTreeMap::new();
    variants.insert("nothing".to_owned(), bare());
    variants.insert("everything".to_owned(), whole.clone());
    for left_out in names {
        let rest = whole.iter().filter(|(name, _)| *name != left_out).cloned().collect();
        variants.insert(left_out, rest);
    }
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..ROUNDS + 3 {
        for (number, (what, properties)) in variants.iter().enumerate() {
            let name = format!("bench-{preset}-{round}-{number}.service");
            let Some(took) = floor.timed(&name, properties.clone()).await else { continue };
            // The first rounds warm up.
            if round >= 3 {
                times.entry(what).or_default().push(took);
            }
        }
    }
    let mut medians: BTreeMap<&str, f64> =
        times.iter_mut().map(|(what, times)| (*what, milliseconds(median(times)))).collect();
    let (bare, whole) = (medians.remove("nothing").unwrap(), medians.remove("everything").unwrap());
    println!("| preset `{preset}` | start | of a bare unit |");
    println!("|---|---|---|");
    println!("| a bare unit (`Type=exec`) | {bare:.2} ms | 1 |");
    println!("| all properties | {whole:.2} ms | {:.2} |", whole / bare);
    let mut saved: Vec<_> = medians.into_iter().map(|(what, without)| (what, whole - without)).collect();
    saved.sort_by(|one, other| other.1.total_cmp(&one.1));
    variants
        .keys()
        .filter(|what| !times.contains_key(what.as_str()))
        .for_each(|what| println!("| `{what}` | cannot be left out | |"));
    for (what, saved) in saved {
        println!("| `{what}` | {saved:+.2} ms | {:+.2} |", saved / bare);
    }
    println!();
}

/// A unit with nothing but a command.
fn bare() -> Properties {
    let command = vec![("/bin/sleep", vec!["/bin/sleep", "infinity"], false)];
    let properties = [("Type", zbus::Variant::from("exec")), ("ExecStart", zbus::Variant::from(command))];
    properties.map(|(name, value)| (name.to_owned(), value)).into()
}
