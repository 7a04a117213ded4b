//! Faults at random moments over a changing population of tasks, on a real systemd.
//!
//! Each task writes its own life into its allocation's directory, and how it will end is decided before it begins. So it
//! can be told afterwards that every task ran exactly once, ended as it should, and left nothing.
//!
//! All that is decided follows from the seed; only the clock has a say beside it. A long run, as root:
//! `CHAOS_SEED=7 CHAOS_FAULTS=500 cargo test -p tests --test chaos -- --nocapture`
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proto::driver::{
    DestroyTaskRequest, ShutdownRequest, StartTaskRequest, StopTaskRequest, WaitTaskRequest, WaitTaskResponse,
};
use proto::plugin::grpc_controller_client::GrpcControllerClient;
use rustix::process::{Pid, Signal, kill_process};
use tests::{Exit, Host, Job, Need, Node, SOON, Task, eventually, repository, wasm};
use tokio::task::JoinHandle;
use tonic::{Response, Status};

/// How many tasks are kept alive at most, beside those that a fault is about.
const POPULATION: usize = 12;

/// How many faults there were so far.
static FAULT: AtomicU64 = AtomicU64::new(0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_every_task_runs_once_ends_as_it_should_and_leaves_nothing() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let (seed, faults) = (number("CHAOS_SEED", 5), number("CHAOS_FAULTS", 15));
    eprintln!("chaos: CHAOS_SEED={seed} CHAOS_FAULTS={faults}");
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("chaos: CHAOS_SEED={seed}, at fault {}:", FAULT.load(Ordering::Relaxed));
        print(panic);
    }));

    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let mut world = World { host, node, dice: Dice(seed), runs: Vec::new(), born: 0, is_shaken: false };
    while FAULT.load(Ordering::Relaxed) < faults {
        world.grow().await;
        world.age().await;
        // Every third time one fault follows the other at once.
        for _ in 0..world.dice.one_of(&[1, 1, 2]) {
            let (count, began) = (FAULT.fetch_add(1, Ordering::Relaxed) + 1, Instant::now());
            let fault = Box::pin(world.suffer()).await;
            eprintln!("chaos: {count:4} {fault}, {} tasks, {:?}", world.runs.len(), began.elapsed());
        }
        world.come_to_rest().await;
        world.bury().await;
    }
    world.end().await;
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Numbers that follow from the seed and from nothing else (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[usize::try_from(self.roll(choice.len() as u64)).unwrap()]
    }
}

// ---- What is decided about a task before it begins

/// How the end of a task comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It ends at once.
    Alone,
    /// It ends when it finds a file.
    Called,
    /// It is stopped, and ends in its own way or by the signal.
    Stopped,
    /// Its main process is killed from outside.
    Killed,
}

#[derive(Debug, Clone)]
struct Fate {
    /// Every task has its own.
    number: u64,
    is_guest: bool,
    user: &'static str,
    ending: Ending,
    exit: Exit,
    /// After so many rounds it ends.
    rounds: u64,
    /// For so many rounds after its end nobody destroys it.
    rests: u64,
}

impl Fate {
    fn roll(dice: &mut Dice, number: u64, endings: &[Ending]) -> Self {
        let ending = dice.one_of(endings);
        let is_guest = dice.roll(3) == 0;
        // Every other one succeeds.
        let status = Exit::status(i32::try_from(dice.roll(2) * dice.roll(256)).unwrap());
        let signal = Exit::signal(dice.one_of(&[6, 9, 10, 11, 15]));
        let exit = match ending {
            Ending::Killed => Exit::signal(9),
            // WASI has no signals: the runner ends in the guest's place.
            Ending::Stopped if is_guest => Exit::status(143),
            _ if is_guest || dice.roll(2) == 0 => status,
            Ending::Stopped => Exit::signal(15),
            _ => signal,
        };
        let user = dice.one_of(&["", "", "nobody", "root"]);
        Self { number, is_guest, user, ending, exit, rounds: 1 + dice.roll(6), rests: dice.roll(2) }
    }

