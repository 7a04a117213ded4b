//! Jobs with unusual values wherever they are possible.

use std::fs;
use std::path::Path;

use nomad_driver_systemd::systemd::property::{self, Assignment, Reach, lines_of, quote};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proto::driver::Mount;
use rmpv::Value;
use tests::Job;

use super::corpus::text;

/// A job that runs until it is stopped, and its unusual values.
#[derive(Debug, Clone)]
pub(crate) struct OddJob(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Arguments(Vec<String>),
    Variable(String),
    WorkDir(String),
    JobName(String),
    GroupName(String),
    TaskName(String),
    Namespace(String),
    Hostname(String),
    ExtraHost(String),
    Socket(String),
    Credential(String),
    Bind(String),
    Volume(String),
    LogInterval(u32, u32),
    Property(&'static str, String),
}

/// Jobs for this release of systemd.
pub(crate) fn odd_job(version: u32) -> impl Strategy<Value = OddJob> {
    const HOSTNAMES: u32 = 258;
    let argument = || text().prop_map(|text| text.replace('\0', ""));
    let part = prop_oneof![
        2 => vec(argument(), 1..4).prop_map(Part::Arguments),
        1 => argument().prop_map(Part::Variable),
        2 => file_name().prop_map(Part::WorkDir),
        1 => text().prop_map(Part::JobName),
        1 => text().prop_map(Part::GroupName),
        2 => file_name().prop_map(Part::TaskName),
        1 => text().prop_map(Part::Namespace),
        1 => text().prop_map(if version >= HOSTNAMES { Part::Hostname } else { Part::JobName }),
        1 => file_name().prop_map(|name| Part::ExtraHost(name.replace([' ', ':'], ""))),
        2 => file_name().prop_map(Part::Socket),
        2 => file_name().prop_map(Part::Credential),
        2 => file_name().prop_map(Part::Bind),
        2 => file_name().prop_map(Part::Volume),
        1 => (1..u32::MAX, 1..1_000_000_u32).prop_map(|(burst, time)| Part::LogInterval(burst, time)),
        14 => harmless_property(version),
        1 => any_property(version),
    ];
    vec(part, 1..4).prop_map(|mut parts| {
        // Each name once: a job must not contain two tasks with the same name.
        let mut seen = Vec::new();
        parts.retain(|part| {
            let kind =
                (std::mem::discriminant(part), if let Part::Property(name, _) = part { *name } else { "" });
            let is_new = !seen.contains(&kind);
            seen.push(kind);
            is_new
        });
        OddJob(parts)
    })
}

/// A text that can be the name of a file, most often without control characters.
fn file_name() -> impl Strategy<Value = String> {
    (text(), proptest::bool::weighted(0.9)).prop_map(|(text, is_plain)| {
        let is_taken = |c: &char| !(matches!(c, '/' | '\0') || is_plain && c.is_control());
        let name: String = text.chars().filter(is_taken).take(40).collect();
        if matches!(name.as_str(), "" | "." | "..") { "x".to_owned() } else { name }
    })
}

/// Whether the grammar accepts the value, and this release of systemd too.
fn is_taken(version: u32, name: &str, text: &str) -> bool {
    let taken = Assignment::parse(name, text).is_ok_and(|taken| taken.needs() <= version);
    taken && !text.contains(['\0', '\n', '\r'])
}

/// Properties that let a task run with every text, as far as the text is valid for them.
fn harmless_property(version: u32) -> impl Strategy<Value = Part> {
    let lists = ["ReadOnlyPaths", "InaccessiblePaths", "NoExecPaths", "ExecPaths", "ReadWritePaths"];
    // systemd normalizes paths when it reads them, and rejects paths that lead upwards.
    let text = || text().prop_map(|text| text.chars().filter(|c| *c != '/').take(60).collect::<String>());
    let path = || text().prop_map(|text| quote(&format!("-/{text}")).into_owned());
    // Of two variables with the same name the bus keeps one, and the file both.
    let variable = || (select(vec!["A", "B", "C", "D"]), text());
    let variable =
        || variable().prop_map(|(name, text)| quote(&format!("{name}{}=x{text}", text.len())).into_owned());
    let part = prop_oneof![
        5 => (select(lists.to_vec()), vec(path(), 1..3)).prop_map(|(name, paths)| (name, paths.join(" "))),
        2 => text().prop_map(|text| ("SyslogIdentifier", text)),
        2 => text().prop_map(|text| ("UtmpIdentifier", text)),
        2 => text().prop_map(|text| ("LogExtraFields", format!("ODD={text}"))),
        1 => text().prop_map(|text| ("LogExtraFields", text)),
        1 => text().prop_map(|text| ("UnsetEnvironment", format!("A=x{text}"))),
        2 => vec(variable(), 1..3).prop_map(|words| ("UnsetEnvironment", words.join(" "))),
        2 => text().prop_map(|text| ("EnvironmentFile", format!("-/{text}"))),
        2 => text().prop_map(|text| ("TemporaryFileSystem", quote(&format!("/odd/x{}", text.replace(':', ""))).into_owned())),
        2 => (text(), select(vec!["", ":mode=700", ":size=1M,mode=1777"]))
            .prop_map(|(text, options)| ("TemporaryFileSystem", quote(&format!("/odd{text}{options}")).into_owned())),
        2 => text().prop_map(|text| ("SourcePath", format!("/{text}"))),
        2 => text().prop_map(|text| ("Documentation", quote(&format!("man:a{text}")).into_owned())),
        2 => text().prop_map(|text| ("ConditionPathExists", format!("!/odd{text}"))),
        1 => text().prop_map(|text| ("ConditionEnvironment", format!("!{text}"))),
        1 => text().prop_map(|text| ("ConditionKernelCommandLine", format!("!{text}"))),
        1 => text().prop_map(|text| ("ConditionHost", format!("!{text}"))),
        2 => text().prop_map(|text| ("AssertPathExistsGlob", format!("!/odd{text}"))),
        2 => text().prop_map(|text| ("ExecSearchPath", quote(&format!("/{text}")).into_owned())),
        2 => text().prop_map(|text| ("RequiresMountsFor", quote(&format!("/{text}")).into_owned())),
        2 => text().prop_map(|text| ("AppArmorProfile", format!("-a{text}"))),
        1 => text().prop_map(|text| ("LogFilterPatterns", text)),
        2 => text().prop_map(|text| ("OpenFile", format!("/{text}:x:graceful"))),
        1 => text().prop_map(|text| ("OpenFile", format!("/dev/null:{text}"))),
        2 => text().prop_map(|text| ("ImportCredential", text)),
        1 => text().prop_map(|text| ("RuntimeDirectory", format!("a{text}"))),
        1 => text().prop_map(|text| ("DeviceAllow", format!("/dev/{text} r"))),
    ];
    part.prop_filter("it is taken", move |(name, text)| is_taken(version, name, text))
        .prop_map(|(name, text)| Part::Property(name, text))
}

fn any_property(version: u32) -> impl Strategy<Value = Part> {
    let settable = property::all().filter(|property| !matches!(property.reach, Reach::Reserved(_)));
    // systemd drops system calls that the kernel does not know.
    let names: Vec<_> =
        settable.map(|property| property.name).filter(|name| !name.starts_with("SystemCall")).collect();
    let taken =
        (select(names), text()).prop_filter("it is taken", move |(name, text)| is_taken(version, name, text));
    taken.prop_map(|(name, text)| Part::Property(name, text))
}

impl OddJob {
    /// The request to the driver.
    pub(crate) fn asked(&self) -> Job {
        let mut job = Job::command("/bin/sh").args(&["-c", "exec /bin/sleep infinity", "sh"]);
        let mut properties = Vec::new();
        for part in &self.0 {
            match part {
                Part::Arguments(words) => job.args.extend(words.iter().cloned()),
                Part::Variable(text) => job = job.env("ODD", text),
                Part::WorkDir(name) => job = job.option("work_dir", &format!("/local/{name}")),
                Part::JobName(name) => job.request.job_name.clone_from(name),
                Part::GroupName(name) => job.request.group.clone_from(name),
                Part::TaskName(name) => job.request.task.clone_from(name),
                Part::Namespace(name) => job.request.namespace.clone_from(name),
                Part::Hostname(name) => job = job.option("hostname", name),
                Part::ExtraHost(name) => {
                    let hosts = Value::Array(vec![format!("{name}:10.0.0.1").into()]);
                    job.options.push(("extra_hosts".to_owned(), hosts));
                }
                Part::Socket(name) => {
                    let path = format!("/alloc/{name}");
                    let socket =
                        Value::Map(vec![("name".into(), "odd".into()), ("path".into(), path.into())]);
                    job.options.push(("socket".to_owned(), Value::Array(vec![socket])));
                }
                Part::Credential(name) => {
                    let credential = Value::Map(vec![
                        ("name".into(), "odd".into()),
                        ("path".into(), name.as_str().into()),
                    ]);
                    job.options.push(("credential".to_owned(), Value::Array(vec![credential])));
                }
                Part::Bind(name) => {
                    let bind =
                        format!("{}:{}", quote(&format!("/srv/{name}")), quote(&format!("/odd/{name}")));
                    let files = Value::Map(vec![("bind_paths".into(), Value::Array(vec![bind.into()]))]);
                    job.options.push(("files".to_owned(), files));
                }
                Part::Volume(name) => {
                    let (task_path, host_path) = (format!("/volume/{name}"), format!("/srv/{name}"));
                    job.request.mounts.push(Mount { task_path, host_path, ..Default::default() });
                }
                Part::LogInterval(burst, milliseconds) => {
                    let interval = format!("{milliseconds}ms");
                    let logging = [
                        ("rate_limit_burst".into(), (*burst).into()),
                        ("rate_limit_interval".into(), interval.into()),
                    ];
                    job.options.push(("logging".to_owned(), Value::Map(logging.into())));
                }
                Part::Property(name, text) => properties.push(((*name).into(), text.as_str().into())),
            }
        }
        if !properties.is_empty() {
            job.options.push(("properties".to_owned(), Value::Map(properties)));
        }
        job
    }

    /// Creates the files that the job names.
    pub(crate) fn lay_out(&self, alloc_dir: &Path) {
        let asked = self.asked();
        let task = alloc_dir.join(&asked.request.task);
        for part in &self.0 {
            match part {
                Part::WorkDir(name) => fs::create_dir_all(task.join("local").join(name)).unwrap(),
                Part::Credential(name) => fs::write(task.join("secrets").join(name), "secret").unwrap(),
                Part::Bind(name) | Part::Volume(name) => {
                    fs::create_dir_all(Path::new("/srv").join(name)).unwrap();
                }
                _ => {}
            }
        }
    }

    pub(crate) fn has_sockets(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Socket(_)))
    }

    /// The keys in the files of the job's units that a plain job's files do not have.
    pub(crate) fn keys(&self) -> Vec<String> {
        let keys = self.0.iter().flat_map(|part| match part {
            Part::Property(name, text) => {
                let mut keys = vec![(*name).to_owned()];
                if *name == "NoExecPaths" {
                    // The init of the task stays executable.
                    keys.push("ExecPaths".to_owned());
                }
                for (name, value) in
                    Assignment::parse(name, text).map(|taken| taken.wire()).unwrap_or_default()
                {
                    keys.extend(lines_of(&name, &value).into_iter().map(|(key, _)| key));
                    keys.push(name);
                }
                keys
            }
            Part::Volume(_) | Part::Bind(_) => ["BindPaths", "MountFlags"].map(str::to_owned).into(),
            Part::Credential(_) => vec!["LoadCredential".to_owned()],
            Part::Hostname(_) => vec!["ProtectHostname".to_owned(), "ProtectHostnameEx".to_owned()],
            _ => Vec::new(),
        });
        keys.collect()
    }
}
