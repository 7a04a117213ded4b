//! The fingerprint of this node: whether it can run tasks, and with which features.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use proto::driver::FingerprintResponse;
use proto::driver::fingerprint_response::HealthState;
use proto::structs::Attribute;
use proto::structs::attribute::Value;

use crate::systemd::{Features, Systemd};
use crate::task::Tasks;

/// How long systemd may take to answer on a healthy node.
const SYSTEMD_ANSWERS: Duration = Duration::from_secs(10);

/// Takes the fingerprint. Values that change by themselves are not published, since every change goes to Nomad's
/// servers.
pub(super) async fn look(systemd: &Systemd, tasks: &Tasks) -> FingerprintResponse {
    let manager = tasks.manager();
    if !rustix::process::geteuid().is_root() && manager.is_none() {
        return unfit(
            HealthState::Undetected,
            "Driver must run as root, or `manager` be set in its configuration: \"user\", or \"system\" where polkit lets this \
             user start units",
        );
    }
    let features = match systemd.features().await {
        Ok(features) => features,
        Err(error) => return unfit(HealthState::Unhealthy, &crate::chain(&error)),
    };
    if !systemd.answers(SYSTEMD_ANSWERS).await {
        return unfit(
            HealthState::Unhealthy,
            &format!(
                "systemd does not answer within {SYSTEMD_ANSWERS:?}; `systemd-cgtop` may show the task that keeps it busy"
            ),
        );
    }
    if let Some(why) = features.unsupported_reason() {
        return unfit(HealthState::Undetected, &why);
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return unfit(
            HealthState::Undetected,
            "this node has no unified cgroup hierarchy (cgroup v2), which the driver needs",
        );
    }
    if let Some(why) = tasks.unfit().await {
        return unfit(HealthState::Unhealthy, &why);
    }
    let controllers: Vec<&str> = features.controllers.iter().map(String::as_str).collect();
    let text =
        |value: &str| Attribute { value: Some(Value::StringVal(value.to_owned())), ..Attribute::default() };
    let flag = |value: bool| Attribute { value: Some(Value::BoolVal(value)), ..Attribute::default() };
    let wasmtime = match tasks.wasmtime().await {
        Ok(wasmtime) => wasmtime,
        Err(why) => return unfit(HealthState::Unhealthy, &why),
    };
    let mut attributes = HashMap::from([
        ("driver.systemd".to_owned(), flag(true)),
        ("driver.systemd.version".to_owned(), text(env!("CARGO_PKG_VERSION"))),
        ("driver.systemd.systemd".to_owned(), text(&features.version.to_string())),
        ("driver.systemd.manager".to_owned(), text(&features.manager.to_string())),
        ("driver.systemd.controllers".to_owned(), text(&controllers.join(","))),
        ("driver.systemd.filters".to_owned(), flag(features.filters)),
        ("driver.systemd.wasm".to_owned(), flag(wasmtime.is_some())),
    ]);
    if let Some(version) = wasmtime.filter(|version| !version.is_empty()) {
        attributes.insert("driver.systemd.wasmtime".to_owned(), text(&version));
    }
    FingerprintResponse {
        attributes,
        health: HealthState::Healthy.into(),
        health_description: health(&features),
        err: String::new(),
    }
}

/// Nomad's word for a healthy driver, and which of every job's `resources` have no effect on this node.
fn health(features: &Features) -> String {
    let missing: Vec<&str> = ["cpu", "memory"]
        .into_iter()
        .filter(|controller| !features.controllers.contains(*controller))
        .collect();
    if missing.is_empty() {
        return "Healthy".to_owned();
    }
    format!(
        "Healthy, but {} limits are not enforced: this node lacks the cgroup controller",
        missing.join(" and ")
    )
}

/// Speed of a core in MHz as the kernel reports it, for an agent that does not send it. Zero if the speed cannot be
/// read.
pub(super) fn core_speed() -> f64 {
    let most = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq");
    if let Some(kilohertz) = most.ok().and_then(|text| text.trim().parse::<f64>().ok()) {
        return kilohertz / 1000.0;
    }
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = processors.lines().find(|line| line.starts_with("cpu MHz"));
    line.and_then(|line| line.split(':').nth(1)?.trim().parse().ok()).unwrap_or_default()
}

fn unfit(health: HealthState, why: &str) -> FingerprintResponse {
    FingerprintResponse { health: health.into(), health_description: why.to_owned(), ..Default::default() }
}
