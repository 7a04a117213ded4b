//! The tasks of one run, from their directories to their ends.
//!
//! All of them are prepared before the first one starts, so that most mistakes cost nothing; and whatever way a run
//! ends, every task that was started is destroyed.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::driver::{
    DestroyTaskRequest, StartTaskRequest, StopTaskRequest, TaskEventsRequest, WaitTaskRequest,
    WaitTaskResponse,
};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::allocdir::{self, AllocDir, Passable};
use super::artifact::Fetch;
use super::jobspec::Task;
use super::node::Node;
use super::options::Asked;
use super::plugin::{Plugin, failed};
use super::request::{Ports, Requests};
use super::run::{Error, RunOptions};
use super::task::{TaskRequest, new_alloc_id};
use super::terminal::{Name, Stream, Terminal, note};

/// An agent never waits longer than this for a stopped task (`max_kill_timeout`).
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// Signals that come within this time are one.
const ONE_ORDER: Duration = Duration::from_millis(500);

/// How long the rest of a task's output may take after its end (logmon).
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// Ctrl-C, SIGTERM, and the end of the terminal.
pub(super) struct Orders {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Orders {
    pub(super) fn watch() -> Result<Self, Error> {
        let watch = |kind| signal(kind).map_err(|source| Error::Signals { source });
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// One run: what all its tasks share.
pub(super) struct Desk<'a> {
    pub(super) plugin: &'a Plugin,
    pub(super) asked: &'a Asked,
    pub(super) node: &'a Node,
    pub(super) options: &'a RunOptions,
}

/// A task that is ready to start.
struct Prepared<'a> {
    group: usize,
    task: &'a Task,
    request: TaskRequest,
    output: Option<Output>,
}

/// A task's output on its way to the terminal. Dropping `open` lets it come to its end.
struct Output {
    open: [pipe::Sender; 2],
    pumps: [JoinHandle<()>; 2],
}

impl Output {
    /// Waits for what is still in the pipes.
    async fn finish(self) {
        let Self { open, pumps } = self;
        drop(open);
        for pump in pumps {
            let stop = pump.abort_handle();
            if timeout(LAST_OUTPUT, pump).await.is_err() {
                stop.abort();
            }
        }
    }
}

/// A task that was started.
struct Started<'a> {
    id: String,
    group: usize,
    task: &'a Task,
    output: Option<Output>,
    over: bool,
    /// Stopped because its leader has ended, which is no failure.
    follows: bool,
}

