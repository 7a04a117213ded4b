//! Resource usage of tasks, read from the files of their cgroups.
//!
//! One reader serves all tasks: it sleeps until the next task is due, reads all tasks that are due at once, on a thread
//! that may block, and sends each its usage. Without requests it does nothing. systemd is not queried at all: a call to
//! systemd costs more than all the files of a task.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;
use tokio::sync::mpsc;

use crate::task::live::cgroup::Cgroup;
use crate::task::live::events::Kind;
use crate::task::live::handle::Handle;

/// Minimum time between two readings of a task.
const SHORTEST: Duration = Duration::from_millis(100);
/// Minimum time between two events about memory pressure of the same task.
const PRESSURE_PAUSE: Duration = Duration::from_mins(10);
/// The share of the last minute, in percent, in which nothing of a task could run for want of memory, above which an
/// event is sent: systemd-oomd takes 60 as a reason to kill (oomd.conf(5), `DefaultMemoryPressureLimit=`).
const PRESSURE: f64 = 20.0;

/// Resource usage of a task, or of one of its processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Percent of one core since the previous reading; the first reading has nothing to compare with.
    pub cpu: Cpu,
    /// Current memory usage.
    pub memory: Memory,
    /// Usage of each process.
    pub processes: HashMap<Pid, Usage>,
}

/// Shares of one core in percent: two busy cores are 200.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// Total time.
    pub percent: f64,
    /// Time in user mode.
    pub user: f64,
    /// Time in kernel mode.
    pub system: f64,
    /// How often a quota throttled the task, since its start.
    pub throttled_periods: u64,
    /// For how long in total.
    pub throttled: Duration,
}

/// Bytes; `None` where the kernel does not count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All memory that counts against the limit.
    pub usage: Option<u64>,
    /// Anonymous memory (`anon` in `memory.stat`).
    pub rss: Option<u64>,
    /// Page cache.
    pub cache: Option<u64>,
    /// Memory that was swapped out.
    pub swap: Option<u64>,
    /// The maximum of `usage`.
    pub peak: Option<u64>,
    /// Kernel memory of the task.
    pub kernel: Option<u64>,
}

/// One reading of a task.
#[derive(Debug, Clone)]
pub struct Reading {
    at: Instant,
    cpu: Times,
    throttled_periods: u64,
    throttled: Duration,
    memory: Memory,
    /// Of the last minute, in percent.
    memory_pressure: Option<f64>,
    processes: Vec<Process>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    total: Duration,
    user: Duration,
    system: Duration,
}

#[derive(Debug, Clone)]
struct Process {
    pid: Pid,
    /// Start time, which distinguishes the process from a later one with the same PID.
    started: u64,
    cpu: Times,
    rss: u64,
}

impl Reading {
    /// Reads the files of a cgroup. `buffer` is room to read into; its content does not matter.
    ///
    /// Fails if the cgroup is gone. If a file is missing, for want of a controller or of a newer kernel, its numbers
    /// are left out.
    pub fn of(cgroup: &Cgroup, buffer: &mut Vec<u8>) -> io::Result<Self> {
        let directory = cgroup.path();
        let at = Instant::now();
        let mut reading = Self {
            at,
            cpu: Times::default(),
            throttled_periods: 0,
            throttled: Duration::ZERO,
            memory: Memory::default(),
            memory_pressure: None,
            processes: Vec::new(),
        };
        for (name, value) in pairs(read(&directory.join("cpu.stat"), buffer)?) {
            let time = Duration::from_micros(value);
            match name {
                "usage_usec" => reading.cpu.total = time,
                "user_usec" => reading.cpu.user = time,
                "system_usec" => reading.cpu.system = time,
                "nr_throttled" => reading.throttled_periods = value,
                "throttled_usec" => reading.throttled = time,
                _ => {}
            }
        }
        if let Ok(text) = read(&directory.join("memory.current"), buffer) {
            reading.memory.usage = text.trim().parse().ok();
            for (name, value) in pairs(read(&directory.join("memory.stat"), buffer)?) {
                match name {
                    "anon" => reading.memory.rss = Some(value),
                    "file" => reading.memory.cache = Some(value),
                    "kernel" => reading.memory.kernel = Some(value),
                    _ => {}
                }
            }
            let mut number = |file: &str| read(&directory.join(file), buffer).ok()?.trim().parse().ok();
            (reading.memory.swap, reading.memory.peak) =
                (number("memory.swap.current"), number("memory.peak"));
            reading.memory_pressure =
                read(&directory.join("memory.pressure"), buffer).ok().and_then(full_of_last_minute);
        }
        for pid in cgroup.processes() {
            let file = format!("/proc/{}/stat", pid.as_raw_pid());
            // A process that has just exited has no more numbers.
            if read_bytes(Path::new(&file), buffer).is_ok() {
                reading.processes.extend(process(pid, &String::from_utf8_lossy(buffer)));
            }
        }
        if reading.memory.usage.is_none() {
            reading.memory.rss = Some(reading.processes.iter().map(|process| process.rss).sum());
        }
        Ok(reading)
    }

