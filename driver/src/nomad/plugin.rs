//! The host's half of go-plugin: starts a plugin process, shakes hands, and speaks gRPC over its socket.
//!
//! What Nomad's agent does with a driver plugin is done here in the same order and with the same limits, so that a
//! plugin cannot tell the difference. Facts from go-plugin v1.8.0 (client.go, log_entry.go, grpc_client.go) and
//! Nomad v2.0.5 (plugins/base/plugin.go, helper/pluginutils/loader/).

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use proto::base::base_plugin_client::BasePluginClient;
use proto::base::{ConfigSchemaRequest, NomadConfig, SetConfigRequest};
use proto::driver::driver_client::DriverClient;
use proto::driver::{
    CapabilitiesRequest, DriverCapabilities, FingerprintRequest, FingerprintResponse, InitRequest,
    ShutdownRequest, TaskConfigSchemaRequest,
};
use proto::plugin::grpc_broker_client::GrpcBrokerClient;
use proto::plugin::grpc_controller_client::GrpcControllerClient;
use proto::plugin::grpc_stdio_client::GrpcStdioClient;
use proto::structs::RecoverableError;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::expression::{self, Scope};
use super::hclspec;
use super::node::Node;

/// Proof that whoever starts the plugin is Nomad (plugins/base/plugin.go).
const COOKIE: (&str, &str) =
    ("NOMAD_PLUGIN_MAGIC_COOKIE", "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255");

/// How long a plugin may take until its handshake line (go-plugin's default).
const START: Duration = Duration::from_mins(1);

/// How long a plugin may take to end once it was told to (go-plugin's `Client.Kill`).
const END: Duration = Duration::from_secs(2);

/// The plugin interface that we offer, as Nomad does.
const API_VERSION: &str = "v0.1.0";

/// How many of the plugin's last words an error repeats.
const LAST_WORDS: usize = 20;

/// Why a plugin could not be started, configured or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary could not be executed.
    #[error("start the plugin {program}; is it there and executable?")]
    Start {
        /// The binary.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The process ended before its handshake line.
    #[error("the plugin {program} ended ({status}) before its handshake; its last words:\n{last_words}")]
    Died {
        /// The binary.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr.
        last_words: String,
    },
    /// No handshake line within a minute.
    #[error("the plugin {program} has not shaken hands within {START:?}; its last words:\n{last_words}")]
    Silent {
        /// The binary.
        program: PathBuf,
        /// The end of its stderr.
        last_words: String,
    },
    /// The handshake line is not what go-plugin expects.
    #[error("the plugin's handshake `{line}` is wrong: {reason}")]
    Handshake {
        /// The line, without its end.
        line: String,
        /// Such as ``the protocol is `netrpc`, not `grpc` ``.
        reason: String,
    },
    /// The socket of the handshake does not answer.
    #[error("connect to the plugin at {address}")]
    Connect {
        /// The socket or address.
        address: String,
        /// The transport's reason.
        source: tonic::transport::Error,
    },
    /// There is no process of that number to reattach to.
    #[error("find the plugin process {pid}")]
    Reattach {
        /// The number.
        pid: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// The plugin has answered with an error.
    #[error(transparent)]
    Call(CallError),
    /// The plugin left something out that its answer must have.
    #[error("the plugin's answer to {call} lacks its {part}; report this to the driver's authors")]
    Incomplete {
        /// Such as `TaskConfigSchema`.
        call: &'static str,
        /// Such as `spec`.
        part: &'static str,
    },
    /// The plugin takes no configuration and one is given.
    #[error("the plugin takes no configuration; remove it")]
    NoConfiguration,
    /// An expression of the configuration has no value.
    #[error("the plugin's configuration")]
    Expression {
        /// What was wrong with it.
        source: expression::Error,
    },
    /// A configuration does not fit the plugin's schema.
    #[error("the {whose} configuration")]
    Config {
        /// `plugin's` or `task's`.
        whose: &'static str,
        /// What does not fit.
        source: hclspec::Error,
    },
}

/// A call that the plugin has answered with an error.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {message}")]
pub struct CallError {
    /// Such as `StartTask`.
    pub call: &'static str,
    /// Such as `InvalidArgument`.
    pub code: Code,
    /// The plugin's own words.
    pub message: String,
    /// The plugin says that trying again may help.
    pub recoverable: bool,
}

impl CallError {
    /// Reads the status and, from its details, whether to try again (Nomad v2.0.5, helper/pluginutils/grpcutils/).
    pub fn new(call: &'static str, status: &Status) -> Self {
        let details = proto::rpc::Status::decode(status.details()).unwrap_or_default();
        // Nomad looks at the first detail only.
        let first = details.details.first().filter(|any| any.type_url.ends_with(".RecoverableError"));
        let recoverable = first.and_then(|any| RecoverableError::decode(any.value.as_slice()).ok());
        Self {
            call,
            code: status.code(),
            message: status.message().to_owned(),
            recoverable: recoverable.is_some_and(|error| error.recoverable),
        }
    }
}

/// Makes the error of a failed call: `client.stop_task(…).await.map_err(failed("StopTask"))`.
#[allow(clippy::result_large_err, reason = "it makes the error, it does not return one")]
pub fn failed(call: &'static str) -> impl FnOnce(Status) -> Error {
    move |status| Error::Call(CallError::new(call, &status))
}

/// One line that the plugin has written to its stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `trace`, `debug`, `info`, `warn` or `error`; a line that is no record counts as `debug`.
    pub level: String,
    /// The message, or the whole line when it is no record.
    pub message: String,
    /// The record's other keys, `@module` and `@timestamp` among them.
    pub fields: BTreeMap<String, String>,
}

