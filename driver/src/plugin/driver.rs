//! What Nomad asks a task driver, in the order of the `.proto` file. Each method converts the request, calls the driver
//! and converts the result.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt, future, stream};
use proto::driver::driver_capabilities::{FsIsolation, MountConfigs};
use proto::driver::driver_server::Driver;
use proto::driver::network_isolation_spec::NetworkIsolationMode;
#[allow(clippy::wildcard_imports, reason = "every request and response of one service")]
use proto::driver::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{self, status};
use super::{fingerprint, schema};
use crate::enter::Failure;
use crate::systemd::Systemd;
use crate::task::config::options::Block;
use crate::task::config::{DriverConfig, TaskId};
use crate::task::live::exec;
use crate::task::{self, Tasks};

/// The period of fingerprints, the same as in Nomad's own drivers.
const FINGERPRINT_PERIOD: Duration = Duration::from_secs(30);

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How many chunks of a command's output may wait for its client.
const OUTPUT_WAITING: usize = 16;

pub(super) struct DriverService {
    pub(super) systemd: Systemd,
    pub(super) tasks: Tasks,
    /// Speed of one core, in MHz; agents of version 1.7 or later send it.
    pub(super) core_speed: Arc<OnceLock<f64>>,
}

#[tonic::async_trait]
impl Driver for DriverService {
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
        // A volume in a task that sees the host would need a directory to be created on the host.
        let (isolation, mounts) = if self.tasks.see_the_host() {
            (FsIsolation::None, MountConfigs::NoMounts)
        } else {
            (FsIsolation::Image, MountConfigs::AnyMounts)
        };
        let modes = [NetworkIsolationMode::Host, NetworkIsolationMode::Group, NetworkIsolationMode::None];
        Ok(Response::new(CapabilitiesResponse {
            capabilities: Some(DriverCapabilities {
                send_signals: true,
                exec: true,
                fs_isolation: isolation.into(),
                network_isolation_modes: modes.map(Into::into).into(),
                must_create_network: false,
                mount_configs: mounts.into(),
                disable_log_collection: false,
                dynamic_workload_users: self.tasks.uses_dynamic_users(),
            }),
        }))
    }

    type FingerprintStream = ResponseStream<FingerprintResponse>;

    /// Sends one answer at once, then another whenever something has changed. The stream never ends: Nomad would ask
    /// again without a pause.
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
        // Nomad never sets the ID next to the handle.
        let RecoverTaskRequest { task_id: _, handle } = request.into_inner();
        let (identity, saved) = convert::saved_task(handle)?;
        self.tasks.recover(identity, saved).await.map_err(|error| status(&error))?;
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
            // Nomad reports the error itself.
            tracing::debug!(task = task.id, error = status.message(), "a task could not be started");
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
        let exit = self.tasks.wait(&TaskId(task_id)).await.map_err(|error| status(&error))?;
        Ok(Response::new(convert::wait_response(&exit)))
    }

    async fn stop_task(
        &self,
        request: Request<StopTaskRequest>,
    ) -> Result<Response<StopTaskResponse>, Status> {
        let StopTaskRequest { task_id, timeout, signal } = request.into_inner();
        let timeout = convert::duration(timeout);
        self.tasks.stop(&TaskId(task_id), &signal, timeout).await.map_err(|error| status(&error))?;
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

    /// Sends one answer at once, then another after each interval. For a task that has ended nothing is sent, and the
    /// stream stays open: Nomad would ask again at once.
    async fn task_stats(
        &self,
        request: Request<TaskStatsRequest>,
    ) -> Result<Response<Self::TaskStatsStream>, Status> {
        let TaskStatsRequest { task_id, collection_interval } = request.into_inner();
        let id = TaskId(task_id);
        let every = convert::duration(collection_interval);
        let usages = self.tasks.usage(&id, every).await.map_err(|error| status(&error))?;
        let core_speed = *self.core_speed.get_or_init(fingerprint::core_speed);
        let answers = stream::iter(usages).flat_map(ReceiverStream::new);
        let answers =
            answers.map(move |(at, usage)| Ok(convert::stats_response(&id, at, &usage, core_speed)));
        Ok(Response::new(answers.chain(stream::pending()).boxed()))
    }

    type TaskEventsStream = ResponseStream<DriverTaskEvent>;

    /// The stream never ends: Nomad would ask again without a pause.
    async fn task_events(
        &self,
        _: Request<TaskEventsRequest>,
    ) -> Result<Response<Self::TaskEventsStream>, Status> {
        let events = self.tasks.events().listen();
        Ok(Response::new(events.map(|event| Ok(convert::task_event(event))).boxed()))
    }

    /// go-plugin tells the process to exit right after this. Tasks keep running.
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

    async fn exec_task(
        &self,
        request: Request<ExecTaskRequest>,
    ) -> Result<Response<ExecTaskResponse>, Status> {
        let ExecTaskRequest { task_id, command, timeout } = request.into_inner();
        let limit = convert::duration(timeout);
        let report =
            self.tasks.exec(&TaskId(task_id), command, limit).await.map_err(|error| status(&error))?;
        Ok(Response::new(convert::exec_response(report)))
    }

    type ExecTaskStreamingStream = ResponseStream<ExecTaskStreamingResponse>;

    /// The session lives as long as the client reads the output: when the client disconnects, the command is ended.
    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Result<Response<Self::ExecTaskStreamingStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.and_then(|frame| Some((frame.setup.clone()?, frame)));
        let (setup, first) =
            first.ok_or_else(|| Status::invalid_argument("exec: the first frame must say what to run"))?;
        let exec_task_streaming_request::Setup { task_id, command, tty } = setup;
        let session = match self.tasks.exec_streaming(&TaskId(task_id), command, tty).await {
            Ok(session) => session,
            // Answered as by a shell: Nomad's client turns an error this early into "unexpected EOF".
            Err(error @ task::Error::Exec(exec::Error::Enter(Failure::Command { .. }))) => {
                let answers = convert::exec_not_found(&error, tty).map(convert::exec_output).map(Ok);
                return Ok(Response::new(stream::iter(answers).boxed()));
            }
            Err(error) => return Err(status(&error)),
        };
        let frames = stream::iter(Some(first)).chain(frames.filter_map(|frame| future::ready(frame.ok())));
        let input = frames.flat_map(|frame| stream::iter(convert::exec_input(frame)));
        let (output, outputs) = mpsc::channel(OUTPUT_WAITING);
        tokio::spawn(session.serve(input, output));
        Ok(Response::new(ReceiverStream::new(outputs).map(|out| Ok(convert::exec_output(out))).boxed()))
    }

    async fn create_network(
        &self,
        _: Request<CreateNetworkRequest>,
    ) -> Result<Response<CreateNetworkResponse>, Status> {
        Err(Status::unimplemented("the systemd driver does not create networks; Nomad does"))
    }

    async fn destroy_network(
        &self,
        _: Request<DestroyNetworkRequest>,
    ) -> Result<Response<DestroyNetworkResponse>, Status> {
        Err(Status::unimplemented("the systemd driver does not create networks; Nomad does"))
    }
}
