//! What a WebAssembly guest is granted (the job's `wasm` block), and the two layers that hold it to that.
//!
//! ```text
//!                    ┌─► options of the runner: it shows the guest these directories, variables and addresses
//!  wasm { … } ─► Guest ─► properties of its unit (the fence): the process around the guest gets no more from systemd
//!                    └─► flags of the compiler: what of it changes machine code
//! ```
//!
//! Where a node cannot filter addresses or ports the first layer stands alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::systemd::{self, Assignment, Features};
use crate::task::config::{Mount, NetworkMode, Serve, TaskConfig, Wasm};
use crate::task::host::view::{TaskDirs, View, is_plain};
use crate::task::sandbox::policy::Policy;
use crate::task::spec::activation::{self, Address, Listener, Readiness};
use crate::task::spec::{Error, TaskSpec, check_length, check_name, duration};

/// The variable of the runner that holds the guest's configuration, as a JSON object of texts. The runner's command line
/// can be read by everybody, its environment by nobody.
const CONFIG: &str = "NOMAD_WASM_CONFIG";
/// How long a server may take until it serves, if its job has no `notify` block.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the runner may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// What of a task's memory is the runner's own.
const RUNNER: u64 = 8 << 20;
/// A task with less memory is too small to set that much aside.
const ROOMY: u64 = 16 << 20;

/// The parts of the language that can be switched, by their names in the wasmtime command line.
pub const PROPOSALS: &[&str] = &[
    "bulk-memory",
    "component-model-async",
    "component-model-error-context",
    "component-model-fixed-length-lists",
    "component-model-map",
    "custom-page-sizes",
    "exceptions",
    "extended-const",
    "function-references",
    "gc",
    "memory64",
    "multi-memory",
    "multi-value",
    "reference-types",
    "relaxed-simd",
    "relaxed-simd-deterministic",
    "simd",
    "tail-call",
    "threads",
    "wide-arithmetic",
];

/// What a guest is granted, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// What of the runner's options changes machine code, so that the compiler is told as well: `-W`, `fuel=1`.
    pub flags: Vec<String>,
    /// It answers requests of HTTP until it is stopped.
    pub serves: bool,
    /// The job has a `wasm` block.
    is_asked_for: bool,
    /// What it sees as its own name.
    argv0: Option<String>,
    /// The names of its variables.
    env: Vec<String>,
    /// The runner's other options.
    options: Vec<String>,
    network: Network,
}

impl Guest {
    /// What the job's `wasm` block means for a task with this `view`, these variables, and so many bytes of memory at
    /// most.
    pub(crate) fn resolve(
        config: &TaskConfig,
        view: &View,
        dirs: &TaskDirs,
        working_directory: &Path,
        env: &BTreeMap<String, String>,
        ceiling: Option<u64>,
    ) -> Result<Self, Error> {
        let nothing = Wasm::decode(&[]).map_err(|source| Error::Defaults { source: Box::new(source) })?;
        let wasm = config.driver.wasm.as_ref().unwrap_or(&nothing);
        let mut options = Vec::new();
        let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
        let mut dirs: Vec<String> = match &wasm.dirs {
            Some(said) => said.iter().map(|said| directory(said)).collect::<Result<_, _>>()?,
            None => usual_directories(view, dirs, &config.mounts),
        };
        dirs.extend(here(&dirs, working_directory));
        for dir in dirs {
            option("--dir", dir);
        }
        if !wasm.config.is_empty() {
            option("--config-env", CONFIG.to_owned());
        }
        let (limits, changes) = settings(wasm, ceiling)?;
        for limit in limits {
            option("-W", limit);
        }
        let network = Network::resolve(wasm)?;
        network.options().for_each(|(name, value)| option(name, value));
        if let Some(serve) = &wasm.serve {
            server(serve, config)?.into_iter().for_each(|(name, value)| option(name, value));
            options.extend(serve.access_log.then(|| "--access-log".to_owned()));
        }
        if let Some(name) = &wasm.argv0 {
            check_length("wasm.argv0", name)?;
        }
        // Not those of ours: what they speak of is the runner's.
        let own = config.known.env.keys().filter(|name| env.contains_key(*name));
        Ok(Self {
            flags: changes.into_iter().flat_map(|change| ["-W".to_owned(), change]).collect(),
            serves: wasm.serve.is_some(),
            is_asked_for: config.driver.wasm.is_some(),
            argv0: wasm.argv0.clone(),
            env: wasm.env.clone().unwrap_or_else(|| own.cloned().collect()),
            options,
            network,
        })
    }

