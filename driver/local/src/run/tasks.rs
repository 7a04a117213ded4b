//! The tasks of one run, from their directories to their exits.
//!
//! All tasks are prepared before the first one starts, so that most errors are found early. Every task that was started
//! is destroyed, however the run ends.

use std::path::Path;
use std::time::Duration;

use proto::driver::driver_capabilities::FsIsolation;
use proto::driver::{
    DestroyTaskRequest, DriverTaskEvent, ExitResult, StartTaskRequest, StopTaskRequest, TaskEventsRequest,
    WaitTaskRequest, WaitTaskResponse,
};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;

use crate::allocdir::{self, AllocDir, Passable};
use crate::error::Error;
use crate::jobspec::{Hook, Task};
use crate::node::Node;
use crate::options::Invocation;
use crate::plugin_client::{Plugin, failed};
use crate::terminal::{note, object};

use super::RunOptions;
use super::lifecycle::{self, State, Steps};
use super::output::Output;
use super::prepare::{Prepared, prepare};
use super::stop_signals::StopSignals;

/// The longest time that an agent waits for a stopped task (`max_kill_timeout`).
const MAX_KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// One run: the data that all its tasks share.
pub(super) struct Run<'a> {
    pub(super) plugin: &'a Plugin,
    pub(super) asked: &'a Invocation,
    pub(super) node: &'a Node,
    pub(super) options: &'a RunOptions,
}

/// A task and its state.
struct Entry<'a> {
    group: usize,
    task: &'a Task,
    /// Set until the task is started.
    prepared: Option<Prepared<'a>>,
    /// The task's id, once the task was started.
    id: String,
    output: Option<Output>,
    state: State,
    /// Stopped because other tasks have ended, which is not a failure.
    follows: bool,
}

/// The operations in progress while tasks run.
#[derive(Default)]
struct Pending {
    /// The exit of each running task, with its index.
    ends: JoinSet<(usize, Result<WaitTaskResponse, Status>)>,
    stops: JoinSet<()>,
    /// Why the first failed start failed.
    not_started: Option<Error>,
}

