//! A driver plugin for the tests of [`crate::run`]. A shell script performs the handshake; the services run in the test
//! itself and run a task's `command` as a plain process.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures_util::Stream;
use proto::base::base_plugin_server::{BasePlugin, BasePluginServer};
use proto::base::{
    ConfigSchemaRequest, ConfigSchemaResponse, PluginInfoRequest, PluginInfoResponse, SetConfigRequest,
    SetConfigResponse,
};
use proto::driver::driver_server::{Driver, DriverServer};
use proto::driver::fingerprint_response::HealthState;
use proto::driver::*;
use proto::hclspec::{Attr, Object, Spec, spec};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Endless<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(serde::Deserialize)]
struct Config {
    command: String,
    args: Option<Vec<String>>,
}

struct Task {
    pid: i32,
    end: watch::Receiver<Option<ExitResult>>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    tasks: Arc<Mutex<BTreeMap<String, Task>>>,
    /// Every call about a task, such as `start web`.
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    /// The mounts of all tasks together.
    pub(crate) mounts: Arc<Mutex<Vec<Mount>>>,
    /// The driver reports that it supports no volumes.
    pub(crate) no_mounts: bool,
}

impl Fake {
    /// Starts to serve; returns the program to launch.
    pub(crate) fn serve(&self, directory: &Path) -> PathBuf {
        let socket = directory.join("socket");
        let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(BasePluginServer::new(self.clone()))
            .add_service(DriverServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(listener));
        let program = directory.join("plugin");
        let text = format!("#!/bin/sh\necho '1|2|unix|{}|grpc|'\nexec tail -f /dev/null\n", socket.display());
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn called(&self, call: &str, id: &str) {
        let name = id.split('/').nth(1).unwrap_or(id);
        self.calls.lock().unwrap().push(format!("{call} {name}"));
    }

    fn signal(&self, id: &str, signal: rustix::process::Signal) {
        if let Some(task) = self.tasks.lock().unwrap().get(id)
            && task.end.borrow().is_none()
        {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(task.pid).unwrap(), signal);
        }
    }
}