    /// Is this said of a program that is no guest? It would have no effect.
    pub(crate) fn check_native(&self) -> Result<(), Error> {
        if !self.is_asked_for {
            return Ok(());
        }
        let reason = "`command` is a native program, and the block is about WebAssembly guests; leave it out, or name a `.wasm` \
             file as `command` (for native programs there are `sandbox`, `limits`, `files` and `network`)";
        Err(Error::Refused { option: "wasm".to_owned(), reason: reason.to_owned() })
    }

    /// Is all that the job says of its task possible for a guest?
    pub(crate) fn check(&self, task: &TaskSpec) -> Result<(), Error> {
        let refused = |option: &str, reason: &str| {
            Err(Error::Refused { option: option.to_owned(), reason: reason.to_owned() })
        };
        let Readiness { ready_within, watchdog, all } = task.readiness;
        if !self.serves && (ready_within.is_some() || watchdog.is_some()) {
            return refused(
                "notify",
                "a WebAssembly guest cannot speak with systemd, and its runner says that it is ready and well only of one \
                 that serves (`wasm { serve { … } }`)",
            );
        }
        if all {
            return refused("notify.access", "for a WebAssembly guest its runner speaks, which is \"main\"");
        }
        match self.env.iter().find(|name| !task.env.contains_key(*name) || *name == CONFIG) {
            Some(name) => Err(Error::Option {
                option: "wasm.env",
                value: name.clone(),
                wanted: "the name of one of the task's variables",
            }),
            None => Ok(()),
        }
    }

    /// The runner's command line, for a guest whose compiled code is at `code` of its view and whose file has this name.
    pub(crate) fn command_line(&self, code: &Path, file_name: &str, args: &[String]) -> Vec<String> {
        let verb = if self.serves { "serve" } else { "run" };
        let mut words = vec!["wasm-shim".to_owned(), verb.to_owned(), "--allow-precompiled".to_owned()];
        words.extend(self.options.iter().cloned());
        for variable in &self.env {
            words.extend(["--env".to_owned(), variable.clone()]);
        }
        let name = self.argv0.as_deref().unwrap_or(file_name);
        words.extend([format!("--argv0={name}"), "--".to_owned(), code.display().to_string()]);
        words.extend(args.iter().cloned());
        words
    }

    /// What the unit gets beyond the preset for the runner, which has no network at all: what is granted, and no more as
    /// far as this node can filter.
    pub(crate) fn fence(
        &self,
        mode: &NetworkMode,
        view: &View,
        resolver: Option<&String>,
        policy: &Policy,
        features: &Features,
    ) -> Result<Vec<Assignment>, Error> {
        let is_visible = |path: &str| match view {
            View::Private { host_paths } => {
                host_paths.iter().any(|visible| Path::new(path).starts_with(visible))
            }
            View::Host | View::Own => true,
        };
        if self.network.lookup && resolver.is_none() && !is_visible(RESOLVER) {
            return Err(Error::Refused {
                option: "wasm.name_lookup".to_owned(),
                reason: format!(
                    "tasks of this node do not see {RESOLVER}, which says whom to ask: give the group's `network` a `dns` \
                     block, or have the operator add it to `host_paths`"
                ),
            });
        }
        let servers = match (self.network.lookup, resolver, view) {
            (false, ..) => Some(Vec::new()),
            (true, Some(text), _) => Some(name_servers(text)),
            // What is in there is not known before it is mounted.
            (true, None, View::Own) => None,
            (true, None, _) => Some(name_servers(&std::fs::read_to_string(RESOLVER).unwrap_or_default())),
        };
        // To systemd what a unit allows counts more than what its slice denies: an operator who filters the slice denies
        // it to jobs, and the slice's filter is then the only one.
        let may_be_said = |name: &str| match name {
            "IPAddressDeny" | "IPAddressAllow" => policy.denies("IPAddressAllow").is_none(),
            _ => true,
        };
        let lines = self.network.fence(mode, servers).into_iter().filter(|(name, _)| may_be_said(name));
        let known = lines.filter_map(|(name, text)| Assignment::parse(name, &text).ok());
        Ok(known.filter(|line| features.check(line).is_ok()).collect())
    }
}