impl Record {
    /// Reads a line as go-plugin does: a JSON object is a record, everything else is text.
    pub fn parse(line: &str) -> Self {
        let text = Self { level: "debug".to_owned(), message: line.to_owned(), fields: BTreeMap::new() };
        let Ok(serde_json::Value::Object(mut object)) = serde_json::from_str(line) else {
            return text;
        };
        let mut take = |key: &str| object.remove(key).and_then(|value| value.as_str().map(str::to_owned));
        let (Some(level), Some(message)) = (take("@level"), take("@message")) else {
            return text;
        };
        let level = level.to_lowercase();
        let fields = object.into_iter().map(|(key, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (key, value)
        });
        Self { level, message, fields: fields.collect() }
    }
}

/// How to start a plugin.
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    records: Box<dyn FnMut(&Record) + Send>,
}

impl Launch {
    /// Starts `program` with no arguments, our environment, and its records going to `tracing`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), records: Box::new(trace) }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more variable, on top of our own environment, which a plugin gets whole.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where the lines of the plugin's stderr go.
    #[must_use]
    pub fn records(mut self, records: impl FnMut(&Record) + Send + 'static) -> Self {
        self.records = Box::new(records);
        self
    }
}

fn trace(record: &Record) {
    let Record { level, message, fields } = record;
    match level.as_str() {
        "error" => tracing::error!(target: "plugin", ?fields, "{message}"),
        "warn" => tracing::warn!(target: "plugin", ?fields, "{message}"),
        "info" => tracing::info!(target: "plugin", ?fields, "{message}"),
        _ => tracing::debug!(target: "plugin", ?fields, "{message}"),
    }
}

type LastWords = Arc<Mutex<VecDeque<String>>>;

