//! Jobs for all nodes of a cluster.

use std::path::Path;

use tests::{Agent, exiting_guest, program, repository};

use super::{ends, served};

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn the_example_that_warms_all_nodes_leaves_the_code_in_the_cache() {
    let agent = agent!();
    let file = repository().join("examples/fleet/warm.nomad.hcl");
    let module = format!("module={}", served("seven.wasm", exiting_guest(7)));
    let program = format!("program={}", program("nomad-driver-systemd").display());
    let variables = [module.as_str(), program.as_str(), "options=[\"--fuel\"]"];
    let alloc = agent.run_job_file("warm", &file, &variables).await;
    let (status, events) = alloc.ended().await;
    assert_eq!((status.as_str(), ends(&events)), ("complete", vec![(0, 0)]), "{events:?}");
    let printed = alloc.says(".cwasm").await;
    let (_, code) = printed.split_once("seven.wasm: ").unwrap();
    let (code, _) = code.split_once(" (").unwrap();
    assert!(Path::new(code).is_file(), "{printed}");
}