/// Who is asked for the addresses of names (resolv.conf(5)).
const RESOLVER: &str = "/etc/resolv.conf";

/// The servers that it names; without any it is this machine.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // An address of a link says on which.
        server.split('%').next()?.parse().ok()
    });
    let servers: Vec<IpAddr> = servers.collect();
    if servers.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    servers
}

/// The version of wasmtime in the runner, such as `48.0.8`, as it says it: `wasm-shim 0.1.0 (wasmtime 48.0.8+shim1)`.
pub(crate) async fn wasmtime(shim: &Path) -> Option<String> {
    let said = tokio::process::Command::new(shim)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, said).await.ok()?.ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let (_, version) = said.split_once("wasmtime ")?;
    version.split(['+', ')', ' ', '\n']).next().map(str::to_owned)
}

/// The task's variables that are the runner's alone.
pub(crate) fn variables(config: &TaskConfig) -> Option<(String, String)> {
    let config = &config.driver.wasm.as_ref()?.config;
    let text = serde_json::to_string(config).ok().filter(|_| !config.is_empty())?;
    Some((CONFIG.to_owned(), text))
}

/// The socket of the port that the guest serves on. It comes before all others of that name.
pub(crate) fn listener(config: &TaskConfig) -> Result<Option<Listener>, Error> {
    let serve = config.driver.wasm.as_ref().and_then(|wasm| wasm.serve.as_ref());
    let Some(label) = serve.and_then(|serve| serve.port.as_ref()) else { return Ok(None) };
    check_name("wasm.serve.port", label)?;
    let at = activation::address_of_port(label, config).ok_or_else(|| Error::Option {
        option: "wasm.serve.port",
        value: label.clone(),
        wanted: "the label of a port in the group's `network` block",
    })?;
    Ok(Some(Listener { name: label.clone(), at: Address::Port(at), datagrams: false, mode: None }))
}

/// What the runner of a server says of itself, unless the job has a `notify` block.
pub(crate) fn readiness(config: &TaskConfig) -> Readiness {
    let serves = config.driver.wasm.as_ref().is_some_and(|wasm| wasm.serve.is_some());
    Readiness { ready_within: serves.then_some(READY_WITHIN), ..Readiness::default() }
}

/// The runner's options for a server.
fn server(serve: &Serve, config: &TaskConfig) -> Result<Vec<(&'static str, String)>, Error> {
    let wrong = |option, value: &str, wanted| Error::Option { option, value: value.to_owned(), wanted };
    let refused = |option: &str, reason: &str| {
        Err(Error::Refused { option: option.to_owned(), reason: reason.to_owned() })
    };
    if !config.driver.args.is_empty() {
        return refused(
            "args",
            "a guest that serves (`wasm.serve`) is given none; it has variables and `wasm.config`",
        );
    }
    if config.driver.wasm.as_ref().is_some_and(|wasm| wasm.timeout.is_some()) {
        return refused(
            "wasm.timeout",
            "one that serves has no end; `serve.timeout` is that of each request",
        );
    }
    let name = match (&serve.port, &serve.socket) {
        (Some(label), None) => label,
        (None, Some(name)) => match config.driver.socket.iter().find(|socket| socket.name == *name) {
            Some(socket) if socket.kind == "stream" => name,
            Some(_) => return Err(wrong("wasm.serve.socket", name, "a socket of `kind = \"stream\"`")),
            None => {
                return Err(wrong(
                    "wasm.serve.socket",
                    name,
                    "the name of one of the task's `socket` blocks",
                ));
            }
        },
        _ => return refused("wasm.serve", "it needs either a `port` or a `socket`"),
    };
    let count = |option, count: Option<u32>| match count {
        Some(0) => Err(wrong(option, "0", "a number of at least 1")),
        count => Ok(count.map(|count| count.to_string())),
    };
    let time = |option, text: Option<&String>| text.map(|text| time(option, text)).transpose();
    let options = [
        ("--listen-fd", Some(name.clone())),
        (
            "--max-concurrent-requests",
            count("wasm.serve.max_concurrent_requests", Some(serve.max_concurrent_requests))?,
        ),
        ("--max-instance-reuse-count", count("wasm.serve.reuse", serve.reuse)?),
        ("--max-instance-concurrent-reuse-count", count("wasm.serve.concurrency", serve.concurrency)?),
        ("--idle-instance-timeout", time("wasm.serve.idle_timeout", Some(&serve.idle_timeout))?),
        ("--shutdown-timeout", time("wasm.serve.shutdown_timeout", Some(&serve.shutdown_timeout))?),
        ("--client-timeout", Some(client_timeout(&serve.client_timeout)?)),
        ("-W", time("wasm.serve.timeout", serve.timeout.as_ref())?.map(|time| format!("timeout={time}"))),
    ];
    Ok(options.into_iter().filter_map(|(option, value)| Some((option, value?))).collect())
}

