//! What Nomad asks a task driver, in the order of the `.proto` file. Each method converts, calls, converts back.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use proto::driver::driver_capabilities::{FsIsolation, MountConfigs};
use proto::driver::driver_server::Driver;
use proto::driver::network_isolation_spec::NetworkIsolationMode;
#[allow(clippy::wildcard_imports, reason = "every request and response of one service")]
use proto::driver::*;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{self, status};
use super::{fingerprint, schema};
use crate::systemd::Systemd;
use crate::task::Tasks;
use crate::task::config::{DriverConfig, TaskId};

/// How often the node is looked at again, as Nomad's own drivers do.
const FINGERPRINT_PERIOD: Duration = Duration::from_secs(30);

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Systemds {
    pub(super) systemd: Systemd,
    pub(super) tasks: Tasks,
}

#[tonic::async_trait]
impl Driver for Systemds {
    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        Ok(Response::new(InitResponse {}))
    }

    async fn task_config_schema(
        &self,
        _: Request<TaskConfigSchemaRequest>,
    ) -> Result<Response<TaskConfigSchemaResponse>, Status> {
        Ok(Response::new(TaskConfigSchemaResponse { spec: Some(schema::block(DriverConfig::OPTIONS)) }))
    }

    async fn capabilities(
        &self,
        _: Request<CapabilitiesRequest>,
    ) -> Result<Response<CapabilitiesResponse>, Status> {
        let isolation = if self.tasks.see_the_host() { FsIsolation::None } else { FsIsolation::Image };
        Ok(Response::new(CapabilitiesResponse {
            capabilities: Some(DriverCapabilities {
                send_signals: true,
                exec: false,
                fs_isolation: isolation.into(),
                network_isolation_modes: vec![NetworkIsolationMode::Host.into()],
                must_create_network: false,
                mount_configs: MountConfigs::NoMounts.into(),
                disable_log_collection: false,
                dynamic_workload_users: false,
            }),
        }))
    }

    type FingerprintStream = ResponseStream<FingerprintResponse>;

    /// One answer at once, then one whenever something changed. Never ends: Nomad would ask again without a pause.
    async fn fingerprint(
        &self,
        _: Request<FingerprintRequest>,
    ) -> Result<Response<Self::FingerprintStream>, Status> {
        let (systemd, tasks) = (self.systemd.clone(), self.tasks.clone());
        let period = tokio::time::interval(FINGERPRINT_PERIOD);
        let answers = stream::unfold((period, None), move |(mut period, last)| {
            let (systemd, tasks) = (systemd.clone(), tasks.clone());
            async move {
                loop {
                    period.tick().await;
                    let now = fingerprint::look(&systemd, &tasks).await;
                    if last.as_ref() != Some(&now) {
                        return Some((Ok(now.clone()), (period, Some(now))));
                    }
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn recover_task(
        &self,
        request: Request<RecoverTaskRequest>,
    ) -> Result<Response<RecoverTaskResponse>, Status> {
        // The id beside the handle is never set.
        let RecoverTaskRequest { task_id: _, handle } = request.into_inner();
        let (id, name, saved) = convert::saved_task(handle)?;
        self.tasks.recover(id, name, saved).await.map_err(|error| status(&error))?;
        Ok(Response::new(RecoverTaskResponse {}))
    }

    async fn start_task(
        &self,
        request: Request<StartTaskRequest>,
    ) -> Result<Response<StartTaskResponse>, Status> {
        let StartTaskRequest { task } = request.into_inner();
        let task = task.ok_or_else(|| Status::invalid_argument("start task: Nomad sent no task"))?;
        let config = convert::task_config(task.clone())?;
        let handle = self.tasks.start(config).await.map_err(|error| {
            let status = status(&error);
            tracing::warn!(task = task.id, error = status.message(), "a task could not be started");
            status
        })?;
        Ok(Response::new(StartTaskResponse {
            result: start_task_response::Result::Success.into(),
            driver_error_msg: String::new(),
            handle: Some(convert::task_handle(task, &handle)),
            network_override: None,
        }))
    }

    async fn wait_task(
        &self,
        request: Request<WaitTaskRequest>,
    ) -> Result<Response<WaitTaskResponse>, Status> {
        let WaitTaskRequest { task_id } = request.into_inner();
        let handle = self.tasks.get(&TaskId(task_id)).map_err(|error| status(&error))?;
        Ok(Response::new(convert::wait_response(&handle.wait().await)))
    }

    async fn stop_task(
        &self,
        request: Request<StopTaskRequest>,
    ) -> Result<Response<StopTaskResponse>, Status> {
        let StopTaskRequest { task_id, timeout, signal } = request.into_inner();
        let patience = convert::duration(timeout);
        self.tasks.stop(&TaskId(task_id), &signal, patience).await.map_err(|error| status(&error))?;
        Ok(Response::new(StopTaskResponse {}))
    }

    async fn destroy_task(
        &self,
        request: Request<DestroyTaskRequest>,
    ) -> Result<Response<DestroyTaskResponse>, Status> {
        let DestroyTaskRequest { task_id, force } = request.into_inner();
        self.tasks.destroy(&TaskId(task_id), force).await.map_err(|error| status(&error))?;
        Ok(Response::new(DestroyTaskResponse {}))
    }

    async fn inspect_task(
        &self,
        request: Request<InspectTaskRequest>,
    ) -> Result<Response<InspectTaskResponse>, Status> {
        let InspectTaskRequest { task_id } = request.into_inner();
        let handle = self.tasks.get(&TaskId(task_id)).map_err(|error| status(&error))?;
        Ok(Response::new(convert::inspect_response(&handle)))
    }

    type TaskStatsStream = ResponseStream<TaskStatsResponse>;

    /// Stays open and silent: Nomad has no way to be told that there are no figures yet, and would ask in a loop.
    async fn task_stats(
        &self,
        request: Request<TaskStatsRequest>,
    ) -> Result<Response<Self::TaskStatsStream>, Status> {
        let TaskStatsRequest { task_id, collection_interval: _ } = request.into_inner();
        let handle = self.tasks.get(&TaskId(task_id)).map_err(|error| status(&error))?;
        // It ends with the task.
        let end = stream::once(async move { handle.wait().await }).filter_map(|_| std::future::ready(None));
        Ok(Response::new(end.boxed()))
    }

    type TaskEventsStream = ResponseStream<DriverTaskEvent>;

    /// Stays open and silent. Never ends: Nomad would ask again without a pause.
    async fn task_events(
        &self,
        _: Request<TaskEventsRequest>,
    ) -> Result<Response<Self::TaskEventsStream>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }

    /// The process is told to end right after this, by go-plugin. Tasks run on.
    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn signal_task(
        &self,
        request: Request<SignalTaskRequest>,
    ) -> Result<Response<SignalTaskResponse>, Status> {
        let SignalTaskRequest { task_id, signal } = request.into_inner();
        self.tasks.signal(&TaskId(task_id), &signal).await.map_err(|error| status(&error))?;
        Ok(Response::new(SignalTaskResponse {}))
    }

    async fn exec_task(&self, _: Request<ExecTaskRequest>) -> Result<Response<ExecTaskResponse>, Status> {
        Err(not_yet("commands inside a running task (script checks, `nomad alloc exec`)"))
    }

    type ExecTaskStreamingStream = ResponseStream<ExecTaskStreamingResponse>;

    async fn exec_task_streaming(
        &self,
        _: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Result<Response<Self::ExecTaskStreamingStream>, Status> {
        Err(not_yet("commands inside a running task (`nomad alloc exec`)"))
    }

    async fn create_network(
        &self,
        _: Request<CreateNetworkRequest>,
    ) -> Result<Response<CreateNetworkResponse>, Status> {
        Err(Status::unimplemented("the systemd driver leaves the making of networks to Nomad"))
    }

    async fn destroy_network(
        &self,
        _: Request<DestroyNetworkRequest>,
    ) -> Result<Response<DestroyNetworkResponse>, Status> {
        Err(Status::unimplemented("the systemd driver leaves the making of networks to Nomad"))
    }
}

fn not_yet(what: &str) -> Status {
    Status::unimplemented(format!("the systemd driver {} has no {what} yet", env!("CARGO_PKG_VERSION")))
}
