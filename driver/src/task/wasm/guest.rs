//! What a WebAssembly guest is granted (the job's `wasm` block), and the two layers that enforce it.
//!
//! ```text
//!                    ┌─► options of the runner: it shows the guest these directories, variables and addresses
//!  wasm { … } ─► Guest ─► properties of its unit (the fence): the process around the guest gets no more from systemd
//!                    └─► flags of the compiler: what of it changes machine code
//! ```
//!
//! Where a node cannot filter addresses or ports, only the first layer applies.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use shim_interface::{Directory, Proposal, STACK_MAX};

use crate::systemd::{self, Assignment, Features};
use crate::task::config::{NetworkMode, TaskConfig, Wasm};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::view::View;
use crate::task::refusal::{Error, check_length};
use crate::task::sandbox::policy::Policy;
use crate::task::sandbox::preset::Preset;
use crate::task::wasm::network::{Network, RESOLVER, name_servers};
use crate::task::wasm::preopens::{directories, here, usual_directories};
use crate::task::wasm::server::{server, time};

/// The variable of the runner that contains the guest's configuration, as a JSON object of strings. Everybody can read
/// the runner's command line, nobody its environment.
const CONFIG: &str = "NOMAD_WASM_CONFIG";
/// Time for the runner to report its version.
const SHIM_ANSWERS: Duration = Duration::from_secs(5);
/// The properties by which the preset "wasm" takes the network.
const OF_NETWORK: [&str; 2] = ["PrivateNetwork", "RestrictAddressFamilies"];
/// Memory of a task that is set aside for the runner.
const RUNNER: u64 = 8 << 20;
/// A task with less memory is too small to set that much aside.
const ROOMY: u64 = 16 << 20;

/// Grants and limits of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The runner's options that change machine code, so that the compiler gets them as well: `-W`, `fuel=1`.
    pub flags: Vec<String>,
    /// The guest answers HTTP requests until it is stopped.
    pub serves: bool,
    /// The name that the guest sees as its own.
    argv0: Option<String>,
    /// Names of the guest's variables.
    env: Vec<String>,
    /// The other options of the runner.
    options: Vec<String>,
    network: Network,
}

impl Guest {
    /// Resolves the job's `wasm` block for a task with this `view`, these variables, and at most this many bytes of
    /// memory.
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
        // Every option is listed here, so that the compiler rejects a new option that is not handled.
        #[rustfmt::skip]
        let Wasm {
            argv0, config: values, dirs: granted, env: names, serve,
            // See `settings` and `Network`.
            backtrace_details: _, fuel: _, max_instances: _, max_memory: _, max_stack: _, max_table_elements: _,
            proposals: _, timeout: _, trap_on_grow_failure: _, connect: _, inherit_network: _, listen: _, name_lookup: _,
        } = wasm;
        let mut options = Vec::new();
        let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
        let mut dirs: Vec<Directory> = match granted {
            Some(texts) => directories(texts)?,
            None => usual_directories(view, dirs, &config.mounts),
        };
        dirs.extend(here(&dirs, working_directory));
        for dir in dirs {
            option("--dir", dir.to_string());
        }
        if !values.is_empty() {
            option("--config-env", CONFIG.to_owned());
        }
        let (limits, changes) = settings(wasm, ceiling)?;
        options.extend(in_words(limits));
        let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
        let network = Network::resolve(wasm)?;
        network.options().for_each(|(name, value)| option(name, value));
        if let Some(serve) = serve {
            options.extend(server(serve, config)?);
        }
        if let Some(name) = argv0 {
            check_length("wasm.argv0", name)?;
        }
        // Without the driver's own variables, which are meant for the runner.
        let own = config.identity.env.keys().filter(|name| env.contains_key(*name));
        Ok(Self {
            flags: in_words(changes),
            serves: serve.is_some(),
            argv0: argv0.clone(),
            env: names.clone().unwrap_or_else(|| own.cloned().collect()),
            options,
            network,
        })
    }

    /// Can a guest with these variables have everything that the job configures for its task?
    pub(crate) fn check(
        &self,
        notifies: bool,
        all_notify: bool,
        env: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        if !self.serves && notifies {
            return Err(Error::refused(
                "notify",
                "a WebAssembly guest cannot send messages to systemd; wasm-shim sends `READY=1` and those of the watchdog for a guest \
                 that serves (`wasm { serve { … } }`), and for no other",
            ));
        }
        if all_notify {
            return Err(Error::refused(
                "notify.access",
                "for a WebAssembly guest wasm-shim sends the messages, which is the main process (\"main\")",
            ));
        }
        match self.env.iter().find(|name| !env.contains_key(*name) || *name == CONFIG) {
            Some(name) => Err(Error::Option {
                option: "wasm.env",
                value: name.clone(),
                wanted: "the name of one of the task's variables",
            }),
            None => Ok(()),
        }
    }

    /// The runner's command line, for a guest whose compiled code is at `code` in its view and whose file has this
    /// name. `same` are options about the directories of its task.
    pub(crate) fn command_line(
        &self,
        code: &Path,
        file_name: &str,
        args: &[String],
        checked: impl Iterator<Item = String>,
    ) -> Vec<String> {
        let verb = if self.serves { "serve" } else { "run" };
        let mut words = vec!["wasm-shim".to_owned(), verb.to_owned(), "--allow-precompiled".to_owned()];
        words.extend(checked);
        words.extend(self.options.iter().cloned());
        for variable in &self.env {
            words.extend(["--env".to_owned(), variable.clone()]);
        }
        let name = self.argv0.as_deref().unwrap_or(file_name);
        words.extend([format!("--argv0={name}"), "--".to_owned(), code.display().to_string()]);
        words.extend(args.iter().cloned());
        words
    }

    /// What the unit gets beyond the preset for the runner, which has no network at all: what is granted, and no more,
    /// as far as this node can filter.
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
            // Its content is not known before it is mounted.
            (true, None, View::Own) => None,
            (true, None, _) => Some(name_servers(&std::fs::read_to_string(RESOLVER).unwrap_or_default())),
        };
        // For systemd what a unit allows takes precedence over what its slice denies: an operator who filters the slice
        // denies it to jobs, and the slice's filter is then the only one.
        let may_be_said = |name: &str| match name {
            "IPAddressDeny" | "IPAddressAllow" => policy.denies("IPAddressAllow").is_none(),
            _ => true,
        };
        let lines = self.network.fence(mode, servers).into_iter().filter(|(name, _)| may_be_said(name));
        let known = lines.filter_map(|(name, text)| Assignment::parse(name, &text).ok());
        // Other presets leave a task the network.
        let closed = Preset::Wasm.assignments().iter().filter(|line| OF_NETWORK.contains(&line.name()));
        Ok(closed.cloned().chain(known).filter(|line| features.check(line).is_ok()).collect())
    }
}