/// How long clients are waited for; nothing is for ever.
fn client_timeout(text: &str) -> Result<String, Error> {
    const OPTION: &str = "wasm.serve.client_timeout";
    if duration(text) == Ok(Duration::ZERO) { Ok("0".to_owned()) } else { time(OPTION, text) }
}

/// A length of time as the runner reads it.
fn time(option: &'static str, text: &str) -> Result<String, Error> {
    let wrong = |wanted| Error::Option { option, value: text.to_owned(), wanted };
    match duration(text).map_err(wrong)? {
        time if time.as_millis() == 0 => Err(wrong("a length of time of a millisecond at least")),
        time => Ok(format!("{}ms", time.as_millis())),
    }
}

/// The runner's `-W`, and what of it is the compiler's, too.
fn settings(wasm: &Wasm, ceiling: Option<u64>) -> Result<(Vec<String>, Vec<String>), Error> {
    let wrong = |option, value: &str, wanted| Error::Option { option, value: value.to_owned(), wanted };
    let size = |option, text: Option<&String>| {
        let read = |text: &String| {
            let bytes = systemd::bytes(text).ok().filter(|bytes| *bytes > 0);
            bytes.ok_or_else(|| wrong(option, text, "a size such as \"64M\", or a number of bytes"))
        };
        text.map(read).transpose()
    };
    let count = |option, count: Option<u64>| match count {
        Some(0) => Err(wrong(option, "0", "a number of at least 1")),
        count => Ok(count),
    };
    let max_stack = size("wasm.max_stack", wasm.max_stack.as_ref())?;
    if max_stack.is_some_and(|bytes| bytes > STACK_MAX) {
        let said = wasm.max_stack.as_deref().unwrap_or_default();
        return Err(wrong("wasm.max_stack", said, "a size up to \"1G\""));
    }
    let usual_memory = ceiling.filter(|ceiling| *ceiling >= ROOMY).map(|ceiling| ceiling - RUNNER);
    let numbers = [
        ("fuel", count("wasm.fuel", wasm.fuel)?),
        ("max-memory-size", size("wasm.max_memory", wasm.max_memory.as_ref())?.or(usual_memory)),
        ("max-table-elements", count("wasm.max_table_elements", wasm.max_table_elements)?),
        ("max-wasm-stack", max_stack),
        ("max-instances", count("wasm.max_instances", wasm.max_instances)?),
    ];
    let mut limits: Vec<String> =
        numbers.iter().filter_map(|(name, number)| Some(format!("{name}={}", (*number)?))).collect();
    if let Some(text) = &wasm.timeout {
        limits.push(format!("timeout={}", time("wasm.timeout", text)?));
    }
    limits.extend(wasm.trap_on_grow_failure.then(|| "trap-on-grow-failure=y".to_owned()));
    let mut changes: Vec<String> = wasm.fuel.map(|_| "fuel=1".to_owned()).into_iter().collect();
    // So that one request can be told to end, or to let others go on; the runner knows it by itself.
    changes.extend(wasm.serve.is_some().then(|| "epoch-interruption=y".to_owned()));
    for (name, value) in &wasm.proposals {
        let known = name.replace('_', "-");
        if !PROPOSALS.contains(&known.as_str()) {
            return Err(wrong(
                "wasm.proposals",
                name,
                "the name of a proposal that the runner knows, such as `simd` or `memory64`",
            ));
        }
        let switch = match value.as_str() {
            "true" => "y",
            "false" => "n",
            _ => return Err(wrong("wasm.proposals", &format!("{name} = {value}"), "either true or false")),
        };
        limits.push(format!("{known}={switch}"));
        changes.push(format!("{known}={switch}"));
    }
    Ok((limits, changes))
}

