//! The interface to Nomad. gRPC and the wire types are used only in this module.
//!
//! The life of a plugin process, as go-plugin's host sees it:
//!
//! ```text
//!  host ── environment ──► handshake.rs: did Nomad start us?
//!       ◄─ one line ────── serve: a socket only root can reach, already listening
//!       ── PluginInfo, ConfigSchema, SetConfig ──► base.rs
//!       ── Fingerprint, StartTask, WaitTask … ───► driver.rs ──► convert/ ──►  task
//!       ── Shutdown ─────► answer, then exit at once; tasks keep running
//! ```

mod base;
mod convert;
mod driver;
mod fingerprint;
pub mod handshake;
mod schema;
mod sketch;

use std::future;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use proto::base::base_plugin_server::BasePluginServer;
use proto::driver::driver_server::DriverServer;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_server::{Health, HealthServer};
use proto::health::{HealthCheckRequest, HealthCheckResponse};
use proto::plugin::grpc_broker_server::{GrpcBroker, GrpcBrokerServer};
use proto::plugin::grpc_controller_server::{GrpcController, GrpcControllerServer};
use proto::plugin::grpc_stdio_server::{GrpcStdio, GrpcStdioServer};
use proto::plugin::{ConnInfo, Empty, StdioData};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

pub use base::NAME;
pub use sketch::sketch;

use self::handshake::Terms;
use crate::kernel;
use crate::systemd::Systemd;
use crate::task::Tasks;

/// One message contains a task's whole environment and configuration; gRPC's default of 4 MiB is that of Go's side.
const MESSAGE_MAX: usize = 64 << 20;
/// The host waits two seconds for this process to exit; this delay lets the answer to `Shutdown` leave.
const ANSWER_DELAY: Duration = Duration::from_millis(100);

/// The prefix of the name of the socket's directory.
const SOCKET_DIR: &str = "plugin-systemd-";
/// The name of the socket in this directory.
const SOCKET: &str = "socket";

/// Why the plugin cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The handshake failed: no host, or one with other requirements.
    #[error(transparent)]
    Handshake(#[from] handshake::Error),
    /// The socket could not be created.
    #[error("listen on a socket in {directory}")]
    Listen {
        /// The directory for the socket.
        directory: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The server failed.
    #[error("serve Nomad's calls")]
    Serve {
        /// The error of gRPC.
        source: tonic::transport::Error,
    },
    /// The signals could not be taken over.
    #[error("take over SIGINT and SIGTERM")]
    Signals {
        /// The kernel's error.
        source: io::Error,
    },
}

/// Serves one host until the host requests a shutdown, or SIGTERM does. SIGINT is ignored: Ctrl-C on an agent in the
/// foreground reaches this process too, and the agent then requests the shutdown itself.
pub async fn serve(terms: Terms, systemd: Systemd, tasks: Tasks) -> Result<(), Error> {
    let take = |kind| signal(kind).map_err(|source| Error::Signals { source });
    let (mut terminate, _interrupt) = (take(SignalKind::terminate())?, take(SignalKind::interrupt())?);

    let directory = terms.socket_dir.clone().unwrap_or_else(std::env::temp_dir);
    let listen_error = |source| Error::Listen { directory: directory.clone(), source };
    // Whoever can connect is root on this node, so the socket lies in a directory of its own, mode 0700.
    let private = tempfile::Builder::new()
        .prefix(SOCKET_DIR)
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(&directory)
        .map_err(listen_error)?;
    let socket = private.path().join(SOCKET);
    let listener = UnixListener::bind(&socket).map_err(listen_error)?;

    let (shutdown, mut shutdown_requested) = mpsc::channel(1);
    let core_speed = Arc::default();
    let server = Server::builder()
        .add_service(
            BasePluginServer::new(base::Base {
                tasks: tasks.clone(),
                socket_dir: directory.clone(),
                core_speed: Arc::clone(&core_speed),
            })
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX),
        )
        .add_service(
            DriverServer::new(driver::DriverService { systemd, tasks, core_speed })
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
        )
        .add_service(HealthServer::new(Healthy))
        .add_service(GrpcControllerServer::new(Controller { shutdown }))
        .add_service(GrpcBrokerServer::new(Silent))
        .add_service(GrpcStdioServer::new(Silent))
        .serve_with_incoming(UnixListenerStream::new(listener));

    terms.answer(&socket).map_err(Error::Handshake)?;
    tracing::debug!(socket = %socket.display(), "serving");
    tokio::select! {
        ended = server => ended.map_err(|source| Error::Serve { source }),
        _ = shutdown_requested.recv() => {
            // Open streams would keep a graceful server alive for ever; only the answer has to be sent.
            tokio::time::sleep(ANSWER_DELAY).await;
            Ok(())
        }
        _ = terminate.recv() => Ok(()),
        () = end_of_an_agent_with_mounts() => {
            tracing::warn!("the agent has ended, and with it the mounts that it shared with this process");
            Ok(())
        }
    }
}

/// Waits for the end of an agent in a mount namespace of its own: the next agent has another one, and would find this process
/// again, which does not see what that agent mounts. Never for another agent.
async fn end_of_an_agent_with_mounts() {
    if kernel::is_in_mount_namespace_of_pid1() {
        return future::pending().await;
    }
    // Without a parent, in a container for example, there is no agent.
    let Some(agent) = getppid().and_then(|agent| pidfd_open(agent, PidfdFlags::empty()).ok()) else {
        return future::pending().await;
    };
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        while poll(&mut [PollFd::new(&agent, PollFlags::IN)], None).is_err() {}
        let _ = ended.send(());
    });
    // The thread does not end before.
    let _ = end.await;
}

/// Removes the sockets of plugins that were killed: those on which nobody has listened for a while.
///
/// The socket of a running plugin answers, and a socket that is just being created is young: both are left alone.
fn sweep(directory: &Path) {
    const MIN_AGE: Duration = Duration::from_mins(1);
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(SOCKET_DIR));
        let Ok(found) = entry.metadata() else { continue };
        let old = found.modified().is_ok_and(|made| made.elapsed().is_ok_and(|age| age > MIN_AGE));
        // In a directory that others can write to, another user may have created a directory of that name.
        let trusted = ours && old && found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        let socket = entry.path().join(SOCKET);
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if trusted && std::os::unix::net::UnixStream::connect(&socket).is_err_and(refused) {
            let _ = std::fs::remove_file(&socket).and_then(|()| std::fs::remove_dir(entry.path()));
        }
    }
}

struct Controller {
    shutdown: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        // A second request has no effect.
        let _ = self.shutdown.try_send(());
        Ok(Response::new(Empty {}))
    }
}

struct Healthy;

#[tonic::async_trait]
impl Health for Healthy {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.into_inner().service.as_str() {
            "" | "plugin" => Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() })),
            other => Err(Status::not_found(format!("there is no service `{other}`"))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = match self.check(request).await {
            Ok(answer) => answer.into_inner(),
            Err(_) => HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() },
        };
        Ok(Response::new(stream::once(std::future::ready(Ok(first))).chain(stream::pending()).boxed()))
    }
}

/// Services that go-plugin's host opens at once and drivers do not use: their streams are open, and send nothing.
struct Silent;

#[tonic::async_trait]
impl GrpcBroker for Silent {
    type StartStreamStream = BoxStream<'static, Result<ConnInfo, Status>>;

    async fn start_stream(
        &self,
        _: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }
}

#[tonic::async_trait]
impl GrpcStdio for Silent {
    type StreamStdioStream = BoxStream<'static, Result<StdioData, Status>>;

    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }
}
