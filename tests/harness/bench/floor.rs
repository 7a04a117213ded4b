//! The floor of a start: the same unit, started over D-Bus by a client that does nothing else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nomad_driver_systemd::systemd::{Checked, Features, Stream, Systemd, TransientUnit};
use nomad_driver_systemd::task::config::{
    DriverConfig, NetworkMode, PluginConfig, Resources, TaskConfig, TaskId, TaskIdentity,
};
use nomad_driver_systemd::task::host::program::ProgramKind;
use nomad_driver_systemd::task::host::resources::HostResources;
use nomad_driver_systemd::task::host::users::HostAccounts;
use nomad_driver_systemd::task::host::{env, logs, view};
use nomad_driver_systemd::task::spec::{NodeSpec, Outline, TaskSpec};
use nomad_driver_systemd::task::unit::{self, ProcessStart};
use tests::{Job, Node, Prepared, program};
use zbus::{MessageStream, OwnedObjectPath, Variant};

/// The properties of a unit, as systemd gets them.
pub(crate) type Properties = Vec<(String, Variant<'static>)>;

/// The bare client: one call, and the signal that the job has finished.
pub(crate) struct Floor {
    connection: zbus::Connection,
    node: NodeSpec,
    features: Features,
}

impl Floor {
    pub(crate) async fn new() -> Self {
        let connection = zbus::Connection::system().await.unwrap();
        let manager = "org.freedesktop.systemd1.Manager";
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender("org.freedesktop.systemd1")
            .interface(manager)
            .member("JobRemoved")
            .build()
            .unwrap();
        zbus::fdo::DBusProxy::new(&connection).await.unwrap().add_match_rule(rule).await.unwrap();
        call(&connection, "Subscribe", &()).await;
        let features = Systemd::default().features().await.unwrap();
        Self { connection, features, node: NodeSpec::resolve(PluginConfig::decode(&[]).unwrap()).unwrap() }
    }

    /// The start of the unit that the driver creates for a command, until systemd has started it.
    pub(crate) async fn timed_start(&self, node: &Node) -> Duration {
        let prepared = node.prepare(&Job::command("/bin/sleep").args(&["infinity"]));
        // The file exists as long as this value.
        let (unit, _env_file) = self.unit(&prepared).await;
        let properties = Checked::new(unit.properties).unwrap().into_wire();
        self.timed(unit.name.as_str(), properties).await.unwrap()
    }

    /// The start of a unit with these properties, if it starts.
    pub(crate) async fn timed(&self, name: &str, properties: Properties) -> Option<Duration> {
        let others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let mut messages = MessageStream::from(&self.connection);
        let began = Instant::now();
        let answer = call(&self.connection, "StartTransientUnit", &(name, "fail", properties, others)).await;
        let job: OwnedObjectPath = answer.body().deserialize().unwrap();
        let mut has_started = false;
        while let Some(Ok(message)) = messages.next().await {
            if message.header().member().is_some_and(|member| member.as_str() == "JobRemoved") {
                let (_, ended, _, result): (u32, OwnedObjectPath, String, String) =
                    message.body().deserialize().unwrap();
                if ended == job {
                    has_started = result == "done";
                    break;
                }
            }
        }
        let took = began.elapsed();
        drop(messages);
        call(&self.connection, "KillUnit", &(name, "all", 9)).await;
        call(&self.connection, "StopUnit", &(name, "replace")).await;
        let _ = self
            .connection
            .call_method(
                Some("org.freedesktop.systemd1"),
                "/org/freedesktop/systemd1",
                Some("org.freedesktop.systemd1.Manager"),
                "ResetFailedUnit",
                &(name,),
            )
            .await;
        has_started.then_some(took)
    }

    /// The unit that the driver would create, and the file with its variables.
    pub(crate) async fn unit(&self, prepared: &Prepared) -> (TransientUnit, tempfile::NamedTempFile) {
        let wire = &prepared.config;
        let config = TaskConfig {
            identity: TaskIdentity {
                id: TaskId(wire.id.clone()),
                name: wire.name.clone(),
                alloc_id: wire.alloc_id.clone(),
                alloc_dir: PathBuf::from(&wire.alloc_dir),
                env: wire.env.clone().into_iter().collect(),
            },
            job_id: "job".into(),
            job_name: "job".into(),
            namespace: "default".into(),
            group_name: "group".into(),
            driver: DriverConfig::decode(&wire.msgpack_driver_config).unwrap(),
            user: String::new(),
            stdout_path: PathBuf::from(&wire.stdout_path),
            stderr_path: PathBuf::from(&wire.stderr_path),
            resources: Resources { cpu_shares: 100, memory_mb: 300, ..Resources::default() },
            mounts: Vec::new(),
            devices: Vec::new(),
            network: NetworkMode::Host,
            dns: None,
            given: Vec::new(),
            ports: std::collections::BTreeMap::new(),
        };
        let outline = Outline::resolve(&config, &self.node, &self.features, &HostAccounts).unwrap();
        let task = TaskSpec::resolve(outline, ProgramKind::Native).unwrap();
        let env_file = env::write(&task.env, &self.node.runtime_dir).unwrap();
        let open = |path: &'static str| logs::open(Path::new("/"), Path::new(path));
        let begin = ProcessStart {
            ephemeral_user: String::new(),
            env_file: env_file.path().to_owned(),
            stdin: Stream::Null,
            stdout: open("/dev/null").await.unwrap(),
            stderr: open("/dev/null").await.unwrap(),
        };
        let made =
            HostResources { root: view::shared_root(&self.node.runtime_dir), ..HostResources::of(&task) };
        let command = unit::Command::native(program("wasm-shim"), "/bin/sleep".into(), &task);
        (unit::build(&task, &command, made, begin), env_file)
    }
}

async fn call<B>(connection: &zbus::Connection, method: &str, body: &B) -> zbus::Message
where
    B: serde::Serialize + zbus::DynamicType + Sync,
{
    let manager = Some("org.freedesktop.systemd1.Manager");
    let path = "/org/freedesktop/systemd1";
    connection.call_method(Some("org.freedesktop.systemd1"), path, manager, method, body).await.unwrap()
}
