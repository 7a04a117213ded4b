//! A Nomad agent that runs jobs, as an operator configures it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::service::{SERVICE, Service, VOLUME, launch, link_plugin, log, named, write_config};
use crate::{Host, Need, SOON, eventually, programs};

/// A Nomad agent, the client of a cluster of its own, on which the driver under test is healthy.
pub struct Agent {
    host: Host,
    pub(super) service: &'static Service,
    /// The configuration that the agent gets back when the test ends.
    usual: Option<Value>,
    /// The command that starts Nomad in another way while the test runs.
    program: OnceLock<PathBuf>,
}

/// Starts Nomad as SECURITY.md describes it in "An agent that follows no links"; the mount is removed with the agent's
/// directory.
const WITHOUT_LINKS: &str = r#"#!/bin/sh
mountpoint -q ALLOCATIONS || mount --rbind ALLOCATIONS ALLOCATIONS || exit
exec unshare --mount --propagation unchanged \
    sh -c 'mount -o remount,bind,nosymfollow ALLOCATIONS && exec "$0" "$@"' NOMAD "$@"
"#;

/// What a command printed, and its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The exit status of the command.
    pub status: i32,
    /// The stdout of the command.
    pub out: String,
    /// The stderr of the command.
    pub err: String,
}

impl Agent {
    /// The agent that tests share, or none if there is no Nomad here; then the reason is printed.
    pub async fn shared() -> Option<Self> {
        Self::on(async || Host::with(Need::Systemd).await).await
    }

    /// The same agent, without other tests on it meanwhile.
    pub async fn alone() -> Option<Self> {
        Self::on(async || Host::alone(Need::Systemd).await).await
    }

