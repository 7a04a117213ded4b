//! A real Nomad agent on the host, and the jobs that a test gives it.
//!
//! Nomad is no part of this repository: `NOMAD` names the program, `NOMAD_DRIVER` the driver of the jobs (`systemd`).
//! One agent serves all tests of a binary, and a test may have it to itself, to stop it and start it again. The server
//! that it belongs to is a process of its own, and stays. The log of both stays in `target/agent.log`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{Host, Need, SOON, eventually, program, programs, repository};

/// Numbers of the jobs.
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// What the agent of this process needs to be started, again and again.
struct Service {
    nomad: PathBuf,
    driver: String,
    dir: PathBuf,
    address: String,
    http: ureq::Agent,
    #[allow(dead_code, reason = "it serves as long as this process lives")]
    server: Child,
    client: Mutex<Option<Child>>,
    /// Why the agent did not come up.
    hopeless: OnceLock<String>,
    #[allow(
        dead_code,
        reason = "it ends the agents when its standard input is closed: when this process ends"
    )]
    undertaker: Child,
}

static SERVICE: OnceLock<Service> = OnceLock::new();

/// A process has no last word in Rust, and may be killed. So a shell of its own waits for the end of the tests, then
/// ends the agents and removes what they left.
const UNDERTAKER: &str = r#"
    cat
    for pid in $(cat "$0/client.pid" "$0/server.pid"); do
        kill -INT "$pid"
        for _ in $(seq 100); do kill -0 "$pid" || break; sleep 0.1; done
        kill -KILL "$pid"
    done
    awk -v "dir=$0/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount
    rm -rf --one-file-system "$0""#;

impl Service {
    fn start() -> Self {
        // Not below /tmp, where a task may have a directory of its own; and open to all as far as the tasks.
        let base = Path::new("/var/lib/nomad-driver-systemd");
        fs::create_dir_all(base).expect("a directory for the tests");
        let dir = tempfile::Builder::new().prefix("agent-").tempdir_in(base);
        let dir = dir.expect("a directory for the tests").keep();
        fs::create_dir(dir.join("client")).expect("our own directory");
        for open in [&dir, &dir.join("client")] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o711)).expect("our own directory");
        }
        fs::create_dir(dir.join("plugins")).expect("our own directory");
        fs::create_dir(dir.join(VOLUME)).expect("our own directory");
        fs::set_permissions(dir.join(VOLUME), fs::Permissions::from_mode(0o777)).expect("our own directory");
        symlink(program("nomad-driver-systemd"), dir.join("plugins/nomad-driver-systemd"))
            .expect("our own directory");
        fs::create_dir_all(repository().join("target")).expect("a directory for the log");
        fs::write(log(), "").expect("the log");

        // Ports that are free, all at once: the server's three, and the client's.
        let held = [(); 4].map(|()| std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
        let ports = held.map(|listener| listener.local_addr().expect("it is bound").port());
        for (name, config) in [("server", server(&dir, ports)), ("client", client(&dir, ports))] {
            write_config(&dir, name, &config);
        }
        let undertaker = Command::new("/bin/sh")
            .args(["-c", UNDERTAKER])
            .arg(&dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let http = ureq::Agent::config_builder().timeout_global(Some(SOON)).http_status_as_error(false);
        let driver = std::env::var("NOMAD_DRIVER").unwrap_or_default();
        let nomad = named().expect("the caller has looked");
        let service = Self {
            server: launch(&nomad, &dir, "server"),
            nomad,
            driver: if driver.is_empty() { "systemd".to_owned() } else { driver },
            dir,
            address: format!("http://127.0.0.1:{}", ports[3]),
            http: http.build().new_agent(),
            client: Mutex::new(None),
            hopeless: OnceLock::new(),
            undertaker: undertaker.expect("a shell"),
        };
        // A client that comes before the server can take it in tries again only after a quarter of a minute.
        let keys = format!("http://127.0.0.1:{}/v1/operator/keyring/keys", ports[0]);
        let deadline = Instant::now() + SOON;
        while !service.ask("GET", &keys, "").is_ok_and(|keys| keys.contains("KeyID")) {
            assert!(Instant::now() < deadline, "the server leads nothing: see {}", log().display());
            std::thread::sleep(Duration::from_millis(50));
        }
        service
    }

    /// Whether jobs can be given to the agent, or what is said instead. It has its tasks back before it answers at all.
    fn ready(&self) -> Result<(), String> {
        let nodes = self.ask("GET", &format!("{}/v1/nodes", self.address), "")?;
        let nodes: Value = serde_json::from_str(&nodes).map_err(|error| error.to_string())?;
        let driver = &nodes[0]["Drivers"][&self.driver];
        let ready = nodes[0]["Status"] == "ready" && driver["Healthy"] == true;
        if ready { Ok(()) } else { Err(driver["HealthDescription"].to_string()) }
    }

    /// The body of an answer, or what was said instead.
    fn ask(&self, method: &str, url: &str, body: &str) -> Result<String, String> {
        let answer = match method {
            "PUT" => self.http.put(url).send(body),
            "DELETE" => self.http.delete(url).call(),
            _ => self.http.get(url).call(),
        };
        let mut answer = answer.map_err(|error| error.to_string())?;
        let text = answer.body_mut().read_to_vec().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if answer.status().is_success() { Ok(text) } else { Err(format!("{}: {text}", answer.status())) }
    }
}

