//! `nomad-driver-systemd unit JOB.nomad.hcl`: the requests that the driver would get if the job ran. Nothing is run.
//!
//! The plugin process provides its schema and its capabilities, for which it needs no systemd. Two calls for the same
//! job give the same result: ids, ports and the path of the allocation are made up.

use std::path::Path;

use proto::driver::TaskConfig;

use crate::error::Error;
use crate::jobspec::JobFile;
use crate::node::DRIVER;
use crate::node::Node;
use crate::options::{Invocation, JobOptions};
use crate::plugin_client::{Launch, Plugin};
use crate::request::{Ports, Requests};
use crate::run::stop_signals::StopSignals;
use crate::run::tell_warnings;

/// The default path of an agent's allocations.
const ALLOCATIONS: &str = "/var/lib/nomad/alloc";

/// The requests that the driver would get, and the plugin's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitRequests {
    /// The plugin's configuration as `SetConfig` carries it, in MessagePack.
    pub plugin_config: Vec<u8>,
    /// Each task's `<job>/<group>/<task>`, and its request in `StartTask`, with `/dev/null` for its output.
    pub tasks: Vec<(String, TaskConfig)>,
    file: JobFile,
}

impl UnitRequests {
    /// The driver's message about a task, followed by the line of the option that it names.
    pub fn marked(&self, task: &TaskConfig, message: String) -> String {
        match self.file.lines_of_message(&task.name, &message) {
            Some(lines) => format!("{message}\n{lines}"),
            None => message,
        }
    }
}

/// Computes everything that precedes a task's start and changes nothing on the node.
pub async fn requests(options: &JobOptions) -> Result<UnitRequests, Error> {
    let asked = options.read_to_show()?;
    // Without this, Ctrl-C would end us and not the plugin.
    let mut stop_signals = StopSignals::watch()?;
    let requested = async {
        let wrong = |source| Error::Plugin { source: Box::new(source) };
        let launch = Launch::new(&asked.program).records(tell_warnings);
        let plugin = Plugin::launch(launch).await.map_err(wrong)?;
        let requested = ask(&plugin, &asked).await;
        plugin.shutdown().await;
        requested
    };
    tokio::select! {
        requested = requested => requested.map_err(|error| error.marked_in(&asked.file)),
        () = stop_signals.next() => Err(Error::Interrupted),
    }
}

async fn ask(plugin: &Plugin, asked: &Invocation) -> Result<UnitRequests, Error> {
    let wrong = |source| Error::Plugin { source: Box::new(source) };
    let plugin_config = plugin.check(&asked.config).await.map_err(wrong)?;
    let mut node = Node::of_this_machine();
    node.attributes.insert(format!("driver.{DRIVER}"), "1".to_owned());
    let mut requests = Requests::new(plugin, asked, &node, Ports::example(&asked.job)).await?;
    let mut tasks = Vec::new();
    for (number, group) in asked.job.groups.iter().enumerate() {
        let id = format!("00000000-0000-4000-8000-{number:012}");
        let path = Path::new(ALLOCATIONS).join(&id);
        let allocation = requests.allocation(group, id, path)?;
        for task in &group.tasks {
            let environment = requests.environment(&allocation, task)?;
            let request = requests.task(&allocation, task, &environment).await?;
            let id = format!("{}/{}/00000000", request.alloc_id, request.task);
            let name = format!("{}/{}/{}", asked.job.id, group.name, task.name);
            tasks.push((name, TaskConfig { id, ..request.task_config() }));
        }
    }
    Ok(UnitRequests { plugin_config, tasks, file: asked.file.clone() })
}

#[cfg(test)]
mod tests {
    use proto::driver::NetworkIsolationSpec;
    use proto::driver::network_isolation_spec::NetworkIsolationMode;

    use super::*;
    use crate::fake::Fake;

    const JOB: &str = r#"
variable "word" {}

job "web" {
  group "g" {
    network {
      mode = "none"
      port "http" {}
    }
    volume "v" {
      type   = "host"
      source = "data"
    }
    task "t" {
      driver = "systemd"
      config {
        command = "echo"
        args    = [var.word, "${NOMAD_PORT_http}", "${attr.driver.systemd}"]
      }
      artifact { source = "http://192.0.2.1/never" }
      volume_mount {
        volume           = "v"
        destination      = "/srv/${NOMAD_TASK_NAME}"
        propagation_mode = "host-to-task"
      }
    }
  }
  group "h" {
    task "u" {
      driver = "systemd"
      config { command = "true" }
    }
  }
}
"#;

