//! A task that was started, and its own record of its life.

use proto::driver::{WaitTaskRequest, WaitTaskResponse};
use rustix::process::{Pid, Signal, kill_process};
use tests::{Exit, Node, SOON, Task, eventually};
use tokio::task::JoinHandle;
use tonic::{Response, Status};

use super::fate::{Ending, Fate};

/// A task that was started, as Nomad sees it.
pub(crate) struct Run {
    pub(crate) fate: Fate,
    pub(crate) task: Task,
    /// The number of the start that was answered.
    start: u32,
    /// The task has ended, or is about to end.
    pub(crate) is_ending: bool,
    /// Nomad's permanent `WaitTask`.
    pub(crate) waiting: Waiting,
}

type Waiting = JoinHandle<Result<Response<WaitTaskResponse>, Status>>;

impl Run {
    pub(crate) fn new(node: &mut Node, fate: Fate, task: Task, start: u32) -> Self {
        let is_ending = fate.ending == Ending::Alone;
        let waiting = wait_for(node, &task);
        Self { fate, task, start, is_ending, waiting }
    }

    /// The record that the task wrote.
    fn life(&self) -> String {
        std::fs::read_to_string(self.task.alloc_dir().join("web/local/life")).unwrap_or_default()
    }

    pub(crate) fn story(&self) -> String {
        format!("{}: {:?}, started {} times: {:?}", self.task.id, self.fate, self.start, self.life())
    }

    pub(crate) async fn has_started(&self) {
        let begin = format!("begin {}\n", self.start);
        eventually("it has begun", async || self.life().contains(&begin).then_some(())).await;
    }

    /// Ends the task.
    pub(crate) async fn come_to_its_end(&mut self, node: &Node) {
        self.has_started().await;
        self.is_ending = true;
        match self.fate.ending {
            Ending::Alone => {}
            Ending::Called => std::fs::write(self.task.alloc_dir().join("web/local/go"), "").unwrap(),
            Ending::Stopped => node.stop(&self.task, "SIGTERM", SOON).await.unwrap(),
            Ending::Killed => {
                let known = node.inspect(&self.task).await.unwrap().driver.unwrap();
                let pid = Pid::from_raw(known.attributes["pid"].parse().unwrap()).unwrap();
                kill_process(pid, Signal::KILL).unwrap();
            }
        }
    }

    /// Checks that Nomad gets the decided exit, and not too early.
    pub(crate) async fn hear_of_its_end(&mut self) {
        let told = tokio::time::timeout(SOON, &mut self.waiting).await;
        let told = told.unwrap_or_else(|_| panic!("WaitTask does not answer: {}", self.story())).unwrap();
        let told: Exit =
            told.unwrap_or_else(|status| panic!("{status:?}: {}", self.story())).into_inner().into();
        assert!(self.is_ending && told == self.fate.exit, "{told:?}: {}", self.story());
    }

    /// The start that was answered has run exactly once, those before it at most once, and no two at the same time.
    pub(crate) fn check_its_life(&self, has_ended: bool) {
        let life = self.life();
        let count = |line: String| life.lines().filter(|written| *written == line).count();
        for start in 1..=self.start {
            let fits = match (count(format!("begin {start}")), count(format!("end {start}"))) {
                (0, 0) => start < self.start,
                (1, 0) => start < self.start || !has_ended || self.fate.is_mute(),
                ends => ends == (1, 1),
            };
            assert!(fits, "start {start} of {}", self.story());
        }
        let starts = life.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<u32>().ok());
        assert!(starts.is_sorted() && !life.contains("overlap"), "{}", self.story());
    }
}

pub(crate) fn wait_for(node: &mut Node, task: &Task) -> Waiting {
    let (mut driver, task_id) = (node.plugin().driver(), task.id.clone());
    tokio::spawn(async move { driver.wait_task(WaitTaskRequest { task_id }).await })
}
