//! The environment that Nomad computes for a task, and the interpolation of what a job leaves for the runtime.
//!
//! Names, order of precedence and cleaning are Nomad's (v2.0.5, client/taskenv/env.go). A variable has two values: the
//! one that the task sees (`/local` inside an image), and the one on the node, which is needed for an artifact's
//! destination.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use hcl::{Map, Value};
use proto::driver::driver_capabilities::FsIsolation;

use crate::allocdir::TaskDir;
use crate::jobspec::expression::Scope;
use crate::jobspec::{Group, Job, Task};
use crate::node::Node;

/// Variables of the agent's own environment that never reach a task (command/agent/host/host.go).
const DENIED: &[&str] = &[
    "CONSUL_TOKEN",
    "CONSUL_HTTP_TOKEN",
    "CONSUL_HTTP_TOKEN_FILE",
    "NOMAD_TOKEN",
    "VAULT_TOKEN",
    "CONSUL_LICENSE",
    "NOMAD_LICENSE",
    "VAULT_LICENSE",
    "CONSUL_LICENSE_PATH",
    "NOMAD_LICENSE_PATH",
    "VAULT_LICENSE_PATH",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_METADATA_URL",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
];

/// A port that this run has chosen or the job has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocatedPort {
    /// The label, such as `http`.
    pub label: String,
    /// The port number on the host.
    pub value: u16,
    /// The port number that the task sees; zero for the same.
    pub to: u16,
}

/// The host's address: a local run has no other.
pub const HOST_IP: &str = "127.0.0.1";

/// The input for the environment of one task.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The job.
    pub job: &'a Job,
    /// The task's group.
    pub group: &'a Group,
    /// The task.
    pub task: &'a Task,
    /// The machine.
    pub node: &'a Node,
    /// The allocation's id, such as `d2c1b3a4-…`.
    pub alloc_id: &'a str,
    /// The task's directories on the node.
    pub dir: &'a TaskDir,
    /// The driver's file system isolation.
    pub isolation: FsIsolation,
    /// The group's ports.
    pub ports: &'a [AllocatedPort],
    /// MHz.
    pub cpu: u64,
    /// The reserved cores, if any.
    pub cores: &'a [u32],
    /// The agent's own environment; tasks without an image see most of it.
    pub host: BTreeMap<String, String>,
}

/// A task's environment, and the other values that can be interpolated.
#[derive(Debug, Clone)]
pub struct TaskEnv {
    task: BTreeMap<String, String>,
    on_node: BTreeMap<String, String>,
    node: BTreeMap<String, String>,
    dir: PathBuf,
    alloc: PathBuf,
}

impl TaskEnv {
    /// Computes the environment.
    pub fn new(facts: &Facts<'_>) -> Self {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let on_node = [path(&facts.dir.shared), path(&facts.dir.local), path(&facts.dir.secrets)];
        let in_task = match facts.isolation {
            FsIsolation::Image | FsIsolation::Chroot => ["/alloc", "/local", "/secrets"].map(str::to_owned),
            FsIsolation::None | FsIsolation::Unveil => on_node.clone(),
        };
        let node = node_values(facts);
        Self {
            task: environment(facts, in_task, &node),
            on_node: environment(facts, on_node, &node),
            node,
            dir: facts.dir.path.clone(),
            alloc: facts.dir.shared.clone(),
        }
    }

    /// The allocation's directory on the node, which contains all directories of the task.
    pub fn base(&self) -> &Path {
        self.alloc.parent().unwrap_or(&self.alloc)
    }

