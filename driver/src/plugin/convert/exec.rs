//! Commands in tasks: what a client sends, and what it receives.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use proto::driver as wire;

use crate::task;
use crate::task::live::exec::{Input, Output, Report};

/// Input from a client of `nomad alloc exec`; a heartbeat contains none.
pub(crate) fn exec_input(frame: wire::ExecTaskStreamingRequest) -> Vec<Input> {
    let wire::ExecTaskStreamingRequest { setup: _, tty_size, stdin } = frame;
    let mut input = Vec::new();
    if let Some(wire::exec_task_streaming_request::TerminalSize { height, width }) = tty_size {
        let cells = |count: i32| u16::try_from(count).unwrap_or(u16::MAX);
        input.push(Input::Size(cells(height), cells(width)));
    }
    if let Some(wire::ExecTaskStreamingIoOperation { data, close }) = stdin {
        if !data.is_empty() {
            input.push(Input::Data(data));
        }
        if close {
            input.push(Input::End);
        }
    }
    input
}

/// Output to a client of `nomad alloc exec`.
pub(crate) fn exec_output(output: Output) -> wire::ExecTaskStreamingResponse {
    let data = |data| Some(wire::ExecTaskStreamingIoOperation { data, close: false });
    let end = || Some(wire::ExecTaskStreamingIoOperation { data: Vec::new(), close: true });
    let none = wire::ExecTaskStreamingResponse::default();
    match output {
        Output::Stdout(bytes) => wire::ExecTaskStreamingResponse { stdout: data(bytes), ..none },
        Output::Stderr(bytes) => wire::ExecTaskStreamingResponse { stderr: data(bytes), ..none },
        Output::StdoutEnd => wire::ExecTaskStreamingResponse { stdout: end(), ..none },
        Output::StderrEnd => wire::ExecTaskStreamingResponse { stderr: end(), ..none },
        Output::Exited(status) => {
            wire::ExecTaskStreamingResponse { exited: true, result: Some(exit_status(status)), ..none }
        }
    }
}

/// Output to a client whose command does not exist or cannot be executed: the reason, and a shell's exit code for it.
pub(crate) fn exec_not_found(error: &task::Error, terminal: bool) -> [Output; 4] {
    const NOT_FOUND: i32 = 127;
    let line = format!("{}{}", crate::chain(error), if terminal { "\r\n" } else { "\n" });
    let output = if terminal { Output::Stdout(line.into()) } else { Output::Stderr(line.into()) };
    // A status as in wait(2): the exit code is the second byte.
    [output, Output::StdoutEnd, Output::StderrEnd, Output::Exited(ExitStatus::from_raw(NOT_FOUND << 8))]
}

/// The result of a script check. As in Nomad's own drivers all output is in stdout, the only field that is read.
pub(crate) fn exec_response(report: Report) -> wire::ExecTaskResponse {
    let Report { output, status } = report;
    wire::ExecTaskResponse { stdout: output, stderr: Vec::new(), result: Some(exit_status(status)) }
}

fn exit_status(status: ExitStatus) -> wire::ExitResult {
    let signal = status.signal().unwrap_or_default();
    let exit_code = status.code().unwrap_or(128 + signal);
    wire::ExitResult { exit_code, signal, oom_killed: false }
}
