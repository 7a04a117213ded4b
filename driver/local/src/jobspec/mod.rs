//! Reads a Nomad job file (HCL2) into the part that can run on this machine.
//!
//! A job has the same meaning as under Nomad, or it is rejected: a block that needs servers, other nodes or other
//! services is an error that names the block and its line. Blocks that only tell Nomad *when* and *where* to run
//! (`restart`, `update`, `constraint`, `service` …) do not change how a task runs. They are accepted and listed in
//! [`Job::ignored`]. Facts from Nomad v2.0.5, jobspec2/ and the API structures behind it.

pub(crate) mod block;
mod declared;
mod dynamic;
pub mod expression;
mod functions;
mod group;
mod marked;
mod task;
pub(crate) mod types;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use hcl::Value;

use self::block::Block;
pub use self::block::Error;
pub use self::declared::Given;
use self::declared::{declared, locals};
use self::expression::Scope;
pub use self::group::{Dns, Group, Network, Port, Volume};
pub(crate) use self::marked::JobFile;
pub use self::task::{Artifact, Hook, Lifecycle, Resources, Task, Template, VolumeMount};

/// A job as the file specifies it. Strings may still contain `${…}` for the runtime.
#[derive(Debug, Clone)]
pub struct Job {
    /// The label of the `job` block, or its `id` if set, such as `web`.
    pub id: String,
    /// The `name`, or the id if not set.
    pub name: String,
    /// The type: `service`, `batch`, `system` or `sysbatch`; here they all run until their tasks end.
    pub kind: String,
    /// The namespace, such as `default`.
    pub namespace: String,
    /// The region, such as `global`.
    pub region: String,
    /// The first name in the job's `datacenters`, else `dc1`.
    pub datacenter: String,
    /// The job's `meta`.
    pub meta: BTreeMap<String, String>,
    /// The job's groups; at least one.
    pub groups: Vec<Group>,
    /// Names of blocks that were accepted and have no effect here, such as `restart`.
    pub ignored: Vec<String>,
    /// Features of a job that need an agent, for a job that is only shown ([`parse_to_show`]), such as `parameterized`.
    pub needs_agent: Vec<String>,
}

/// The parts of a job without effect here.
#[derive(Default)]
struct Notes {
    ignored: Vec<String>,
    needs_agent: Vec<String>,
    /// Features that need an agent are noted instead of being errors.
    shows_only: bool,
}

impl Notes {
    fn ignore(&mut self, key: &str) {
        if !self.ignored.iter().any(|noted| noted == key) {
            self.ignored.push(key.to_owned());
        }
    }

    fn need_agent(&mut self, error: Error) -> Result<(), Error> {
        match error {
            Error::NotHere { place, key, .. } if self.shows_only => {
                let feature = format!("`{key}` of {place}");
                if !self.needs_agent.contains(&feature) {
                    self.needs_agent.push(feature);
                }
                Ok(())
            }
            error => Err(error),
        }
    }
}

const AGENT: &str = "submit the job to a Nomad agent";

/// Reads a job. `variables` are the values given for its variables; the paths of `file("…")` are in
/// `directory`.
pub fn parse(text: &str, variables: &BTreeMap<String, Given>, directory: &Path) -> Result<Job, Error> {
    read(text, variables, directory, false)
}

/// Reads a job that is not run here: features that need an agent are listed in [`Job::needs_agent`], and are no error.
pub fn parse_to_show(
    text: &str,
    variables: &BTreeMap<String, Given>,
    directory: &Path,
) -> Result<Job, Error> {
    read(text, variables, directory, true)
}

