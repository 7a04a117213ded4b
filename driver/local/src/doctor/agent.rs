//! The agent of this node and its configuration of plugins. Facts from Nomad v2.0.5, command/agent/.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hcl::{Body, Expression};

use super::client::{self, Client};
use super::configuration;
use super::finding::Finding;
use super::trust;
use crate::node::{DRIVER, PLUGIN};
use crate::unknown_options;

/// Where packages put the agent's configuration.
const USUAL: &str = "etc/nomad.d";

/// What Nomad accepts in a `plugin` block in addition to `config` (nomad/structs/config).
const OF_PLUGIN_BLOCKS: [&str; 1] = ["args"];

/// Does the line of a plugin block give the plugin's program arguments?
fn has_args(line: &hcl::Attribute) -> bool {
    line.key() == "args" && !matches!(line.expr(), Expression::Array(list) if list.is_empty())
}

/// What is known about the agent.
#[derive(Debug, Default)]
pub(super) struct Agent {
    /// The agent's process, if one runs.
    pub(super) pid: Option<u32>,
    /// A process that only looks like an agent, and why it is not believed.
    doubted: Option<(u32, String)>,
    /// The UID of the process.
    pub(super) uid: Option<u32>,
    /// The files that were read.
    pub(super) files: Vec<PathBuf>,
    /// Set on the agent's command line or in a file.
    pub(super) plugin_dir: Option<PathBuf>,
    /// Set on the agent's command line or in a file.
    pub(super) data_dir: Option<PathBuf>,
    /// The body of `config` in the plugin's block, if there is such a block.
    pub(super) plugin: Option<Body>,
    /// The label of a plugin block that names no binary of ours, such as `systemd`.
    misnamed: Option<String>,
    /// Options of the plugin outside its `config` block, where Nomad ignores them.
    outside_config: Vec<String>,
    /// A directory that is not written as a text.
    mistyped: Option<String>,
    /// The plugin's block has arguments for its program.
    has_args: bool,
    is_dev: bool,
    /// Its command line makes it a client (`-client`).
    is_client: bool,
    client: Client,
    /// The option that excludes our driver.
    excluded: Option<String>,
    /// Files that could not be read, and why.
    pub(super) unreadable: Vec<(PathBuf, String)>,
}

impl Agent {
    /// Looks for a running agent below `root`, and reads the files `given`, or else the files that the agent was
    /// started with, or else the usual ones.
    pub(super) fn find(root: &Path, given: &[PathBuf]) -> Self {
        let mut agent = Self::default();
        let mut paths = given.to_vec();
        let mut command_line = (None, None);
        let (believed, doubted) = running(root);
        agent.doubted = doubted;
        if let Some((pid, args)) = believed {
            agent.pid = Some(pid);
            agent.uid = trust::uids(&root.join(format!("proc/{pid}"))).first().copied();
            agent.is_dev = flags(&args).any(|flag| flag.starts_with("dev"));
            agent.is_client = flags(&args).any(|flag| flag == "client" || flag == "client=true");
            let cwd = fs::read_link(root.join(format!("proc/{pid}/cwd"))).unwrap_or_default();
            let flag = |option: &str| values(&args, option).map(|path| cwd.join(path)).collect::<Vec<_>>();
            command_line = (flag("plugin-dir").pop(), flag("data-dir").pop());
            if paths.is_empty() {
                paths = flag("config");
            }
        }
        if paths.is_empty() {
            paths.extend(Some(root.join(USUAL)).filter(|path| path.is_dir()));
        }
        for empty in given.iter().filter(|path| path.is_dir() && configuration::files(path).is_empty()) {
            let why = "the directory has no file that ends in `.hcl` or `.json`".to_owned();
            agent.unreadable.push((empty.clone(), why));
        }
        for closed in paths.iter().filter(|path| path.is_dir() && is_forbidden(path)) {
            agent.unreadable.push((closed.clone(), "Permission denied".to_owned()));
        }
        for file in paths.iter().flat_map(|path| configuration::files(path)) {
            // What is named on our own command line is believed.
            if !given.is_empty() {
                agent.read(file);
                continue;
            }
            match trust::unchangeable(&file) {
                Ok(file) => agent.read(file),
                // It is not opened: by now it may be there.
                Err(_) if !file.exists() => {
                    agent.unreadable.push((file.clone(), "No such file or directory".to_owned()));
                    agent.files.push(file);
                }
                Err(part) => {
                    let why = format!(
                        "others can change {}; make it root's alone, or use --config",
                        part.display()
                    );
                    agent.unreadable.push((file.clone(), why));
                    agent.files.push(file);
                }
            }
        }
        // The command line takes precedence over every file.
        agent.plugin_dir = command_line.0.or(agent.plugin_dir);
        agent.data_dir = command_line.1.or(agent.data_dir);
        agent
    }

