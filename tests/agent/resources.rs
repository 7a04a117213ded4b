//! Resources of a task: the memory that it gets, and its usage.

use tests::{Agent, Spec, eventually};

use super::{Matter, differs, has_controller};

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn one_that_needs_more_memory_than_it_has_is_killed_and_nomad_told_why() {
    let agent = agent!();
    if !has_controller("memory") {
        eprintln!(
            "skipped: the memory controller is not there; tests/limits asks for this in the virtual machine"
        );
        return;
    }
    let alloc = agent.run(Spec::batch("exec tail /dev/zero")).await;
    assert_eq!(alloc.end().await, (137, 9, !differs(&agent, Matter::OutOfMemory)));
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn what_it_uses_is_measured() {
    let agent = agent!();
    let alloc = agent.run(Spec::service("while :; do :; done")).await;
    let stats = format!("/v1/client/allocation/{}/stats", alloc.id());
    eventually("CPU time and memory are told", async || {
        let usage = &agent.get(&stats)["Tasks"]["main"]["ResourceUsage"];
        let number = |kind: &str, name: &str| usage[kind][name].as_f64().unwrap_or_default();
        let memory = number("MemoryStats", "RSS").max(number("MemoryStats", "Usage"));
        (number("CpuStats", "Percent") > 1.0 && number("CpuStats", "TotalTicks") > 1.0 && memory > 1024.0)
            .then_some(())
    })
    .await;
    eventually("the agent publishes it", async || {
        let metrics = agent.get("/v1/metrics");
        let gauges = metrics["Gauges"].as_array()?;
        ["cpu.total_percent", "memory.rss"]
            .iter()
            .all(|name| {
                gauges.iter().any(|gauge| {
                    gauge["Name"] == format!("nomad.client.allocs.{name}")
                        && gauge["Labels"]["alloc_id"] == alloc.id()
                        && gauge["Value"].as_f64() > Some(0.0)
                })
            })
            .then_some(())
    })
    .await;
}