fn read(
    text: &str,
    variables: &BTreeMap<String, Given>,
    directory: &Path,
    shows_only: bool,
) -> Result<Job, Error> {
    let text = &readable(text);
    let body = hcl::edit::parser::parse_body(text).map_err(|source| Error::Parse { source })?;
    let mut file = Block::file(text, &body);
    let variables = declared(&mut file, variables)?;
    let locals = locals(&mut file, &variables, directory)?;
    let scope = Scope::of_job(variables, locals).with_files(directory);
    let body = dynamic::expand(text, &body, &scope)?;
    let mut file = Block::file(text, &body);
    for known in ["variable", "variables", "locals"] {
        file.blocks(known);
    }
    if body.is_empty() {
        return Err(file.wrong("job", "the file is empty; name a file with a `job` block"));
    }
    let Some(mut block) = file.block("job")? else {
        return Err(file.missing("job"));
    };
    let mut notes = Notes { shows_only, ..Notes::default() };
    file.finish(&[], &[], &mut notes)?;
    let of_dispatch = of_dispatch(&mut block, &scope, &mut notes)?;
    job(&mut block, &scope, &mut notes).and_then(|mut job| {
        for name in of_dispatch {
            job.meta.entry(name.clone()).or_insert_with(|| format!("${{NOMAD_META_{name}}}"));
        }
        block.finish(
            &[
                "priority",
                "all_at_once",
                "update",
                "reschedule",
                "migrate",
                "affinity",
                "spread",
                "node_pool",
                "ui",
                "version_tag",
                "periodic",
            ],
            &[
                ("multiregion", AGENT),
                ("vault", "it needs a Vault server; submit the job to a Nomad agent"),
                ("consul", "it needs a Consul server; submit the job to a Nomad agent"),
                ("secret", "it needs a secrets provider; submit the job to a Nomad agent"),
            ],
            &mut notes,
        )?;
        let Notes { ignored, needs_agent, shows_only: _ } = notes;
        Ok(Job { ignored, needs_agent, ..job })
    })
}