/// The deepest stack that the runner can give.
const STACK_MAX: u64 = 1 << 30;

/// A directory as the runner takes it.
fn directory(said: &str) -> Result<String, Error> {
    check_length("wasm.dirs", said)?;
    let (path, name) = match said.split_once("::") {
        Some((path, name)) => (path, name.strip_suffix(":ro").unwrap_or(name)),
        None => (said, said),
    };
    // Through /proc a guest would reach the memory of its runner, and its environment.
    let of_the_system = ["/proc", "/sys", "/dev", "/run/systemd"];
    if Path::new(path).parent().is_none()
        || of_the_system.iter().any(|directory| Path::new(path).starts_with(directory))
    {
        let reason = format!(
            "`{path}` belongs to the system, and a guest could change its own runner there; grant a \
                              directory of the task's, or a volume"
        );
        return Err(Error::Refused { option: "wasm.dirs".to_owned(), reason });
    }
    // A wrong word after the last colon would be a directory that can be written to; so would `PATH::ro`.
    if is_plain(Path::new(path)) && !["", "ro", "rw"].contains(&name) && !name.contains(':') {
        return Ok(said.to_owned());
    }
    let wanted = "\"PATH\", \"PATH::NAME\" or \"PATH::NAME:ro\" with an absolute path without `..`, and no other colon";
    Err(Error::Option { option: "wasm.dirs", value: said.to_owned(), wanted })
}

/// The task's own directories under the names that its environment says, and its volumes.
fn usual_directories(view: &View, dirs: &TaskDirs, mounts: &[Mount]) -> Vec<String> {
    // The runner follows no link; the way to the allocation is the agent's, and may have some.
    let real = dirs.alloc_dir.canonicalize().unwrap_or_else(|_| dirs.alloc_dir.clone());
    let own = dirs.pairs().map(|(host, inside)| match view {
        View::Private { .. } | View::Own => format!("{inside}::{inside}"),
        View::Host => {
            let way = host.strip_prefix(&dirs.alloc_dir).unwrap_or(host);
            format!("{}::{}", real.join(way).display(), host.display())
        }
    });
    // A plugin of devices may mount files.
    let volumes = mounts.iter().filter(|mount| !mount.source.is_file()).map(|mount| {
        let read_only = if mount.read_only { ":ro" } else { "" };
        format!("{0}::{0}{read_only}", mount.target.display())
    });
    own.into_iter().chain(volumes).collect()
}

/// The directory in which relative paths of a guest begin, `.` in WASI: where the task begins, if that is granted, and
/// with no more rights than it is granted with. None where the job says itself what `.` or `/` is.
fn here(dirs: &[String], working_directory: &Path) -> Option<String> {
    let parts = dirs.iter().map(|dir| {
        let (path, name) = dir.split_once("::").unwrap_or((dir, dir));
        let (name, mode) = name.strip_suffix(":ro").map_or((name, ""), |name| (name, ":ro"));
        (path, name, mode)
    });
    let parts: Vec<_> = parts.collect();
    if parts.iter().any(|(_, name, _)| [".", "/"].contains(name)) {
        return None;
    }
    let within = parts.iter().filter_map(|(path, name, mode)| {
        // The name is how the task itself calls it, where the path is the runner's.
        let rest =
            working_directory.strip_prefix(path).or_else(|_| working_directory.strip_prefix(name)).ok()?;
        let here = Path::new(path).join(rest);
        Some((path.len(), format!("{}::.{mode}", here.display().to_string().trim_end_matches('/'))))
    });
    within.max_by_key(|(length, _)| *length).map(|(_, here)| here)
}

/// Whom a guest may speak with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Network {
    connect: Vec<Rule>,
    listen: Vec<Rule>,
    everything: bool,
    lookup: bool,
}

