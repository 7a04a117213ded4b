//! The tasks of one run, from their directories to their ends.
//!
//! All of them are prepared before the first one starts, so that most mistakes cost nothing; and whatever way a run
//! ends, every task that was started is destroyed.

use std::path::Path;
use std::time::Duration;

use proto::driver::{
    DestroyTaskRequest, StartTaskRequest, StopTaskRequest, TaskEventsRequest, WaitTaskRequest,
    WaitTaskResponse,
};
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;

use crate::allocdir::{self, AllocDir, Passable};
use crate::error::Error;
use crate::jobspec::{Hook, Task};
use crate::node::Node;
use crate::options::Asked;
use crate::plugin_client::{Plugin, failed};
use crate::terminal::note;

use super::RunOptions;
use super::lifecycle::{self, State, Steps};
use super::orders::Orders;
use super::output::Output;
use super::prepare::{Prepared, prepare};

/// An agent never waits longer than this for a stopped task (`max_kill_timeout`).
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// One run: what all its tasks share.
pub(super) struct Run<'a> {
    pub(super) plugin: &'a Plugin,
    pub(super) asked: &'a Asked,
    pub(super) node: &'a Node,
    pub(super) options: &'a RunOptions,
}

/// A task, and how far it has come.
struct Entry<'a> {
    group: usize,
    task: &'a Task,
    /// Until it is started.
    prepared: Option<Prepared<'a>>,
    /// The task's id, once it was started.
    id: String,
    output: Option<Output>,
    state: State,
    /// Stopped because others have ended, which is no failure.
    follows: bool,
}

/// What is on its way while tasks run.
#[derive(Default)]
struct Pending {
    /// The end of each running task, with its number.
    ends: JoinSet<(usize, Result<WaitTaskResponse, Status>)>,
    stops: JoinSet<()>,
    /// Why the first task that could not be started was not.
    not_started: Option<Error>,
}