/// A plugin that has shaken hands. Dropping it kills the process, unless it was reattached to.
#[derive(Debug)]
pub struct Plugin {
    channel: Channel,
    address: String,
    pid: u32,
    child: Option<Child>,
    last_words: LastWords,
    /// Readers of its output and the streams that go-plugin keeps open; they end with the plugin.
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
            // A signal to everybody on the terminal is for whoever runs the plugin, to end its tasks first.
            .process_group(0)
            .spawn();
        let mut child = started.map_err(|source| Error::Start { program: program.clone(), source })?;
        let last_words = LastWords::default();
        let mut background = JoinSet::new();
        let reader =
            child.stderr.take().map(|stderr| background.spawn(read(stderr, last_words.clone(), records)));
        let stdout = child.stdout.take();
        let address = match handshake(stdout, &mut background).await {
            Ok(line) => address(line.trim_end())
                .map_err(|reason| Error::Handshake { line: line.trim_end().to_owned(), reason }),
            Err(NoLine::Deadline) => Err(Error::Silent { program, last_words: said(&last_words) }),
            Err(NoLine::End) => {
                let _ = child.start_kill();
                let status = child.wait().await.unwrap_or_default();
                // The reader ends at the end of the pipe; then its last words are complete.
                if reader.is_some() {
                    let _ = timeout(END, background.join_next()).await;
                }
                Err(Error::Died { program, status, last_words: said(&last_words) })
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
                Ok(Self { channel, address, pid, child: Some(child), last_words, _background: background })
            }
            Err(error) => {
                let _ = child.kill().await;
                Err(error)
            }
        }
    }

    /// Connects to a plugin that was left running by another host, as an agent does after a crash of its own.
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
            last_words: LastWords::default(),
            _background: background,
        })
    }

    /// The number of the plugin's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The plugin's socket, or nothing when it listens on TCP.
    pub fn socket(&self) -> Option<&Path> {
        self.address.strip_prefix("unix:").map(Path::new)
    }

    /// The last lines of its stderr, to explain an end that nobody asked for.
    pub fn last_words(&self) -> String {
        said(&self.last_words)
    }

    /// What every plugin answers. Clients are cheap and may be used at the same time.
    pub fn base(&self) -> BasePluginClient<Channel> {
        BasePluginClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// What a driver answers.
    pub fn driver(&self) -> DriverClient<Channel> {
        DriverClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// The channel, for the services that have no method here, such as health.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Configures the plugin as the instance that will run tasks: as [`check`](Self::check) does, then with what it is
    /// told about the node, then `Init`.
    pub async fn configure(&self, config: &hcl::Body, node: &Node) -> Result<(), Error> {
        let msgpack_config = self.check(config).await?;
        self.set_config(msgpack_config, Some(node.driver_config())).await?;
        match self.driver().init(InitRequest {}).await {
            Err(status) if status.code() != Code::Unimplemented => Err(failed("Init")(status)),
            _ => Ok(()),
        }
    }

    /// Configures the plugin as an instance that will run nothing, which is how an agent checks a configuration. The
    /// result is what was sent: the body of its `config` block by its own schema, as MessagePack.
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

    /// What the driver says it can do.
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

    /// A task's `config` by the driver's own schema, as MessagePack. `config` is what [`Scope::body`] makes of the
    /// block, `scope` the task's (see [`super::taskenv::TaskEnv::scope`]).
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
    /// True when it ended by itself.
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

    /// Leaves the process running and forgets it, as the crash of an agent does: its output pipes are closed.
    /// Its number and socket are what [`reattach`](Self::reattach) takes.
    pub fn abandon(mut self) -> (u32, PathBuf) {
        // Dropping it would kill it.
        std::mem::forget(self.child.take());
        (self.pid, PathBuf::from(self.address.trim_start_matches("unix:")))
    }

    /// Waits until the process has ended; false when it has not within the deadline.
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

/// A descriptor of a process, which becomes readable when that process ends.
#[allow(
    deprecated,
    reason = "its successor is unsafe, for descriptors that others may close; this one is ours alone"
)]
fn watched(pid: u32) -> io::Result<AsyncFd<rustix::fd::OwnedFd>> {
    AsyncFd::new(pidfd(pid)?)
}

/// Reads stderr for as long as the plugin lives: what nobody reads blocks the plugin in the end.
async fn read(stderr: ChildStderr, last_words: LastWords, mut records: Box<dyn FnMut(&Record) + Send>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        let record = Record::parse(&text);
        records(&record);
        let mut last = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(record.message);
        if last.len() > LAST_WORDS {
            last.pop_front();
        }
    }
}

fn said(last_words: &LastWords) -> String {
    let last = last_words.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_empty() { "(none)".to_owned() } else { last.iter().cloned().collect::<Vec<_>>().join("\n") }
}

enum NoLine {
    Deadline,
    End,
}

/// The first line of stdout; what follows is read and thrown away.
async fn handshake(stdout: Option<ChildStdout>, background: &mut JoinSet<()>) -> Result<String, NoLine> {
    let mut reader = BufReader::new(stdout.ok_or(NoLine::End)?);
    let mut line = String::new();
    match timeout(START, reader.read_line(&mut line)).await {
        Err(_) => Err(NoLine::Deadline),
        Ok(Err(_) | Ok(0)) => Err(NoLine::End),
        Ok(Ok(_)) => {
            background.spawn(async move {
                let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
            });
            Ok(line)
        }
    }
}