    fn read(&mut self, file: PathBuf) {
        let body = configuration::read(&file);
        match body {
            Ok(body) => self.take(&body),
            Err(why) => self.unreadable.push((file.clone(), why)),
        }
        self.files.push(file);
    }

    /// Of two files that set the same option, the later one wins.
    fn take(&mut self, body: &Body) {
        let text = |key: &str| {
            body.attributes().filter(|attribute| attribute.key() == key).find_map(|attribute| match attribute
                .expr()
            {
                Expression::String(text) => Some(PathBuf::from(text)),
                _ => None,
            })
        };
        self.client.take(body);
        for client in body.blocks().filter(|block| block.identifier() == "client") {
            self.take_lists(client.body());
        }
        for line in body.attributes().filter(|line| ["plugin_dir", "data_dir"].contains(&line.key())) {
            if !matches!(line.expr(), Expression::String(_)) {
                self.mistyped = Some(line.key().to_owned());
            }
        }
        self.plugin_dir = text("plugin_dir").or(self.plugin_dir.take());
        self.data_dir = text("data_dir").or(self.data_dir.take());
        for block in body.blocks().filter(|block| block.identifier() == "plugin") {
            let label = block.labels().first().map(hcl::BlockLabel::as_str).unwrap_or_default();
            match label {
                PLUGIN => {
                    let config = block.body().blocks().find(|block| block.identifier() == "config");
                    let config = config
                        .map(|config| config.body().clone())
                        .or_else(|| configuration::object(block.body(), "config"));
                    self.has_args |= block.body().attributes().any(has_args);
                    let outside = block.body().attributes().map(|attribute| attribute.key().to_owned());
                    let outside = outside.filter(|key| key != "config");
                    self.outside_config =
                        outside.filter(|key| !OF_PLUGIN_BLOCKS.contains(&key.as_str())).collect();
                    // A later block without options leaves those of an earlier one.
                    let config = config.filter(|config| !config.0.is_empty() || self.plugin.is_none());
                    self.plugin = config.or(self.plugin.take()).or_else(|| Some(Body::default()));
                }
                "systemd" | "wasm-shim" | "nomad-systemd-driver" => self.misnamed = Some(label.to_owned()),
                // A typing error: the names of other drivers differ by hardly more.
                label if strsim::levenshtein(label, PLUGIN) <= 3 => self.misnamed = Some(label.to_owned()),
                _ => {}
            }
        }
    }

    /// Which drivers the agent may use, in `options`, which is an attribute or a block (client/config, "driver.allowlist").
    fn take_lists(&mut self, client: &Body) {
        let mut options: Vec<(String, Expression)> = Vec::new();
        for attribute in client.attributes().filter(|attribute| attribute.key() == "options") {
            if let Expression::Object(object) = attribute.expr() {
                options.extend(object.iter().map(|(key, value)| (key.to_string(), value.clone())));
            }
        }
        for block in client.blocks().filter(|block| block.identifier() == "options") {
            options
                .extend(block.body().attributes().map(|line| (line.key().to_owned(), line.expr().clone())));
        }
        for (key, value) in options {
            let Expression::String(drivers) = value else { continue };
            let names_ours = drivers.split(',').any(|name| name.trim() == DRIVER);
            let is_excluded = match key.trim_matches('"') {
                "driver.denylist" | "driver.blacklist" => names_ours,
                "driver.allowlist" | "driver.whitelist" => !drivers.is_empty() && !names_ours,
                _ => false,
            };
            if is_excluded {
                self.excluded = Some(format!("{} = \"{drivers}\"", key.trim_matches('"')));
            }
        }
    }

