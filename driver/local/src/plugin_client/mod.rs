//! The host's half of go-plugin: starts a plugin process, performs the handshake, and speaks gRPC over its socket.
//!
//! The steps and timeouts are those of Nomad's agent, in the same order, so that a plugin cannot tell the difference.
//! Facts from go-plugin v1.8.0 (client.go, log_entry.go, grpc_client.go) and Nomad v2.0.5 (plugins/base/plugin.go,
//! helper/pluginutils/loader/).

mod error;
mod handshake;
mod launch;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use proto::base::base_plugin_client::BasePluginClient;
use proto::base::{ConfigSchemaRequest, NomadConfig, SetConfigRequest};
use proto::driver::driver_client::DriverClient;
use proto::driver::{
    CapabilitiesRequest, DriverCapabilities, FingerprintRequest, FingerprintResponse, InitRequest,
    ShutdownRequest, TaskConfigSchemaRequest,
};
use proto::plugin::grpc_controller_client::GrpcControllerClient;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

pub use self::error::{CallError, Error, failed};
use self::handshake::{COOKIE, NoLine, address, connect, handshake, keep_streams_open};
use self::launch::{LastLines, joined, read};
pub use self::launch::{Launch, Record};
use crate::hclspec;
use crate::jobspec::expression::Scope;
use crate::node::Node;

/// How long a plugin may take to exit after `Shutdown` (go-plugin's `Client.Kill`).
const END: Duration = Duration::from_secs(2);

/// The version of the plugin interface that we offer, as Nomad does.
const API_VERSION: &str = "v0.1.0";

/// A plugin after its handshake. Dropping it kills the process, unless it was reattached to.
#[derive(Debug)]
pub struct Plugin {
    channel: Channel,
    address: String,
    pid: u32,
    child: Option<Child>,
    last_lines: LastLines,
    /// Readers of the plugin's output, and the streams that go-plugin keeps open; they end with the plugin.
    _background: JoinSet<()>,
}

