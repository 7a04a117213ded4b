//! The cost of a guest with `wasm-shim`, compared with a native program (static C; for servers, hyper on the same core) and
//! with wasmtime's own command line.
//!
//! All of them start from native code that was compiled before, as in the driver.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;
use tests::{Desk, Manager, SOON, built_guest, program};

use crate::load::{self, Load};
use crate::process::cpu_time;
use crate::results::record;
use crate::{median, milliseconds};

/// Processes measured one after the other.
const STARTS: usize = 200;
/// Concurrent tasks of one module.
const TASKS: u32 = 50;
const COMPILATIONS: usize = 3;
/// Servers started one after the other.
const SERVERS: usize = 50;
/// The number of clients that send requests concurrently, how often in turn with the other server, and for how long.
const CLIENTS: usize = 32;
const TURNS: usize = 5;
const TURN: Duration = Duration::from_secs(1);

/// Runs all measurements; `native` is a static C program that says hello.
pub(crate) fn measure(native: &Path) {
    let bench = Bench::new(native);
    bench.head();
    for (what, guest, goal) in
        [("p1 hello", built_guest("hello_p1"), "2"), ("p2 hello", built_guest("hello_p2"), "2.1")]
    {
        if let Some(guest) = guest {
            bench.hello(what, &guest, goal);
            bench.waiting(what, &guest);
        }
    }
    if let Some(guest) = built_guest("sqlite") {
        bench.compilation("SQLite", &guest);
    }
    for (what, guest) in [("p2 server", built_guest("server_p2")), ("p3 server", built_guest("server_p3"))] {
        if let Some(guest) = guest {
            bench.server(what, &guest);
        }
    }
}

/// The programs that are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Shim,
    Native,
    Wasmtime,
}

/// The measurements of each program, in turn.
type Measured<T> = BTreeMap<Side, Vec<T>>;

struct Bench {
    desk: Desk,
    programs: BTreeMap<Side, PathBuf>,
    cores: [usize; 2],
}

