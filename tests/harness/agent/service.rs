//! The processes of Nomad: a server and a client, with their configurations.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{SOON, programs, repository};

/// What the agent of this process needs for each start.
pub(super) struct Service {
    pub(super) nomad: PathBuf,
    pub(super) driver: String,
    pub(super) dir: PathBuf,
    pub(super) address: String,
    http: ureq::Agent,
    #[allow(dead_code, reason = "it serves as long as this process lives")]
    server: Child,
    pub(super) client: Mutex<Option<Child>>,
    /// Why the agent did not come up.
    pub(super) hopeless: OnceLock<String>,
    #[allow(
        dead_code,
        reason = "it ends the agents when its standard input is closed: when this process ends"
    )]
    undertaker: Child,
}

pub(super) static SERVICE: OnceLock<Service> = OnceLock::new();

/// A Rust process has no reliable exit hook, and may be killed. So a shell waits for the end of the tests, then ends
/// the agents and removes their files.
const UNDERTAKER: &str = r#"
    cat
    for pid in $(cat "$0"/second.pid "$0/client.pid" "$0/server.pid"); do
        kill -INT "$pid"
        for _ in $(seq 100); do kill -0 "$pid" || break; sleep 0.1; done
        kill -KILL "$pid"
    done
    awk -v "dir=$0/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount
    rm -rf --one-file-system "$0""#;

impl Service {
    pub(super) fn start() -> Self {
        // Not below /tmp, where a task may have a directory of its own; and accessible to all users as far as the
        // tasks' directories.
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
        link_plugin(&dir, &programs());
        fs::create_dir_all(repository().join("target")).expect("a directory for the log");
        fs::write(log(), "").expect("the log");

        // Free ports, all reserved at once: the server's three, and the client's.
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
        // A client that arrives before the server accepts it tries again only after a quarter of a minute.
        let keys = format!("http://127.0.0.1:{}/v1/operator/keyring/keys", ports[0]);
        let deadline = Instant::now() + SOON;
        while !service.ask("GET", &keys, "").is_ok_and(|keys| keys.contains("KeyID")) {
            assert!(Instant::now() < deadline, "the server leads nothing: see {}", log().display());
            std::thread::sleep(Duration::from_millis(50));
        }
        service
    }

    /// Whether the agent accepts jobs, or its answer instead. It has recovered its tasks before it answers at all.
    pub(super) fn ready(&self) -> Result<(), String> {
        let nodes = self.ask("GET", &format!("{}/v1/nodes", self.address), "")?;
        let nodes: Value = serde_json::from_str(&nodes).map_err(|error| error.to_string())?;
        let driver = &nodes[0]["Drivers"][&self.driver];
        let ready = nodes[0]["Status"] == "ready" && driver["Healthy"] == true;
        if ready { Ok(()) } else { Err(driver["HealthDescription"].to_string()) }
    }

    /// The body of an answer, or the error.
    pub(super) fn ask(&self, method: &str, url: &str, body: &str) -> Result<String, String> {
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
pub(super) const VOLUME: &str = "volume";

/// Makes the driver of a directory with programs the agent's plugin.
pub(super) fn link_plugin(dir: &Path, programs: &Path) {
    let (new, link) = (dir.join("plugin"), dir.join("plugins/nomad-driver-systemd"));
    symlink(programs.join("nomad-driver-systemd"), &new).expect("our own directory");
    fs::rename(&new, &link).expect("our own directory");
}

pub(super) fn write_config(dir: &Path, name: &str, config: &Value) {
    fs::write(dir.join(name).with_extension("json"), config.to_string()).expect("our own directory");
}

/// Starts one of the two agents.
pub(super) fn launch(nomad: &Path, dir: &Path, name: &str) -> Child {
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

pub(super) fn named() -> Option<PathBuf> {
    std::env::var_os("NOMAD").filter(|given| !given.is_empty()).map(PathBuf::from)
}

pub(super) fn log() -> PathBuf {
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

/// The agent looks only for the drivers that a test may name, and does not inspect the machine's surroundings. The node
/// claims to be large, so that every job fits.
fn client(dir: &Path, [_, rpc, _, http]: [u16; 4]) -> Value {
    let local = "127.0.0.1";
    // The files that `exec` copies for every task: no more than a shell needs.
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