    fn options(directory: &Path, volume: &str) -> JobOptions {
        let file = directory.join("x.nomad.hcl");
        std::fs::write(&file, JOB).unwrap();
        JobOptions {
            file,
            variables: vec!["word=hello".to_owned()],
            variable_files: Vec::new(),
            volumes: vec![volume.to_owned()],
            plugin_config: Some("manager = \"user\"".to_owned()),
            plugin: None,
        }
    }

    #[tokio::test]
    async fn a_job_is_asked_for_and_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let fake = Fake::default();
        let plugin = Some(fake.serve(directory.path()));
        let options = JobOptions { plugin, ..options(directory.path(), "data=/no/such/place:ro") };
        let requested = requests(&options).await.unwrap();
        assert_eq!(requested, requests(&options).await.unwrap());
        assert!(fake.calls.lock().unwrap().is_empty());

        let config = rmpv::decode::read_value(&mut requested.plugin_config.as_slice()).unwrap();
        assert_eq!(config.to_string(), r#"{"manager": "user"}"#);
        let names: Vec<_> = requested.tasks.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["web/g/t", "web/h/u"]);
        let (first, second) = (&requested.tasks[0].1, &requested.tasks[1].1);
        assert_eq!(first.id, "00000000-0000-4000-8000-000000000000/t/00000000");
        assert_eq!(first.alloc_dir, "/var/lib/nomad/alloc/00000000-0000-4000-8000-000000000000");
        assert_eq!((first.stdout_path.as_str(), first.stderr_path.as_str()), ("/dev/null", "/dev/null"));
        assert_ne!(first.alloc_id, second.alloc_id);
        let config = rmpv::decode::read_value(&mut first.msgpack_driver_config.as_slice()).unwrap();
        assert_eq!(config.to_string(), r#"{"args": ["hello", "20000", "1"], "command": "echo"}"#);

        let mount = &first.mounts[0];
        assert_eq!((mount.host_path.as_str(), mount.task_path.as_str()), ("/no/such/place", "/srv/t"));
        assert_eq!((mount.readonly, mount.propagation_mode.as_str()), (true, "host-to-task"));
        assert_eq!(mount.request_name, "data");
        let network =
            |task: &TaskConfig| task.network_isolation_spec.as_ref().map(NetworkIsolationSpec::mode);
        assert_eq!(network(first), Some(NetworkIsolationMode::None));
        assert_eq!((network(second), second.mounts.len()), (None, 0));
    }

    #[tokio::test]
    async fn a_driver_that_takes_no_volumes_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut fake = Fake::default();
        fake.no_mounts = true;
        let plugin = Some(fake.serve(directory.path()));
        let options = JobOptions { plugin, ..options(directory.path(), "data=/srv") };
        let error = requests(&options).await.unwrap_err().to_string();
        assert!(error.starts_with("task t: the driver takes no volumes"), "{error}");
    }
    #[tokio::test]
    async fn a_job_that_needs_an_agent_is_shown_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let fake = Fake::default();
        let file = directory.path().join("x.nomad.hcl");
        let job = r#"
job "web" {
  parameterized { payload = "required" }
  group "g" {
    count = 3
    network {
      mode = "bridge"
      port "http" { to = 8080 }
    }
    volume "v" {
      type   = "host"
      source = "data"
    }
    task "t" {
      driver = "systemd"
      dispatch_payload { file = "x" }
      config { command = "echo" }
      volume_mount {
        volume      = "v"
        destination = "/srv"
      }
    }
  }
}
"#;
        let plugin = Some(fake.serve(directory.path()));
        let variables = Vec::new();
        let asked = JobOptions { file, variables, plugin, ..options(directory.path(), "other=/srv") };
        std::fs::write(&asked.file, job).unwrap();
        let task = &requests(&asked).await.unwrap().tasks[0].1;
        let network = task.network_isolation_spec.as_ref().unwrap();
        assert_eq!(network.mode(), NetworkIsolationMode::Group);
        assert_eq!(network.path, format!("/var/run/netns/{}", task.alloc_id));
        assert_eq!(task.mounts[0].host_path, "/PATH-OF-VOLUME/data");
    }
}
