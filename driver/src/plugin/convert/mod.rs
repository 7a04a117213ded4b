//! Converts wire types to the driver's types and back, and the driver's errors to gRPC's.
//!
//! Every message is destructured with all its fields: a field that Nomad adds stops the build instead of being dropped.

mod exec;
mod stats;
mod task;

use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use proto::driver as wire;
use shim_interface::visible;
use tonic::{Code, Status};

pub(super) use self::exec::{exec_input, exec_not_found, exec_output, exec_response};
pub(super) use self::stats::{core_speed, stats_response};
pub(super) use self::task::task_config;
use crate::enter::Failure;
use crate::systemd;
use crate::task::config::{TaskId, TaskIdentity};
use crate::task::live::events::Event;
use crate::task::live::exec as command;
use crate::task::wasm::outcome;
use crate::task::{self as tasks, Exit, Handle, Phase, Saved};

/// The version of the state that the driver saves in a handle. Zero is Nomad's own; older versions must stay readable
/// for ever.
const SAVED_VERSION: i32 = 1;

/// The handle of a started task, which Nomad keeps. Nomad expects its own message in it.
pub(super) fn task_handle(config: wire::TaskConfig, handle: &Handle) -> wire::TaskHandle {
    wire::TaskHandle {
        version: SAVED_VERSION,
        config: Some(config),
        state: wire::TaskState::Running.into(),
        driver_state: serde_json::to_vec(handle.saved()).unwrap_or_default(),
    }
}

/// Reads the handle of a task that Nomad kept. The driver configuration is missing, unless Nomad itself was not
/// restarted.
pub(super) fn saved_task(handle: Option<wire::TaskHandle>) -> Result<(TaskIdentity, Saved), Status> {
    let wire::TaskHandle { version, config, state: _, driver_state } =
        handle.ok_or_else(|| Status::invalid_argument("recover task: Nomad sent no handle"))?;
    let config = config.ok_or_else(|| Status::invalid_argument("recover task: the handle holds no task"))?;
    if version != SAVED_VERSION {
        return Err(Status::failed_precondition(format!(
            "recover task {}: it was started by another version of this driver (its state is version {version}, we know \
             {SAVED_VERSION}); Nomad will start the task again",
            config.id
        )));
    }
    let saved = serde_json::from_slice(&driver_state).map_err(|error| {
        Status::invalid_argument(format!("recover task {}: its saved state is damaged: {error}", config.id))
    })?;
    let wire::TaskConfig {
        id,
        name,
        env,
        alloc_dir,
        alloc_id,
        // Not needed for a task that is already running.
        msgpack_driver_config: _,
        device_env: _,
        resources: _,
        mounts: _,
        devices: _,
        user: _,
        stdout_path: _,
        stderr_path: _,
        task_group_name: _,
        job_name: _,
        network_isolation_spec: _,
        dns: _,
        job_id: _,
        namespace: _,
        node_name: _,
        node_id: _,
        parent_job_id: _,
    } = config;
    let (id, alloc_dir, env) = (TaskId(id), PathBuf::from(alloc_dir), env.into_iter().collect());
    Ok((TaskIdentity { id, name, alloc_id, alloc_dir, env }, saved))
}

/// How a task ended, for WaitTask.
pub(super) fn wait_response(exit: &Exit) -> wire::WaitTaskResponse {
    let err = exit.unknown.clone().unwrap_or_default();
    wire::WaitTaskResponse { result: Some(exit_result(exit)), err }
}

fn exit_result(exit: &Exit) -> wire::ExitResult {
    let Exit { code, signal, oom_killed, unknown: _, at: _ } = exit;
    wire::ExitResult { exit_code: *code, signal: *signal, oom_killed: *oom_killed }
}

/// The result of InspectTask. Nomad crashes if any of these fields is missing.
pub(super) fn inspect_response(handle: &Handle) -> wire::InspectTaskResponse {
    let (state, completed_at, result) = match handle.phase() {
        Phase::Running => (wire::TaskState::Running, None, wire::ExitResult::default()),
        Phase::Exited(exit) => (wire::TaskState::Exited, Some(exit.at), exit_result(&exit)),
    };
    wire::InspectTaskResponse {
        task: Some(wire::TaskStatus {
            id: handle.id().0.clone(),
            name: handle.identity().name.clone(),
            state: state.into(),
            started_at: Some(handle.started_at().into()),
            completed_at: Some(completed_at.map_or(NEVER, prost_types::Timestamp::from)),
            result: Some(result),
        }),
        driver: Some(wire::TaskDriverStatus {
            attributes: [("unit", handle.unit().to_string()), ("pid", handle.pid().to_string())]
                .into_iter()
                .chain(handle.served().iter().flat_map(outcome::attributes))
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }),
        network_override: None,
    }
}

