//! The task that a test requests.

use std::path::Path;

use nomad_local::task_request::{TaskRequest, new_alloc_id};
use nomad_local::taskenv::AllocatedPort;

/// The task that a test requests.
#[derive(Debug, Clone)]
pub struct Job {
    /// The job's `command`.
    pub command: String,
    /// The job's `args`.
    pub args: Vec<String>,
    /// Other options of the job's `config`.
    pub options: Vec<(String, rmpv::Value)>,
    /// Files in the task's `local/`, as an `artifact` block would have left them: readable, not executable.
    pub files: Vec<(String, Vec<u8>)>,
    /// All other fields.
    pub request: TaskRequest,
}

impl Job {
    /// A task named `web` in an allocation of its own.
    pub fn command(command: &str) -> Self {
        let request = TaskRequest::new(&new_alloc_id(), "web", Path::new(""));
        Self {
            command: command.to_owned(),
            args: Vec::new(),
            options: Vec::new(),
            files: Vec::new(),
            request,
        }
    }

    /// A shell script.
    pub fn shell(script: &str) -> Self {
        Self::command("/bin/sh").args(&["-c", script])
    }

    /// A program or guest in the task's `local/`.
    pub fn artifact(name: &str, content: &[u8]) -> Self {
        Self::command(name).file(name, content)
    }

    /// Sets these arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(ToString::to_string).collect();
        self
    }

    /// Adds an option to the `config`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a block to the `config`, with options whose values are strings.
    #[must_use]
    pub fn block(mut self, name: &str, options: &[(&str, &str)]) -> Self {
        let options = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        self.options.push((name.to_owned(), rmpv::Value::Map(options)));
        self
    }

    /// Adds this HCL to the `config`; values must have the types of the options.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        /// Blocks that may occur several times.
        const LISTS: [&str; 2] = ["credential", "socket"];
        let value: hcl::Value = hcl::from_str(text).expect("the test's own text");
        let hcl::Value::Object(options) = value else { panic!("a body: {text}") };
        for (name, value) in options {
            let value = rmpv::ext::to_value(value).expect("memory does not fail");
            let one = LISTS.contains(&name.as_str()) && !value.is_array();
            self.options.push((name, if one { rmpv::Value::Array(vec![value]) } else { value }));
        }
        self
    }

    /// Adds a file to `local/`.
    #[must_use]
    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.request.user);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.request.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a port that Nomad allocated on this machine.
    #[must_use]
    pub fn port(mut self, label: &str, value: u16) -> Self {
        self.request.ports.push(AllocatedPort { label: label.to_owned(), value, to: 0 });
        self
    }

    /// Applies another change.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut TaskRequest)) -> Self {
        change(&mut self.request);
        self
    }

    /// The `config` block, as Nomad sends it.
    pub fn msgpack(&self) -> Vec<u8> {
        let args = self.args.iter().map(|arg| arg.as_str().into()).collect();
        let mut config =
            vec![("command".into(), self.command.as_str().into()), ("args".into(), rmpv::Value::Array(args))];
        config.extend(self.options.iter().map(|(name, value)| (name.as_str().into(), value.clone())));
        let config = rmpv::Value::Map(config);
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &config).expect("memory does not fail");
        bytes
    }
}