impl Plugin {
    /// Starts the process, waits for its handshake and connects.
    pub async fn launch(launch: Launch) -> Result<Self, Error> {
        let Launch { program, args, env, records } = launch;
        let started = Command::new(&program)
            .args(args)
            .envs(env)
            .env(COOKIE.0, COOKIE.1)
            .env("PLUGIN_PROTOCOL_VERSIONS", "2")
            .env("PLUGIN_MIN_PORT", "10000")
            .env("PLUGIN_MAX_PORT", "25000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // A signal from the terminal goes to the process that runs the plugin, which ends the tasks first.
            .process_group(0)
            .spawn();
        let mut child = started.map_err(|source| Error::Start { program: program.clone(), source })?;
        let last_lines = LastLines::default();
        let mut background = JoinSet::new();
        let reader =
            child.stderr.take().map(|stderr| background.spawn(read(stderr, last_lines.clone(), records)));
        let stdout = child.stdout.take();
        let address = match handshake(stdout, &mut background).await {
            Ok(line) => address(line.trim_end())
                .map_err(|reason| Error::Handshake { line: line.trim_end().to_owned(), reason }),
            Err(NoLine::Deadline) => Err(Error::Silent { program, last_lines: joined(&last_lines) }),
            Err(NoLine::End) => {
                let _ = child.start_kill();
                let status = child.wait().await.unwrap_or_default();
                // The reader ends at the end of the pipe; then the last lines are complete.
                if reader.is_some() {
                    let _ = timeout(END, background.join_next()).await;
                }
                Err(Error::Died { program, status, last_lines: joined(&last_lines) })
            }
        };
        let connected = match address {
            Ok(address) => connect(&address).await.map(|channel| (address, channel)),
            Err(error) => Err(error),
        };
        match connected {
            Ok((address, channel)) => {
                let pid = child.id().unwrap_or_default();
                keep_streams_open(&channel, &mut background);
                Ok(Self { channel, address, pid, child: Some(child), last_lines, _background: background })
            }
            Err(error) => {
                let _ = child.kill().await;
                Err(error)
            }
        }
    }

    /// Connects to a plugin that another host left running, as an agent does after a crash of its own.
    pub async fn reattach(pid: u32, socket: &Path) -> Result<Self, Error> {
        pidfd(pid).map_err(|source| Error::Reattach { pid, source })?;
        let address = format!("unix:{}", socket.display());
        let channel = connect(&address).await?;
        let mut background = JoinSet::new();
        keep_streams_open(&channel, &mut background);
        Ok(Self {
            channel,
            address,
            pid,
            child: None,
            last_lines: LastLines::default(),
            _background: background,
        })
    }

    /// The plugin's PID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The plugin's socket, or none if it listens on TCP.
    pub fn socket(&self) -> Option<&Path> {
        self.address.strip_prefix("unix:").map(Path::new)
    }

    /// The last lines of the plugin's stderr, to explain an unexpected end.
    pub fn last_lines(&self) -> String {
        joined(&self.last_lines)
    }

    /// The client of the base plugin service. Clients are cheap and may be used concurrently.
    pub fn base(&self) -> BasePluginClient<Channel> {
        BasePluginClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// The client of the driver service.
    pub fn driver(&self) -> DriverClient<Channel> {
        DriverClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// The channel, for services that have no method here, such as health.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Configures the plugin as the instance that will run tasks: as [`check`](Self::check) does, then with the node's
    /// configuration, then `Init`.
    pub async fn configure(&self, config: &hcl::Body, node: &Node) -> Result<(), Error> {
        let msgpack_config = self.check(config).await?;
        self.set_config(msgpack_config, Some(node.driver_config())).await?;
        match self.driver().init(InitRequest {}).await {
            Err(status) if status.code() != Code::Unimplemented => Err(failed("Init")(status)),
            _ => Ok(()),
        }
    }

    /// Configures the plugin as an instance that will run no tasks. An agent checks a configuration this way. Returns
    /// what was sent: the body of its `config` block by its own schema, as MessagePack.
    pub async fn check(&self, config: &hcl::Body) -> Result<Vec<u8>, Error> {
        let schema =
            self.base().config_schema(ConfigSchemaRequest {}).await.map_err(failed("ConfigSchema"))?;
        let scope = Scope::of_plugin();
        let msgpack_config = match schema.into_inner().spec {
            None if config.0.is_empty() => Vec::new(),
            None => return Err(Error::NoConfiguration),
            Some(spec) => {
                let map = scope.body(config).map_err(|source| Error::Expression { source })?;
                hclspec::decode(&spec, &map, &scope)
                    .map_err(|source| Error::Config { whose: "plugin's", source })?
            }
        };
        self.set_config(msgpack_config.clone(), None).await?;
        Ok(msgpack_config)
    }

    async fn set_config(
        &self,
        msgpack_config: Vec<u8>,
        nomad_config: Option<NomadConfig>,
    ) -> Result<(), Error> {
        let plugin_api_version = API_VERSION.to_owned();
        let request = SetConfigRequest { msgpack_config, nomad_config, plugin_api_version };
        self.base().set_config(request).await.map(|_| ()).map_err(failed("SetConfig"))
    }

    /// The driver's capabilities.
    pub async fn capabilities(&self) -> Result<DriverCapabilities, Error> {
        let answer =
            self.driver().capabilities(CapabilitiesRequest {}).await.map_err(failed("Capabilities"))?;
        answer
            .into_inner()
            .capabilities
            .ok_or(Error::Incomplete { call: "Capabilities", part: "capabilities" })
    }

    /// The first fingerprint.
    pub async fn fingerprint(&self) -> Result<FingerprintResponse, Error> {
        let answer = self.driver().fingerprint(FingerprintRequest {}).await.map_err(failed("Fingerprint"))?;
        let first = answer.into_inner().message().await.map_err(failed("Fingerprint"))?;
        first.ok_or(Error::Incomplete { call: "Fingerprint", part: "first response" })
    }

    /// A task's `config` by the driver's own schema, as MessagePack. `config` is the result of [`Scope::body`] for the
    /// block; `scope` is the scope of the task (see [`crate::taskenv::TaskEnv::scope`]).
    pub async fn task_config(
        &self,
        config: &hcl::Map<String, hcl::Value>,
        scope: &Scope,
    ) -> Result<Vec<u8>, Error> {
        let answer = self.driver().task_config_schema(TaskConfigSchemaRequest {}).await;
        let spec = answer.map_err(failed("TaskConfigSchema"))?.into_inner().spec;
        let spec = spec.ok_or(Error::Incomplete { call: "TaskConfigSchema", part: "spec" })?;
        hclspec::decode(&spec, config, scope).map_err(|source| Error::Config { whose: "task's", source })
    }

    /// Ends the plugin as an agent does: `Shutdown` to the driver and to the process, two seconds, then SIGKILL.
    /// Returns true if it exited by itself.
    pub async fn shutdown(mut self) -> bool {
        let _ = timeout(END, self.driver().shutdown(ShutdownRequest {})).await;
        let mut controller = GrpcControllerClient::new(self.channel.clone());
        let _ = timeout(END, controller.shutdown(proto::plugin::Empty {})).await;
        let ended = self.ended(END).await;
        if !ended {
            self.kill().await;
        }
        self.child = None;
        ended
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub async fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill().await;
        } else {
            if let Ok(process) = pidfd(self.pid) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
            self.ended(END).await;
        }
    }

    /// Leaves the process running and drops the connection, as a crash of the agent does: its output pipes are closed.
    /// Returns the PID and the socket for [`reattach`](Self::reattach).
    pub fn abandon(mut self) -> (u32, PathBuf) {
        // Dropping the child would kill it.
        std::mem::forget(self.child.take());
        (self.pid, PathBuf::from(self.address.trim_start_matches("unix:")))
    }

    /// Waits until the process has ended; false if the deadline expires first.
    pub async fn ended(&mut self, deadline: Duration) -> bool {
        let wait = async {
            match &mut self.child {
                Some(child) => child.wait().await.map(|_| ()),
                None => match watched(self.pid) {
                    Ok(process) => process.readable().await.map(|_| ()),
                    Err(_) => Ok(()),
                },
            }
        };
        timeout(deadline, wait).await.is_ok()
    }
}

fn pidfd(pid: u32) -> io::Result<rustix::fd::OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// A PID file descriptor, which becomes readable when the process ends.
#[allow(
    deprecated,
    reason = "its successor is unsafe, for descriptors that others may close; this one is ours alone"
)]
fn watched(pid: u32) -> io::Result<AsyncFd<rustix::fd::OwnedFd>> {
    AsyncFd::new(pidfd(pid)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    use proto::base::base_plugin_server::{BasePlugin, BasePluginServer};
    use proto::base::{ConfigSchemaResponse, PluginInfoRequest, PluginInfoResponse, SetConfigResponse};
    use proto::hclspec::{Attr, Object, Spec, spec};
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response, Status};

    use super::*;

    /// A plugin that runs a shell script.
    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn refused(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let launched = Plugin::launch(Launch::new(script(directory.path(), text))).await;
        launched.map(|_| ()).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_plugin_that_dies_is_quoted() {
        let error = refused("echo 'no systemd here' >&2\nexit 3").await;
        assert!(error.contains("exit status: 3") && error.contains("no systemd here"), "{error}");
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_there_is_named() {
        let error =
            Plugin::launch(Launch::new("/nonexistent/plugin")).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/plugin"), "{error}");
    }

    /// The base service of a plugin; records its configuration.
    #[derive(Default)]
    struct Base {
        configured: Arc<Mutex<Vec<SetConfigRequest>>>,
    }

    #[tonic::async_trait]
    impl BasePlugin for Base {
        async fn plugin_info(
            &self,
            _: Request<PluginInfoRequest>,
        ) -> Result<Response<PluginInfoResponse>, Status> {
            Ok(Response::new(PluginInfoResponse { name: "fake".to_owned(), ..PluginInfoResponse::default() }))
        }

        async fn config_schema(
            &self,
            _: Request<ConfigSchemaRequest>,
        ) -> Result<Response<ConfigSchemaResponse>, Status> {
            let attr = Attr { r#type: "bool".to_owned(), ..Attr::default() };
            let attributes = [("x".to_owned(), Spec { block: Some(spec::Block::Attr(attr)) })].into();
            let spec = Spec { block: Some(spec::Block::Object(Object { attributes })) };
            Ok(Response::new(ConfigSchemaResponse { spec: Some(spec) }))
        }

        async fn set_config(
            &self,
            request: Request<SetConfigRequest>,
        ) -> Result<Response<SetConfigResponse>, Status> {
            self.configured.lock().unwrap().push(request.into_inner());
            Ok(Response::new(SetConfigResponse {}))
        }
    }

    #[tokio::test]
    async fn a_plugin_is_configured_first_without_and_then_with_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let base = Base::default();
        let configured = base.configured.clone();
        let server = tonic::transport::Server::builder().add_service(BasePluginServer::new(base));
        tokio::spawn(server.serve_with_incoming(listener));

        let text = format!("echo '1|2|unix|{}|grpc|'\nexec tail -f /dev/null", socket.display());
        let mut plugin = Plugin::launch(Launch::new(script(directory.path(), &text))).await.unwrap();
        assert_eq!(plugin.socket().unwrap(), socket);
        plugin.configure(&hcl::parse("x = \"true\"\n").unwrap(), &Node::of_this_machine()).await.unwrap();
        {
            let seen = configured.lock().unwrap();
            assert!(seen[0].nomad_config.is_none() && seen[1].nomad_config.is_some());
            let value = rmpv::decode::read_value(&mut seen[1].msgpack_config.as_slice()).unwrap();
            assert_eq!(value.to_string(), r#"{"x": true}"#);
        }
        let error =
            plugin.configure(&hcl::parse("y = 1\n").unwrap(), &Node::of_this_machine()).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");

        // Another host can take over a plugin that was left running.
        let pid = plugin.pid();
        let other = Plugin::reattach(pid, &socket).await.unwrap();
        assert_eq!(other.base().plugin_info(PluginInfoRequest {}).await.unwrap().into_inner().name, "fake");
        plugin.kill().await;
        assert!(Plugin::reattach(pid, &socket).await.is_err());
    }
}