impl Bench {
    fn new(native: &Path) -> Self {
        let desk = Desk::new();
        let mut programs =
            BTreeMap::from([(Side::Shim, program("wasm-shim")), (Side::Native, native.to_owned())]);
        match wasmtime() {
            Some(wasmtime) => drop(programs.insert(Side::Wasmtime, wasmtime)),
            None => eprintln!(
                "bench: there is no wasmtime to compare with, in $WASMTIME or PATH: cargo install wasmtime-cli --version \
                 48.0.8 --locked"
            ),
        }
        // How a file was written determines the pieces in which it is cached, and so how fast it starts. All of them
        // should have been written in one piece, as tests/build does.
        for (number, program) in programs.values_mut().enumerate() {
            let copy = desk.path(&format!("program-{number}"));
            fs::write(&copy, fs::read(&program).unwrap()).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
            *program = copy.into();
        }
        let ours = sched_getaffinity(None).unwrap();
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core)).collect();
        Self { desk, programs, cores: [cores[0], cores[cores.len() - 1]] }
    }

    /// Measures each existing program of `sides` in turn, after some rounds that do not count.
    fn in_turn<T>(&self, sides: &[Side], rounds: usize, mut measure: impl FnMut(Side) -> T) -> Measured<T> {
        let mut measured = Measured::new();
        for round in 0..rounds + rounds.div_ceil(20) {
            for side in sides.iter().filter(|side| self.programs.contains_key(side)) {
                let value = measure(*side);
                if round >= rounds.div_ceil(20) {
                    measured.entry(*side).or_default().push(value);
                }
            }
        }
        measured
    }

    fn command(&self, side: Side, args: &[&str]) -> Command {
        quiet(&self.programs[&side], args)
    }

    /// Compiles the guest in `file`.
    fn compile(&self, side: Side, file: &str, code: &str) -> Command {
        match side {
            Side::Wasmtime => self.command(side, &["compile", "-o", code, file]),
            _ => quiet(&program("wasm-shim-compile"), &["-o", code, file]),
        }
    }

    /// The native code of the guest in `file`, in the format of each; the code for the shim's servers yields in loops,
    /// too.
    fn compiled(&self, file: &str, settings: &[&str]) -> BTreeMap<Side, String> {
        let name = Path::new(file).file_stem().unwrap().to_str().unwrap();
        let code = |(side, made_by): (Side, &str)| {
            let code = self.desk.path(&format!("{name}.{made_by}"));
            let mut compile = self.compile(side, file, &code);
            if side == Side::Shim {
                compile.args(settings);
            }
            assert!(compile.status().unwrap().success(), "{file} cannot be compiled");
            (side, code)
        };
        let both = [(Side::Shim, "shim"), (Side::Wasmtime, "wasmtime")];
        both.into_iter().filter(|(side, _)| self.programs.contains_key(side)).map(code).collect()
    }

    /// Runs a guest, or the native program.
    fn run(&self, side: Side, codes: &BTreeMap<Side, String>, args: &[&str]) -> Command {
        match codes.get(&side) {
            Some(code) => self.command(side, &[&["run", "--allow-precompiled", code], args].concat()),
            None => self.command(side, &[]),
        }
    }

    /// From the start to the exit of a guest that prints a greeting.
    fn hello(&self, what: &str, guest: &str, goal: &str) {
        let codes = self.compiled(guest, &[]);
        let measured = self.in_turn(&[Side::Shim, Side::Native, Side::Wasmtime], STARTS, |side| {
            let mut command = self.run(side, &codes, &[]);
            // Where it starts shall not be left to chance, and what ran there before it shall be itself: another
            // program leaves it cold caches, and a large one colder ones.
            on(self.cores[1], || {
                assert!(command.status().unwrap().success());
                let began = Instant::now();
                assert!(command.status().unwrap().success());
                milliseconds(began.elapsed())
            })
        });
        self.row(&format!("{what}: start to end"), "ms", &medians(measured), [goal, "4"]);
    }

    /// The memory of each further task of a module while all of them wait.
    fn waiting(&self, what: &str, guest: &str) {
        let codes = self.compiled(guest, &[]);
        let measured = self.in_turn(&[Side::Shim, Side::Wasmtime], 1, |side| {
            let start = || Process(self.run(side, &codes, &["and", "wait"]).spawn().unwrap());
            let mut tasks = vec![start()];
            let first = memory_at_rest(&tasks);
            tasks.extend((1..TASKS).map(|_| start()));
            f64::from(memory_at_rest(&tasks) - first) * 1024.0 / 1e6 / f64::from(TASKS - 1)
        });
        let what = format!("{what}: memory of each further task ({TASKS} of them)");
        self.row(&what, "MB", &medians(measured), ["0.25 MB", ""]);
    }

    fn compilation(&self, what: &str, guest: &str) {
        let measured = self.in_turn(&[Side::Shim, Side::Wasmtime], COMPILATIONS, |side| {
            let mut command = self.compile(side, guest, &self.desk.path("compiled"));
            let began = Instant::now();
            assert!(command.status().unwrap().success());
            milliseconds(began.elapsed())
        });
        self.row(&format!("{what}: compile"), "ms", &medians(measured), ["", ""]);
    }

    /// Servers run on the first CPU, clients on the last one.
    fn server(&self, what: &str, guest: &str) {
        let codes = self.compiled(guest, &["-W", "epoch-interruption"]);
        let sides = [Side::Shim, Side::Native, Side::Wasmtime];

        let manager = Manager::new(&self.desk);
        let ready = self.in_turn(&sides, SERVERS, |side| {
            let address = free_address();
            let mut serve = self.serve(side, &codes, address);
            let (_server, began) = self.start(manager.listen_to(&mut serve));
            // The shim reports it, and has created an instance by then; of wasmtime, nothing else is visible.
            match side {
                Side::Shim => drop(manager.hears_of("READY=1")),
                _ => drop(on(self.cores[1], || connection(address))),
            }
            milliseconds(began.elapsed())
        });
        self.row(&format!("{what}: start to ready"), "ms", &medians(ready), ["", "5"]);
        let answer = self.in_turn(&sides, SERVERS, |side| self.first_answer(side, &codes));
        self.row(&format!("{what}: start to first answer"), "ms", &medians(answer), ["", ""]);

        let servers: BTreeMap<Side, (Process, SocketAddr)> = codes
            .keys()
            .chain([&Side::Native])
            .map(|side| {
                let address = free_address();
                let (server, _) = self.start(&mut self.serve(*side, &codes, address));
                drop(connection(address));
                (*side, (server, address))
            })
            .collect();
        let loads = self.in_turn(&sides, TURNS, |side| {
            let (server, address) = &servers[&side];
            let (began, used) = (Instant::now(), server.cpu_time());
            let load = on(self.cores[1], || load::drive(*address, CLIENTS, TURN));
            (load, (server.cpu_time() - used) / began.elapsed().as_secs_f64())
        });
        let of = |value: fn(&Load) -> f64| medians(map(&loads, |(load, _)| value(load)));
        let each = format!("{what}: GET / of {CLIENTS} clients");
        self.row(&format!("{each}, a second"), "", &of(|load| load.rate), ["", "1.2"]);
        self.row(&format!("{each}, half of them within"), "ms", &of(|load| load.within(50)), ["", ""]);
        self.row(&format!("{each}, 99 % of them within"), "ms", &of(|load| load.within(99)), ["", "1"]);
        let busy = |values: Measured<f64>| {
            medians(values)
                .values()
                .map(|part| format!("{:.0} %", part * 100.0))
                .collect::<Vec<_>>()
                .join(" and ")
        };
        eprintln!(
            "bench: {what}: the servers took {} of a processor, their clients {}",
            busy(map(&loads, |(_, server)| *server)),
            busy(map(&loads, |(load, _)| load.busy)),
        );
    }

    fn serve(&self, side: Side, codes: &BTreeMap<Side, String>, address: SocketAddr) -> Command {
        if side == Side::Native {
            return quiet(&std::env::current_exe().unwrap(), &["hyper", &address.to_string()]);
        }
        let mut serve = self.command(side, &["serve", "--allow-precompiled", "--addr", &address.to_string()]);
        if side == Side::Wasmtime {
            // The shim provides all imports of a guest.
            serve.arg("-Scli");
        }
        serve.arg(&codes[&side]);
        serve
    }

    /// Starts a server, and returns when it started.
    fn start(&self, command: &mut Command) -> (Process, Instant) {
        on(self.cores[0], || {
            let began = Instant::now();
            (Process(command.spawn().unwrap()), began)
        })
    }

    /// From nothing to the first answer of a server.
    fn first_answer(&self, side: Side, codes: &BTreeMap<Side, String>) -> f64 {
        let address = free_address();
        let mut serve = self.serve(side, codes, address);
        on(self.cores[1], || {
            let (_server, began) = self.start(&mut serve);
            let mut connection = connection(address);
            connection.write_all(load::REQUEST).unwrap();
            let mut answer = Vec::new();
            while !load::is_complete(&answer) {
                let mut part = [0; 4096];
                let length = connection.read(&mut part).unwrap();
                assert_ne!(length, 0, "the server hangs up");
                answer.extend(&part[..length]);
            }
            milliseconds(began.elapsed())
        })
    }

    fn head(&self) {
        let mut cells = vec!["guests", "ours", "native", "ratio", "to reach"];
        let version = self.programs.get(&Side::Wasmtime).map(|wasmtime| {
            let printed = Command::new(wasmtime).arg("--version").output().unwrap().stdout;
            String::from_utf8(printed).unwrap().split(' ').take(2).collect::<Vec<_>>().join(" ")
        });
        if let Some(version) = &version {
            cells.extend([version.trim_end(), "better by", "to reach"]);
        }
        println!("| {} |\n|{}", cells.join(" | "), "---|".repeat(cells.len()));
    }

    fn row(&self, what: &str, unit: &str, values: &BTreeMap<Side, f64>, goals: [&str; 2]) {
        let value = |side| match (values.get(&side), unit) {
            (Some(value), "") => format!("{value:.0}"),
            (Some(value), unit) => format!("{value:.2} {unit}"),
            (None, _) => String::new(),
        };
        let ratio = |one, other| match (values.get(&one), values.get(&other)) {
            (Some(one), Some(other)) => format!("{:.2}", one / other),
            _ => String::new(),
        };
        if let (Some(ours), Some(native)) = (values.get(&Side::Shim), values.get(&Side::Native)) {
            let wasmtime = values.get(&Side::Wasmtime);
            let better = wasmtime.map(|theirs| if unit.is_empty() { ours / theirs } else { theirs / ours });
            let medians = json!({ "ours": ours, "native": native, "wasmtime": wasmtime, "better": better });
            record(what, ours / native, &medians);
        }
        let mut cells = vec![what.to_owned(), value(Side::Shim), value(Side::Native)];
        cells.extend([ratio(Side::Shim, Side::Native), goals[0].to_owned()]);
        if self.programs.contains_key(&Side::Wasmtime) {
            // For values without a unit, more is better.
            let better = match unit {
                "" => ratio(Side::Shim, Side::Wasmtime),
                _ => ratio(Side::Wasmtime, Side::Shim),
            };
            cells.extend([value(Side::Wasmtime), better, goals[1].to_owned()]);
        }
        println!("| {} |", cells.join(" | "));
    }
}

