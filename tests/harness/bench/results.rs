//! Results for programs: a JSON object per line in the file that `BENCH_RESULTS` names, and what is worst in many of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

/// Adds a row to the file of results: what was measured, its ratio to the floor, and the median of each side.
pub(crate) fn record(what: &str, ratio: f64, medians: &Value) {
    let Some(path) = std::env::var_os("BENCH_RESULTS") else { return };
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{}", json!({ "what": what, "ratio": ratio, "medians": medians })).unwrap();
}

/// The ratios of each row over all runs: to its floor, and of those that have one how much better than wasmtime it is.
struct Ratios {
    to_floor: BTreeMap<String, Vec<f64>>,
    /// Of rates, of which more is better.
    of_rate: BTreeMap<String, Vec<f64>>,
    better: BTreeMap<String, Vec<f64>>,
}

impl Ratios {
    fn read(results: &Path) -> Self {
        let (mut to_floor, mut better) = (BTreeMap::new(), BTreeMap::new());
        for line in fs::read_to_string(results).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let add = |ratios: &mut BTreeMap<String, Vec<f64>>, value: &Value| {
                let what = row["what"].as_str().unwrap().to_owned();
                ratios.entry(what).or_default().extend(value.as_f64());
            };
            add(&mut to_floor, &row["ratio"]);
            add(&mut better, &row["medians"]["better"]);
        }
        for ratios in to_floor.values_mut().chain(better.values_mut()) {
            ratios.sort_unstable_by(f64::total_cmp);
        }
        better.retain(|_, ratios| !ratios.is_empty());
        let (of_rate, to_floor) = to_floor.into_iter().partition(|(what, _)| what.ends_with("a second"));
        Self { to_floor, of_rate, better }
    }
}

/// Prints the ratios of each row over all runs in the file, from the lowest to the highest: a document may claim the worst.
pub(crate) fn worst(results: &Path) {
    let Ratios { to_floor, of_rate, better } = Ratios::read(results);
    let table = |worst: &str, rows: &BTreeMap<String, Vec<f64>>| {
        println!("| what | runs | lowest | median | highest |\n|---|---|---|---|---|");
        for (what, ratios) in rows {
            let (runs, middle) = (ratios.len(), ratios[ratios.len() / 2]);
            println!("| {what} | {runs} | {:.2} | {middle:.2} | {:.2} |", ratios[0], ratios[runs - 1]);
        }
        println!("\n{worst}\n");
    };
    table("Ratios to the floor: the highest is the worst.", &to_floor);
    table("Ratios to the rate of the floor: the lowest is the worst.", &of_rate);
    table("Better than wasmtime by: the lowest is the worst.", &better);
}

/// Draws the worst of each row over all runs in the file, as the README shows them.
pub(crate) fn plot(results: &Path) {
    /// Blocks of a bar for a ratio of 1.
    const ONE: f64 = 4.0;
    let Ratios { to_floor, of_rate, better } = Ratios::read(results);
    for (title, rows, is_highest) in [
        ("to the floor, shorter is better", &to_floor, true),
        ("of the floor's rate, longer is better", &of_rate, false),
        ("better than wasmtime by, longer is better", &better, false),
    ] {
        println!("{title}");
        let width = rows.keys().map(|what| what.chars().count()).max().unwrap_or_default();
        for (what, ratios) in rows {
            let ratio = if is_highest { ratios[ratios.len() - 1] } else { ratios[0] };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a short bar")]
            let blocks = (ratio * ONE).round() as usize;
            let (first, rest) = (blocks.min(4), blocks.saturating_sub(4));
            println!("{what:width$}  {ratio:5.2}  {:4}|{}", "█".repeat(first), "█".repeat(rest));
        }
        println!();
    }
}