    /// Usage since `before`.
    pub fn since(&self, before: Option<&Self>) -> Usage {
        let elapsed = before.map_or(Duration::ZERO, |before| self.at.duration_since(before.at)).as_secs_f64();
        let cpu = |now: Times, before: Option<Times>| {
            let share = |of: fn(&Times) -> Duration| match &before {
                Some(before) if elapsed > 0.0 => {
                    of(&now).saturating_sub(of(before)).as_secs_f64() / elapsed * 100.0
                }
                _ => 0.0,
            };
            Cpu {
                percent: share(|times| times.total),
                user: share(|times| times.user),
                system: share(|times| times.system),
                ..Cpu::default()
            }
        };
        let processes = self.processes.iter().map(|process| {
            let same = |other: &&Process| (other.pid, other.started) == (process.pid, process.started);
            let earlier = before.and_then(|before| before.processes.iter().find(same));
            let memory = Memory { rss: Some(process.rss), ..Memory::default() };
            let cpu = cpu(process.cpu, earlier.map(|earlier| earlier.cpu));
            (process.pid, Usage { cpu, memory, processes: HashMap::new() })
        });
        Usage {
            cpu: Cpu {
                throttled_periods: self.throttled_periods,
                throttled: self.throttled,
                ..cpu(self.cpu, before.map(|before| before.cpu))
            },
            memory: self.memory,
            processes: processes.collect(),
        }
    }
}

/// The reader of all tasks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    requests: Arc<OnceLock<mpsc::UnboundedSender<Request>>>,
}

/// A subscription to the usage of a task.
#[derive(Debug)]
struct Request {
    task: Arc<Handle>,
    cgroup: Cgroup,
    every: Duration,
    due: Instant,
    before: Option<Reading>,
    told_of_pressure: Option<Instant>,
    usages: mpsc::Sender<(SystemTime, Usage)>,
}

impl Stats {
    /// The usage of a task, now and after every interval, until its cgroup is gone.
    pub(crate) fn watch(
        &self,
        task: Arc<Handle>,
        cgroup: Cgroup,
        every: Duration,
    ) -> mpsc::Receiver<(SystemTime, Usage)> {
        // A second usage waits while the first is being sent; a receiver that is slower than that misses some.
        let (usages, receiver) = mpsc::channel(2);
        let request = Request {
            task,
            cgroup,
            every: every.max(SHORTEST),
            due: Instant::now(),
            before: None,
            told_of_pressure: None,
            usages,
        };
        let requests = self.requests.get_or_init(|| {
            let (requests, receiver) = mpsc::unbounded_channel();
            tokio::spawn(read_all(receiver));
            requests
        });
        // The reader lives as long as this value.
        let _ = requests.send(request);
        receiver
    }
}

async fn read_all(mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut waiting: Vec<Request> = Vec::new();
    loop {
        let next = waiting.iter().map(|request| request.due).min();
        let request = match next {
            None => match requests.recv().await {
                Some(request) => Some(request),
                None => return,
            },
            Some(due) => tokio::select! {
                request = requests.recv() => request,
                () = tokio::time::sleep_until(due.into()) => None,
            },
        };
        waiting.extend(request);
        while let Ok(request) = requests.try_recv() {
            waiting.push(request);
        }
        // Tasks that are nearly due are read now as well, so that many tasks cause few wake-ups.
        let now = Instant::now();
        let (due, later) = waiting.into_iter().partition(|request| request.due <= now + request.every / 10);
        waiting = later;
        let read = tokio::task::spawn_blocking(|| {
            let (due, mut buffer): (Vec<Request>, _) = (due, Vec::new());
            due.into_iter().filter_map(|request| request.serve(&mut buffer)).collect::<Vec<_>>()
        });
        // It fails only when the process ends.
        waiting.extend(read.await.unwrap_or_default());
    }
}