impl Network {
    fn resolve(wasm: &Wasm) -> Result<Self, Error> {
        let rules = |option: &'static str, said: &[String]| {
            let rule = |said: &String| {
                let wanted = "addresses and ports such as \"tcp:10.0.0.0/8:5432\", \"[::1]:53\" or \"*:443\"";
                Rule::parse(said).ok_or_else(|| Error::Option { option, value: said.clone(), wanted })
            };
            said.iter().map(rule).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            connect: rules("wasm.connect", &wasm.connect)?,
            listen: rules("wasm.listen", &wasm.listen)?,
            everything: wasm.inherit_network,
            lookup: wasm.name_lookup,
        })
    }

    /// The same for the runner.
    fn options(&self) -> impl Iterator<Item = (&'static str, String)> {
        let wasi = |on: bool, name: &str| on.then(|| ("-S", name.to_owned()));
        let rules = |option, rules: &[Rule]| -> Vec<_> {
            rules.iter().map(|rule| (option, rule.said.clone())).collect()
        };
        let connect = rules("--connect", &self.connect);
        let switches = [wasi(self.everything, "inherit-network"), wasi(self.lookup, "allow-ip-name-lookup")];
        connect.into_iter().chain(rules("--listen", &self.listen)).chain(switches.into_iter().flatten())
    }

    /// The same for its unit, in the words of systemd's manual, if these `servers` are asked for names; nobody knows
    /// which, if there are none.
    fn fence(&self, mode: &NetworkMode, servers: Option<Vec<IpAddr>>) -> Vec<(&'static str, String)> {
        let Self { connect, listen, everything, lookup } = self;
        if !everything && !lookup && connect.is_empty() && listen.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![("RestrictAddressFamilies", "AF_INET AF_INET6".to_owned())];
        if *mode != NetworkMode::None {
            lines.push(("PrivateNetwork", "no".to_owned()));
        }
        if *everything {
            return lines;
        }
        // Whoever comes to where it listens; on this machine's own addresses only who is on it.
        let peers = listen.iter().map(|rule| rule.prefix.filter(Prefix::is_loopback));
        let peers = connect.iter().map(|rule| rule.prefix).chain(peers);
        let servers = servers.map(|servers| servers.into_iter().map(Prefix::of).collect::<Vec<_>>());
        if let (Some(peers), Some(servers)) = (peers.collect::<Option<Vec<_>>>(), servers) {
            lines.push(("IPAddressDeny", "any".to_owned()));
            let allowed = peers.into_iter().chain(servers);
            lines.extend(
                allowed.map(|Prefix(address, length)| ("IPAddressAllow", format!("{address}/{length}"))),
            );
        }
        // Who sends packets binds to a port of the kernel's choice before, and systemd has no word for that.
        let sends = connect.iter().any(|rule| rule.protocol != Some(Protocol::Tcp));
        lines.push(("SocketBindDeny", "tcp".to_owned()));
        lines.extend((!sends).then(|| ("SocketBindDeny", "udp".to_owned())));
        lines.extend(listen.iter().map(|rule| ("SocketBindAllow", rule.of_port())));
        lines
    }
}

/// How an address is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

/// An address, and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix(IpAddr, u8);

impl Prefix {
    fn of(address: IpAddr) -> Self {
        Self(address, if address.is_ipv4() { 32 } else { 128 })
    }

    /// Are they all this machine's own?
    fn is_loopback(&self) -> bool {
        self.0.is_loopback() && self.1 >= if self.0.is_ipv4() { 8 } else { 128 }
    }
}

/// Addresses that are granted, such as `tcp:10.0.0.0/8:5432`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    said: String,
    /// Default: both.
    protocol: Option<Protocol>,
    /// Default: every address.
    prefix: Option<Prefix>,
    ports: RangeInclusive<u16>,
}

impl Rule {
    /// Reads `[tcp:|udp:]ADDRESS[/PREFIX]:PORT[-PORT]`.
    fn parse(said: &str) -> Option<Self> {
        let (protocol, rest) = match said.split_once(':') {
            Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
            Some(("udp", rest)) => (Some(Protocol::Udp), rest),
            _ => (None, said),
        };
        let (addresses, ports) = rest.rsplit_once(':')?;
        let (first, last) =
            if ports == "*" { ("0", "65535") } else { ports.split_once('-').unwrap_or((ports, ports)) };
        let (first, last) = (number(first)?, number(last)?);
        let prefix = if addresses == "*" { None } else { Some(prefix(addresses)?) };
        (first <= last).then(|| Self { said: said.to_owned(), protocol, prefix, ports: first..=last })
    }

