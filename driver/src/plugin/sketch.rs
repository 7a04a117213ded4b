//! The unit of a task, from the messages that Nomad would send: what `nomad-driver-systemd unit` prints.

use super::convert;
use crate::task;
use crate::task::config::PluginConfig;
use crate::task::preview::Sketch;

/// Why a task has no unit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A message that Nomad would send is invalid.
    #[error("{0}")]
    Message(String),
    /// The driver rejects the task.
    #[error(transparent)]
    Task(#[from] task::Error),
}

/// The unit of a task under a plugin with this configuration. Does not call systemd, and touches nothing.
pub fn sketch(plugin_config: &[u8], task: proto::driver::TaskConfig) -> Result<Sketch, Error> {
    let plugin = PluginConfig::decode(plugin_config).map_err(|error| Error::Message(crate::chain(&error)))?;
    let config = convert::task_config(task).map_err(|status| Error::Message(status.message().to_owned()))?;
    Sketch::new(&config, plugin).map_err(Error::Task)
}