    /// The directory in which the agent looks for plugins.
    pub(super) fn plugin_directory(&self) -> Option<PathBuf> {
        self.plugin_dir.clone().or_else(|| self.data_dir.as_ref().map(|data| data.join("plugins")))
    }

    /// The text of an option of the plugin, such as `state_dir`, if the configuration sets it.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let line = self.plugin.as_ref()?.attributes().find(|line| line.key() == name)?;
        if let Expression::String(text) = line.expr() { Some(text) } else { None }
    }

    /// The findings about the agent.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.process()];
        findings.push(self.of_files());
        if !self.files.is_empty() && self.unreadable.is_empty() {
            findings.extend(self.client.disabled(self.is_dev || self.is_client));
        }
        findings.extend(self.client.repeated());
        for (option, directory) in [("data_dir", &self.data_dir), ("plugin_dir", &self.plugin_dir)] {
            findings.extend(client::relative(option, directory.as_deref()));
        }
        findings.extend(self.data_dir.as_ref().and_then(|directory| way_to_allocations(directory)));
        findings
    }

    /// Can the files be read, and does the agent take what they configure?
    fn of_files(&self) -> Finding {
        let names: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        if let Some(finding) = self.of_unread() {
            finding
        } else if let Some(option) = &self.mistyped {
            Finding::failed(
                "agent configuration",
                format!("`{option}` is not a text"),
                "The agent does not start with it.",
                format!("Write one path in quotes: `{option} = \"/opt/nomad/…\"`."),
            )
        } else if let Some(option) = &self.excluded {
            Finding::failed(
                "agent configuration",
                format!("client {{ options = {{ {option} }} }}"),
                "The agent loads no driver that its options leave out, so no job can name this one.",
                format!("Let the list allow \"{DRIVER}\", and restart the agent."),
            )
        } else if let Some(finding) = self.of_plugin_block() {
            finding
        } else if self.files.is_empty() && !self.is_dev {
            Finding::warning(
                "agent configuration",
                "none found",
                "Where the agent looks for plugins, and the plugin's options, are not known here.",
                "Write the agent's configuration to /etc/nomad.d/nomad.hcl, or name it where it is: nomad-driver-systemd doctor \
                 --config PATH",
            )
        } else if self.plugin.is_none() {
            Finding::failed(
                "agent configuration",
                format!("no block `plugin \"{PLUGIN}\"`"),
                "Nomad 1.10 and newer load no plugin that the configuration does not name, so no job finds the driver.",
                format!("Add `plugin \"{PLUGIN}\" {{}}` to the configuration, and restart the agent."),
            )
        } else {
            let shown = if names.is_empty() { "-dev".to_owned() } else { names.join(", ") };
            Finding::ok("agent configuration", shown)
        }
    }

    /// A file that is missing or cannot be read.
    fn of_unread(&self) -> Option<Finding> {
        let missing = self.unreadable.iter().find(|(file, _)| !file.exists());
        if let Some((file, why)) = missing {
            Some(Finding::failed(
                "agent configuration",
                format!("{}: {why}", file.display()),
                "The agent does not start with this path, and what else it configures is not known here.",
                "Correct the path, in `--config` or on the agent's command line.",
            ))
        } else if let Some((file, why)) = self.unreadable.iter().find(|(file, _)| is_forbidden(file)) {
            Some(Finding::warning(
                "agent configuration",
                format!("{}: {why}", file.display()),
                "What the agent's configuration says is not known to the user that runs this command.",
                "Run this command as the user of the agent: sudo nomad-driver-systemd doctor",
            ))
        } else if let (Some((file, why)), Some(pid)) = (self.unreadable.first(), self.pid) {
            Some(Finding::warning(
                "agent configuration",
                format!("{}: {why}", file.display()),
                format!(
                    "The agent (process {pid}) may have read it, as HCL of the first version; what it configures is not known here."
                ),
                how_to_write(file),
            ))
        } else if let Some((file, why)) = self.unreadable.first() {
            Some(Finding::failed(
                "agent configuration",
                format!("{}: {why}", file.display()),
                "The agent does not start with this file, or what it configures is not known here.",
                format!("{} `nomad config validate` tells the agent's opinion.", how_to_write(file)),
            ))
        } else {
            None
        }
    }

    /// What is wrong with the block of the plugin in the configuration.
    fn of_plugin_block(&self) -> Option<Finding> {
        if let Some(label) = &self.misnamed {
            Some(Finding::failed(
                "agent configuration",
                format!("plugin \"{label}\""),
                "The label of the block is the name of the plugin's file, so the options in it go to no plugin.",
                format!("Write `plugin \"{PLUGIN}\"`."),
            ))
        } else if self.has_args {
            Some(Finding::failed(
                "agent configuration",
                format!("plugin \"{PLUGIN}\" {{ args }}"),
                "The driver takes no arguments from an agent: with any it prints its usage and ends, and no task can run.",
                "Remove `args`; the options of the plugin belong in its `config` block.",
            ))
        } else {
            let outside = |option: &String| {
                let mend = match unknown_options::of_other_plugin(option) {
                    Some(ours) => format!("Remove `{option}` (here: {ours})."),
                    None => format!("Write `plugin \"{PLUGIN}\" {{ config {{ {option} = … }} }}`."),
                };
                Finding::failed(
                    "agent configuration",
                    format!("plugin \"{PLUGIN}\" {{ {option} }}"),
                    "Nomad ignores an option of a plugin outside of its `config` block.",
                    mend,
                )
            };
            self.outside_config.first().map(outside)
        }
    }

    fn process(&self) -> Finding {
        let us = rustix::process::geteuid().as_raw();
        match (self.pid, self.uid) {
            (None, _) => match &self.doubted {
                Some((pid, why)) => Finding::warning(
                    "agent",
                    format!("process {pid} is called `nomad agent` and is not believed: {why}"),
                    "Its configuration is not read: whoever started it could have this command run programs.",
                    "If it is the agent, run this command as the user of the agent, or name the files with --config.",
                ),
                None => Finding::ok("agent", "no agent runs; checked for the user that runs this command"),
            },
            (Some(pid), Some(uid)) if uid != us => Finding::warning(
                "agent",
                format!("process {pid} of user {uid}, and this command runs as user {us}"),
                "The agent may have other rights than this command.",
                "Run this command as the user of the agent.",
            ),
            (Some(pid), _) => Finding::ok("agent", format!("process {pid}")),
        }
    }
}