impl Request {
    /// Reads and sends; returns `None` if nobody listens or the task is gone.
    fn serve(mut self, buffer: &mut Vec<u8>) -> Option<Self> {
        if self.usages.is_closed() {
            return None;
        }
        let reading = Reading::of(&self.cgroup, buffer).ok()?;
        let usage = reading.since(self.before.as_ref());
        self.tell_of_pressure(&reading);
        self.before = Some(reading);
        // A slow receiver misses one usage and gets the next.
        let _ = self.usages.try_send((SystemTime::now(), usage));
        self.due = Instant::now() + self.every;
        Some(self)
    }

    fn tell_of_pressure(&mut self, reading: &Reading) {
        let recently = self.told_of_pressure.is_some_and(|told| told.elapsed() < PRESSURE_PAUSE);
        if let Some(pressure) = reading.memory_pressure.filter(|pressure| *pressure >= PRESSURE && !recently)
        {
            self.told_of_pressure = Some(Instant::now());
            let message = format!("Memory pressure: it stood still for {pressure:.0}% of the last minute");
            self.task.tell(
                Kind::MemoryPressure,
                message,
                &[("memory_pressure_full_avg60", format!("{pressure:.2}"))],
            );
        }
    }
}

fn read_bytes(path: &Path, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.clear();
    File::open(path)?.read_to_end(buffer)
}

fn read<'a>(path: &Path, buffer: &'a mut Vec<u8>) -> io::Result<&'a str> {
    read_bytes(path, buffer)?;
    std::str::from_utf8(buffer).map_err(io::Error::other)
}

/// The lines of a file such as `cpu.stat`: a name and a number.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.parse().ok()?))
    })
}

/// `avg60` of the line `full` (Documentation/accounting/psi.rst).
fn full_of_last_minute(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("full "))?;
    line.split(' ').find_map(|word| word.strip_prefix("avg60="))?.parse().ok()
}

/// The 14th, 15th, 22nd and 24th field of `/proc/PID/stat` (proc_pid_stat(5)); the second, in parentheses, is a name
/// that may hold anything.
fn process(pid: Pid, text: &str) -> Option<Process> {
    let (_, rest) = text.rsplit_once(") ")?;
    // The first of these fields is the third of the line.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| u64::from_str(fields.get(number - 3)?).ok();
    let time = |ticks: u64| {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second)
    };
    let (user, system) = (time(field(14)?), time(field(15)?));
    let page = u64::try_from(rustix::param::page_size()).unwrap_or_default();
    Some(Process {
        pid,
        started: field(22)?,
        cpu: Times { total: user + system, user, system },
        rss: field(24)?.saturating_mul(page),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, milliseconds: u64) -> Reading {
        let time = Duration::from_millis(milliseconds);
        let cpu = Times { total: time * 3, user: time * 2, system: time };
        let process = Process { pid: Pid::INIT, started: 1, cpu, rss: 4096 };
        Reading {
            at,
            cpu,
            throttled_periods: 2,
            throttled: time,
            memory: Memory::default(),
            memory_pressure: None,
            processes: vec![process],
        }
    }

    #[test]
    fn cpu_is_a_share_of_one_core_since_the_reading_before_and_zero_at_first() {
        let began = Instant::now();
        let first = reading(began, 1000);
        assert_eq!(first.since(None).cpu.percent.to_bits(), 0.0_f64.to_bits());
        let usage = reading(began + Duration::from_secs(2), 2000).since(Some(&first));
        let near = |value: f64, expected: f64| (value - expected).abs() < 1e-6;
        assert!(near(usage.cpu.percent, 150.0) && near(usage.cpu.user, 100.0), "{usage:?}");
        assert!(near(usage.cpu.system, 50.0) && near(usage.processes[&Pid::INIT].cpu.percent, 150.0));
    }

    #[test]
    fn a_process_that_took_over_a_number_begins_at_zero() {
        let began = Instant::now();
        let first = reading(began, 5000);
        let mut second = reading(began + Duration::from_secs(1), 10);
        second.processes[0].started = 2;
        assert!(second.since(Some(&first)).processes[&Pid::INIT].cpu.percent < 1e-6);
    }

    #[test]
    fn the_kernels_files_are_understood() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 99 1000 3 18446744073709551615";
        let found = process(Pid::INIT, stat).unwrap();
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(found.cpu.user, Duration::from_micros(250_000_000 / ticks));
        assert_eq!((found.started, found.rss), (99, 3 * rustix::param::page_size() as u64));
        assert!(process(Pid::INIT, "7 (x) S 1").is_none());
        let pressure =
            "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\nfull avg10=5.00 avg60=6.50 avg300=0 total=1\n";
        assert_eq!(full_of_last_minute(pressure), Some(6.5));
        assert_eq!(pairs("usage_usec 12\nodd\nx y\n").collect::<Vec<_>>(), [("usage_usec", 12)]);
    }
}