/// Is the `wasm` block set for a program that is not a guest? It would have no effect.
pub(crate) fn check_native(config: &TaskConfig) -> Result<(), Error> {
    if config.driver.wasm.is_none() {
        return Ok(());
    }
    let reason = "`command` is a native program, and the block is about WebAssembly guests; leave it out, or name a `.wasm` \
         file as `command` (for native programs there are `sandbox`, `limits`, `files` and `network`)";
    Err(Error::refused("wasm", reason))
}

/// What an installed program answers to `--version`.
pub(crate) enum Answer {
    /// The version of wasmtime in it, such as `48.0.8`; empty if it names none.
    Version(String),
    /// The node is too busy for an answer, or has no memory or processes for it now.
    Silence,
    /// The program does not run, and why: it is damaged, or of another machine.
    Failure(String),
}

/// Asks wasm-shim, which says `wasm-shim 0.1.0 (wasmtime 48.0.8+shim1)`, or wasm-shim-compile.
pub(crate) async fn answer_of(program: &Path) -> Answer {
    let running = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(SHIM_ANSWERS, running).await {
        Ok(Ok(output)) => output,
        // Whatever else the kernel lacks it may have later.
        Ok(Err(error)) => {
            let lasts = [libc::ENOEXEC, libc::EACCES, libc::ENOENT, libc::ELIBBAD];
            let is_lasting = error.raw_os_error().is_some_and(|number| lasts.contains(&number));
            return if is_lasting { Answer::Failure(error.to_string()) } else { Answer::Silence };
        }
        Err(_) => return Answer::Silence,
    };
    // The kernel ends a process so that finds no memory.
    if output.status.signal() == Some(libc::SIGKILL) {
        return Answer::Silence;
    }
    if !output.status.success() {
        return Answer::Failure(output.status.to_string());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let version =
        text.split_once("wasmtime ").and_then(|(_, version)| version.split(['+', ')', ' ', '\n']).next());
    Answer::Version(version.unwrap_or_default().to_owned())
}

/// The task's variables that only the runner gets.
pub(crate) fn variables(config: &TaskConfig) -> Option<(String, String)> {
    let config = &config.driver.wasm.as_ref()?.config;
    let text = serde_json::to_string(config).ok().filter(|_| !config.is_empty())?;
    Some((CONFIG.to_owned(), text))
}

/// The compiler's options for this block, such as `-W` and `fuel=1`.
pub(crate) fn compiler_flags(wasm: &Wasm) -> Result<Vec<String>, Error> {
    let (_, changes) = settings(wasm, None)?;
    Ok(in_words(changes))
}

/// Each option after a `-W`.
fn in_words(options: Vec<String>) -> Vec<String> {
    options.into_iter().flat_map(|option| ["-W".to_owned(), option]).collect()
}

/// The runner's `-W` options, and those of them that the compiler gets, too.
fn settings(wasm: &Wasm, ceiling: Option<u64>) -> Result<(Vec<String>, Vec<String>), Error> {
    let size = |option, text: Option<&String>| {
        let read = |text: &String| {
            let bytes = systemd::bytes(text).ok().filter(|bytes| *bytes > 0);
            bytes.ok_or_else(|| Error::option(option, text, "a size such as \"64M\", or a number of bytes"))
        };
        text.map(read).transpose()
    };
    let max_stack = size("wasm.max_stack", wasm.max_stack.as_ref())?;
    if max_stack.is_some_and(|bytes| bytes > STACK_MAX) {
        let text = wasm.max_stack.as_deref().unwrap_or_default();
        return Err(Error::option("wasm.max_stack", text, "a size up to \"1G\""));
    }
    let usual_memory = ceiling.filter(|ceiling| *ceiling >= ROOMY).map(|ceiling| ceiling - RUNNER);
    let numbers = [
        ("fuel", Error::at_least_one("wasm.fuel", wasm.fuel)?),
        ("max-memory-size", size("wasm.max_memory", wasm.max_memory.as_ref())?.or(usual_memory)),
        ("max-table-elements", Error::at_least_one("wasm.max_table_elements", wasm.max_table_elements)?),
        ("max-wasm-stack", max_stack),
        ("max-instances", Error::at_least_one("wasm.max_instances", wasm.max_instances)?),
    ];
    let mut limits: Vec<String> =
        numbers.iter().filter_map(|(name, number)| Some(format!("{name}={}", (*number)?))).collect();
    if let Some(text) = &wasm.timeout {
        limits.push(format!("timeout={}", time("wasm.timeout", text)?));
    }
    limits.extend(wasm.trap_on_grow_failure.then(|| "trap-on-grow-failure=y".to_owned()));
    let mut changes: Vec<String> = wasm.fuel.map(|_| "fuel=1".to_owned()).into_iter().collect();
    // So that one request can be interrupted, or yield to others; the runner sets it by itself.
    changes.extend(wasm.serve.is_some().then(|| "epoch-interruption=y".to_owned()));
    if wasm.backtrace_details {
        limits.push("backtrace-details=y".to_owned());
        changes.push("backtrace-details=y".to_owned());
    }
    for (name, value) in &wasm.proposals {
        let known = Proposal::named(&name.replace('_', "-")).ok_or_else(|| {
            let wanted = "the name of a proposal that the runner knows, such as `simd` or `memory64`";
            Error::option("wasm.proposals", name, wanted)
        })?;
        let known = known.name();
        let switch = match value.as_str() {
            "true" => "y",
            "false" => "n",
            _ => {
                return Err(Error::option(
                    "wasm.proposals",
                    &format!("{name} = {value}"),
                    "either true or false",
                ));
            }
        };
        limits.push(format!("{known}={switch}"));
        changes.push(format!("{known}={switch}"));
    }
    Ok((limits, changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wasm(change: impl FnOnce(&mut Wasm)) -> Wasm {
        let mut wasm = Wasm::decode(&[]).unwrap();
        change(&mut wasm);
        wasm
    }

    #[tokio::test]
    async fn a_program_that_is_damaged_is_told_apart_from_a_node_that_is_short_of_something() {
        let directory = tempfile::tempdir().unwrap();
        let answer = async |name: &str, text: &str| {
            // By another process: a file that ours has open for writing cannot be executed.
            let script = "cat >\"$0\" && chmod 755 \"$0\"";
            let path = directory.path().join(name);
            let mut writer = std::process::Command::new("/bin/sh");
            let mut writer = writer.args(["-c", script]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(&mut writer.stdin.take().unwrap(), text.as_bytes()).unwrap();
            assert!(writer.wait().unwrap().success());
            match answer_of(&path).await {
                Answer::Version(version) => format!("version {version}"),
                Answer::Silence => "silence".to_owned(),
                Answer::Failure(why) => why,
            }
        };
        assert_eq!(answer("well", "#!/bin/sh\necho 'x 1 (wasmtime 48.0.8+shim1)'").await, "version 48.0.8");
        assert_eq!(answer("killed", "#!/bin/sh\nkill -9 $$").await, "silence");
        assert!(answer("crashed", "#!/bin/sh\nkill -11 $$").await.contains("SIGSEGV"));
        assert!(answer("cut", "\x7fELF").await.contains("Exec format error"));
    }

    #[test]
    fn limits_reach_the_runner_and_what_changes_code_the_compiler_too() {
        let block = wasm(|wasm| {
            wasm.fuel = Some(1000);
            wasm.max_memory = Some("64M".to_owned());
            wasm.timeout = Some("1m 500ms".to_owned());
            wasm.trap_on_grow_failure = true;
            wasm.proposals = [("relaxed_simd", "false"), ("memory64", "true")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        });
        let (limits, changes) = settings(&block, Some(1 << 30)).unwrap();
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
}