fn schema(attributes: &[(&str, &str)]) -> Spec {
    let attribute = |(name, kind): &(&str, &str)| {
        let attr = Attr { r#type: (*kind).to_owned(), ..Attr::default() };
        ((*name).to_owned(), Spec { block: Some(spec::Block::Attr(attr)) })
    };
    let attributes = attributes.iter().map(attribute).collect();
    Spec { block: Some(spec::Block::Object(Object { attributes })) }
}

#[tonic::async_trait]
impl BasePlugin for Fake {
    async fn plugin_info(&self, _: Request<PluginInfoRequest>) -> Answer<PluginInfoResponse> {
        Ok(Response::new(PluginInfoResponse::default()))
    }

    async fn config_schema(&self, _: Request<ConfigSchemaRequest>) -> Answer<ConfigSchemaResponse> {
        Ok(Response::new(ConfigSchemaResponse { spec: Some(schema(&[("manager", "string")])) }))
    }

    async fn set_config(&self, _: Request<SetConfigRequest>) -> Answer<SetConfigResponse> {
        Ok(Response::new(SetConfigResponse {}))
    }
}

#[tonic::async_trait]
impl Driver for Fake {
    type FingerprintStream = Endless<FingerprintResponse>;
    type TaskStatsStream = Endless<TaskStatsResponse>;
    type TaskEventsStream = Endless<DriverTaskEvent>;
    type ExecTaskStreamingStream = Endless<ExecTaskStreamingResponse>;

    async fn task_config_schema(
        &self,
        _: Request<TaskConfigSchemaRequest>,
    ) -> Answer<TaskConfigSchemaResponse> {
        let spec = schema(&[("command", "string"), ("args", "list(string)")]);
        Ok(Response::new(TaskConfigSchemaResponse { spec: Some(spec) }))
    }

    async fn capabilities(&self, _: Request<CapabilitiesRequest>) -> Answer<CapabilitiesResponse> {
        let mounts = if self.no_mounts {
            driver_capabilities::MountConfigs::NoMounts
        } else {
            driver_capabilities::MountConfigs::AnyMounts
        };
        let capabilities =
            DriverCapabilities { mount_configs: mounts.into(), ..DriverCapabilities::default() };
        Ok(Response::new(CapabilitiesResponse { capabilities: Some(capabilities) }))
    }

    async fn fingerprint(&self, _: Request<FingerprintRequest>) -> Answer<Self::FingerprintStream> {
        let health = HealthState::Healthy.into();
        let first = FingerprintResponse { health, ..FingerprintResponse::default() };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)))))
    }

    async fn start_task(&self, request: Request<StartTaskRequest>) -> Answer<StartTaskResponse> {
        let task = request.into_inner().task.unwrap();
        self.called("start", &task.id);
        self.mounts.lock().unwrap().extend(task.mounts.clone());
        let config: Config = rmp_serde::from_slice(&task.msgpack_driver_config).unwrap();
        let open = |path: &str| OpenOptions::new().write(true).open(path).map(Stdio::from).unwrap();
        let mut child = tokio::process::Command::new(&config.command)
            .args(config.args.unwrap_or_default())
            .env_clear()
            .envs(task.env)
            .stdin(Stdio::null())
            .stdout(open(&task.stdout_path))
            .stderr(open(&task.stderr_path))
            .spawn()
            .map_err(|error| Status::invalid_argument(format!("{}: {error}", config.command)))?;
        let (tell, end) = watch::channel(None);
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        self.tasks.lock().unwrap().insert(task.id, Task { pid, end });
        tokio::spawn(async move {
            use std::os::unix::process::ExitStatusExt;
            let status = child.wait().await.unwrap();
            let signal = status.signal().unwrap_or(0);
            let exit_code = status.code().unwrap_or(128 + signal);
            let _ = tell.send(Some(ExitResult { exit_code, signal, oom_killed: false }));
        });
        Ok(Response::new(StartTaskResponse::default()))
    }

    async fn wait_task(&self, request: Request<WaitTaskRequest>) -> Answer<WaitTaskResponse> {
        let id = request.into_inner().task_id;
        let mut end = self.tasks.lock().unwrap().get(&id).unwrap().end.clone();
        let result = *end.wait_for(Option::is_some).await.unwrap();
        Ok(Response::new(WaitTaskResponse { result, err: String::new() }))
    }

    async fn stop_task(&self, request: Request<StopTaskRequest>) -> Answer<StopTaskResponse> {
        let StopTaskRequest { task_id, signal, .. } = request.into_inner();
        self.called("stop", &task_id);
        let kill = signal == "SIGKILL";
        self.signal(
            &task_id,
            if kill { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM },
        );
        Ok(Response::new(StopTaskResponse {}))
    }

    async fn destroy_task(&self, request: Request<DestroyTaskRequest>) -> Answer<DestroyTaskResponse> {
        let id = request.into_inner().task_id;
        self.called("destroy", &id);
        self.signal(&id, rustix::process::Signal::KILL);
        Ok(Response::new(DestroyTaskResponse {}))
    }

    async fn inspect_task(&self, _: Request<InspectTaskRequest>) -> Answer<InspectTaskResponse> {
        Ok(Response::new(InspectTaskResponse::default()))
    }

    async fn task_events(&self, _: Request<TaskEventsRequest>) -> Answer<Self::TaskEventsStream> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }

    async fn init(&self, _: Request<InitRequest>) -> Answer<InitResponse> {
        Err(Status::unimplemented("Init"))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn recover_task(&self, _: Request<RecoverTaskRequest>) -> Answer<RecoverTaskResponse> {
        Err(Status::unimplemented("RecoverTask"))
    }

    async fn task_stats(&self, _: Request<TaskStatsRequest>) -> Answer<Self::TaskStatsStream> {
        Err(Status::unimplemented("TaskStats"))
    }

    async fn signal_task(&self, _: Request<SignalTaskRequest>) -> Answer<SignalTaskResponse> {
        Err(Status::unimplemented("SignalTask"))
    }

    async fn exec_task(&self, _: Request<ExecTaskRequest>) -> Answer<ExecTaskResponse> {
        Err(Status::unimplemented("ExecTask"))
    }

    async fn exec_task_streaming(
        &self,
        _: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Answer<Self::ExecTaskStreamingStream> {
        Err(Status::unimplemented("ExecTaskStreaming"))
    }

    async fn create_network(&self, _: Request<CreateNetworkRequest>) -> Answer<CreateNetworkResponse> {
        Err(Status::unimplemented("CreateNetwork"))
    }

    async fn destroy_network(&self, _: Request<DestroyNetworkRequest>) -> Answer<DestroyNetworkResponse> {
        Err(Status::unimplemented("DestroyNetwork"))
    }
}
