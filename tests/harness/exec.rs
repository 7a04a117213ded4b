//! A command that a test runs inside a task, as a client of `nomad alloc exec` would.

use std::time::Duration;

use proto::driver::exec_task_streaming_request::{Setup, TerminalSize};
use proto::driver::{
    ExecTaskRequest, ExecTaskStreamingIoOperation, ExecTaskStreamingRequest, ExecTaskStreamingResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::node::{Node, Refusal, Task, refused};
use crate::{Exit, SOON};

/// A client that is connected to a command. Dropping it disconnects the client.
#[derive(Debug)]
pub struct Session {
    frames: mpsc::Sender<ExecTaskStreamingRequest>,
    answers: Streaming<ExecTaskStreamingResponse>,
    /// The stdout so far.
    pub stdout: String,
    /// The stderr so far.
    pub stderr: String,
    ends: (bool, bool),
    exit: Option<Exit>,
}

impl Node {
    /// Starts a shell script in a task.
    pub async fn exec(&self, task: &Task, script: &str) -> Session {
        self.exec_command(task, &["/bin/sh", "-c", script], false).await.expect("the command starts")
    }

    /// Starts a shell script in a task, on a terminal.
    pub async fn exec_on_terminal(&self, task: &Task, script: &str) -> Session {
        self.exec_command(task, &["/bin/sh", "-c", script], true).await.expect("the command starts")
    }

    /// Starts a command in a task.
    pub async fn exec_command(
        &self,
        task: &Task,
        command: &[&str],
        terminal: bool,
    ) -> Result<Session, Refusal> {
        let (frames, requests) = mpsc::channel(16);
        let command = command.iter().map(ToString::to_string).collect();
        let setup = Setup { task_id: task.id.clone(), command, tty: terminal };
        let first = ExecTaskStreamingRequest { setup: Some(setup), ..Default::default() };
        frames.send(first).await.expect("room for one");
        let started = self.driver().exec_task_streaming(ReceiverStream::new(requests)).await;
        let answers = started.map_err(|status| refused("ExecTaskStreaming", &status))?.into_inner();
        let (stdout, stderr) = (String::new(), String::new());
        Ok(Session { frames, answers, stdout, stderr, ends: (false, false), exit: None })
    }

    /// Runs a shell script in a task as Nomad runs a script check: its exit code, and the end of its output.
    pub async fn check(&self, task: &Task, script: &str, limit: Duration) -> Result<(i32, Vec<u8>), Refusal> {
        let timeout = prost_types::Duration::try_from(limit).expect("a short time");
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecTaskRequest { task_id: task.id.clone(), command, timeout: Some(timeout) };
        let answer = self.driver().exec_task(request).await.map_err(|status| refused("ExecTask", &status))?;
        let answer = answer.into_inner();
        Ok((answer.result.expect("a result, without which Nomad crashes").exit_code, answer.stdout))
    }

    /// What a script prints in a task; it must exit with 0.
    pub async fn output_in(&self, task: &Task, script: &str) -> String {
        let (exit, output, errors) = self.exec(task, script).await.finish().await;
        assert_eq!(exit, Exit::status(0), "{output}{errors}");
        output
    }
}

impl Session {
    /// Writes to the command's stdin.
    pub async fn send(&self, data: &str) {
        let stdin = ExecTaskStreamingIoOperation { data: data.into(), close: false };
        self.frame(ExecTaskStreamingRequest { stdin: Some(stdin), ..Default::default() }).await;
    }

    /// Closes the command's stdin.
    pub async fn end_input(&self) {
        let stdin = ExecTaskStreamingIoOperation { data: Vec::new(), close: true };
        self.frame(ExecTaskStreamingRequest { stdin: Some(stdin), ..Default::default() }).await;
    }

    /// Resizes the command's terminal.
    pub async fn resize(&self, rows: i32, columns: i32) {
        let size = TerminalSize { height: rows, width: columns };
        self.frame(ExecTaskStreamingRequest { tty_size: Some(size), ..Default::default() }).await;
    }

    /// Sends a client's keepalive message.
    pub async fn heartbeat(&self) {
        self.frame(ExecTaskStreamingRequest::default()).await;
    }

    async fn frame(&self, frame: ExecTaskStreamingRequest) {
        self.frames.send(frame).await.expect("the command is there");
    }

    /// Reads until stdout contains this text.
    pub async fn says(&mut self, text: &str) {
        while !self.stdout.contains(text) {
            assert!(self.next().await, "it said {:?}, not {text:?}", self.stdout);
        }
    }

    /// Reads to the end: the exit of the command, its stdout and its stderr.
    pub async fn finish(mut self) -> (Exit, String, String) {
        while self.next().await {}
        let exit = self.exit.expect("it is told how the command ended");
        assert_eq!(self.ends, (true, true), "both streams are ended before");
        (exit, self.stdout, self.stderr)
    }

    /// The next answer; false at the end.
    async fn next(&mut self) -> bool {
        let waiting = tokio::time::timeout(SOON, self.answers.message()).await;
        let Some(answer) = waiting.expect("an answer comes").expect("no error comes") else { return false };
        assert!(self.exit.is_none(), "nothing comes after the end");
        for (operation, text, end) in [
            (answer.stdout, &mut self.stdout, &mut self.ends.0),
            (answer.stderr, &mut self.stderr, &mut self.ends.1),
        ] {
            if let Some(operation) = operation {
                text.push_str(&String::from_utf8_lossy(&operation.data));
                *end |= operation.close;
            }
        }
        if answer.exited {
            let result = answer.result.expect("a result");
            self.exit = Some(Exit {
                code: result.exit_code,
                signal: result.signal,
                oom_killed: result.oom_killed,
                error: String::new(),
            });
        }
        true
    }
}