    /// The same as [`Self::alone`], with another configuration of our plugin while the test runs.
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
        let service = SERVICE.get_or_init(Service::start);
        let agent = Self { host, service, usual: None, program: OnceLock::new() };
        // A test that failed may have left the agent stopped.
        agent.start().await;
        Some(agent)
    }

    /// Restarts the agent so that it follows no links in the directories of allocations, while the test runs.
    pub async fn follow_no_links(&self) {
        let Service { nomad, dir, .. } = self.service;
        let allocations = dir.join("client/alloc").display().to_string();
        let script = WITHOUT_LINKS.replace("ALLOCATIONS", &allocations);
        let program = dir.join("nomad-without-links");
        fs::write(&program, script.replace("NOMAD", &nomad.display().to_string()))
            .expect("our own directory");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own directory");
        self.program.set(program).expect("it is asked for once in a test");
        self.end(Signal::INT).await;
        self.start().await;
    }

    /// Restarts the agent in a mount namespace of its own, as of a service with `PrivateMounts=yes`, while the test runs.
    pub async fn with_private_mounts(&self) {
        let Service { nomad, dir, .. } = self.service;
        let program = dir.join("nomad-with-mounts");
        let nomad = nomad.display();
        let script = format!("#!/bin/sh\nexec unshare --mount --propagation slave -- {nomad} \"$@\"\n");
        fs::write(&program, script).expect("our own directory");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own directory");
        self.program.set(program).expect("it is asked for once in a test");
        self.end(Signal::INT).await;
        self.start().await;
    }

    /// The machine that the agent runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The driver of the jobs.
    pub fn driver(&self) -> &str {
        &self.service.driver
    }

    /// Whether a driver is healthy on the agent's node.
    pub fn has_driver(&self, driver: &str) -> bool {
        self.get("/v1/nodes")[0]["Drivers"][driver]["Healthy"] == true
    }

    /// The path of the host volume, which everybody may write to. Its name is `volume`.
    pub fn volume(&self) -> PathBuf {
        self.service.dir.join(VOLUME)
    }

    /// Ends the agent's process by a signal; processes that it started keep running.
    pub async fn end(&self, signal: Signal) {
        let child = self.service.client.lock().expect("nobody panics here").take();
        let mut child = child.expect("the agent runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the agent is our child");
        eventually("the agent ends", async || child.try_wait().expect("our child")).await;
    }

    /// Installs the three programs of a directory as a package does: each file is replaced by another one. The running
    /// plugin keeps its file; the agent must have been [configured](Self::configured) with [`Self::installed`] as
    /// `shim_dir`.
    pub fn install(&self, from: &Path) {
        let to = self.installed();
        fs::create_dir_all(&to).expect("our own directory");
        for name in ["nomad-driver-systemd", "wasm-shim", "wasm-shim-compile"] {
            let new = to.join(name).with_extension("new");
            fs::copy(from.join(name), &new).expect("a directory with the three programs");
            fs::rename(&new, to.join(name)).expect("our own directory");
        }
        link_plugin(&self.service.dir, &to);
    }

    /// The directory into which [`Self::install`] installs.
    pub fn installed(&self) -> PathBuf {
        self.service.dir.join("release")
    }

    /// Starts the stopped agent while something else has its port, and waits until it has given up.
    pub async fn fail_to_start(&self) {
        let Service { nomad, dir, address, .. } = self.service;
        let port = address.strip_prefix("http://").expect("an address of our own");
        let _holder = std::net::TcpListener::bind(port).expect("the stopped agent has left its port");
        let mut child = launch(nomad, dir, "client");
        let status = eventually("the agent gives up", async || child.try_wait().expect("our child")).await;
        assert!(!status.success(), "{status}");
    }

    /// Whether a process of the plugin runs.
    pub fn has_plugin(&self) -> bool {
        process_of(&self.service.dir.join("plugins/nomad-driver-systemd")).is_some()
    }

    /// Kills the plugin, and waits until the agent has another one.
    pub async fn kill_plugin(&self) {
        let program = self.service.dir.join("plugins/nomad-driver-systemd");
        let killed = eventually("there is a plugin", async || process_of(&program)).await;
        kill_process(killed, Signal::KILL).expect("it is the agent's child");
        eventually("there is another one", async || process_of(&program).filter(|one| *one != killed)).await;
        self.start().await;
    }

    /// Starts the agent, if it is not running, and waits until the driver is healthy.
    pub async fn start(&self) {
        let Service { nomad, dir, client, hopeless, driver, .. } = self.service;
        let program = self.program.get().unwrap_or(nomad);
        client.lock().expect("nobody panics here").get_or_insert_with(|| launch(program, dir, "client"));
        let deadline = Instant::now() + SOON;
        while let Err(health) = self.service.ready() {
            if Instant::now() > deadline {
                let _ = hopeless.set(format!("{driver} is not healthy: {health}: see {}", log().display()));
            }
            // One test has waited on behalf of all.
            if let Some(reason) = hopeless.get() {
                panic!("{reason}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The answer of the agent's API to a GET; null, if it is not the expected one.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.service.ask("GET", &format!("{}{path}", self.service.address), "");
        answer.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The log of the agent, with the server of its cluster.
    pub fn log(&self) -> String {
        fs::read_to_string(log()).unwrap_or_default()
    }

    /// Sends a PUT to the agent's API, which must accept it.
    pub fn put(&self, path: &str, body: &Value) {
        let answer = self.service.ask("PUT", &format!("{}{path}", self.service.address), &body.to_string());
        answer.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Runs the program `nomad`, as an operator does.
    pub async fn nomad(&self, args: &[&str], input: &str) -> Said {
        let mut command = tokio::process::Command::new(&self.service.nomad);
        self.command(command.args(args), input, false).await
    }

    /// Runs a shell script on a terminal; in the script, `$NOMAD` is the program.
    pub async fn on_a_terminal(&self, script: &str, input: &str) -> Said {
        let mut command = tokio::process::Command::new("script");
        command.args(["--quiet", "--return", "--command", script, "/dev/null"]);
        // The end of the input would close the terminal.
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
    /// The next test finds the usual agent: it starts an agent if it finds none.
    fn drop(&mut self) {
        match &self.usual {
            Some(usual) => {
                write_config(&self.service.dir, "client", usual);
                link_plugin(&self.service.dir, &programs());
            }
            None if self.program.get().is_none() => return,
            None => {}
        }
        let child = self.service.client.lock().ok().and_then(|mut client| client.take());
        if let Some(mut child) = child {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::INT));
            let _ = child.wait();
        }
    }
}

/// The PID of the process that runs `program`, which is first on its command line.
fn process_of(program: &Path) -> Option<Pid> {
    let listed = fs::read_dir("/proc").expect("/proc can be read");
    let mut pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid = pids.find(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).next() == Some(program.as_os_str().as_encoded_bytes())
    });
    pid.and_then(Pid::from_raw)
}