    /// The task with this fate. Should Nomad ask for it more than once, `start` tells which time it is.
    fn job(&self, start: u32) -> Job {
        let job = if self.is_guest { self.guest(start) } else { self.script(start) };
        let job = if self.ending == Ending::Alone { job.file("go", b"") } else { job };
        job.user(self.user)
    }

    fn script(&self, start: u32) -> Job {
        let Exit { code, signal, .. } = self.exit;
        let last = if signal == 0 { format!("exit {code}") } else { format!("kill -{signal} $$") };
        let last = format!("echo end {start} >>life; {last}");
        let trap = match self.ending {
            // Told twice it ends once.
            Ending::Stopped if signal == 0 => format!("trap \"trap '' TERM; {last}\" TERM"),
            _ => String::new(),
        };
        // Every process of this run holds the lock, and the last one frees it by its end.
        Job::shell(&format!(
            "exec 9>>/alloc/data/lock; flock -n 9 || echo overlap {start} >>life
            {trap}
            echo begin {start} >>life
            while ! test -e go; do sleep 0.1; done
            {last}"
        ))
    }

    /// It cannot write that it ends.
    fn is_mute(&self) -> bool {
        let is_stopped = self.ending == Ending::Stopped && (self.is_guest || self.exit.signal != 0);
        is_stopped || self.ending == Ending::Killed
    }

    /// Every other guest has a module that was not compiled before.
    fn guest(&self, start: u32) -> Job {
        let text = std::fs::read_to_string(repository().join("tests/guests/life.wat")).unwrap();
        let module = wasm(&text.replace("(module", &format!("(module $life{}", self.number / 2)));
        let (begin, end) = (format!("begin {start}\n"), format!("end {start}\n"));
        Job::artifact("life.wasm", &module).args(&[&begin, &end, &self.exit.code.to_string()])
    }
}

/// A task that was started, as Nomad sees it.
struct Run {
    fate: Fate,
    task: Task,
    /// Which of the starts was answered.
    start: u32,
    /// Its end has come, or is about to.
    is_ending: bool,
    /// Nomad waits for it at all times.
    waiting: Waiting,
}

type Waiting = JoinHandle<Result<Response<WaitTaskResponse>, Status>>;

impl Run {
    fn new(node: &mut Node, fate: Fate, task: Task, start: u32) -> Self {
        let is_ending = fate.ending == Ending::Alone;
        let waiting = wait_for(node, &task);
        Self { fate, task, start, is_ending, waiting }
    }

    /// What it wrote about its own life.
    fn life(&self) -> String {
        std::fs::read_to_string(self.task.alloc_dir().join("web/local/life")).unwrap_or_default()
    }

    fn story(&self) -> String {
        format!("{}: {:?}, started {} times: {:?}", self.task.id, self.fate, self.start, self.life())
    }

    async fn has_begun(&self) {
        let begin = format!("begin {}\n", self.start);
        eventually("it has begun", async || self.life().contains(&begin).then_some(())).await;
    }