/// The agents' only host volume, by its name and by that of its directory.
const VOLUME: &str = "volume";

fn write_config(dir: &Path, name: &str, config: &Value) {
    fs::write(dir.join(name).with_extension("json"), config.to_string()).expect("our own directory");
}

/// Starts one of the two agents.
fn launch(nomad: &Path, dir: &Path, name: &str) -> Child {
    let log = fs::File::options().append(true).open(log()).expect("the log");
    let child = Command::new(nomad)
        .arg("agent")
        .arg(format!("-config={}", dir.join(name).with_extension("json").display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("Nomad can be started");
    fs::write(dir.join(name).with_extension("pid"), format!("{}\n", child.id())).expect("our own directory");
    child
}

fn named() -> Option<PathBuf> {
    std::env::var_os("NOMAD").filter(|given| !given.is_empty()).map(PathBuf::from)
}

fn log() -> PathBuf {
    repository().join("target/agent.log")
}

fn server(dir: &Path, [http, rpc, serf, _]: [u16; 4]) -> Value {
    let local = "127.0.0.1";
    json!({
        "data_dir": dir.join("server"), "bind_addr": local, "disable_update_check": true,
        "ports": { "http": http, "rpc": rpc, "serf": serf },
        "advertise": { "http": local, "rpc": local, "serf": local },
        "server": { "enabled": true, "bootstrap_expect": 1 },
    })
}

/// Only the drivers that a test may name are looked for, and nothing of the machine's surroundings. The node claims to
/// be large, so that every job finds room.
fn client(dir: &Path, [_, rpc, _, http]: [u16; 4]) -> Value {
    let local = "127.0.0.1";
    // What `exec` copies for every task: no more than a shell needs.
    let chroot = ["/bin", "/lib", "/lib64", "/etc/group", "/etc/nsswitch.conf", "/etc/passwd"];
    let chroot: Value = chroot
        .iter()
        .filter(|path| Path::new(path).exists())
        .map(|path| ((*path).to_owned(), json!(path)))
        .collect();
    json!({
        "data_dir": dir.join("client"), "plugin_dir": dir.join("plugins"),
        "bind_addr": local, "disable_update_check": true,
        "ports": { "http": http },
        "advertise": { "http": local, "rpc": local, "serf": local },
        "client": {
            "enabled": true,
            "servers": [format!("{local}:{rpc}")],
            "network_interface": "lo",
            "cpu_total_compute": 100_000, "memory_total_mb": 100_000,
            "options": {
                "driver.allowlist": "systemd,raw_exec,exec",
                "fingerprint.denylist": "env_aws,env_azure,env_digitalocean,env_gce,consul,vault,cni",
            },
            "chroot_env": chroot,
            "host_volume": { VOLUME: { "path": dir.join(VOLUME) } },
        },
        "plugin": {
            "raw_exec": { "config": { "enabled": true } },
            "nomad-driver-systemd": { "config": {
                "shim_dir": programs(), "state_dir": dir.join("state"),
                "allow_properties": ["@confining", "ListenStream", "NotifyAccess"],
            } },
        },
        "telemetry": { "publish_allocation_metrics": true, "collection_interval": "1s" },
    })
}

/// A Nomad agent, the client of a cluster of its own, on which the driver under test is healthy.
pub struct Agent {
    host: Host,
    service: &'static Service,
    /// The configuration that it has again when the test ends.
    usual: Option<Value>,
}

/// What a command printed, and its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit status.
    pub status: i32,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
}

impl Agent {
    /// The agent that tests share, or nothing when there is no Nomad here; then the reason is printed.
    pub async fn shared() -> Option<Self> {
        Self::on(async || Host::with(Need::Systemd).await).await
    }

    /// The same, with no other test on it meanwhile.
    pub async fn alone() -> Option<Self> {
        Self::on(async || Host::alone(Need::Systemd).await).await
    }

    /// The same as [`Self::alone`], where the operator says something else to our plugin while the test runs.
    pub async fn configured(option: &str, value: Value) -> Option<Self> {
        let mut agent = Self::alone().await?;
        let file = agent.service.dir.join("client.json");
        let usual: Value = serde_json::from_slice(&fs::read(file).expect("our own file")).expect("JSON");
        let mut config = usual.clone();
        config["plugin"]["nomad-driver-systemd"]["config"][option] = value;
        write_config(&agent.service.dir, "client", &config);
        agent.usual = Some(usual);
        agent.end(Signal::INT).await;
        agent.start().await;
        Some(agent)
    }

    async fn on(host: impl AsyncFnOnce() -> Option<Host>) -> Option<Self> {
        assert!(named().is_some(), "there is no Nomad; name one: NOMAD=/path/to/nomad");
        let host = host().await?;
        let agent = Self { host, service: SERVICE.get_or_init(Service::start), usual: None };
        // A test that failed may have left it stopped.
        agent.start().await;
        Some(agent)
    }

    /// The machine it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The driver of the jobs.
    pub fn driver(&self) -> &str {
        &self.service.driver
    }

    /// Where its host volume is, which everybody may write to. Its name is `volume`.
    pub fn volume(&self) -> PathBuf {
        self.service.dir.join(VOLUME)
    }

    /// Ends the agent's process by a signal; what it started is left to itself.
    pub async fn end(&self, signal: Signal) {
        let child = self.service.client.lock().expect("nobody panics here").take();
        let mut child = child.expect("the agent runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the agent is our child");
        eventually("the agent ends", async || child.try_wait().expect("our child")).await;
    }

    /// Kills the plugin, and waits until the agent has another one.
    pub async fn kill_plugin(&self) {
        let program = self.service.dir.join("plugins/nomad-driver-systemd");
        let killed = eventually("there is a plugin", async || process_of(&program)).await;
        kill_process(killed, Signal::KILL).expect("it is the agent's child");
        eventually("there is another one", async || process_of(&program).filter(|one| *one != killed)).await;
        self.start().await;
    }

    /// Starts it, if it does not run, and waits until the driver is healthy.
    pub async fn start(&self) {
        let Service { nomad, dir, client, hopeless, driver, .. } = self.service;
        client.lock().expect("nobody panics here").get_or_insert_with(|| launch(nomad, dir, "client"));
        let deadline = Instant::now() + SOON;
        while let Err(said) = self.service.ready() {
            if Instant::now() > deadline {
                let _ = hopeless.set(format!("{driver} is not healthy: {said}: see {}", log().display()));
            }
            // One test has waited for all.
            if let Some(reason) = hopeless.get() {
                panic!("{reason}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Submits a job and waits for its allocation.
    pub async fn run(&self, spec: Spec) -> Alloc<'_> {
        let job = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.put("/v1/jobs", &spec.submission(&job, self.driver()));
        self.placed(job).await
    }

    /// The same, for what stands in a job file in its group and in its one task.
    pub async fn run_file(&self, group: &str, task: &str) -> Alloc<'_> {
        let job = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let driver = self.driver();
        let text = format!(
            r#"job "{job}" {{
                type = "batch"
                group "group" {{
                    restart {{
                        attempts = 0
                        mode     = "fail"
                    }}
                    reschedule {{
                        attempts  = 0
                        unlimited = false
                    }}
                    {group}
                    task "main" {{
                        driver = "{driver}"
                        {task}
                    }}
                }}
            }}"#
        );
        let said = self.nomad(&["job", "run", "-detach", "-"], &text).await;
        assert_eq!(said.status, 0, "{said:?} {text}");
        self.placed(job).await
    }

    async fn placed(&self, job: String) -> Alloc<'_> {
        // From here on it is purged, whatever happens.
        let mut alloc = Alloc { agent: self, job, id: String::new() };
        alloc.id = eventually("the job is placed", async || {
            let placed = self.get(&format!("/v1/job/{}/allocations", alloc.job));
            placed[0]["ID"].as_str().map(str::to_owned)
        })
        .await;
        alloc
    }

    /// What the agent's API answers to a GET: null, if it is not what was asked for.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.service.ask("GET", &format!("{}{path}", self.service.address), "");
        answer.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Puts something through the agent's API, which must take it.
    pub fn put(&self, path: &str, body: &Value) {
        let answer = self.service.ask("PUT", &format!("{}{path}", self.service.address), &body.to_string());
        answer.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Runs the program `nomad`, as an operator does.
    pub async fn nomad(&self, args: &[&str], input: &str) -> Said {
        let mut command = tokio::process::Command::new(&self.service.nomad);
        self.command(command.args(args), input, false).await
    }

    /// Runs a shell script on a terminal; in it `$NOMAD` is the program.
    pub async fn on_a_terminal(&self, script: &str, input: &str) -> Said {
        let mut command = tokio::process::Command::new("script");
        command.args(["--quiet", "--return", "--command", script, "/dev/null"]);
        // The end of the input would be the end of the terminal.
        self.command(&mut command, input, true).await
    }

    async fn command(&self, command: &mut tokio::process::Command, input: &str, keep: bool) -> Said {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("NOMAD_ADDR", &self.service.address).env("NOMAD", &self.service.nomad);
        let mut child = command.kill_on_drop(true).spawn().expect("the command can be started");
        let mut stdin = child.stdin.take();
        if let Some(stdin) = &mut stdin {
            stdin.write_all(input.as_bytes()).await.expect("the command reads");
        }
        stdin = stdin.filter(|_| keep);
        let output = tokio::time::timeout(SOON, child.wait_with_output()).await;
        drop(stdin);
        let output = output.expect("the command ends").expect("its output can be read");
        Said {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Agent {
    /// The next test finds it as usual: it starts an agent that it does not find.
    fn drop(&mut self) {
        let Some(usual) = &self.usual else { return };
        write_config(&self.service.dir, "client", usual);
        let child = self.service.client.lock().ok().and_then(|mut client| client.take());
        if let Some(mut child) = child {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::INT));
            let _ = child.wait();
        }
    }
}

/// A job of one group, as a test asks for it. Its first task is named `main`; the driver is the one under test.
#[derive(Debug, Clone)]
pub struct Spec {
    kind: &'static str,
    group: Value,
    tasks: Vec<Value>,
}

impl Spec {
    /// A shell script that runs once, and is not tried again.
    pub fn batch(script: &str) -> Self {
        Self::of("batch", script)
    }

    /// A shell script that shall run until it is stopped; when it ends, that is not mended either.
    pub fn service(script: &str) -> Self {
        Self::of("service", script)
    }

    fn of(kind: &'static str, script: &str) -> Self {
        let group = json!({
            "Name": "group",
            "EphemeralDisk": { "SizeMB": 10 },
            "RestartPolicy": { "Attempts": 0, "Mode": "fail" },
            "ReschedulePolicy": { "Attempts": 0, "Unlimited": false },
        });
        Self { kind, group, tasks: vec![task("main", script)] }
    }

    /// With something else in the task, by its name in Nomad's API.
    #[must_use]
    pub fn task(mut self, name: &str, value: Value) -> Self {
        self.tasks[0][name] = value;
        self
    }

    /// With another task beside it.
    #[must_use]
    pub fn beside(mut self, name: &str, script: &str) -> Self {
        self.tasks.push(task(name, script));
        self
    }

    /// Tried again so many times after it has failed, at once.
    #[must_use]
    pub fn restarts(mut self, attempts: u32) -> Self {
        let (delay, interval) = (Duration::from_millis(1).as_nanos(), Duration::from_mins(10).as_nanos());
        self.group["RestartPolicy"] =
            json!({ "Attempts": attempts, "Mode": "fail", "Delay": delay, "Interval": interval });
        self
    }

    fn submission(mut self, id: &str, driver: &str) -> Value {
        for task in &mut self.tasks {
            task["Driver"] = json!(driver);
        }
        self.group["Tasks"] = Value::Array(self.tasks);
        json!({ "Job": {
            "ID": id, "Name": id, "Type": self.kind, "Datacenters": ["*"], "TaskGroups": [self.group],
        } })
    }
}

fn task(name: &str, script: &str) -> Value {
    json!({
        "Name": name,
        "Config": { "command": "/bin/sh", "args": ["-c", script] },
        "Resources": { "CPU": 50, "MemoryMB": 64 },
        "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 2 },
    })
}

/// The one allocation of a job. The job is purged when this is dropped.
pub struct Alloc<'a> {
    agent: &'a Agent,
    job: String,
    id: String,
}

/// One of the events of a task, as Nomad tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `Started`, `Terminated`, ….
    pub kind: String,
    /// What is told to the operator.
    pub message: String,
    /// When it was, since 1970.
    pub at: Duration,
    /// Of `Terminated`: exit code, signal, and whether it was for want of memory.
    pub end: (i32, i32, bool),
}