    /// All variables that the task gets.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.task
    }

    /// Adds the variables of the task's templates.
    pub(crate) fn add(&mut self, variables: BTreeMap<String, String>) {
        self.task.extend(variables);
    }

    /// Replaces every known `${NAME}`; others stay as they are, as in Nomad (helper/args).
    pub fn replace(&self, text: &str) -> String {
        replace(text, &[&self.task, &self.node])
    }

    /// A path on the node: `${…}` is replaced by the node's view, and the path is relative to the task's directory.
    /// None if the path leads out of the task's and the allocation's directory.
    pub fn node_path(&self, text: &str) -> Option<PathBuf> {
        let path = PathBuf::from(replace(text, &[&self.on_node, &self.node]));
        let inside = |path: &Path| path.starts_with(&self.dir) || path.starts_with(&self.alloc);
        let absolute = normal(&path);
        if path.is_absolute() && inside(&absolute) {
            return Some(absolute);
        }
        let relative: PathBuf =
            path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
        Some(normal(&self.dir.join(relative))).filter(|path| inside(path))
    }

    /// The names that a `config` block may use: variables, node values with dots as nested objects, and `env["NAME"]`.
    pub fn scope(&self) -> Scope {
        let mut tree = Map::new();
        for (name, value) in self.task.iter().chain(&self.node) {
            nest(&mut tree, name, value);
        }
        let attributes = ["attr", "meta"].map(|name| (name, tree.get(name).cloned()));
        if let Some(Value::Object(node)) = tree.get_mut("node") {
            for (name, value) in attributes {
                node.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
        let env = self.task.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        tree.insert("env".to_owned(), Value::Object(env.collect()));
        Scope::of_task(tree)
    }
}

/// The values that a job refers to as `node.…` and `attr.…`.
fn node_values(facts: &Facts<'_>) -> BTreeMap<String, String> {
    let mut values: BTreeMap<String, String> = [
        ("node.unique.id", facts.node.id.as_str()),
        ("node.unique.name", &facts.node.name),
        ("node.datacenter", &facts.job.datacenter),
        ("node.region", &facts.job.region),
        ("node.class", ""),
        ("node.pool", "default"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    values.extend(facts.node.attributes.iter().map(|(name, value)| (format!("attr.{name}"), value.clone())));
    values
}

fn environment(
    facts: &Facts<'_>,
    [alloc, local, secrets]: [String; 3],
    node: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let Facts { job, group, task, .. } = facts;
    let mut env: BTreeMap<String, String> = [
        ("NOMAD_ALLOC_DIR", alloc),
        ("NOMAD_TASK_DIR", local),
        ("NOMAD_SECRETS_DIR", secrets),
        ("NOMAD_CPU_LIMIT", facts.cpu.to_string()),
        ("NOMAD_MEMORY_LIMIT", task.resources.memory.to_string()),
        ("NOMAD_ALLOC_ID", facts.alloc_id.to_owned()),
        ("NOMAD_SHORT_ALLOC_ID", facts.alloc_id.chars().take(8).collect()),
        ("NOMAD_ALLOC_NAME", format!("{}.{}[0]", job.id, group.name)),
        ("NOMAD_ALLOC_INDEX", "0".to_owned()),
        ("NOMAD_GROUP_NAME", group.name.clone()),
        ("NOMAD_TASK_NAME", task.name.clone()),
        ("NOMAD_JOB_ID", job.id.clone()),
        ("NOMAD_JOB_NAME", job.name.clone()),
        ("NOMAD_DC", job.datacenter.clone()),
        ("NOMAD_REGION", job.region.clone()),
        ("NOMAD_NAMESPACE", job.namespace.clone()),
        ("NOMAD_PARENT_CGROUP", "nomad.slice".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if task.resources.memory_max != 0 {
        env.insert("NOMAD_MEMORY_MAX_LIMIT".to_owned(), task.resources.memory_max.to_string());
    }
    if !facts.cores.is_empty() {
        env.insert("NOMAD_CPU_CORES".to_owned(), ranges(facts.cores));
    }
    for port in facts.ports {
        let AllocatedPort { label, value, to } = port;
        let seen = if *to > 0 { to } else { value };
        let address = format!("{HOST_IP}:{value}");
        for (prefix, value) in [
            ("ADDR", address.clone()),
            ("HOST_ADDR", address),
            ("IP", HOST_IP.to_owned()),
            ("HOST_IP", HOST_IP.to_owned()),
            ("PORT", seen.to_string()),
            ("ALLOC_PORT", seen.to_string()),
            ("HOST_PORT", value.to_string()),
        ] {
            env.insert(format!("NOMAD_{prefix}_{label}"), value);
        }
    }
    // The task's meta takes precedence over the group's, and the group's over the job's.
    for (key, value) in job.meta.iter().chain(&group.meta).chain(&task.meta) {
        let value = replace(value, &[node, &env]);
        env.insert(format!("NOMAD_META_{}", key.to_uppercase()), value.clone());
        env.insert(format!("NOMAD_META_{key}"), value);
    }
    if facts.isolation != FsIsolation::Image {
        for (name, value) in &facts.host {
            if !DENIED.contains(&name.as_str()) && !env.contains_key(name) {
                let value = replace(value, &[node, &env]);
                env.insert(name.clone(), value);
            }
        }
    }
    // Every value sees the variables above. None sees another variable of `env`, whose order Nomad does not define.
    let known = env.clone();
    env.extend(task.env.iter().map(|(name, value)| (name.clone(), replace(value, &[node, &known]))));
    env.into_iter().map(|(name, value)| (cleaned(name), value)).collect()
}

/// Converts a label such as `my-port` to `my_port`, which a shell can read.
fn cleaned(name: String) -> String {
    const PREFIXES: [&str; 5] =
        ["NOMAD_ADDR_", "NOMAD_IP_", "NOMAD_PORT_", "NOMAD_HOST_PORT_", "NOMAD_META_"];
    if !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return name;
    }
    let keep = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '.';
    // Nomad replaces bytes: a letter of two bytes becomes two underscores.
    name.chars().map(|c| if keep(c) { c.to_string() } else { "_".repeat(c.len_utf8()) }).collect()
}

/// Replaces `${NAME}` with its value in the first map that contains the name.
fn replace(text: &str, known: &[&BTreeMap<String, String>]) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = rest.split_at(start);
        result.push_str(before);
        let inside = after.get(2..).unwrap_or_default();
        let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')));
        let name = end.filter(|end| *end > 0 && inside[*end..].starts_with('}')).map(|end| &inside[..end]);
        let value = name.and_then(|name| known.iter().find_map(|map| map.get(name)));
        if let (Some(name), Some(value)) = (name, value) {
            result.push_str(value);
            rest = inside.get(name.len() + 1..).unwrap_or_default();
        } else {
            result.push_str("${");
            rest = inside;
        }
    }
    result + rest
}

/// Turns `attr.kernel.name` into nested objects; an object wins over a plain value of the same name.
fn nest(tree: &mut Map<String, Value>, name: &str, value: &str) {
    let mut parts: Vec<&str> = name.split('.').collect();
    let Some(last) = parts.pop().filter(|last| !last.is_empty() && parts.iter().all(|part| !part.is_empty()))
    else {
        return;
    };
    let mut map = tree;
    for part in parts {
        let inner = map.entry(part.to_owned()).or_insert_with(|| Value::Object(Map::new()));
        if !inner.is_object() {
            *inner = Value::Object(Map::new());
        }
        let Value::Object(inner) = inner else { return };
        map = inner;
    }
    if !map.get(last).is_some_and(Value::is_object) {
        map.insert(last.to_owned(), Value::from(value));
    }
}

/// Removes `.` and `..`, from the text alone.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

/// Sorted numbers as ranges, such as `0-2,5`.
fn ranges(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobspec;

    const JOB: &str = r#"
job "j" {
  meta { owner = "job" }
  group "g" {
    meta { owner = "${NOMAD_GROUP_NAME}" }
    task "t" {
      driver = "systemd"
      env {
        WHERE = "${NOMAD_TASK_DIR}/x on ${attr.kernel.name}, ${UNKNOWN}"
      }
      resources { memory = 64 }
    }
  }
}
"#;

    fn env(isolation: FsIsolation) -> TaskEnv {
        let job = jobspec::parse(JOB, &BTreeMap::new(), Path::new("/")).unwrap();
        let dir = TaskDir::below(Path::new("/a/id"), "t");
        let host = [("PATH", "/bin"), ("NOMAD_TOKEN", "x"), ("NOMAD_DC", "no")];
        TaskEnv::new(&Facts {
            job: &job,
            group: &job.groups[0],
            task: &job.groups[0].tasks[0],
            node: &Node::of_this_machine(),
            alloc_id: "0123456789",
            dir: &dir,
            isolation,
            ports: &[AllocatedPort { label: "my-port".to_owned(), value: 21_000, to: 80 }],
            cpu: 100,
            cores: &[0, 1, 3],
            host: host.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        })
    }

    #[test]
    fn an_image_sees_its_own_paths_and_nothing_of_the_host() {
        let env = env(FsIsolation::Image);
        let variables = env.variables();
        assert_eq!(variables["NOMAD_TASK_DIR"], "/local");
        assert_eq!(variables["WHERE"], "/local/x on linux, ${UNKNOWN}");
        assert!(!variables.contains_key("PATH"));
        assert_eq!(variables["NOMAD_META_OWNER"], "g");
        assert_eq!(variables["NOMAD_ALLOC_NAME"], "j.g[0]");
        assert_eq!(variables["NOMAD_SHORT_ALLOC_ID"], "01234567");
        assert_eq!(variables["NOMAD_CPU_CORES"], "0-1,3");
    }

    #[test]
    fn without_isolation_the_task_sees_the_host() {
        let env = env(FsIsolation::None);
        let variables = env.variables();
        assert_eq!(variables["NOMAD_TASK_DIR"], "/a/id/t/local");
        assert_eq!(variables["NOMAD_ALLOC_DIR"], "/a/id/alloc");
        assert_eq!(variables["PATH"], "/bin");
        assert_eq!(variables["NOMAD_DC"], "dc1");
        assert!(!variables.contains_key("NOMAD_TOKEN"));
    }

    #[test]
    fn ports_are_named_as_a_shell_can_read_them() {
        let env = env(FsIsolation::Image);
        let variables = env.variables();
        assert_eq!(variables["NOMAD_PORT_my_port"], "80");
        assert_eq!(variables["NOMAD_HOST_PORT_my_port"], "21000");
        assert_eq!(variables["NOMAD_ADDR_my_port"], "127.0.0.1:21000");
        // Nomad does not clean this name.
        assert_eq!(variables["NOMAD_ALLOC_PORT_my-port"], "80");
    }

    #[test]
    fn a_config_may_name_variables_attributes_and_the_map_of_all() {
        let scope = env(FsIsolation::Image).scope();
        let text = "${NOMAD_TASK_DIR} ${attr.kernel.name} ${node.attr.kernel.name} ${env[\"NOMAD_DC\"]} ${node.pool}";
        assert_eq!(scope.text(text).unwrap(), Value::from("/local linux linux dc1 default"));
    }

    #[test]
    fn paths_on_the_node_stay_in_the_allocation() {
        let env = env(FsIsolation::Image);
        let path = |text: &str| env.node_path(text).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(path("local/").as_deref(), Some("/a/id/t/local"));
        assert_eq!(path("${NOMAD_TASK_DIR}/x").as_deref(), Some("/a/id/t/local/x"));
        assert_eq!(path("${NOMAD_ALLOC_DIR}/data").as_deref(), Some("/a/id/alloc/data"));
        assert_eq!(path("/etc/x").as_deref(), Some("/a/id/t/etc/x"));
        assert_eq!(path("../../x"), None);
        assert_eq!(path("../other/local"), None);
    }
}
