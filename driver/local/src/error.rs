//! Why a job was not run, or did not run to its end.

use std::io;
use std::path::PathBuf;

use crate::jobspec::JobFile;
use crate::node::DRIVER;
use crate::{allocdir, artifact, jobspec, plugin_client, template};

/// Why a job was not run, or did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of a job file, with the lines that it is about.
    #[error("{}\n{lines}", diagnostics::with_causes(.error))]
    Marked {
        /// The error.
        error: Box<Error>,
        /// The lines, with their numbers.
        lines: String,
    },
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The job file is invalid, or requires a Nomad agent.
    #[error("the job {path}")]
    Job {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<jobspec::Error>,
    },
    /// A `--var` without `=`.
    #[error("`--var {text}` is not a name, `=` and a value; write `--var NAME=VALUE`")]
    Variable {
        /// The option's argument.
        text: String,
    },
    /// Neither a file nor the text of a configuration.
    #[error(
        "`--plugin-config {given}`: there is no such file; name one, or write the options themselves, such as `sandbox = \"strict\"`"
    )]
    NoPluginConfig {
        /// The option's argument.
        given: String,
    },
    /// A file of variables is not JSON.
    #[error("read {path} as JSON, for its name: an object with a value for each variable")]
    VariableJson {
        /// The file.
        path: PathBuf,
        /// The reader's error.
        source: serde_json::Error,
    },
    /// A file of `--var-file` is not HCL.
    #[error("{path}, a file of variables")]
    VariableFile {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        source: Box<hcl::Error>,
    },
    /// A file of `--var-file` cannot be read.
    #[error("`--var-file {path}` cannot be read; name a text file with lines such as `name = \"value\"`")]
    ReadVariables {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of `--var-file` with a block.
    #[error(
        "{path}: a file of variables has lines such as `name = \"value\"`, and no `{block}` block; declare variables in the job file"
    )]
    NoVariable {
        /// The file.
        path: PathBuf,
        /// The block's name.
        block: String,
    },
    /// A `--proposal` without `=`.
    #[error("`--proposal {text}` has no `=`; write `--proposal {text}=true` or `--proposal {text}=false`")]
    Proposal {
        /// What was given.
        text: String,
    },
    /// A number behind `--fuel`.
    #[error(
        "{number}: there is no such file; `--fuel` takes no number, since the code is the same for any: leave {number} out"
    )]
    Fuel {
        /// What was given.
        number: String,
    },
    /// The agent's configuration, in which the options of the plugin are.
    #[error("the agent's configuration {why}; correct the file, or give the options with `--plugin-config`")]
    AgentConfig {
        /// The file, and the reason.
        why: String,
    },
    /// A module that could not be fetched.
    #[error(transparent)]
    Fetch {
        /// What is wrong.
        #[from]
        source: artifact::Error,
    },
    /// A `--volume` without a name or a path.
    #[error(
        "`--volume {text}` lacks its name or its path; write `--volume NAME=PATH` or `--volume NAME=PATH:ro`"
    )]
    Volume {
        /// The option's argument.
        text: String,
    },
    /// A volume of the job for which there is no `--volume`.
    #[error("volume `{name}`: this machine has no host volume `{wanted}`; add `--volume {wanted}=PATH`")]
    NoVolume {
        /// The group's name for the volume.
        name: String,
        /// The volume's `source`.
        wanted: String,
    },
    /// The path of a `--volume` does not exist.
    #[error("find {path}, the host volume `{name}`; make it first")]
    VolumePath {
        /// The volume's name.
        name: String,
        /// The volume's path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The driver supports no volumes with its configuration.
    #[error(
        "task {task}: the driver takes no volumes; remove `volume_mount` or change the plugin's configuration"
    )]
    NoMounts {
        /// The task.
        task: String,
    },
    /// Interrupted by Ctrl-C before there was anything to stop.
    #[error("interrupted")]
    Interrupted,
    /// The plugin's configuration is not HCL.
    #[error(
        "the plugin's configuration `{text}` cannot be read as HCL; write each block and each option on a line of its own"
    )]
    PluginConfig {
        /// The configuration as given.
        text: String,
        /// The parser's reason.
        source: Box<hcl::Error>,
    },
    /// The task uses another driver.
    #[error("task {task}: its driver is `{driver}`; only `{DRIVER}` runs here")]
    Driver {
        /// The task.
        task: String,
        /// The driver.
        driver: String,
    },
    /// The path of our own binary is unknown.
    #[error("find this program's own binary; name the plugin with `--plugin`")]
    Program {
        /// The system's reason.
        source: io::Error,
    },
    /// The plugin did not start, or did not accept its configuration.
    #[error("the plugin")]
    Plugin {
        /// What is wrong.
        source: Box<plugin_client::Error>,
    },
    /// The driver reports that it cannot run tasks here.
    #[error("the driver is not healthy: {description}")]
    Unhealthy {
        /// The driver's description of its health.
        description: String,
    },
    /// The allocation's directory could not be prepared.
    #[error("prepare the allocation")]
    AllocDir {
        /// What is wrong.
        source: allocdir::Error,
    },
    /// The task requests more cores than there are.
    #[error("task {task}: it asks for {cores} cores and no more are left on this machine")]
    Cores {
        /// The task.
        task: String,
        /// The number of cores.
        cores: u32,
    },
    /// No dynamic port is free.
    #[error("port `{label}`: no port between 20000 and 32000 is free")]
    Port {
        /// The port's label.
        label: String,
    },
    /// A template could not be rendered.
    #[error("task {task}")]
    Template {
        /// The task.
        task: String,
        /// What is wrong.
        source: template::Error,
    },
    /// An artifact could not be fetched.
    #[error("task {task}")]
    Artifact {
        /// The task.
        task: String,
        /// What is wrong.
        source: artifact::Error,
    },
    /// A call about one task failed, or the task's configuration is invalid.
    #[error("task {task}")]
    Task {
        /// The task.
        task: String,
        /// What is wrong.
        source: Box<plugin_client::Error>,
    },
    /// Signals could not be watched.
    #[error("watch for Ctrl-C")]
    Signals {
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// This error, followed by the lines that it is about.
    pub(crate) fn with_lines(self, lines: Option<String>) -> Self {
        match lines {
            Some(lines) => Self::Marked { error: Box::new(self), lines },
            None => self,
        }
    }

    /// This error, followed by the line of the option that it is about, if it is about one.
    pub(crate) fn marked_in(self, file: &JobFile) -> Self {
        let lines = match &self {
            Self::Task { task, source } => match &**source {
                plugin_client::Error::Call(source) => file.lines_of_message(task, &source.message),
                other => {
                    let message = diagnostics::chain(other);
                    other.key().and_then(|key| file.lines_of_option(task, key, &message))
                }
            },
            _ => None,
        };
        self.with_lines(lines)
    }
}