impl Run<'_> {
    /// Do tasks reach their directories at the paths on the node, as their users?
    async fn tasks_see_the_node(&self) -> bool {
        let capabilities = self.plugin.capabilities().await;
        capabilities.is_ok_and(|capabilities| capabilities.fs_isolation() != FsIsolation::Image)
    }

    /// Runs all tasks to their end; returns our exit code.
    pub(super) async fn all(&self, stop_signals: &mut StopSignals) -> Result<u8, Error> {
        let wrong = |source| Error::AllocDir { source };
        let to = if self.asked.own_manager { Passable::ToUs } else { Passable::ToAll };
        let mut fresh = None;
        let base = match &self.options.alloc_dir {
            Some(base) => std::path::absolute(base).unwrap_or_else(|_| base.clone()),
            None => fresh.insert(allocdir::fresh_base(to).map_err(wrong)?).path().to_owned(),
        };
        if !rustix::process::geteuid().is_root() && !allocdir::is_in_memory(&base) {
            note(&format!(
                "not root: the tasks' secrets are not in memory, but on disk below {}",
                base.display()
            ));
        }
        let mut allocs = Vec::new();
        let result = self.all_in(&base, &mut allocs, stop_signals).await;
        let closed = allocdir::impassable(&base).filter(|_| result.is_err() && to == Passable::ToAll);
        if let Some(directory) = closed
            && self.tasks_see_the_node().await
        {
            note(&format!(
                "{} is closed to other users; `--alloc-dir` chooses another place",
                directory.display()
            ));
        }
        for mut alloc in allocs {
            if self.options.keep {
                note(&format!("kept {}", alloc.path().display()));
                alloc.keep();
            } else if let Err(error) = alloc.remove() {
                note(&error.to_string());
            }
        }
        if let Some(fresh) = fresh.filter(|_| self.options.keep) {
            let _ = fresh.keep();
        }
        result
    }

    async fn all_in(
        &self,
        base: &Path,
        allocs: &mut Vec<AllocDir>,
        stop_signals: &mut StopSignals,
    ) -> Result<u8, Error> {
        let prepared = tokio::select! {
            prepared = prepare(self, base, allocs) => prepared?,
            () = stop_signals.next() => return Ok(130),
        };
        let events = self.print_events(prepared.iter().map(|task| task.request.alloc_id.clone()).collect());
        let mut tasks: Vec<_> = prepared.into_iter().map(Entry::new).collect();
        let result = self.play(&mut tasks, stop_signals).await;
        // After an error, and for tasks left over by a leader.
        for task in tasks.iter_mut().filter(|task| task.state == State::Running) {
            self.destroy(task, State::Failed).await;
        }
        events.abort();
        result
    }

    /// Prints the driver's events about our tasks.
    fn print_events(&self, allocs: Vec<String>) -> JoinHandle<()> {
        let (mut driver, is_json) = (self.plugin.driver(), self.options.json);
        tokio::spawn(async move {
            let Ok(answer) = driver.task_events(TaskEventsRequest {}).await else {
                return;
            };
            let mut events = answer.into_inner();
            while let Ok(Some(event)) = events.message().await {
                if !allocs.contains(&event.alloc_id) {
                    continue;
                }
                if is_json {
                    let DriverTaskEvent { task_name, message, annotations, .. } = event;
                    object(&json!({ "task": task_name, "event": message, "details": annotations }));
                } else {
                    note(&format!("task {}: {}", event.task_name, event.message));
                }
            }
        })
    }

    /// Starts each task when it is due, waits until all have ended, and handles stop signals meanwhile.
    async fn play(&self, tasks: &mut [Entry<'_>], stop_signals: &mut StopSignals) -> Result<u8, Error> {
        let mut pending = Pending::default();
        let mut code = 0;
        loop {
            if self.take_steps(tasks, &mut pending, stop_signals).await {
                // A task that was being started has not started, or is stopped with the others.
                code = if code == 0 { 130 } else { code };
                self.stop_all(tasks, &mut pending, stop_signals.taken > 1);
                continue;
            }
            let ended = tokio::select! {
                ended = pending.ends.join_next() => ended,
                () = stop_signals.next() => {
                    self.stop_all(tasks, &mut pending, stop_signals.taken > 1);
                    continue;
                }
            };
            // A cancelled future can only mean that we are exiting.
            let Some(Ok((number, answer))) = ended else { break };
            let Some(task) = tasks.get_mut(number) else { break };
            let task_code = self.ended(task, answer).await?;
            if code == 0 && !task.follows {
                code = task_code;
            }
            let (group, leads) = (task.group, task.task.leader);
            if leads {
                let others = tasks.iter_mut().filter(|other| other.group == group);
                for other in others.filter(|other| other.task.lifecycle.hook != Hook::Poststop) {
                    self.let_go(other, &mut pending);
                }
            }
        }
        pending.not_started.map_or(Ok(code), Err)
    }

    /// Takes the next steps of all groups; returns true if a stop signal arrived while a task was being started.
    async fn take_steps(
        &self,
        tasks: &mut [Entry<'_>],
        pending: &mut Pending,
        stop_signals: &mut StopSignals,
    ) -> bool {
        for group in 0..self.asked.job.groups.len() {
            loop {
                let of_group: Vec<usize> = (0_usize..)
                    .zip(tasks.iter())
                    .filter(|(_, task)| task.group == group)
                    .map(|(number, _)| number)
                    .collect();
                let states: Vec<_> = of_group
                    .iter()
                    .filter_map(|number| tasks.get(*number))
                    .map(|task| (task.task.lifecycle, task.state))
                    .collect();
                let Steps { start, stop, leave_out } = lifecycle::steps(&states);
                let number = |index: usize| of_group.get(index).copied().unwrap_or_default();
                for index in stop.iter().chain(&leave_out) {
                    if let Some(task) = tasks.get_mut(number(*index)).filter(|task| !task.follows) {
                        self.let_go(task, pending);
                    }
                }
                for index in &start {
                    let number = number(*index);
                    // The task may have been left out because of the one before.
                    let Some(task) = tasks.get_mut(number).filter(|task| task.state == State::Waiting) else {
                        continue;
                    };
                    let before = stop_signals.taken;
                    let started = self.start(task, stop_signals).await;
                    let is_ordered = stop_signals.taken > before;
                    match started {
                        Ok(()) => {
                            let (mut driver, task_id) = (self.plugin.driver(), task.id.clone());
                            pending.ends.spawn(async move {
                                let answer = driver.wait_task(WaitTaskRequest { task_id }).await;
                                (number, answer.map(tonic::Response::into_inner))
                            });
                        }
                        Err(_) if is_ordered => note(&format!("task {}: not started", task.task.name)),
                        Err(error) => self.give_up(tasks, number, error, pending),
                    }
                    if is_ordered {
                        return true;
                    }
                }
                if start.is_empty() && leave_out.is_empty() {
                    break;
                }
            }
        }
        false
    }

    /// Handles a failed start: ends all tasks that were to run with this one; tasks that clean up still run.
    fn give_up(&self, tasks: &mut [Entry<'_>], number: usize, error: Error, pending: &mut Pending) {
        let others = if tasks.len() > 1 { "; the others are ended" } else { "" };
        for (other, task) in tasks.iter_mut().enumerate() {
            if other == number {
                note(&format!("task {}: could not be started{others}", task.task.name));
                task.state = State::Failed;
            } else if task.task.lifecycle.hook != Hook::Poststop {
                self.let_go(task, pending);
            }
        }
        pending.not_started.get_or_insert(error);
    }

    /// Starts a task. A stop signal makes the driver cancel the start, which may wait for a compilation.
    async fn start(&self, task: &mut Entry<'_>, stop_signals: &mut StopSignals) -> Result<(), Error> {
        let Some(mut prepared) = task.prepared.take() else { return Ok(()) };
        // Whether or not the start succeeds, the task is not started again.
        task.state = State::LeftOut;
        prepared.render_late()?;
        let config = prepared.request.task_config();
        task.id.clone_from(&config.id);
        let mut driver = self.plugin.driver();
        let mut starting = std::pin::pin!(driver.start_task(StartTaskRequest { task: Some(config) }));
        let answer = loop {
            tokio::select! {
                answer = &mut starting => break answer,
                () = stop_signals.next() => {
                    note(&format!("task {}: giving up its start", task.task.name));
                    let request = StopTaskRequest { task_id: task.id.clone(), ..StopTaskRequest::default() };
                    if let Err(status) = self.plugin.driver().stop_task(request).await {
                        note(&format!("task {}: StopTask: {}", task.task.name, status.message()));
                    }
                }
            }
        };
        if let Err(status) = answer {
            // The output of a program that then did not become ready.
            if let Some(output) = prepared.output.take() {
                output.finish().await;
            }
            let source = Box::new(failed("StartTask")(status));
            return Err(Error::Task { task: task.task.name.clone(), source });
        }
        task.output = prepared.output;
        task.state = State::Running;
        Ok(())
    }

    /// Reports a task's exit; returns its contribution to our exit code.
    async fn ended(
        &self,
        task: &mut Entry<'_>,
        answer: Result<WaitTaskResponse, Status>,
    ) -> Result<u8, Error> {
        let name = task.task.name.clone();
        let answer = answer.map_err(|status| {
            note(&format!("plugin: {}", self.plugin.last_lines()));
            Error::Task { task: name.clone(), source: Box::new(failed("WaitTask")(status)) }
        })?;
        let (text, code) = describe_end(&answer);
        self.destroy(task, if code == 0 { State::Succeeded } else { State::Failed }).await;
        if self.options.json {
            let ExitResult { exit_code, signal, oom_killed } = answer.result.unwrap_or_default();
            let end = json!({ "task": name, "exit_code": exit_code, "signal": signal, "oom_killed": oom_killed, "error": answer.err });
            object(&end);
        } else {
            note(&format!("task {name}: {text}"));
        }
        Ok(code)
    }

    /// Stops every running task, and starts only those that clean up.
    fn stop_all(&self, tasks: &mut [Entry<'_>], pending: &mut Pending, kill: bool) {
        note(if kill { "killing all tasks" } else { "stopping all tasks; once more to kill them" });
        for task in tasks {
            match task.state {
                State::Running => self.stop(task, pending, kill),
                State::Waiting if kill || task.task.lifecycle.hook != Hook::Poststop => {
                    task.state = State::LeftOut;
                }
                _ => {}
            }
        }
    }

    /// Stops a task that is no longer needed; its exit code does not count.
    fn let_go(&self, task: &mut Entry<'_>, pending: &mut Pending) {
        match task.state {
            State::Running => {
                task.follows = true;
                self.stop(task, pending, false);
            }
            State::Waiting => {
                note(&format!("task {}: not started", task.task.name));
                task.state = State::LeftOut;
            }
            _ => {}
        }
    }

    /// Requests the stop of a task; its `WaitTask` reports when the task has ended.
    fn stop(&self, task: &Entry<'_>, pending: &mut Pending, kill: bool) {
        let patience = if kill { Duration::ZERO } else { task.task.kill_timeout.min(MAX_KILL_TIMEOUT) };
        let request = StopTaskRequest {
            task_id: task.id.clone(),
            timeout: prost_types::Duration::try_from(patience).ok(),
            signal: if kill { "SIGKILL".to_owned() } else { task.task.kill_signal.clone() },
        };
        let (mut driver, name) = (self.plugin.driver(), task.task.name.clone());
        pending.stops.spawn(async move {
            if let Err(status) = driver.stop_task(request).await {
                note(&format!("task {name}: StopTask: {}", status.message()));
            }
        });
    }

    /// Makes the plugin forget a task, and lets the output reach its end.
    async fn destroy(&self, task: &mut Entry<'_>, state: State) {
        task.state = state;
        let request = DestroyTaskRequest { task_id: task.id.clone(), force: true };
        if let Err(status) = self.plugin.driver().destroy_task(request).await {
            let name = &task.task.name;
            let whose = if self.asked.own_manager { "--user " } else { "" };
            note(&format!(
                "task {name}: DestroyTask: {}; `systemctl {whose}list-units 'nomad-*'` shows what is left",
                status.message()
            ));
        }
        if let Some(output) = task.output.take() {
            output.finish().await;
        }
    }
}

impl<'a> Entry<'a> {
    fn new(prepared: Prepared<'a>) -> Self {
        Self {
            group: prepared.group,
            task: prepared.task,
            prepared: Some(prepared),
            id: String::new(),
            output: None,
            state: State::Waiting,
            follows: false,
        }
    }
}

/// A description of a task's exit, and its contribution to our exit code.
fn describe_end(answer: &WaitTaskResponse) -> (String, u8) {
    let result = answer.result.unwrap_or_default();
    let (mut text, code) = if result.signal != 0 {
        (format!("ended by signal {}", result.signal), u8::try_from(128 + result.signal).unwrap_or(u8::MAX))
    } else {
        // A code that does not fit must not become success.
        let code = u8::try_from(result.exit_code).unwrap_or(u8::MAX);
        (format!("exit code {}", result.exit_code), code)
    };
    if result.oom_killed {
        text.push_str(", out of memory");
    }
    if answer.err.is_empty() {
        return (text, code);
    }
    (format!("{text}, {}", answer.err), code.max(1))
}

#[cfg(test)]
mod tests {
    use proto::driver::ExitResult;

    use super::*;

    fn end(exit_code: i32, signal: i32, oom_killed: bool, err: &str) -> (String, u8) {
        let result = Some(ExitResult { exit_code, signal, oom_killed });
        describe_end(&WaitTaskResponse { result, err: err.to_owned() })
    }

    #[test]
    fn our_exit_code_is_the_tasks() {
        assert_eq!(end(0, 0, false, ""), ("exit code 0".to_owned(), 0));
        assert_eq!(end(3, 0, false, ""), ("exit code 3".to_owned(), 3));
        assert_eq!(end(137, 9, true, ""), ("ended by signal 9, out of memory".to_owned(), 137));
        assert_eq!(end(0, 0, false, "lost"), ("exit code 0, lost".to_owned(), 1));
        assert_eq!(end(256, 0, false, "").1, 255);
    }
}
