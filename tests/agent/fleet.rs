//! Jobs for all nodes of a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{Agent, Desk, eventually, exiting_guest, program, repository};

use super::{ends, served};

/// A job file of the folder for fleets.
fn example(name: &str) -> PathBuf {
    repository().join("examples/fleet").join(name).with_extension("nomad.hcl")
}

/// The nodes on which the allocations of a job have this status.
fn nodes_of(agent: &Agent, job: &str, status: &str) -> BTreeSet<String> {
    let allocations = agent.get(&format!("/v1/job/{job}/allocations"));
    let allocations = allocations.as_array().into_iter().flatten();
    allocations
        .filter(|one| one["ClientStatus"] == status)
        .filter_map(|one| one["NodeID"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn the_example_that_warms_all_nodes_leaves_the_code_in_the_cache() {
    let agent = agent!();
    let file = example("warm");
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

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn the_jobs_for_all_nodes_run_on_both_clients_of_a_cluster() {
    let agent = ours!(Agent::alone());
    let second = agent.second().await;
    let module = format!("module={}", served("six.wasm", exiting_guest(6)));
    let program = format!("program={}", program("nomad-driver-systemd").display());
    let _warm = agent.run_job_file("warm", &example("warm"), &[&module, &program]).await;
    let nodes = eventually("both nodes are warm", async || {
        Some(nodes_of(&agent, "warm", "complete")).filter(|nodes| nodes.len() == 2)
    });
    assert!(nodes.await.contains(second.node()));

    // Two instances of a server, on different nodes, each with a passing check.
    let desk = Desk::new();
    let module = format!("module={}", served("web.wasm", fs::read(desk.guest("web")).unwrap()));
    let shop = agent.run_job_file("shop", &example("shop"), &[&module]).await;
    eventually("both serve", async || (nodes_of(&agent, "shop", "running").len() == 2).then_some(())).await;
    eventually("both checks pass", async || {
        let deployments = agent.get("/v1/job/shop/deployments");
        (deployments[0]["Status"] == "successful").then_some(())
    })
    .await;
    let services = agent.get("/v1/service/shop");
    let address = format!("http://{}:{}/", services[0]["Address"].as_str().unwrap(), services[0]["Port"]);
    let answers = || {
        let http = ureq::Agent::config_builder().timeout_global(Some(tests::SOON)).build().new_agent();
        http.get(&address).call().is_ok()
    };
    assert!(answers());
    // A stopped instance has left the service, and still answers.
    shop.stop().await;
    eventually("the service is empty", async || {
        agent.get("/v1/service/shop").as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
    assert!(answers(), "within its shutdown_delay");
    eventually("both are gone", async || nodes_of(&agent, "shop", "running").is_empty().then_some(())).await;
    assert!(!answers());
}

/// A package with one file, for the package manager of this host.
struct Package {
    directory: tempfile::TempDir,
}

impl Package {
    const NAME: &'static str = "nomad-driver-systemd-test";
    const FILE: &'static str = "/opt/nomad-driver-systemd-test/version";

    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn version(&self, version: &str) -> Vec<u8> {
        let (root, deb) = (self.directory.path().join(version), self.directory.path().join("test.deb"));
        for (path, text) in [
            (
                "DEBIAN/control",
                format!(
                    "Package: {}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@example.com>\nDescription: x\n",
                    Self::NAME
                ),
            ),
            (&Self::FILE[1..], version.to_owned()),
        ] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        let built =
            Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&root).arg(&deb).output();
        assert!(built.unwrap().status.success());
        fs::read(deb).unwrap()
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        let _ = Command::new("dpkg").args(["--purge", Self::NAME]).output();
    }
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn the_example_that_upgrades_all_nodes_installs_a_package_and_restarts_the_agent_later_and_rolls_back()
{
    let agent = ours!(Agent::alone());
    let package = Package::new();
    let restarted = package.directory.path().join("restarted");
    let restart = format!("restart=touch {}", restarted.display());
    for version in ["1", "2", "1"] {
        let address = format!("package={}", served("driver.deb", package.version(version)));
        let alloc =
            agent.run_job_file("upgrade", &example("upgrade"), &[&address, &restart, "spread=0"]).await;
        let (status, events) = alloc.ended().await;
        assert_eq!((status.as_str(), ends(&events)), ("complete", vec![(0, 0)]), "{events:?}");
        assert_eq!(fs::read_to_string(Package::FILE).unwrap(), version);
        eventually("the agent is restarted", async || fs::remove_file(&restarted).ok()).await;
    }
}