    /// Brings about its end.
    async fn come_to_its_end(&mut self, node: &Node) {
        self.has_begun().await;
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

    /// Nomad is told of its end: of the one that was decided, and not before it came.
    async fn hear_of_its_end(&mut self) {
        let told = tokio::time::timeout(SOON, &mut self.waiting).await;
        let told = told.unwrap_or_else(|_| panic!("WaitTask does not answer: {}", self.story())).unwrap();
        let told: Exit =
            told.unwrap_or_else(|status| panic!("{status:?}: {}", self.story())).into_inner().into();
        assert!(self.is_ending && told == self.fate.exit, "{told:?}: {}", self.story());
    }

    /// The start that was answered has run exactly once, those before it at most once, and none beside another.
    fn check_its_life(&self, has_ended: bool) {
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

fn wait_for(node: &mut Node, task: &Task) -> Waiting {
    let (mut driver, task_id) = (node.plugin().driver(), task.id.clone());
    tokio::spawn(async move { driver.wait_task(WaitTaskRequest { task_id }).await })
}

// ---- What happens to them

struct World {
    host: Host,
    node: Node,
    dice: Dice,
    /// Whom Nomad follows.
    runs: Vec<Run>,
    /// How many fates were decided.
    born: u64,
    /// There may be no way to systemd: a stop that was refused is asked for again.
    is_shaken: bool,
}

impl World {
    /// Something fails. What it was is for the log.
    async fn suffer(&mut self) -> &'static str {
        self.compare_what_was_told().await;
        let (what, ()) = match self.dice.roll(11) {
            0 => ("plugin killed", self.plugin_killed().await),
            1 => ("agent stopped", self.agent_stopped().await),
            2 => ("agent killed", self.agent_killed().await),
            3 => ("handle lost", self.handle_lost().await),
            4 => ("bus killed", self.bus_killed().await),
            5 => ("systemd executed anew", self.systemd_reexecuted().await),
            6 => ("systemd reloaded", self.systemd_reloaded().await),
            7 => ("failure in start", self.failure_in_start().await),
            8 => ("failure in stop", self.failure_in_stop().await),
            9 => ("failure in destroy", self.failure_in_destroy().await),
            _ => ("failure in recover", self.failure_in_recover().await),
        };
        what
    }

    /// The plugin dies, and Nomad starts another.
    async fn plugin_killed(&mut self) {
        self.node.restart().await;
        self.find_all_again().await;
    }

    /// The agent is stopped, and with it the plugin; both are started again.
    async fn agent_stopped(&mut self) {
        let plugin = self.node.plugin();
        plugin.driver().shutdown(ShutdownRequest {}).await.unwrap();
        GrpcControllerClient::new(plugin.channel()).shutdown(proto::plugin::Empty {}).await.unwrap();
        assert!(plugin.ended(Duration::from_secs(2)).await, "the plugin ends when it is told to");
        self.plugin_killed().await;
    }

    /// The agent dies, and the next one finds the plugin running.
    async fn agent_killed(&mut self) {
        self.runs.iter().for_each(|run| run.waiting.abort());
        self.node.lose_the_agent().await;
        self.find_all_again().await;
    }

    /// A new agent, or one with a new plugin, asks for every task by its handle and waits for it again.
    async fn find_all_again(&mut self) {
        let found = join_all(self.runs.iter().map(|run| self.node.recover(&run.task))).await;
        for (run, found) in self.runs.iter_mut().zip(found) {
            found.unwrap_or_else(|refusal| panic!("{refusal}: {}", run.story()));
            run.waiting.abort();
            run.waiting = wait_for(&mut self.node, &run.task);
        }
    }

    /// The agent dies before it has noted that a task was started.
    async fn handle_lost(&mut self) {
        self.come_to_rest().await;
        let fate = self.any_fate();
        let prepared = self.node.prepare(&fate.job(1));
        let mut config = prepared.config.clone();
        let first = self.node.begin(prepared).await.unwrap();
        match self.dice.roll(2) {
            0 => self.agent_killed().await,
            _ => self.plugin_killed().await,
        }
        // The next agent knows of the allocation and its task, and makes a new id.
        config.id.replace_range(config.id.len() - 8.., "ffffffff");
        config.msgpack_driver_config = fate.job(2).msgpack();
        let second = self.node.start_again(first, config).await.unwrap();
        assert_eq!(self.host.units(&second.id[..36]).len(), 1, "{fate:?}");
        self.runs.push(Run::new(&mut self.node, fate, second, 2));
    }

    async fn bus_killed(&mut self) {
        self.is_shaken = true;
        kill_the_bus().await;
    }

    async fn systemd_reexecuted(&mut self) {
        self.is_shaken = true;
        command("systemctl", &["daemon-reexec"]).await;
    }

    async fn systemd_reloaded(&mut self) {
        command("systemctl", &["daemon-reload"]).await;
    }

    /// A moment in the middle of a call.
    fn moment(&mut self) -> Duration {
        Duration::from_millis(self.dice.roll(40))
    }

    /// Something fails in the middle of a call that was just made.
    async fn failure_soon(&mut self) {
        tokio::time::sleep(self.moment()).await;
        match self.dice.roll(5) {
            0 => self.bus_killed().await,
            1 => self.systemd_reexecuted().await,
            _ => self.plugin_killed().await,
        }
    }

    async fn failure_in_start(&mut self) {
        let fate = self.any_fate();
        let prepared = self.node.prepare(&fate.job(1));
        let mut driver = self.node.plugin().driver();
        let request = StartTaskRequest { task: Some(prepared.config.clone()) };
        let call = tokio::spawn(async move { driver.start_task(request).await });
        self.failure_soon().await;
        let task = match call.await.unwrap() {
            Ok(answer) => self.node.begun(prepared, answer.into_inner().handle.unwrap()),
            Err(status) => {
                assert!(is_of_a_dead_plugin(&status), "{status:?}: {fate:?}");
                self.come_to_rest().await;
                // Nomad asks once more by the same id. What a dead plugin had begun is gone on with.
                self.node.begin(prepared).await.unwrap()
            }
        };
        // It may have been answered by the plugin that died.
        self.node.recover(&task).await.unwrap();
        self.runs.push(Run::new(&mut self.node, fate, task, 1));
    }

    async fn failure_in_stop(&mut self) {
        let fate = self.fate(&[Ending::Stopped]);
        let task = self.start(&fate).await;
        let mut run = Run::new(&mut self.node, fate, task, 1);
        run.has_begun().await;
        run.is_ending = true;
        let mut driver = self.node.plugin().driver();
        let request = StopTaskRequest {
            task_id: run.task.id.clone(),
            timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            signal: "SIGTERM".to_owned(),
        };
        let call = tokio::spawn(async move { driver.stop_task(request).await });
        self.runs.push(run);
        self.failure_soon().await;
        if let Err(status) = call.await.unwrap() {
            assert!(is_of_a_dead_plugin(&status) || self.is_shaken, "{status:?}");
            // Nomad tries again, after a pause.
            self.come_to_rest().await;
            self.node.stop(&self.runs.last().unwrap().task, "SIGTERM", SOON).await.unwrap();
        }
    }

    async fn failure_in_destroy(&mut self) {
        let Some(last) = self.runs.len().checked_sub(1) else { return };
        let chosen = usize::try_from(self.dice.roll(last as u64 + 1)).unwrap();
        let run = self.runs.remove(chosen);
        run.has_begun().await;
        let mut driver = self.node.plugin().driver();
        let request = DestroyTaskRequest { task_id: run.task.id.clone(), force: true };
        let call = tokio::spawn(async move { driver.destroy_task(request).await });
        self.failure_soon().await;
        if let Err(status) = call.await.unwrap() {
            // Nomad does not ask a living plugin again.
            assert!(is_of_a_dead_plugin(&status), "{status:?}: {}", run.story());
            self.node.destroy(&run.task, true).await.unwrap();
        }
        self.check_what_is_left(run, false);
    }

    async fn failure_in_recover(&mut self) {
        self.is_shaken = true;
        let (moment, kills_the_bus) = (self.moment(), self.dice.roll(2) == 0);
        let failure = async {
            tokio::time::sleep(moment).await;
            if kills_the_bus { kill_the_bus().await } else { command("systemctl", &["daemon-reexec"]).await }
        };
        self.node.restart().await;
        tokio::join!(self.find_all_again(), failure);
    }

    /// Waits until systemd can be reached, directly and over the bus.
    async fn come_to_rest(&mut self) {
        let (name, path) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
        command("busctl", &["call", name, path, "org.freedesktop.DBus.Peer", "Ping"]).await;
        command("systemctl", &["show", "--property=Version"]).await;
        self.is_shaken = false;
    }
}

// ---- Birth, age and death

impl World {
    fn fate(&mut self, endings: &[Ending]) -> Fate {
        self.born += 1;
        Fate::roll(&mut self.dice, self.born, endings)
    }

    fn any_fate(&mut self) -> Fate {
        self.fate(&[Ending::Alone, Ending::Called, Ending::Called, Ending::Stopped, Ending::Killed])
    }

    /// Some are born.
    async fn grow(&mut self) {
        let room = POPULATION.saturating_sub(self.runs.len());
        let fates: Vec<Fate> = (0..self.dice.roll(5)).take(room).map(|_| self.any_fate()).collect();
        let tasks = join_all(fates.iter().map(|fate| self.start(fate))).await;
        for (fate, task) in fates.into_iter().zip(tasks) {
            self.runs.push(Run::new(&mut self.node, fate, task, 1));
        }
    }

    /// Whatever happened to the bus, a start survives it.
    async fn start(&self, fate: &Fate) -> Task {
        let started = self.node.try_run(fate.job(1)).await;
        started.unwrap_or_else(|refusal| panic!("{refusal}: {fate:?}"))
    }

    /// All grow older, and some come to their end.
    async fn age(&mut self) {
        let due = self.runs.iter_mut().filter(|run| !run.is_ending).filter_map(|run| {
            run.fate.rounds -= 1;
            (run.fate.rounds == 0).then_some(run)
        });
        join_all(due.map(|run| run.come_to_its_end(&self.node))).await;
    }

    async fn compare_what_was_told(&mut self) {
        for run in self.runs.iter_mut().filter(|run| run.waiting.is_finished()) {
            run.hear_of_its_end().await;
            run.waiting = wait_for(&mut self.node, &run.task);
        }
    }

    /// Those who ended and had their rest are destroyed.
    async fn bury(&mut self) {
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

    /// Of a destroyed task nothing is left but what it wrote.
    fn check_what_is_left(&self, run: Run, has_ended: bool) {
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

    /// All come to their end, and the machine is as before.
    async fn end(mut self) {
        for run in &mut self.runs {
            (run.fate.rounds, run.fate.rests) = (1, 0);
        }
        self.age().await;
        self.bury().await;
        // What killed plugins left behind goes with the first task of the next one.
        self.node.restart().await;
        assert_eq!(self.node.output_of(Job::shell("echo the last")).await, "the last\n");
        assert_eq!(self.host.units("nomad-"), Vec::<String>::new());
        let state = self.node.state_dir().display().to_string();
        let places = ["/run", "/tmp", "/var/tmp", &state, "("];
        let of_units = ["-name", "*nomad-*.service*", "-o", "-name", ".compiling-*"];
        let of_starts = ["-o", "-path", "/run/nomad-driver-systemd/env/*", ")"];
        let left = || self.host.run("find", &[&places[..], &of_units, &of_starts].concat());
        // systemd's note for journald stays until journald has read the last lines.
        eventually("no file is left", async || left().is_empty().then_some(())).await;
    }
}

/// The call was not answered, as opposed to refused.
fn is_of_a_dead_plugin(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

async fn kill_the_bus() {
    // systemd starts it for whoever connects to it, but not too often in a short time.
    for act in [&["reset-failed"][..], &["start"], &["kill", "--signal=KILL"]] {
        command("systemctl", &[act, &["dbus.service"]].concat()).await;
    }
}

/// Runs a command that must succeed, again while systemd or the bus is on its way.
async fn command(program: &str, args: &[&str]) {
    let run = async || Command::new(program).args(args).output().unwrap().status.success().then_some(());
    eventually(&format!("{program} {args:?}"), run).await;
}
