//! Commands in tasks: what a client sends, and what it gets.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use proto::driver as wire;

use crate::task;
use crate::task::live::exec::{Input, Output, Report};

/// What a client of `nomad alloc exec` sent; a heartbeat is nothing.
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

/// What a client of `nomad alloc exec` gets.
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

/// What a client gets whose command is not there, or cannot be executed: the reason, and a shell's exit code for it.
pub(crate) fn exec_not_found(error: &task::Error, terminal: bool) -> [Output; 4] {
    const NOT_FOUND: i32 = 127;
    let line = format!("{}{}", crate::chain(error), if terminal { "\r\n" } else { "\n" });
    let said = if terminal { Output::Stdout(line.into()) } else { Output::Stderr(line.into()) };
    // A status as wait(2) has it: the exit code is the second byte.
    [said, Output::StdoutEnd, Output::StderrEnd, Output::Exited(ExitStatus::from_raw(NOT_FOUND << 8))]
}

/// What a script check gets: as with Nomad's own drivers everything is in stdout, the only field that is read.
pub(crate) fn exec_response(report: Report) -> wire::ExecTaskResponse {
    let Report { output, status } = report;
    wire::ExecTaskResponse { stdout: output, stderr: Vec::new(), result: Some(exit_status(status)) }
}

fn exit_status(status: ExitStatus) -> wire::ExitResult {
    let signal = status.signal().unwrap_or_default();
    let exit_code = status.code().unwrap_or(128 + signal);
    wire::ExitResult { exit_code, signal, oom_killed: false }
}