    /// The same without the address, as systemd's `SocketBindAllow=` has it.
    fn of_port(&self) -> String {
        let family = match self.prefix {
            None => "",
            Some(Prefix(address, _)) if address.is_ipv4() => "ipv4:",
            Some(_) => "ipv6:",
        };
        let protocol = match self.protocol {
            None => "",
            Some(Protocol::Tcp) => "tcp:",
            Some(Protocol::Udp) => "udp:",
        };
        // It has no word for a port of the kernel's choice but all of them.
        let (first, last) = (self.ports.start(), self.ports.end());
        if *first == 0 {
            format!("{family}{protocol}any")
        } else {
            format!("{family}{protocol}{first}-{last}")
        }
    }
}

/// A number without a sign.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn prefix(text: &str) -> Option<Prefix> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => IpAddr::V4(address.parse().ok()?),
    };
    let Prefix(_, bits) = Prefix::of(address);
    let length = length.map_or(Some(bits), number).filter(|length| *length <= bits)?;
    Some(Prefix(address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wasm(change: impl FnOnce(&mut Wasm)) -> Wasm {
        let mut wasm = Wasm::decode(&[]).unwrap();
        change(&mut wasm);
        wasm
    }

    fn texts(said: &[&str]) -> Vec<String> {
        said.iter().map(ToString::to_string).collect()
    }

    fn network(connect: &[&str], listen: &[&str]) -> Network {
        Network::resolve(&wasm(|wasm| (wasm.connect, wasm.listen) = (texts(connect), texts(listen)))).unwrap()
    }

    /// The lines of a fence, each as in a unit file.
    fn fence(network: &Network, servers: Option<&[&str]>) -> Vec<String> {
        let servers = servers.map(|servers| servers.iter().map(|server| server.parse().unwrap()).collect());
        let lines = network.fence(&NetworkMode::Host, servers);
        for (name, text) in &lines {
            assert!(Assignment::parse(name, text).is_ok(), "{name}={text}");
        }
        lines.iter().map(|(name, text)| format!("{name}={text}")).collect()
    }

    #[test]
    fn a_rule_says_how_which_addresses_and_which_ports() {
        for (said, port) in [
            ("tcp:10.0.0.0/8:5432", "ipv4:tcp:5432-5432"),
            ("[2001:db8::]/32:80-90", "ipv6:80-90"),
            ("udp:*:53", "udp:53-53"),
            ("*:*", "any"),
            ("tcp:[::1]:0-10", "ipv6:tcp:any"),
        ] {
            assert_eq!(Rule::parse(said).map(|rule| rule.of_port()).as_deref(), Some(port), "{said}");
        }
        for wrong in [
            "",
            "tcp",
            "80",
            "::1:80",
            "1.2.3.4",
            "1.2.3.4/33:1",
            "host:80",
            "1.2.3.4:9-1",
            "1.2.3.4:70000",
            "sctp:*:1",
            "1.2.3.4:+1",
            "1.2.3.4/+8:1",
            "[1.2.3.4]:1",
            "[::1]/129:1",
            "*/8:1",
            "*:",
            "*: 80",
        ] {
            assert_eq!(Rule::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_fence_lets_through_what_is_granted_and_no_more() {
        assert_eq!(fence(&network(&[], &[]), Some(&[])), Vec::<String>::new());
        let common = ["RestrictAddressFamilies=AF_INET AF_INET6", "PrivateNetwork=no"];
        let client = fence(&network(&["tcp:10.0.0.0/8:5432", "tcp:[::1]:53"], &[]), Some(&[]));
        let filters = [
            "IPAddressDeny=any",
            "IPAddressAllow=10.0.0.0/8",
            "IPAddressAllow=::1/128",
            "SocketBindDeny=tcp",
            "SocketBindDeny=udp",
        ];
        assert_eq!(client, [&common[..], &filters].concat());
        // Anybody may come to it, and it binds there alone.
        let server = fence(&network(&[], &["tcp:*:80"]), Some(&[]));
        let filters = ["SocketBindDeny=tcp", "SocketBindDeny=udp", "SocketBindAllow=tcp:80-80"];
        assert_eq!(server, [&common[..], &filters].concat());
        let own = fence(&network(&[], &["127.0.0.1:80"]), Some(&[]));
        assert!(own.contains(&"IPAddressAllow=127.0.0.1/32".to_owned()), "{own:?}");
        // Whoever sends packets is bound to some port.
        let sender = fence(&network(&["10.0.0.1:53"], &[]), Some(&[]));
        assert!(!sender.contains(&"SocketBindDeny=udp".to_owned()), "{sender:?}");
        let everything = Network { everything: true, ..network(&["10.0.0.1:53"], &[]) };
        assert_eq!(fence(&everything, Some(&[])), common);
    }

    #[test]
    fn who_may_look_up_names_may_ask_the_servers_if_they_are_known() {
        let asks = Network { lookup: true, ..network(&["tcp:10.0.0.1:80"], &[]) };
        let known = fence(&asks, Some(&["127.0.0.53", "fe80::1"]));
        for server in ["127.0.0.53/32", "fe80::1/128", "10.0.0.1/32"] {
            assert!(known.contains(&format!("IPAddressAllow={server}")), "{server} in {known:?}");
        }
        assert!(!fence(&asks, None).iter().any(|line| line.starts_with("IPAddress")));
        let servers = |text: &str| name_servers(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            servers("# x\nsearch a\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n"),
            ["10.0.0.1", "fe80::1"]
        );
        assert_eq!(servers("options ndots:2\nnameserver\n"), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn a_group_without_a_network_stays_without_one() {
        let lines = network(&["*:80"], &[]).fence(&NetworkMode::None, Some(vec![]));
        assert!(lines.iter().all(|(name, _)| *name != "PrivateNetwork"), "{lines:?}");
    }

    #[test]
    fn limits_reach_the_runner_and_what_changes_code_the_compiler_too() {
        let said = wasm(|wasm| {
            wasm.fuel = Some(1000);
            wasm.max_memory = Some("64M".to_owned());
            wasm.timeout = Some("1m 500ms".to_owned());
            wasm.trap_on_grow_failure = true;
            wasm.proposals = [("relaxed_simd", "false"), ("memory64", "true")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        });
        let (limits, changes) = settings(&said, Some(1 << 30)).unwrap();
        assert_eq!(
            limits,
            [
                "fuel=1000",
                "max-memory-size=67108864",
                "timeout=60500ms",
                "trap-on-grow-failure=y",
                "memory64=y",
                "relaxed-simd=n"
            ]
        );
        assert_eq!(changes, ["fuel=1", "memory64=y", "relaxed-simd=n"]);
    }

    #[test]
    fn a_guest_is_told_that_there_is_no_more_memory_before_it_is_killed() {
        let limits = |ceiling| settings(&wasm(|_| {}), ceiling).unwrap().0;
        assert_eq!(limits(Some(32 << 20)), [format!("max-memory-size={}", 24 << 20)]);
        assert_eq!(limits(Some(15 << 20)), Vec::<String>::new());
        assert_eq!(limits(None), Vec::<String>::new());
    }

    #[test]
    fn relative_paths_begin_where_the_task_does_if_that_is_granted() {
        let here = |dirs: &[&str], work_dir: &str| {
            let dirs: Vec<String> = dirs.iter().map(|dir| (*dir).to_owned()).collect();
            super::here(&dirs, Path::new(work_dir))
        };
        let usual = ["/local::/local", "/alloc::/alloc", "/srv::/srv:ro"];
        assert_eq!(here(&usual, "/local").as_deref(), Some("/local::."));
        assert_eq!(here(&usual, "/alloc/data").as_deref(), Some("/alloc/data::."));
        assert_eq!(here(&usual, "/srv/www").as_deref(), Some("/srv/www::.:ro"));
        assert_eq!(here(&usual, "/etc"), None);
        assert_eq!(here(&["/local::/data:ro"], "/local").as_deref(), Some("/local::.:ro"));
        assert_eq!(here(&["/local", "/local/x::/x:ro"], "/local/x").as_deref(), Some("/local/x::.:ro"));
        assert_eq!(here(&["/run/real/local::/a/local"], "/a/local").as_deref(), Some("/run/real/local::."));
        assert_eq!(here(&["/alloc::/", "/local"], "/local"), None);
        assert_eq!(here(&[], "/local"), None);
    }

    #[test]
    fn a_directory_is_a_path_of_the_task_with_a_name() {
        for said in ["/local", "/local::/data", "/alloc/data::.:ro", "/local::/x:ro"] {
            assert_eq!(directory(said).unwrap(), said);
        }
        for wrong in ["", "data", "::/data", "/local::", "/local/../etc", "/local:::ro"] {
            assert!(directory(wrong).unwrap_err().to_string().contains("`wasm.dirs`"), "{wrong}");
        }
    }
}