/// The names of the meta that a dispatch of the job gives. They stand for their values where the job is only shown.
fn of_dispatch(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Vec<String>, Error> {
    let Some(mut parameterized) = block.block("parameterized")? else { return Ok(Vec::new()) };
    let mut names = parameterized.strings("meta_required", scope)?;
    names.extend(parameterized.strings("meta_optional", scope)?);
    if let Some(payload) = parameterized.string("payload", scope)?
        && !["optional", "required", "forbidden"].contains(&payload.as_str())
    {
        let reason = format!("`{payload}` is none of optional, required, forbidden");
        return Err(parameterized.wrong("payload", &reason));
    }
    parameterized.finish(&[], &[], notes)?;
    notes.need_agent(
        block.not_here("parameterized", "it needs a dispatch; submit the job to a Nomad agent"),
    )?;
    Ok(names)
}

/// The text with `$$${` written in an equivalent way. hcl-primitives 0.1.13, when it writes a heredoc again, forgets
/// that a marker behind a `$` is escaped, except for the first one.
///
/// And without the mark that some editors put before UTF-8.
fn readable(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.contains("$$${") && !text.contains("%%%{") {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace("$$${", r#"${"$"}$${"#).replace("%%%{", r#"${"%"}%%{"#))
}

fn job(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Job, Error> {
    let label = block.label()?.to_owned();
    let id = block.string("id", scope)?.unwrap_or(label);
    let kind = block.string("type", scope)?.unwrap_or_else(|| "service".to_owned());
    if !["service", "batch", "system", "sysbatch"].contains(&kind.as_str()) {
        return Err(block.wrong("type", &format!("`{kind}` is none of service, batch, system, sysbatch")));
    }
    let datacenters = block.strings("datacenters", scope)?;
    let groups = groups(block, scope, notes)?;
    if groups.is_empty() {
        return Err(block.missing("group"));
    }
    for inner in block.blocks("constraint") {
        constraint(inner, scope, groups.len(), notes)?;
    }
    Ok(Job {
        name: block.string("name", scope)?.unwrap_or_else(|| id.clone()),
        id,
        kind,
        namespace: block.string("namespace", scope)?.unwrap_or_else(|| "default".to_owned()),
        region: block.string("region", scope)?.unwrap_or_else(|| "global".to_owned()),
        datacenter: datacenters
            .into_iter()
            .find(|name| !name.contains('*'))
            .unwrap_or_else(|| "dc1".to_owned()),
        meta: block.map("meta", scope)?,
        groups,
        ignored: Vec::new(),
        needs_agent: Vec::new(),
    })
}

/// The job's groups, and its tasks without one.
fn groups(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Vec<Group>, Error> {
    let mut groups = Vec::new();
    for mut inner in block.blocks("group") {
        let read = group::group(&mut inner, scope, notes)?;
        if groups.iter().any(|other: &Group| other.name == read.name) {
            return Err(inner.wrong("label", &format!("two groups are named `{}`", read.name)));
        }
        groups.push(read);
        inner.finish(
            &[
                "restart", "reschedule", "update", "migrate", "ephemeral_disk", "affinity", "spread", "disconnect",
                "shutdown_delay", "stop_after_client_disconnect", "max_client_disconnect", "prevent_reschedule_on_lost",
            ],
            &[
                ("vault", "it needs a Vault server; submit the job to a Nomad agent"),
                ("consul", "it needs a Consul server; submit the job to a Nomad agent"),
                ("secret", "it needs a secrets provider; submit the job to a Nomad agent"),
                ("scaling", "the number of instances is always one here; remove it or submit the job to a Nomad agent"),
            ],
            notes,
        )?;
    }
    // A task directly in the job forms a group of its own (jobspec2/parse_job.go).
    for mut inner in block.blocks("task") {
        let task = task::task(&mut inner, scope, notes)?;
        task::finish_task(inner, notes)?;
        group::check_mounts(block, &task, &[])?;
        groups.push(Group {
            name: task.name.clone(),
            meta: BTreeMap::new(),
            ports: Vec::new(),
            dns: None,
            network: Network::Host,
            volumes: Vec::new(),
            tasks: vec![task],
        });
    }
    Ok(groups)
}

/// A constraint chooses nodes, and there is only one. The exception is a constraint that keeps groups apart, which
/// cannot be met.
fn constraint(mut block: Block<'_>, scope: &Scope, groups: usize, notes: &mut Notes) -> Result<(), Error> {
    let apart = ["distinct_hosts", "distinct_property"];
    let operator = block.string("operator", scope)?.unwrap_or_default();
    let mut wanted = apart.contains(&operator.as_str());
    for key in apart {
        wanted |= block.value(key, scope)?.is_some_and(|value| value != Value::Bool(false));
    }
    if wanted && groups > 1 {
        notes.need_agent(
            block.not_here("distinct_hosts", "`run` is one node; submit the job to a Nomad agent"),
        )?;
    }
    let others = [
        "attribute",
        "value",
        "version",
        "semver",
        "regexp",
        "set_contains",
        "set_contains_all",
        "set_contains_any",
        "is_set",
        "is_not_set",
        "attribute_is_set",
        "attribute_is_not_set",
    ];
    block.finish(&others, &[], &mut Notes::default())?;
    notes.ignore("constraint");
    Ok(())
}

/// A service is not registered. A service that needs a service mesh cannot work.
fn service(mut block: Block<'_>, notes: &mut Notes) -> Result<(), Error> {
    for key in ["connect", "sidecar_task"] {
        if block.block(key)?.is_some() {
            let advice = "it needs a Consul service mesh; submit the job to a Nomad agent";
            notes.need_agent(block.not_here(key, advice))?;
        }
    }
    notes.ignore("service");
    Ok(())
}

/// The label of a group or task, which is used as the name of a directory.
fn name(block: &Block<'_>) -> Result<String, Error> {
    let name = block.label()?;
    if name.contains(['/', '\\', '\0']) || name == "." || name == ".." {
        return Err(block.wrong("label", "a name may not contain a slash, a backslash or a null"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const JOB: &str = r#"
variable "greeting" {
  type    = string
  default = "hello"
}

variable "ports" {
  type    = list(number)
  default = [80]
}

locals {
  sentence = "${local.start} ${var.greeting}"
  start    = upper("well")
}

job "web" {
  datacenters = ["*", "eu"]
  type        = "batch"
  meta { owner = "me" }

  group "g" {
    restart { attempts = 3 }
    network {
      port "http" {}
      port "admin" {
        static = 8080
        to     = 80
      }
      dns { servers = ["192.0.2.1"] }
    }

    task "t" {
      driver = "systemd"
      user   = "alice"
      config {
        command = "sh"
        args    = ["-c", "echo ${local.sentence} ${NOMAD_PORT_http} $${HOME}", var.ports[0]]
        labels { a = "b" }
      }
      env {
        X = "${attr.kernel.name}"
        N = 5
      }
      artifact {
        source = "http://example.org/x.tar.gz"
        options { checksum = "sha256:00" }
      }
      resources {
        cpu        = 500
        memory     = 64
        memory_max = 128
      }
      kill_timeout = "1m30s"
      kill_signal  = "SIGTERM"
      logs { disabled = true }
    }
  }
}
"#;

    fn parsed(text: &str) -> Result<Job, Error> {
        parse(text, &BTreeMap::new(), Path::new("/"))
    }

    fn with_task(lines: &str) -> Result<Job, Error> {
        parsed(&format!(
            "job \"j\" {{\n group \"g\" {{\n  task \"t\" {{\n driver = \"systemd\"\n{lines}\n  }}\n }}\n}}\n"
        ))
    }

    #[test]
    fn what_is_escaped_twice_stays_escaped_in_a_heredoc_of_many_lines() {
        let text = "variables {\n dc = \"eu\"\n}\njob \"j\" {\n datacenters = [var.dc]\n task \"t\" {\n driver = \"x\"\n \
                    template {\n destination = \"local/x\"\n data = <<-S\n a $$${A} $$${B}\n %%%{c} $$${D}\n S\n }\n }\n}\n";
        let job = parse(text, &BTreeMap::new(), Path::new(".")).unwrap();
        assert_eq!(job.datacenter, "eu");
        let template = &job.groups[0].tasks[0].templates[0];
        let text = format!("{template:?}");
        assert!(text.contains("a $${A} $${B}") && text.contains("%%{c} $${D}"), "{text}");
        let given = [("dc".to_owned(), Given::Text("us".to_owned()))].into();
        assert_eq!(parse(JOB_OF_VARIABLES, &given, Path::new(".")).unwrap().datacenter, "us");
    }

    const JOB_OF_VARIABLES: &str = "variables {\n dc = \"eu\"\n}\njob \"j\" {\n datacenters = [var.dc]\n task \"t\" {\n driver = \"x\"\n }\n}\n";

    #[test]
    fn a_job_is_read_with_its_defaults() {
        let job = parsed(JOB).unwrap();
        assert_eq!((job.id.as_str(), job.kind.as_str(), job.datacenter.as_str()), ("web", "batch", "eu"));
        assert_eq!(job.ignored, ["restart"]);
        let group = &job.groups[0];
        assert_eq!(group.ports[0], Port { label: "http".to_owned(), fixed: None, to: None });
        assert_eq!(group.ports[1], Port { label: "admin".to_owned(), fixed: Some(8080), to: Some(80) });
        assert_eq!(group.dns.as_ref().unwrap().servers, ["192.0.2.1"]);
        let task = &group.tasks[0];
        assert_eq!((task.user.as_str(), task.kill_signal.as_str()), ("alice", "SIGTERM"));
        assert_eq!(task.kill_timeout, Duration::from_secs(90));
        assert!(task.logs_disabled);
        assert_eq!(
            task.env,
            BTreeMap::from([
                ("N".to_owned(), "5".to_owned()),
                ("X".to_owned(), "${attr.kernel.name}".to_owned())
            ])
        );
        assert_eq!(task.resources, Resources { cpu: 500, cores: 0, memory: 64, memory_max: 128 });
        assert_eq!(task.artifacts[0].destination, "local/");
        assert_eq!(task.artifacts[0].options["checksum"], "sha256:00");
        let expected = hcl::value!({
            command = "sh",
            args = ["-c", "echo WELL hello ${NOMAD_PORT_http} ${HOME}", 80],
            labels = [{ a = "b" }]
        });
        assert_eq!(Value::Object(task.config.clone()), expected);
    }

    #[test]
    fn variables_given_on_the_command_line_win() {
        let given = BTreeMap::from([
            ("greeting".to_owned(), Given::Value("good day".into())),
            ("ports".to_owned(), Given::Text("[\"81\"]".to_owned())),
        ]);
        let job = parse(JOB, &given, Path::new("/")).unwrap();
        let expected = hcl::value!(["-c", "echo WELL good day ${NOMAD_PORT_http} ${HOME}", 81]);
        assert_eq!(job.groups[0].tasks[0].config["args"], expected);
    }

    #[test]
    fn a_variable_without_a_value_or_a_declaration_is_named() {
        let error = parsed("variable \"x\" {}\njob \"j\" {}\n").unwrap_err().to_string();
        assert!(error.contains("`--var x=VALUE`"), "{error}");
        let given = |value| BTreeMap::from([("y".to_owned(), value)]);
        let error = parse("job \"j\" {}\n", &given(Given::Text(String::new())), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("`y`"), "{error}");
        let text = "variable \"y\" {\n type = number\n}\njob \"j\" {}\n";
        let error =
            parse(text, &given(Given::Text("abc".to_owned())), Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("number") && !error.contains("quotes"), "{error}");
        // The environment may be meant for other jobs.
        let error = parse("job \"j\" {}\n", &given(Given::Environment(String::new())), Path::new("/"));
        assert!(error.unwrap_err().to_string().contains("`group` is required"));
    }

    #[test]
    fn what_this_machine_cannot_honour_is_refused_with_its_line() {
        let cases = [
            "vault {}",
            "dispatch_payload {\n file = \"x\"\n}",
            "service {\n connect {}\n}",
            "resources {\n device \"gpu\" {}\n}",
        ];
        for lines in cases {
            let error = with_task(lines).unwrap_err().to_string();
            assert!(
                error.contains("not possible without a Nomad agent") && error.contains("(line "),
                "{lines}: {error}"
            );
        }
        let error = with_task("lifecycle {\n hook = \"before\"\n}").unwrap_err().to_string();
        assert!(error.contains("`before` is none of prestart, poststart, poststop"), "{error}");
        let error = with_task("kill_signal = \"SIGNOPE\"").unwrap_err().to_string();
        assert!(error.contains("`kill_signal`") && error.contains("SIGTERM"), "{error}");
        for (line, word) in
            [("change_signal = \"SIGHUPP\"", "SIGHUP"), ("uid = -2", "1000"), ("gid = 5000000000", "1000")]
        {
            let template = format!("template {{\n data = \"x\"\n destination = \"local/x\"\n {line}\n}}");
            let error = with_task(&template).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{}`", &line[..line.find(' ').unwrap()])) && error.contains(word),
                "{error}"
            );
        }
        for lines in ["template {}", "template {\n destination = \"x\"\n}"] {
            let error = with_task(lines).unwrap_err().to_string();
            assert!(error.starts_with("template (line ") && error.contains("`d"), "{error}");
        }
    }

    #[test]
    fn what_nomads_servers_refuse_is_refused() {
        let template =
            |lines: &str| format!("template {{\n data = \"x\"\n destination = \"local/x\"\n {lines}\n}}");
        let change = |lines: &str| template(&format!("change_mode = {lines}"));
        for (lines, key) in [
            ("logs {\n max_files = 0\n}".to_owned(), "`max_files`: is 0"),
            ("logs {\n max_file_size = -1\n}".to_owned(), "`max_file_size`: is -1"),
            ("resources {\n memory = 9\n}".to_owned(), "`memory`: is 9, and Nomad accepts 10 or more"),
            ("resources {\n cpu = 0\n}".to_owned(), "`cpu`: is 0"),
            (change("\"reload\""), "`change_mode`: `reload` is none of noop"),
            (change("\"signal\""), "`change_signal` is required"),
            (change("\"script\""), "`change_script` is required"),
            (format!("{0}\n{0}", template("")), "two templates of the task"),
        ] {
            let error = with_task(&lines).unwrap_err().to_string();
            assert!(error.contains(key), "{lines}: {error}");
        }
        let script = change("\"script\"\n change_script {\n command = \"/bin/x\"\n timeout = \"5s\"\n }");
        for lines in [script, change("\"signal\"\n change_signal = \"SIGHUP\"")] {
            with_task(&lines).unwrap();
        }
        let ports = |ports: &str| {
            let task = "task \"t\" {\n driver = \"x\"\n }";
            parsed(&format!("job \"j\" {{\n group \"g\" {{\n network {{\n{ports}\n}}\n{task}\n }}\n}}\n"))
        };
        let (a, b) = ("port \"a\" {\n static = 80\n}\n", "port \"b\" {\n static = 80\n}\n");
        assert!(ports(&a.repeat(2)).unwrap_err().to_string().contains("two ports are named `a`"));
        assert!(ports(&[a, b].concat()).unwrap_err().to_string().contains("`static`: another port"));
        ports(&[a, &b.replace("80", "80\n ignore_collision = true")].concat()).unwrap();
    }

    #[test]
    fn a_job_for_dispatches_is_shown_with_the_names_of_its_meta() {
        let text = "job \"j\" {\n parameterized {\n meta_required = [\"who\"]\n }\n group \"g\" {\n task \"t\" {\n driver \
                    = \"x\"\n }\n }\n}\n";
        assert!(parsed(text).unwrap_err().to_string().contains("needs a dispatch"));
        let shown = parse_to_show(text, &BTreeMap::new(), Path::new("/")).unwrap();
        assert_eq!(shown.meta["who"], "${NOMAD_META_who}");
        assert_eq!(shown.needs_agent, ["`parameterized` of job \"j\" (line 1)"]);
    }

    #[test]
    fn groups_that_cannot_all_run_here_are_refused() {
        for (inside, key) in [
            ("count = 2", "`count`"),
            ("network {\n mode = \"bridge\"\n}", "`mode`"),
            ("network {\n mode = \"cni/x\"\n}", "`mode`"),
            ("volume \"v\" {\n type = \"csi\"\n source = \"s\"\n}", "`type`"),
            ("volume \"v\" {\n type = \"nfs\"\n source = \"s\"\n}", "`type`: `nfs` is neither host nor csi"),
            ("volume \"v\" {\n source = \"s\"\n}", "`type` is required"),
            ("volume \"v\" {\n type = \"host\"\n}", "`source` is required"),
        ] {
            let text = format!(
                "job \"j\" {{\n group \"g\" {{\n{inside}\n task \"t\" {{\n driver = \"x\"\n }}\n }}\n}}\n"
            );
            let error = parsed(&text).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let group = |name: &str| format!("group \"{name}\" {{\n task \"t\" {{\n driver = \"x\"\n }}\n }}\n");
        let text = format!("job \"j\" {{\n {}{} }}\n", group("a"), group("b"));
        assert_eq!(parsed(&text).unwrap().groups.len(), 2);
        let apart = text.replace("job \"j\" {", "job \"j\" {\n constraint {\n distinct_hosts = true\n }\n");
        assert!(parsed(&apart).unwrap_err().to_string().contains("`distinct_hosts`"));
        assert!(parsed("job \"j\" {\n periodic {\n cron = \"@daily\"\n }\n}\n").is_err());
    }

    #[test]
    fn volumes_and_their_mounts_are_read_with_nomads_defaults() {
        let job = |mount: &str| {
            parsed(&format!(
                "job \"j\" {{\n group \"g\" {{\n volume \"v\" {{\n type = \"host\"\n source = \"s\"\n read_only = true\n \
                 }}\n volume \"w\" {{\n type = \"host\"\n source = \"s\"\n per_alloc = true\n }}\n task \"t\" {{\n \
                 driver = \"x\"\n volume_mount {{\n{mount}\n }}\n }}\n }}\n}}\n"
            ))
        };
        let read = job("volume = \"v\"\n destination = \"/data\"").unwrap();
        let volume = |name: &str, source: &str, read_only| Volume {
            name: name.to_owned(),
            source: source.to_owned(),
            read_only,
        };
        assert_eq!(read.groups[0].volumes, [volume("v", "s", true), volume("w", "s[0]", false)]);
        let mount = &read.groups[0].tasks[0].volume_mounts[0];
        assert_eq!((mount.volume.as_str(), mount.destination.as_str()), ("v", "/data"));
        assert_eq!((mount.read_only, mount.propagation_mode.as_str()), (false, "private"));
        for (mount, key) in [
            ("volume = \"x\"\n destination = \"/data\"", "the group has no volume `x`"),
            ("volume = \"v\"", "`destination` is required"),
            ("destination = \"/data\"", "`volume` is required"),
            ("volume = \"v\"\n destination = \"/\"\n propagation_mode = \"shared\"", "`shared` is none of"),
        ] {
            let error = job(mount).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_group_may_do_without_a_network() {
        let group = |network: &str| {
            let task = "task \"t\" {\n driver = \"x\"\n }";
            parsed(&format!("job \"j\" {{\n group \"g\" {{\n{network}\n{task}\n }}\n}}\n"))
                .unwrap()
                .groups
                .remove(0)
        };
        assert_eq!(group("network {\n mode = \"none\"\n}").network, Network::None);
        assert_eq!(group("network {\n mode = \"host\"\n}").network, Network::Host);
        assert_eq!(group("").network, Network::Host);
    }

    #[test]
    fn unknown_keys_are_named_with_their_place() {
        let error = with_task("comand = \"x\"").unwrap_err().to_string();
        assert_eq!(
            error,
            "task \"t\" (line 3): `comand` is not known in a Nomad job; check its spelling and its place"
        );
        assert!(parsed("jbo \"j\" {}\n").is_err());
    }

    #[test]
    fn a_task_of_the_job_is_a_group_of_its_own() {
        let job = parsed("job \"j\" {\n task \"t\" {\n driver = \"systemd\"\n }\n}\n").unwrap();
        assert_eq!(job.groups[0].name, "t");
    }
}
