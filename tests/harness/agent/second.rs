//! A second client of the cluster, on the same machine.

use std::fs;
use std::net::TcpListener;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::client::Agent;
use super::service::{launch, write_config};
use crate::eventually;

/// A second client, with the plugin and its configuration, but with directories and a port of its own. It leaves the
/// cluster when this is dropped.
pub struct Second<'a> {
    agent: &'a Agent,
    node: String,
    child: Child,
}

impl Agent {
    /// Starts a second client, and waits until it takes jobs. The agent must be [alone](Self::alone).
    pub async fn second(&self) -> Second<'_> {
        let dir = &self.service.dir;
        let mut config: Value =
            serde_json::from_slice(&fs::read(dir.join("client.json")).expect("our own file")).expect("JSON");
        let port = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        config["ports"]["http"] = json!(port.local_addr().expect("it is bound").port());
        drop(port);
        config["data_dir"] = json!(dir.join("second"));
        config["name"] = json!("second");
        write_config(dir, "second", &config);
        let child = launch(&self.service.nomad, dir, "second");
        let node = eventually("there is a second client", async || {
            let nodes = self.get("/v1/nodes");
            let node = nodes.as_array()?.iter().find(|node| {
                node["Name"] == "second"
                    && node["Status"] == "ready"
                    && node["Drivers"][self.driver()]["Healthy"] == true
            })?;
            node["ID"].as_str().map(str::to_owned)
        });
        Second { agent: self, node: node.await, child }
    }
}

impl Second<'_> {
    /// The id of its node.
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::INT));
        let _ = self.child.wait();
        // The next job is not placed there.
        self.agent.put(&format!("/v1/node/{}/purge", self.node), &json!({}));
    }
}