/// How to write a file of the configuration so that this command can read it, too.
fn how_to_write(file: &Path) -> &'static str {
    if file.extension().is_some_and(|extension| extension == "json") {
        "Remove what JSON does not allow, such as a comma behind the last item, which the agent may take."
    } else {
        "Write each attribute on a line of its own, and names in quotes as `meta = { \"rack\" = \"r1\" }`."
    }
}

/// May this user not read the file?
fn is_forbidden(file: &Path) -> bool {
    fs::File::open(file).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Whether everybody can reach the allocation directories, which Nomad makes writable for everybody.
fn way_to_allocations(data_dir: &Path) -> Option<Finding> {
    const OTHERS_ENTER: u32 = 0o001;
    let is_open = |directory: &Path| {
        fs::metadata(directory).is_ok_and(|found| found.permissions().mode() & OTHERS_ENTER != 0)
    };
    (is_open(data_dir) && is_open(&data_dir.join("alloc"))).then(|| {
        Finding::warning(
            "data_dir",
            format!("every user of this node can enter {}", data_dir.join("alloc").display()),
            "They can write to the directories that the tasks of a group share, and to those of tasks before their first start.",
            format!(
                "chmod 0700 {}, unless tasks need the way: those of other drivers with a `user`, or all with `fs_isolation = \"none\"`.",
                data_dir.join("alloc").display()
            ),
        )
    })
}

/// The PID and the arguments of an agent.
type Process = (u32, Vec<String>);

/// The running agent, and one that only looks like an agent: its PID and why it is not believed.
fn running(root: &Path) -> (Option<Process>, Option<(u32, String)>) {
    let processes = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let mut pids: Vec<u32> = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut doubted = None;
    for pid in pids {
        let process = root.join(format!("proc/{pid}"));
        let args = trust::command_line(&process);
        let [program, command, ..] = &args[..] else { continue };
        if Path::new(program).file_name().is_none_or(|name| name != "nomad") || command != "agent" {
            continue;
        }
        match trust::doubt_about_process(&process) {
            // Its number may have become another process's meanwhile.
            None if trust::command_line(&process) == args => return (Some((pid, args)), doubted),
            None => {}
            Some(why) => doubted = doubted.or(Some((pid, why))),
        }
    }
    (None, doubted)
}

/// The options on the agent's command line, without dashes, and without values that are words of their own.
fn flags(args: &[String]) -> impl Iterator<Item = &str> {
    args.iter().filter_map(|arg| arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')))
}

/// The values of an option of the agent: `-config x`, `-config=x`, with one or two dashes.
fn values<'a>(args: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    args.iter().enumerate().filter_map(move |(index, arg)| {
        let word = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
        match word.split_once('=') {
            Some((name, value)) => (name == option).then_some(value),
            None if word == option => args.get(index + 1).map(String::as_str),
            None => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    fn with(files: &[(&str, &str)]) -> Agent {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(USUAL);
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
        Agent::find(root.path(), &[])
    }

    fn verdict(agent: &Agent) -> (Status, String) {
        let of_files = |finding: &Finding| finding.check == "agent configuration";
        let finding = agent.findings().into_iter().find(of_files).unwrap();
        (finding.status, finding.found)
    }

    #[test]
    fn directories_and_options_are_found_in_all_files() {
        let agent = with(&[
            ("a.hcl", "data_dir = \"/opt/nomad\"\nclient {\n enabled = true\n}"),
            ("b.hcl", "plugin \"nomad-driver-systemd\" {\n config {\n allow_root = \"confined\"\n }\n}"),
            ("c.txt", "not read"),
        ]);
        assert_eq!(agent.plugin_directory().unwrap(), Path::new("/opt/nomad/plugins"));
        assert_eq!(agent.plugin.as_ref().unwrap().attributes().count(), 1);
        assert_eq!(verdict(&agent).0, Status::Ok);

        let json = r#"{"plugin_dir": "/p", "client": [{"enabled": true}], "plugin": [{"nomad-driver-systemd": [{"config": [{"a": 1, "b": ["x"]}]}]}]}"#;
        let agent = with(&[("a.json", json)]);
        assert_eq!(agent.plugin_directory().unwrap(), Path::new("/p"));
        assert!(agent.findings().iter().all(|finding| finding.check != "client"));
        assert_eq!(agent.plugin.unwrap().attributes().count(), 2);
    }

    #[test]
    fn what_the_agent_would_not_take_is_named() {
        assert_eq!(verdict(&with(&[])).0, Status::Warning);
        let (status, found) = verdict(&with(&[("a.hcl", "plugin {")]));
        assert_eq!(status, Status::Failed);
        assert!(found.contains("a.hcl: "), "{found}");
        let (status, found) = verdict(&with(&[("a.hcl", "plugin \"systemd\" {}")]));
        assert_eq!((status, found.as_str()), (Status::Failed, "plugin \"systemd\""));
    }

    #[test]
    fn blocks_of_one_line_are_read_as_the_agent_reads_them() {
        let text = "plugin \"nomad-driver-systemd\" { config { allow_root = \"host\" } } # { not\nadvertise { http = \"{1}\"\n rpc = \"x\" }\n";
        let quoted = "client {\n enabled = true\n meta { \"rack\" = \"r1\" }\n options {\n  \"driver.allowlist\" = \"exec\"\n }\n}\n";
        let (status, found) = verdict(&with(&[("a.hcl", quoted)]));
        assert!(status == Status::Failed && found.contains("driver.allowlist"), "{found}");
        let agent = with(&[("a.hcl", text)]);
        assert_eq!(verdict(&agent).0, Status::Ok, "{:?}", verdict(&agent));
        assert_eq!(agent.plugin.unwrap().attributes().count(), 1);
    }

    #[test]
    fn an_option_of_the_plugin_beside_its_config_block_is_told() {
        let beside =
            "plugin \"nomad-driver-systemd\" {\n args = []\n sandbox_floor = \"strict\"\n config {}\n}\n";
        let (status, found) = verdict(&with(&[("a.hcl", beside)]));
        assert!(status == Status::Failed && found.contains("sandbox_floor"), "{found}");
        let usual = beside.replace(" sandbox_floor = \"strict\"\n", "");
        assert_eq!(verdict(&with(&[("a.hcl", &usual)])).0, Status::Ok);
    }

    #[test]
    fn an_agent_that_leaves_the_driver_out_is_told() {
        for (options, is_excluded) in [
            ("options = { \"driver.denylist\" = \"exec,systemd\" }", true),
            ("options = {\n \"driver.allowlist\" = \"exec\"\n}", true),
            ("options {\n \"driver.allowlist\" = \"exec, systemd\"\n}", false),
            ("options = { \"driver.denylist\" = \"exec\" }", false),
            ("options = { \"driver.allowlist\" = \"\" }", false),
        ] {
            let plugin = "plugin \"nomad-driver-systemd\" {}";
            let agent =
                with(&[("a.hcl", &format!("{plugin}\nclient {{\n enabled = true\n {options}\n}}\n"))]);
            let (status, found) = verdict(&agent);
            assert_eq!(status == Status::Failed, is_excluded, "{options}: {found}");
        }
    }

    #[test]
    fn an_agent_that_names_no_plugin_is_told_that_it_loads_none() {
        let (status, found) = verdict(&with(&[("a.hcl", "client {\n enabled = true\n}\n")]));
        assert!(
            status == Status::Failed && found.contains("no block `plugin \"nomad-driver-systemd\"`"),
            "{found}"
        );
    }

    #[test]
    fn a_running_agent_says_where_its_files_are() {
        let root = tempfile::tempdir().unwrap();
        let process = trust::tests::agent(root.path());
        let file = root.path().join("agent.hcl");
        fs::write(&file, "plugin_dir = \"/other\"\n").unwrap();
        let options = format!("-config=/none.hcl\0-config\0{}\0--plugin-dir\0/plugins", file.display());
        fs::write(process.join("cmdline"), format!("/usr/bin/nomad\0agent\0{options}\0")).unwrap();
        let agent = Agent::find(root.path(), &[]);
        assert_eq!((agent.pid, agent.uid), (Some(42), Some(rustix::process::geteuid().as_raw())));
        assert_eq!(agent.plugin_directory().unwrap(), Path::new("/plugins"));
        assert_eq!(agent.files, [PathBuf::from("/none.hcl"), file]);
        assert!(verdict(&agent).1.starts_with("/none.hcl: No such file"));

        // A task can call itself so.
        fs::write(process.join("cgroup"), "0::/nomad_tasks.slice/nomad-x.service\n").unwrap();
        let agent = Agent::find(root.path(), &[]);
        assert_eq!((agent.pid, agent.files.len(), agent.plugin_directory()), (None, 0, None));
        let finding = agent.process();
        assert!(finding.status == Status::Warning && finding.found.contains("is not believed: it is a task"));
    }
}
