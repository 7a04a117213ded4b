//! A job, as a test specifies it.

use std::time::Duration;

use serde_json::{Value, json};

/// A job of one group, as a test specifies it. Its first task is named `main`; the driver is the one under test.
#[derive(Debug, Clone)]
pub struct Spec {
    kind: &'static str,
    group: Value,
    tasks: Vec<Value>,
}

impl Spec {
    /// A shell script that runs once, and is not restarted.
    pub fn batch(script: &str) -> Self {
        Self::of("batch", script)
    }

    /// A shell script that should run until it is stopped; it is not restarted when it ends.
    pub fn service(script: &str) -> Self {
        Self::of("service", script)
    }

    fn of(kind: &'static str, script: &str) -> Self {
        let group = json!({
            "Name": "group",
            "EphemeralDisk": { "SizeMB": 10 },
            "RestartPolicy": { "Attempts": 0, "Mode": "fail" },
            "ReschedulePolicy": { "Attempts": 0, "Unlimited": false },
        });
        Self { kind, group, tasks: vec![task("main", script)] }
    }

    /// Adds another field to the task, by its name in Nomad's API.
    #[must_use]
    pub fn task(mut self, name: &str, value: Value) -> Self {
        self.tasks[0][name] = value;
        self
    }

    /// Adds another task.
    #[must_use]
    pub fn beside(mut self, name: &str, script: &str) -> Self {
        self.tasks.push(task(name, script));
        self
    }

    /// Restarts the task this many times after a failure, without delay.
    #[must_use]
    pub fn restarts(mut self, attempts: u32) -> Self {
        let (delay, interval) = (Duration::from_millis(1).as_nanos(), Duration::from_mins(10).as_nanos());
        self.group["RestartPolicy"] =
            json!({ "Attempts": attempts, "Mode": "fail", "Delay": delay, "Interval": interval });
        self
    }

    pub(super) fn submission(mut self, id: &str, driver: &str) -> Value {
        for task in &mut self.tasks {
            task["Driver"] = json!(driver);
        }
        self.group["Tasks"] = Value::Array(self.tasks);
        json!({ "Job": {
            "ID": id, "Name": id, "Type": self.kind, "Datacenters": ["*"], "TaskGroups": [self.group],
        } })
    }
}

fn task(name: &str, script: &str) -> Value {
    json!({
        "Name": name,
        "Config": { "command": "/bin/sh", "args": ["-c", script] },
        "Resources": { "CPU": 50, "MemoryMB": 64 },
        "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 2 },
    })
}
