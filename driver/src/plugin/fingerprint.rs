//! What this node is for Nomad: can it run tasks, and with what.

use std::collections::HashMap;
use std::path::Path;

use proto::driver::FingerprintResponse;
use proto::driver::fingerprint_response::HealthState;
use proto::structs::Attribute;
use proto::structs::attribute::Value;

use crate::systemd::Systemd;
use crate::task::Tasks;

/// Debian 11's. What we send has the same names and types since.
const OLDEST_SYSTEMD: u32 = 247;

/// Looks at the node. Nothing that changes by itself is published, since every change goes to Nomad's servers.
pub(super) async fn look(systemd: &Systemd, tasks: &Tasks) -> FingerprintResponse {
    if !rustix::process::geteuid().is_root() {
        return unfit(HealthState::Undetected, "Driver must run as root");
    }
    let version = match systemd.version().await {
        Ok(version) => version,
        Err(error) => return unfit(HealthState::Unhealthy, &crate::chain(&error)),
    };
    let number: String = version.chars().take_while(char::is_ascii_digit).collect();
    if number.parse().is_ok_and(|number: u32| number < OLDEST_SYSTEMD) {
        let why = format!("systemd {number} is too old, the driver needs {OLDEST_SYSTEMD} or newer");
        return unfit(HealthState::Undetected, &why);
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return unfit(
            HealthState::Undetected,
            "this node has no unified cgroup hierarchy (cgroup v2), which the driver needs",
        );
    }
    let text =
        |value: &str| Attribute { value: Some(Value::StringVal(value.to_owned())), ..Attribute::default() };
    let flag = |value: bool| Attribute { value: Some(Value::BoolVal(value)), ..Attribute::default() };
    FingerprintResponse {
        attributes: HashMap::from([
            ("driver.systemd".to_owned(), flag(true)),
            ("driver.systemd.version".to_owned(), text(env!("CARGO_PKG_VERSION"))),
            ("driver.systemd.systemd".to_owned(), text(&number)),
            ("driver.systemd.wasm".to_owned(), flag(tasks.can_run_wasm())),
        ]),
        health: HealthState::Healthy.into(),
        // Nomad's word for a driver that is well.
        health_description: "Healthy".to_owned(),
        err: String::new(),
    }
}

/// The speed of a core in MHz as the kernel says it, for an agent that does not; zero when it is nowhere to be read.
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