/// Checks the handshake's fields; the address as `unix:/path` or `tcp:host:port`.
fn address(line: &str) -> Result<String, String> {
    let fields: Vec<&str> = line.split('|').collect();
    let [core, application, network, address, rest @ ..] = fields.as_slice() else {
        return Err(format!("it has {} fields, at least 4 are required", fields.len()));
    };
    if *core != "1" {
        return Err(format!("the core protocol is `{core}`, not `1`"));
    }
    if *application != "2" {
        return Err(format!("the application protocol is `{application}`, not `2`"));
    }
    // Without the field go-plugin assumes its older protocol.
    match rest.first().copied().unwrap_or("netrpc") {
        "grpc" => {}
        other => return Err(format!("the protocol is `{other}`, not `grpc`")),
    }
    if rest.get(1).is_some_and(|certificate| !certificate.is_empty()) {
        return Err("it holds a certificate, and we have asked for none".to_owned());
    }
    match *network {
        "unix" | "tcp" if !address.is_empty() => Ok(format!("{network}:{address}")),
        other => Err(format!("the network is `{other}` at `{address}`")),
    }
}

async fn connect(address: &str) -> Result<Channel, Error> {
    let failed = |source| Error::Connect { address: address.to_owned(), source };
    if let Some(path) = address.strip_prefix("unix:").map(PathBuf::from) {
        let dial = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        // The name is never looked up; it is what go-plugin sends as authority.
        let endpoint = Endpoint::from_static("http://unused");
        return endpoint.connect_with_connector(tower::service_fn(dial)).await.map_err(failed);
    }
    let url = format!("http://{}", address.trim_start_matches("tcp:"));
    Endpoint::from_shared(url).map_err(failed)?.connect().await.map_err(failed)
}

/// go-plugin opens two streams for services that drivers do not need; a plugin must live with them.
fn keep_streams_open(channel: &Channel, background: &mut JoinSet<()>) {
    let (mut stdio, mut broker) =
        (GrpcStdioClient::new(channel.clone()), GrpcBrokerClient::new(channel.clone()));
    background.spawn(async move {
        if let Ok(answer) = stdio.stream_stdio(()).await {
            let mut stream = answer.into_inner();
            while let Ok(Some(_)) = stream.message().await {}
        }
    });
    background.spawn(async move {
        if let Ok(answer) = broker.start_stream(tokio_stream::pending()).await {
            let mut stream = answer.into_inner();
            while let Ok(Some(_)) = stream.message().await {}
        }
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proto::base::base_plugin_server::{BasePlugin, BasePluginServer};
    use proto::base::{ConfigSchemaResponse, PluginInfoRequest, PluginInfoResponse, SetConfigResponse};
    use proto::hclspec::{Attr, Object, Spec, spec};
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response};

    use super::*;

    /// A plugin that does what a shell script says.
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

    #[test]
    fn the_handshake_is_checked_field_by_field() {
        assert_eq!(address("1|2|unix|/tmp/x|grpc|").unwrap(), "unix:/tmp/x");
        assert_eq!(address("1|2|tcp|127.0.0.1:1|grpc").unwrap(), "tcp:127.0.0.1:1");
        for wrong in [
            "",
            "1|2|unix",
            "2|2|unix|/x|grpc",
            "1|1|unix|/x|grpc",
            "1|2|unix|/x",
            "1|2|udp|/x|grpc",
            "1|2|unix|/x|netrpc",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stderr_lines_are_records_or_text() {
        let record = Record::parse(r#"{"@level":"INFO","@message":"Hello","@module":"m","n":1}"#);
        assert_eq!((record.level.as_str(), record.message.as_str()), ("info", "Hello"));
        assert_eq!(record.fields["n"], "1");
        assert_eq!(Record::parse("panic: x").message, "panic: x");
        assert_eq!(Record::parse("{}").message, "{}");
    }

    #[test]
    fn a_recoverable_error_is_recognised() {
        let value = RecoverableError { recoverable: true }.encode_to_vec();
        let type_url =
            "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError".to_owned();
        let details = proto::rpc::Status {
            code: 9,
            message: "busy".to_owned(),
            details: vec![prost_types::Any { type_url, value }],
        };
        let status = Status::with_details(Code::FailedPrecondition, "busy", details.encode_to_vec().into());
        let error = CallError::new("StartTask", &status);
        assert!(error.recoverable);
        assert_eq!(error.to_string(), "StartTask: busy");
        assert!(!CallError::new("StartTask", &Status::internal("x")).recoverable);
    }

    /// The base half of a plugin; remembers what it was configured with.
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

        // Somebody else can take over a plugin that was left running.
        let pid = plugin.pid();
        let other = Plugin::reattach(pid, &socket).await.unwrap();
        assert_eq!(other.base().plugin_info(PluginInfoRequest {}).await.unwrap().into_inner().name, "fake");
        plugin.kill().await;
        assert!(Plugin::reattach(pid, &socket).await.is_err());
    }
}
