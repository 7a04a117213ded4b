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

/// Prints the ratios of each row over all runs in the file, from the lowest to the highest: a document may claim the worst.
pub(crate) fn worst(results: &Path) {
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in fs::read_to_string(results).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let what = row["what"].as_str().unwrap().to_owned();
        ratios.entry(what).or_default().push(row["ratio"].as_f64().unwrap());
    }
    println!("| what | runs | lowest ratio | median | highest |");
    println!("|---|---|---|---|---|");
    for (what, mut ratios) in ratios {
        let middle = crate::median(&mut ratios);
        println!(
            "| {what} | {} | {:.2} | {middle:.2} | {:.2} |",
            ratios.len(),
            ratios[0],
            ratios[ratios.len() - 1]
        );
    }
}
