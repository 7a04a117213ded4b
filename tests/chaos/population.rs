//! The changing population of tasks: start, age and end.

use futures_util::future::join_all;
use tests::{Host, Job, Node, Task, eventually};

use super::dice::Dice;
use super::fate::{Ending, Fate};
use super::run::{Run, wait_for};

/// The maximum number of running tasks, in addition to those that a fault is about.
const POPULATION: usize = 12;

pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) node: Node,
    pub(crate) dice: Dice,
    /// The tasks that Nomad follows.
    pub(crate) runs: Vec<Run>,
    /// The number of decided fates.
    pub(crate) born: u64,
    /// systemd may be unreachable: a stop that failed is repeated.
    pub(crate) is_shaken: bool,
}

impl World {
    pub(crate) fn fate(&mut self, endings: &[Ending]) -> Fate {
        self.born += 1;
        Fate::roll(&mut self.dice, self.born, endings)
    }

    pub(crate) fn any_fate(&mut self) -> Fate {
        self.fate(&[Ending::Alone, Ending::Called, Ending::Called, Ending::Stopped, Ending::Killed])
    }

    /// Starts some tasks.
    pub(crate) async fn grow(&mut self) {
        let room = POPULATION.saturating_sub(self.runs.len());
        let fates: Vec<Fate> = (0..self.dice.roll(5)).take(room).map(|_| self.any_fate()).collect();
        let tasks = join_all(fates.iter().map(|fate| self.start(fate))).await;
        for (fate, task) in fates.into_iter().zip(tasks) {
            self.runs.push(Run::new(&mut self.node, fate, task, 1));
        }
    }

    /// Whatever happened to the bus, a start succeeds.
    pub(crate) async fn start(&self, fate: &Fate) -> Task {
        let started = self.node.try_run(fate.job(1)).await;
        started.unwrap_or_else(|refusal| panic!("{refusal}: {fate:?}"))
    }

    /// All tasks grow older, and some end.
    pub(crate) async fn age(&mut self) {
        let due = self.runs.iter_mut().filter(|run| !run.is_ending).filter_map(|run| {
            run.fate.rounds -= 1;
            (run.fate.rounds == 0).then_some(run)
        });
        join_all(due.map(|run| run.come_to_its_end(&self.node))).await;
    }

    pub(crate) async fn compare_what_was_told(&mut self) {
        for run in self.runs.iter_mut().filter(|run| run.waiting.is_finished()) {
            run.hear_of_its_end().await;
            run.waiting = wait_for(&mut self.node, &run.task);
        }
    }

    /// Destroys tasks that have ended and waited long enough.
    pub(crate) async fn bury(&mut self) {
        let (mut dead, mut others): (Vec<Run>, Vec<Run>) =
            self.runs.drain(..).partition(|run| run.is_ending && run.fate.rests == 0);
        others.iter_mut().filter(|run| run.is_ending).for_each(|run| run.fate.rests -= 1);
        self.runs = others;
        join_all(dead.iter_mut().map(Run::hear_of_its_end)).await;
        let destroyed = join_all(dead.iter().map(|run| self.node.destroy(&run.task, true))).await;
        for (run, destroyed) in dead.into_iter().zip(destroyed) {
            destroyed.unwrap_or_else(|refusal| panic!("{refusal}: {}", run.story()));
            self.check_what_is_left(run, true);
        }
    }

    /// A destroyed task leaves nothing but its records.
    pub(crate) fn check_what_is_left(&self, run: Run, has_ended: bool) {
        run.waiting.abort();
        run.check_its_life(has_ended);
        let alloc = &run.task.id[..36];
        assert_eq!(self.host.units(alloc), Vec::<String>::new(), "{}", run.story());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(alloc), "{mounts}");
        for process in std::fs::read_dir("/proc").unwrap() {
            let cgroup = process.unwrap().path().join("cgroup");
            let cgroup = std::fs::read_to_string(cgroup).unwrap_or_default();
            assert!(!cgroup.contains(alloc), "{cgroup}: {}", run.story());
        }
        drop(run.task.ended());
    }

    /// Ends all tasks, and checks that the machine is as before.
    pub(crate) async fn end(mut self) {
        for run in &mut self.runs {
            (run.fate.rounds, run.fate.rests) = (1, 0);
        }
        self.age().await;
        self.bury().await;
        // The remains of killed plugins are removed with the first task of the next plugin.
        self.node.restart().await;
        assert_eq!(self.node.output_of(Job::shell("echo the last")).await, "the last\n");
        assert_eq!(self.host.units("nomad-"), Vec::<String>::new());
        let state = self.node.state_dir().display().to_string();
        let places = ["/run", "/tmp", "/var/tmp", &state, "("];
        let of_units = ["-name", "*nomad-*.service*", "-o", "-name", ".compiling-*"];
        let of_starts = ["-o", "-path", "/run/nomad-driver-systemd/env/*", ")"];
        let left = || self.host.run("find", &[&places[..], &of_units, &of_starts].concat());
        // systemd's file for journald stays until journald has read the last lines.
        eventually("no file is left", async || left().is_empty().then_some(())).await;
    }
}
