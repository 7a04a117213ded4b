//! The unit that a task would become, from the messages that Nomad would send: what `nomad-driver-systemd unit` prints.

use super::convert;
use crate::task;
use crate::task::config::PluginConfig;
use crate::task::preview::Sketch;

/// Why there is no such unit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What Nomad would send means nothing.
    #[error("{0}")]
    Message(String),
    /// The task is refused.
    #[error(transparent)]
    Task(task::Error),
}

/// What a task would become under a plugin of this configuration. Asks no systemd and touches nothing.
pub fn sketch(plugin_config: &[u8], task: proto::driver::TaskConfig) -> Result<Sketch, Error> {
    let plugin = PluginConfig::decode(plugin_config).map_err(|error| Error::Message(crate::chain(&error)))?;
    let config = convert::task_config(task).map_err(|status| Error::Message(status.message().to_owned()))?;
    Sketch::new(&config, plugin).map_err(Error::Task)
}
