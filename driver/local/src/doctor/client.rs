//! Is the agent a client, does it take its directories, and which of several blocks of the plugin counts? Facts from Nomad
//! v2.0.5, command/agent/command.go and nomad/structs/config/plugins.go.

use std::path::Path;

use hcl::{Body, Expression};

use super::finding::Finding;
use crate::node::PLUGIN;

/// What the agent's files configure of itself.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// `enabled` of its `client` block. Default: false.
    is_enabled: Option<bool>,
    /// A value of `enabled` that is neither true nor false.
    is_no_switch: Option<String>,
    /// How many blocks the plugin has, in all files.
    plugin_blocks: usize,
}

impl Client {
    /// Adds one file. A file can enable the client, and no later file disables it.
    pub(super) fn take(&mut self, body: &Body) {
        let clients = body.blocks().filter(|block| block.identifier() == "client");
        let enabled =
            clients.flat_map(|client| client.body().attributes()).filter(|line| line.key() == "enabled");
        for line in enabled {
            match line.expr() {
                Expression::Bool(enabled) => {
                    self.is_enabled = Some(*enabled || self.is_enabled == Some(true));
                }
                other => self.is_no_switch = hcl::format::to_string(other).ok(),
            }
        }
        let plugins = body.blocks().filter(|block| block.identifier() == "plugin");
        let is_ours =
            |block: &&hcl::Block| block.labels().first().is_some_and(|label| label.as_str() == PLUGIN);
        self.plugin_blocks += plugins.filter(is_ours).count();
    }

    /// Why the agent runs no tasks. `by_flag`: its command line makes it a client (`-client`, `-dev`).
    pub(super) fn disabled(&self, by_flag: bool) -> Option<Finding> {
        (!by_flag && self.is_enabled != Some(true)).then(|| {
            Finding::failed(
                "client",
                match (&self.is_no_switch, self.is_enabled) {
                    (Some(value), _) => {
                        format!("client {{ enabled = {value} }}, which is neither true nor false")
                    }
                    (None, Some(_)) => "client { enabled = false }".to_owned(),
                    (None, None) => "no `client` block with `enabled`".to_owned(),
                },
                "The agent is not a client: it runs no tasks and loads no driver.",
                "Write `client { enabled = true }` in the agent's configuration, and restart the agent.",
            )
        })
    }

    /// Two blocks of the plugin.
    pub(super) fn repeated(&self) -> Option<Finding> {
        (self.plugin_blocks > 1).then(|| {
            Finding::warning(
                "plugin block",
                format!("{} blocks `plugin \"{PLUGIN}\"`", self.plugin_blocks),
                "The `config` of the last block that has options counts as a whole; the options of the others have no effect.",
                "Write all options of the plugin in one block.",
            )
        })
    }
}

/// A directory that the agent refuses.
pub(super) fn relative(option: &'static str, directory: Option<&Path>) -> Option<Finding> {
    let directory = directory.filter(|directory| directory.is_relative())?;
    Some(Finding::failed(
        option,
        format!("{option} = \"{}\"", directory.display()),
        "The agent does not start: it takes absolute paths only.",
        format!("Write the whole path, such as `{option} = \"/opt/nomad/{}\"`.", directory.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(files: &[&str]) -> Client {
        let mut client = Client::default();
        for text in files {
            client.take(&hcl::parse(text).unwrap());
        }
        client
    }

    #[test]
    fn an_agent_is_a_client_only_where_its_configuration_enables_it() {
        assert!(client(&["client {\n  enabled = true\n}\n"]).disabled(false).is_none());
        assert!(client(&["client {\n  enabled = true\n}\n", "client {\n}\n"]).disabled(false).is_none());
        let (enabled, disabled) = ("client {\n  enabled = true\n}\n", "client {\n  enabled = false\n}\n");
        assert!(client(&[enabled, disabled]).disabled(false).is_none());
        for files in [&[disabled][..], &[], &["client {\n}\n"]] {
            assert!(client(files).disabled(false).is_some(), "{files:?}");
            assert!(client(files).disabled(true).is_none(), "{files:?}");
        }
    }

    #[test]
    fn a_second_block_of_the_plugin_is_told_of_and_others_are_not() {
        let block = "plugin \"nomad-driver-systemd\" {\n}\n";
        assert!(client(&[block, "plugin \"docker\" {\n}\n"]).repeated().is_none());
        assert!(client(&[block, block]).repeated().is_some());
    }

    #[test]
    fn directories_must_be_absolute() {
        assert!(
            relative("data_dir", Some(Path::new("data")))
                .is_some_and(|found| found.found.contains("\"data\""))
        );
        assert!(relative("data_dir", Some(Path::new("/data"))).is_none());
        assert!(relative("data_dir", None).is_none());
    }
}