fn quiet(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // With RUST_BACKTRACE, every exit of a guest would collect the backtrace of an error that is not one.
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn medians(measured: Measured<f64>) -> BTreeMap<Side, f64> {
    measured.into_iter().map(|(side, mut values)| (side, median(&mut values))).collect()
}

fn map<T>(measured: &Measured<T>, value: impl Fn(&T) -> f64) -> Measured<f64> {
    measured.iter().map(|(side, values)| (*side, values.iter().map(&value).collect())).collect()
}

/// wasmtime's command line, which is only needed for the comparison.
fn wasmtime() -> Option<PathBuf> {
    let named = std::env::var_os("WASMTIME").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || {
        std::env::split_paths(&path).map(|directory| directory.join("wasmtime")).find(|file| file.is_file())
    };
    named.or_else(found)
}

/// The result of `work`, run on this CPU; child processes run there too.
fn on<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(pinned).join().unwrap())
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Returns as soon as there is one.
fn connection(address: SocketAddr) -> TcpStream {
    let began = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(connection) => return connection,
            Err(error) => assert!(began.elapsed() < SOON, "{address}: {error}"),
        }
        thread::yield_now();
    }
}

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap()
    }

    fn is_asleep(&self) -> bool {
        self.read("stat").rsplit_once(") ").unwrap().1.starts_with('S')
    }

    /// The process's share of the memory, in units of 1024 bytes.
    fn memory(&self) -> u32 {
        let rollup = self.read("smaps_rollup");
        let share = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        share.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// In seconds.
    fn cpu_time(&self) -> f64 {
        cpu_time(self.0.id()).as_secs_f64()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The memory of all processes, shared and private, in units of 1024 bytes, when all sleep and it no longer changes.
fn memory_at_rest(tasks: &[Process]) -> u32 {
    let began = Instant::now();
    let mut before = 0;
    loop {
        let now = tasks.iter().map(Process::memory).sum();
        if now == before && tasks.iter().all(Process::is_asleep) {
            return now;
        }
        assert!(began.elapsed() < SOON, "the guests do not come to rest");
        before = now;
        thread::sleep(Duration::from_millis(50));
    }
}