impl<'a> Desk<'a> {
    /// Runs all tasks to their end; the result is our exit code.
    pub(super) async fn play(&self, orders: &mut Orders) -> Result<u8, Error> {
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
        let result = self.play_in(&base, &mut allocs, orders).await;
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

    async fn play_in(
        &self,
        base: &Path,
        allocs: &mut Vec<AllocDir>,
        orders: &mut Orders,
    ) -> Result<u8, Error> {
        let tasks = tokio::select! {
            prepared = self.prepare(base, allocs) => prepared?,
            () = orders.next() => return Ok(130),
        };
        let events = self.tell_events(tasks.iter().map(|task| task.request.alloc_id.clone()).collect());
        let mut started = Vec::new();
        let mut result = Ok(0);
        for task in tasks {
            match self.start(task).await {
                Ok(task) => started.push(task),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_ok() {
            result = self.wait(&mut started, orders).await;
        }
        // After an error, and for what somebody's leader has left.
        for task in started.iter_mut().filter(|task| !task.over) {
            self.destroy(task).await;
        }
        events.abort();
        result
    }

    /// Everything that can fail without any task having run.
    async fn prepare(&self, base: &Path, allocs: &mut Vec<AllocDir>) -> Result<Vec<Prepared<'a>>, Error> {
        let wrong = |source| Error::AllocDir { source };
        let job = &self.asked.job;
        let names = job.groups.iter().flat_map(|group| &group.tasks).map(|task| task.name.chars().count());
        let terminal = Terminal { plain: self.options.plain, width: names.max().unwrap_or(0) };
        let mut requests = Requests::new(self.plugin, self.asked, self.node, Ports::free(job)).await?;
        let mut tasks = Vec::new();
        for (number, group) in job.groups.iter().enumerate() {
            let id = new_alloc_id();
            let alloc = AllocDir::create(base, &id).map_err(wrong)?;
            allocs.push(alloc);
            let Some(alloc) = allocs.last() else { continue };
            let allocation = requests.allocation(group, id, alloc.path().to_owned())?;
            for task in &group.tasks {
                alloc.task(&task.name).map_err(wrong)?;
                let (mut request, env) = requests.task(&allocation, task).await?;
                for artifact in &task.artifacts {
                    let here = self.options.job.file.parent();
                    // A name alone is in the working directory.
                    let here = here.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
                    let fetched = match Fetch::new(artifact, &env, here) {
                        Ok(fetch) => fetch.run().await,
                        Err(error) => Err(error),
                    };
                    fetched.map_err(|source| Error::Artifact { task: task.name.clone(), source })?;
                }
                for template in &task.templates {
                    let variables = template.write(&env);
                    let wrong = |source| Error::Template { task: task.name.clone(), source };
                    request.env.extend(variables.map_err(wrong)?);
                }
                let mut output = None;
                if !task.logs_disabled {
                    let logs = alloc.logs(&task.name).map_err(wrong)?;
                    (request.stdout, request.stderr) = (logs.stdout.path, logs.stderr.path);
                    let label = Name::new(&task.name, tasks.len());
                    output = Some(Output {
                        open: [logs.stdout.open, logs.stderr.open],
                        pumps: [
                            tokio::spawn(terminal.pump(logs.stdout.reader, label.clone(), Stream::Stdout)),
                            tokio::spawn(terminal.pump(logs.stderr.reader, label, Stream::Stderr)),
                        ],
                    });
                }
                tasks.push(Prepared { group: number, task, request, output });
            }
        }
        Ok(tasks)
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

    async fn start(&self, prepared: Prepared<'a>) -> Result<Started<'a>, Error> {
        let Prepared { group, task, request, output } = prepared;
        let config = request.task_config();
        let id = config.id.clone();
        let answer = self.plugin.driver().start_task(StartTaskRequest { task: Some(config) }).await;
        if let Err(status) = answer {
            let source = Box::new(failed("StartTask")(status));
            return Err(Error::Task { task: task.name.clone(), source });
        }
        Ok(Started { id, group, task, output, over: false, follows: false })
    }

    /// Waits for the end of all tasks and obeys orders meanwhile.
    async fn wait(&self, started: &mut [Started<'_>], orders: &mut Orders) -> Result<u8, Error> {
        let mut ends = JoinSet::new();
        for (number, task) in started.iter().enumerate() {
            let (mut driver, task_id) = (self.plugin.driver(), task.id.clone());
            ends.spawn(async move { (number, driver.wait_task(WaitTaskRequest { task_id }).await) });
        }
        let mut stops = JoinSet::new();
        let (mut code, mut orders_taken) = (0, 0);
        let mut last_order: Option<Instant> = None;
        loop {
            let ended = tokio::select! {
                ended = ends.join_next() => ended,
                () = orders.next() => {
                    // timeout(1) and the like send one to us and one to our process group.
                    if last_order.is_some_and(|last| last.elapsed() < ONE_ORDER) {
                        continue;
                    }
                    last_order = Some(Instant::now());
                    orders_taken += 1;
                    let kill = orders_taken > 1;
                    note(if kill { "killing all tasks" } else { "stopping all tasks; once more to kill them" });
                    for task in started.iter().filter(|task| !task.over) {
                        self.stop(&mut stops, task, kill);
                    }
                    continue;
                }
            };
            // A joined future that was cut off can only be our own end.
            let Some(Ok((number, answer))) = ended else { break };
            let Some(task) = started.get_mut(number) else {
                break;
            };
            let name = task.task.name.clone();
            let answer = match answer {
                Ok(answer) => answer.into_inner(),
                Err(status) => {
                    note(&format!("plugin: {}", self.plugin.last_words()));
                    return Err(Error::Task { task: name, source: Box::new(failed("WaitTask")(status)) });
                }
            };
            self.destroy(task).await;
            let (text, task_code) = told_end(&answer);
            note(&format!("task {name}: {text}"));
            if code == 0 && !task.follows {
                code = task_code;
            }
            let (group, leads) = (task.group, task.task.leader);
            if leads {
                for other in started.iter_mut().filter(|other| !other.over && other.group == group) {
                    other.follows = true;
                    self.stop(&mut stops, other, false);
                }
            }
        }
        Ok(code)
    }

    /// Asks for the end of a task; its `WaitTask` will tell when it has come.
    fn stop(&self, stops: &mut JoinSet<()>, task: &Started<'_>, kill: bool) {
        let patience = if kill { Duration::ZERO } else { task.task.kill_timeout.min(MOST_PATIENCE) };
        let request = StopTaskRequest {
            task_id: task.id.clone(),
            timeout: prost_types::Duration::try_from(patience).ok(),
            signal: if kill { "SIGKILL".to_owned() } else { task.task.kill_signal.clone() },
        };
        let (mut driver, name) = (self.plugin.driver(), task.task.name.clone());
        stops.spawn(async move {
            if let Err(status) = driver.stop_task(request).await {
                note(&format!("task {name}: StopTask: {}", status.message()));
            }
        });
    }

    /// Makes the plugin forget a task, and lets its output end.
    async fn destroy(&self, task: &mut Started<'_>) {
        task.over = true;
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