/// An event in the form that Nomad expects: Nomad finds the task by allocation and name.
pub(super) fn task_event(event: Event) -> wire::DriverTaskEvent {
    let Event { task, alloc_id, task_name, at, message, details } = event;
    wire::DriverTaskEvent {
        task_id: task.0,
        alloc_id,
        task_name,
        timestamp: Some(at.into()),
        message: for_a_terminal(&message),
        annotations: details.into_iter().map(|(name, value)| (name, for_a_terminal(&value))).collect(),
    }
}

/// Go's zero time.
const NEVER: prost_types::Timestamp = prost_types::Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// A duration; a negative or missing one is zero.
pub(super) fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
}

/// The message in one line, without what a terminal obeys: it may contain text of a job's author.
fn for_a_terminal(message: &str) -> String {
    visible(message).replace('\n', "\\n").replace('\t', "\\t")
}

/// The only table from the driver's errors to gRPC's codes.
///
/// `UNAVAILABLE` and `CANCELLED` are not in it: Nomad treats them as the death of the plugin.
pub(super) fn status(error: &tasks::Error) -> Status {
    use tasks::Error;
    let message = for_a_terminal(&crate::chain(error));
    // An error that may pass at the next attempt must have this code with this detail, first and alone (Nomad v2.0.5,
    // helper/pluginutils/grpcutils and plugins/drivers/client.go).
    if error.is_recoverable() {
        let recoverable = proto::structs::RecoverableError { recoverable: true };
        let detail = prost_types::Any {
            type_url: "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError"
                .to_owned(),
            value: recoverable.encode_to_vec(),
        };
        let code = Code::FailedPrecondition;
        let status =
            proto::rpc::Status { code: code.into(), message: message.clone(), details: vec![detail] };
        return Status::with_details(code, message, status.encode_to_vec().into());
    }
    let code = match error {
        Error::Unknown { .. } | Error::Lost { .. } => Code::NotFound,
        Error::Duplicate { .. } => Code::AlreadyExists,
        Error::StillRunning { .. }
        | Error::Exec(command::Error::Ended | command::Error::BesideGuest | command::Error::Many) => {
            Code::FailedPrecondition
        }
        Error::Spec(_)
        | Error::Program(_)
        | Error::Files(_)
        | Error::NotReady { .. }
        | Error::Guest { .. }
        | Error::Init { .. }
        | Error::Wasm(_)
        | Error::Env(_)
        | Error::Signal(_)
        | Error::Logs(_)
        | Error::Exec(command::Error::Enter(Failure::Command { .. }))
        | Error::Systemd(systemd::Error::Unfit { .. })
        | Error::SetUp { .. } => Code::InvalidArgument,
        Error::Exec(command::Error::TimedOut { .. }) => Code::DeadlineExceeded,
        Error::Make { .. }
        | Error::Directories { .. }
        | Error::Connection { .. }
        | Error::Overlay { .. }
        | Error::Sockets { .. }
        | Error::Systemd(_)
        | Error::Immortal { .. }
        | Error::Panicked
        | Error::NotKept { .. }
        | Error::Exec(_) => Code::Internal,
    };
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_may_pass_carries_the_detail_that_nomad_looks_for() {
        let status = status(&tasks::Error::Make {
            what: "the root of the view",
            directory: "/run".into(),
            source: std::io::ErrorKind::Other.into(),
        });
        assert_eq!(status.code(), Code::FailedPrecondition);
        let rich = proto::rpc::Status::decode(status.details()).unwrap();
        assert_eq!(rich.code, 9);
        let detail = proto::structs::RecoverableError::decode(&*rich.details[0].value).unwrap();
        assert!(detail.recoverable && rich.details[0].type_url.ends_with("structs.RecoverableError"));
    }

    #[test]
    fn a_handle_from_nowhere_is_refused_with_its_reason() {
        let task = |version, state: &[u8]| wire::TaskHandle {
            version,
            config: Some(wire::TaskConfig { id: "a/b/c".into(), ..Default::default() }),
            driver_state: state.to_vec(),
            ..Default::default()
        };
        assert!(saved_task(None).is_err());
        assert!(saved_task(Some(task(7, b"{}"))).unwrap_err().message().contains("version 7"));
        assert!(saved_task(Some(task(1, b"{"))).unwrap_err().message().contains("damaged"));
    }
}
