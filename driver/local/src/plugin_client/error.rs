//! Why a plugin could not be started, configured or called.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use prost::Message;
use proto::structs::RecoverableError;
use tonic::{Code, Status};

use crate::hclspec;
use crate::jobspec::expression;

/// How long a plugin may take to write its handshake line (go-plugin's default).
pub(super) const START: Duration = Duration::from_mins(1);

/// Why a plugin could not be started, configured or called.
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
    #[error("the plugin {program} ended ({status}) before its handshake; its last words:\n{last_lines}")]
    Died {
        /// The binary.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr.
        last_lines: String,
    },
    /// No handshake line within a minute.
    #[error("the plugin {program} has not shaken hands within {START:?}; its last words:\n{last_lines}")]
    Silent {
        /// The binary.
        program: PathBuf,
        /// The end of its stderr.
        last_lines: String,
    },
    /// The handshake line is not what go-plugin expects.
    #[error("the plugin's handshake `{line}` is wrong: {reason}")]
    Handshake {
        /// The line, without its end.
        line: String,
        /// The reason, such as ``the protocol is `netrpc`, not `grpc` ``.
        reason: String,
    },
    /// The socket of the handshake is not reachable.
    #[error("connect to the plugin at {address}")]
    Connect {
        /// The socket or address.
        address: String,
        /// The transport's reason.
        source: tonic::transport::Error,
    },
    /// There is no process with this PID to reattach to.
    #[error("find the plugin process {pid}")]
    Reattach {
        /// The PID.
        pid: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// The plugin has returned an error.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The plugin's answer lacks a required part.
    #[error("the plugin's answer to {call} lacks its {part}; report this to the driver's authors")]
    Incomplete {
        /// The call, such as `TaskConfigSchema`.
        call: &'static str,
        /// The missing part, such as `spec`.
        part: &'static str,
    },
    /// The plugin has no configuration, and one was given.
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

impl Error {
    /// The option of a configuration that this is about.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Config { source, .. } => source.key(),
            _ => None,
        }
    }
}

/// A call for which the plugin has returned an error.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {message}")]
pub struct CallError {
    /// The call, such as `StartTask`.
    pub call: &'static str,
    /// The status code, such as `InvalidArgument`.
    pub code: Code,
    /// The plugin's message.
    pub message: String,
    /// The plugin reports that a retry may succeed.
    pub recoverable: bool,
}

impl CallError {
    /// Reads the status and, from its details, whether to retry (Nomad v2.0.5, helper/pluginutils/grpcutils/).
    pub fn new(call: &'static str, status: &Status) -> Self {
        let details = proto::rpc::Status::decode(status.details()).unwrap_or_default();
        // Nomad reads the first detail only.
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

/// Creates the error of a failed call: `client.stop_task(…).await.map_err(failed("StopTask"))`.
#[allow(clippy::result_large_err, reason = "it makes the error, it does not return one")]
pub fn failed(call: &'static str) -> impl FnOnce(Status) -> Error {
    move |status| Error::Call(CallError::new(call, &status))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