impl Alloc<'_> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The job's id.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Its directory on the host.
    pub fn dir(&self) -> PathBuf {
        self.agent.service.dir.join("client/alloc").join(&self.id)
    }

    /// A file of `alloc/data`, which all its tasks share with the test.
    pub fn shared_file(&self, name: &str) -> PathBuf {
        self.dir().join("alloc/data").join(name)
    }

    /// Its state, as Nomad's API tells it.
    fn state(&self) -> Value {
        self.agent.get(&format!("/v1/allocation/{}", self.id))
    }

    fn events(&self) -> Vec<Event> {
        self.state()["TaskStates"]["main"]["Events"].as_array().into_iter().flatten().map(event).collect()
    }

    /// Asks again and again, as [`eventually`] does, and tells in the end what there was instead.
    async fn until<T>(&self, what: &str, ask: impl Fn() -> Result<T, String>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            match ask() {
                Ok(answer) => return answer,
                Err(said) if Instant::now() > deadline => {
                    panic!("waited {SOON:?} in vain: {what}, but {said}; {:?}", self.events())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits for the end of the allocation, and gives Nomad's word for it and the events of its task.
    pub async fn ended(&self) -> (String, Vec<Event>) {
        let status = || match self.state()["ClientStatus"].as_str() {
            Some(status) if is_end(status) => Ok(status.to_owned()),
            other => Err(format!("it is {other:?}")),
        };
        (self.until("it ends", status).await, self.events())
    }

    /// Waits for the end of the task: exit code, signal, and whether it was for want of memory.
    pub async fn end(&self) -> (i32, i32, bool) {
        let (_, events) = self.ended().await;
        let last = events.iter().rev().find(|event| event.kind == "Terminated");
        last.unwrap_or_else(|| panic!("it never ran: {events:?}")).end
    }

    /// Waits until Nomad tells of the task, and of so many starts after the first one.
    pub async fn was_restarted(&self, times: u64) {
        let told = || match self.state()["TaskStates"]["main"]["Restarts"].as_u64() {
            Some(told) if told == times => Ok(()),
            other => Err(format!("{other:?}")),
        };
        self.until(&format!("it was restarted {times} times"), told).await;
    }

    /// Waits until its stdout has this text, and gives all of it.
    pub async fn says(&self, text: &str) -> String {
        let path = format!("/v1/client/fs/logs/{}?task=main&type=stdout&plain=true", self.id);
        let url = format!("{}{path}", self.agent.service.address);
        let said = || match self.agent.service.ask("GET", &url, "") {
            Ok(said) if said.contains(text) => Ok(said),
            other => Err(format!("{other:?}")),
        };
        self.until(&format!("it says {text:?}"), said).await
    }

    /// Waits until an event of its task tells this.
    pub async fn tells(&self, text: &str) {
        let told = || match self.events() {
            events if events.iter().any(|event| event.message.contains(text)) => Ok(()),
            _ => Err("no event does".to_owned()),
        };
        self.until(&format!("an event tells {text:?}"), told).await;
    }

    /// Waits for the end of a task that exits with 0 and prints just this.
    pub async fn prints(&self, text: &str) {
        assert_eq!(self.end().await, (0, 0, false), "{:?}", self.events());
        assert_eq!(self.says(text).await, text);
    }

    /// `nomad alloc COMMAND [OPTION]... ID`, which must succeed.
    pub async fn order(&self, args: &[&str]) {
        let said = self.agent.nomad(&[&["alloc"], args, &[&self.id]].concat(), "").await;
        assert_eq!(said.status, 0, "{args:?}: {said:?}");
    }

    /// Stops the job, without waiting for its end.
    pub async fn stop(&self) {
        let said = self.agent.nomad(&["job", "stop", "-detach", &self.job], "").await;
        assert_eq!(said.status, 0, "{said:?}");
    }

    /// Runs a shell script in the running task.
    pub async fn exec(&self, script: &str, input: &str) -> Said {
        let args = ["alloc", "exec", "-t=false", "-task", "main", &self.id, "/bin/sh", "-c", script];
        self.agent.nomad(&args, input).await
    }

    /// All its processes on the host, the oldest first: they have its id in their environment.
    pub fn processes(&self) -> Vec<u32> {
        let wanted = format!("NOMAD_ALLOC_ID={}", self.id);
        let own = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        let listed = fs::read_dir("/proc").expect("/proc can be read");
        let pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut found: Vec<u32> = pids.filter(own).collect();
        found.sort_unstable();
        found
    }

    /// Waits until no process of it is left.
    pub async fn has_no_process(&self) {
        let processes = || Some(self.processes()).filter(|left| !left.is_empty());
        self.until("all its processes end", || {
            processes().map_or(Ok(()), |left| Err(format!("{left:?} live")))
        })
        .await;
    }
}

/// Who runs `program`, which stands first on its command line.
fn process_of(program: &Path) -> Option<Pid> {
    let listed = fs::read_dir("/proc").expect("/proc can be read");
    let mut pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid = pids.find(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).next() == Some(program.as_os_str().as_encoded_bytes())
    });
    pid.and_then(Pid::from_raw)
}

fn is_end(status: &str) -> bool {
    matches!(status, "complete" | "failed" | "lost")
}

fn event(told: &Value) -> Event {
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| told["Details"][name].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    Event {
        kind: text("Type"),
        message: text("DisplayMessage"),
        at: Duration::from_nanos(told["Time"].as_u64().unwrap_or_default()),
        end: (number("exit_code"), number("signal"), told["Details"]["oom_killed"] == "true"),
    }
}

impl Drop for Alloc<'_> {
    /// Purges the job and waits for its end, so that nothing of it is left when the agent is ended.
    fn drop(&mut self) {
        let Service { address, .. } = self.agent.service;
        let url = format!("{address}/v1/job/{}?purge=true", self.job);
        let asked = self.agent.service.ask("DELETE", &url, "");
        let deadline = Instant::now() + Duration::from_secs(20);
        while asked.is_ok() && Instant::now() < deadline {
            if self.state()["ClientStatus"].as_str().is_none_or(is_end) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
