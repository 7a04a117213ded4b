//! Where a task's output goes.

use std::time::Duration;

use super::node::NodeSpec;
use crate::task::config::{Logging, TaskConfig, TaskIdentity};
use crate::task::refusal::{Error, duration, is_label};

/// Where a task's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// To Nomad's FIFOs.
    Nomad,
    /// To the journal.
    Journal,
    /// To both.
    Both,
}

impl Sink {
    pub(super) fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "nomad" => Ok(Self::Nomad),
            "journald" => Ok(Self::Journal),
            "both" => Ok(Self::Both),
            _ => Err("one of \"nomad\", \"journald\" and \"both\""),
        }
    }
}

/// The output of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it goes.
    pub sink: Sink,
    /// Journal namespace.
    pub namespace: Option<String>,
    /// Maximum number of lines per interval.
    pub burst: Option<u32>,
    /// Length of the interval.
    pub interval: Option<Duration>,
    /// Fields that the journal adds to each line, such as `NOMAD_JOB_ID=web`.
    pub fields: Vec<String>,
    /// Identifier of the task in the journal.
    pub identifier: String,
}

impl Output {
    pub(super) fn resolve(config: &TaskConfig, node: &NodeSpec) -> Result<Self, Error> {
        let nothing =
            Logging { driver: None, namespace: None, rate_limit_burst: None, rate_limit_interval: None };
        let Logging { driver, namespace, rate_limit_burst: burst, rate_limit_interval } =
            config.driver.logging.clone().unwrap_or(nothing);
        let wrong = |option, value: &str| {
            let value = value.to_owned();
            move |wanted| Error::Option { option, value, wanted }
        };
        let sink =
            driver.map(|name| Sink::parse(&name).map_err(wrong("logging.driver", &name))).transpose()?;
        let interval = rate_limit_interval
            .map(|time| duration(&time).map_err(wrong("logging.rate_limit_interval", &time)))
            .transpose()?;
        // systemd ignores an interval of zero, so that journald's own limit would apply.
        let (burst, interval) = match interval {
            Some(Duration::ZERO) => (Some(NO_RATE_LIMIT), Some(Duration::from_secs(1))),
            other => (burst, other),
        };
        if let Some(name) = namespace.as_deref().filter(|name| !is_label(name)) {
            let wanted = "a name of letters, digits, `-`, `_` and `.`";
            return Err(wrong("logging.namespace", name)(wanted));
        }
        if namespace.is_some() && sink.unwrap_or(node.log_sink) == Sink::Nomad {
            let reason = "output goes to Nomad alone; set `driver = \"journald\"` or \"both\" in `logging`, or leave it out";
            return Err(Error::refused("logging.namespace", reason));
        }
        let of_lines = ["SyslogIdentifier", "SyslogLevel", "SyslogLevelPrefix"];
        let set = config.driver.properties.keys().find(|name| of_lines.contains(&name.as_str()));
        if let Some(name) = set.filter(|_| sink.unwrap_or(node.log_sink) == Sink::Both) {
            let reason = "with `logging.driver = \"both\"` the driver writes the lines to the journal, and systemd none; set \
                          `driver = \"journald\"`, or leave it out";
            return Err(Error::refused(&format!("properties.{name}"), reason));
        }
        let TaskIdentity { id: _, name, alloc_id, alloc_dir, env: _ } = &config.identity;
        let alloc_dir = alloc_dir.display().to_string();
        let fields = [
            ("NOMAD_ALLOC_ID", alloc_id),
            ("NOMAD_JOB_ID", &config.job_id),
            ("NOMAD_JOB_NAME", &config.job_name),
            ("NOMAD_GROUP_NAME", &config.group_name),
            ("NOMAD_TASK_NAME", name),
            ("NOMAD_NAMESPACE", &config.namespace),
            (ALLOC_DIR_FIELD, &alloc_dir),
        ];
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        Ok(Self {
            sink: sink.unwrap_or(node.log_sink),
            namespace,
            burst,
            interval,
            fields: fields.map(|(name, value)| format!("{name}={}", in_one_word(value))).collect(),
            identifier: name.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c), "_"),
        })
    }
}

/// More lines per second than anything writes; journald multiplies it by up to six.
pub(super) const NO_RATE_LIMIT: u32 = u32::MAX / 8;

/// The journal field of a unit that contains the path of the allocation directory on the host.
pub const ALLOC_DIR_FIELD: &str = "NOMAD_ALLOC_HOST_DIR";

/// The text as a value of a journal field. After a `daemon-reload` systemd reads what follows a space as a field of its
/// own, so that a job's name could be another job's field.
pub(super) fn in_one_word(text: &str) -> String {
    let means_something = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '\\');
    text.replace(means_something, "_")
}