impl Run<'_> {
    /// Runs all tasks to their end; the result is our exit code.
    pub(super) async fn all(&self, orders: &mut Orders) -> Result<u8, Error> {
        let wrong = |source| Error::AllocDir { source };
        let to = if self.asked.own_manager { Passable::ToUs } else { Passable::ToAll };
        let mut fresh = None;
        let base = match &self.options.alloc_dir {
            Some(base) => base.clone(),
            None => fresh.insert(allocdir::fresh_base(to).map_err(wrong)?).path().to_owned(),
        };
        if !rustix::process::geteuid().is_root() && !allocdir::is_in_memory(&base) {
            note(&format!(
                "not root: the tasks' secrets are not in memory, but on disk below {}",
                base.display()
            ));
        }
        let mut allocs = Vec::new();
        let result = self.all_in(&base, &mut allocs, orders).await;
        let closed = allocdir::impassable(&base).filter(|_| result.is_err() && to == Passable::ToAll);
        if let Some(directory) = closed {
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
        orders: &mut Orders,
    ) -> Result<u8, Error> {
        let prepared = tokio::select! {
            prepared = prepare(self, base, allocs) => prepared?,
            () = orders.next() => return Ok(130),
        };
        let events = self.tell_events(prepared.iter().map(|task| task.request.alloc_id.clone()).collect());
        let mut tasks: Vec<_> = prepared.into_iter().map(Entry::new).collect();
        let result = self.play(&mut tasks, orders).await;
        // After an error, and for what somebody's leader has left.
        for task in tasks.iter_mut().filter(|task| task.state == State::Running) {
            self.destroy(task, State::Failed).await;
        }
        events.abort();
        result
    }

    /// Writes the driver's events about our tasks.
    fn tell_events(&self, allocs: Vec<String>) -> JoinHandle<()> {
        let mut driver = self.plugin.driver();
        tokio::spawn(async move {
            let Ok(answer) = driver.task_events(TaskEventsRequest {}).await else {
                return;
            };
            let mut events = answer.into_inner();
            while let Ok(Some(event)) = events.message().await {
                if allocs.contains(&event.alloc_id) {
                    note(&format!("task {}: {}", event.task_name, event.message));
                }
            }
        })
    }

    /// Starts each task when its time has come, waits for the end of all and obeys orders meanwhile.
    async fn play(&self, tasks: &mut [Entry<'_>], orders: &mut Orders) -> Result<u8, Error> {
        let mut pending = Pending::default();
        let mut code = 0;
        loop {
            if self.take_steps(tasks, &mut pending, orders).await {
                // What was being started has not become a task, or is stopped with the others.
                code = if code == 0 { 130 } else { code };
                self.stop_all(tasks, &mut pending, orders.taken > 1);
                continue;
            }
            let ended = tokio::select! {
                ended = pending.ends.join_next() => ended,
                () = orders.next() => {
                    self.stop_all(tasks, &mut pending, orders.taken > 1);
                    continue;
                }
            };
            // A joined future that was cut off can only be our own end.
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

    /// Does what the lifecycles of all groups want now; true when an order came while a task was being started.
    async fn take_steps(&self, tasks: &mut [Entry<'_>], pending: &mut Pending, orders: &mut Orders) -> bool {
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
                    // It may have been left out because of the one before.
                    let Some(task) = tasks.get_mut(number).filter(|task| task.state == State::Waiting) else {
                        continue;
                    };
                    let before = orders.taken;
                    let started = self.start(task, orders).await;
                    let is_ordered = orders.taken > before;
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

    /// A task could not be started: all that were to run with it are ended, and what cleans up after them still runs.
    fn give_up(&self, tasks: &mut [Entry<'_>], number: usize, error: Error, pending: &mut Pending) {
        for (other, task) in tasks.iter_mut().enumerate() {
            if other == number {
                note(&format!("task {}: could not be started; the others are ended", task.task.name));
                task.state = State::Failed;
            } else if task.task.lifecycle.hook != Hook::Poststop {
                self.let_go(task, pending);
            }
        }
        pending.not_started.get_or_insert(error);
    }

    /// Starts a task. An order meanwhile has the driver give up the start, which may wait for a compilation.
    async fn start(&self, task: &mut Entry<'_>, orders: &mut Orders) -> Result<(), Error> {
        let Some(mut prepared) = task.prepared.take() else { return Ok(()) };
        // Whatever comes of it: nobody starts it again.
        task.state = State::LeftOut;
        prepared.render_late()?;
        let config = prepared.request.task_config();
        task.id.clone_from(&config.id);
        let mut driver = self.plugin.driver();
        let mut starting = std::pin::pin!(driver.start_task(StartTaskRequest { task: Some(config) }));
        let answer = loop {
            tokio::select! {
                answer = &mut starting => break answer,
                () = orders.next() => {
                    note(&format!("task {}: giving up its start", task.task.name));
                    let request = StopTaskRequest { task_id: task.id.clone(), ..StopTaskRequest::default() };
                    if let Err(status) = self.plugin.driver().stop_task(request).await {
                        note(&format!("task {}: StopTask: {}", task.task.name, status.message()));
                    }
                }
            }
        };
        if let Err(status) = answer {
            // What a program wrote that then did not become ready.
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

    /// Tells a task's end; the result is what it means for our exit code.
    async fn ended(
        &self,
        task: &mut Entry<'_>,
        answer: Result<WaitTaskResponse, Status>,
    ) -> Result<u8, Error> {
        let name = task.task.name.clone();
        let answer = answer.map_err(|status| {
            note(&format!("plugin: {}", self.plugin.last_words()));
            Error::Task { task: name.clone(), source: Box::new(failed("WaitTask")(status)) }
        })?;
        let (text, code) = told_end(&answer);
        self.destroy(task, if code == 0 { State::Succeeded } else { State::Failed }).await;
        note(&format!("task {name}: {text}"));
        Ok(code)
    }

    /// Stops every task that runs, and starts none any more but those that clean up.
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

    /// Ends what nobody needs any more; its exit code does not count.
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

    /// Asks for the end of a task; its `WaitTask` will tell when it has come.
    fn stop(&self, task: &Entry<'_>, pending: &mut Pending, kill: bool) {
        let patience = if kill { Duration::ZERO } else { task.task.kill_timeout.min(MOST_PATIENCE) };
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

    /// Makes the plugin forget a task, and lets its output end.
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

/// A task's end in words, and what it means for our exit code.
fn told_end(answer: &WaitTaskResponse) -> (String, u8) {
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
        told_end(&WaitTaskResponse { result, err: err.to_owned() })
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
