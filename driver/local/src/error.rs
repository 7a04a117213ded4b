//! Why a job was not run, or not to its end.

use std::io;
use std::path::PathBuf;

use crate::node::DRIVER;
use crate::{allocdir, artifact, jobspec, plugin_client, template};

/// An error and its causes, from the outermost to the root; on several lines where a cause draws a picture, as the parser
/// of job files does.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why a job was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The job file is wrong, or asks for what an agent is needed for.
    #[error("the job {path}")]
    Job {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<jobspec::Error>,
    },
    /// A `--var` without `=`.
    #[error("`--var {text}` has no `=`; write `--var NAME=VALUE`")]
    Variable {
        /// What was given.
        text: String,
    },
    /// A `--volume` without a name or a path.
    #[error(
        "`--volume {text}` lacks its name or its path; write `--volume NAME=PATH` or `--volume NAME=PATH:ro`"
    )]
    Volume {
        /// What was given.
        text: String,
    },
    /// A volume of the job that no `--volume` gives.
    #[error("volume `{name}`: this machine has no host volume `{wanted}`; add `--volume {wanted}=PATH`")]
    NoVolume {
        /// The group's name for it.
        name: String,
        /// Its `source`.
        wanted: String,
    },
    /// The place of a `--volume` is not there.
    #[error("find {path}, the host volume `{name}`; make it first")]
    VolumePath {
        /// The volume.
        name: String,
        /// Its place.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The driver mounts nothing, as it is configured.
    #[error(
        "task {task}: the driver takes no volumes; remove `volume_mount` or change the plugin's configuration"
    )]
    NoMounts {
        /// The task.
        task: String,
    },
    /// Ctrl-C, before anything was there to stop.
    #[error("interrupted")]
    Interrupted,
    /// The plugin's configuration is not HCL.
    #[error(
        "the plugin's configuration `{text}` cannot be read as HCL, the language of the agent's configuration"
    )]
    PluginConfig {
        /// What was given.
        text: String,
        /// The parser's reason.
        source: Box<hcl::Error>,
    },
    /// A task of another driver.
    #[error("task {task}: its driver is `{driver}`; only `{DRIVER}` runs here")]
    Driver {
        /// The task.
        task: String,
        /// The driver.
        driver: String,
    },
    /// We do not know our own binary.
    #[error("find this program's own binary; name the plugin with `--plugin`")]
    Program {
        /// The system's reason.
        source: io::Error,
    },
    /// The plugin did not start, or did not take its configuration.
    #[error("the plugin")]
    Plugin {
        /// What is wrong.
        source: Box<plugin_client::Error>,
    },
    /// The driver itself says that it cannot run tasks here.
    #[error("the driver is not healthy: {description}")]
    Unhealthy {
        /// The driver's words.
        description: String,
    },
    /// The allocation's directory.
    #[error("prepare the allocation")]
    AllocDir {
        /// What is wrong.
        source: allocdir::Error,
    },
    /// More cores than there are.
    #[error("task {task}: it asks for {cores} cores and no more are left on this machine")]
    Cores {
        /// The task.
        task: String,
        /// How many.
        cores: u32,
    },
    /// No port is free.
    #[error("port `{label}`: no port between 20000 and 32000 is free")]
    Port {
        /// The port's label.
        label: String,
    },
    /// A template.
    #[error("task {task}")]
    Template {
        /// The task.
        task: String,
        /// What is wrong.
        source: template::Error,
    },
    /// An artifact.
    #[error("task {task}")]
    Artifact {
        /// The task.
        task: String,
        /// What is wrong.
        source: artifact::Error,
    },
    /// A call about one task, or its configuration.
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
