//! The command line, read and checked: the job, the plugin's configuration and the volumes of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hcl::{Attribute, Body, Expression};
use proto::driver::Mount;

use crate::error::Error;
use crate::jobspec::{self, Given, Group, Job, JobFile, Task};
use crate::node::DRIVER;
use crate::taskenv::TaskEnv;
use crate::terminal::note;
use crate::variables;

/// The plugin's option that selects the systemd instance that runs the tasks.
const MANAGER: &str = "manager";

/// Which job, and on what kind of node.
#[derive(Debug, Clone, clap::Args)]
pub struct JobOptions {
    /// The job file.
    #[arg(value_name = "JOB.nomad.hcl")]
    pub file: PathBuf,
    /// The value of a variable of the job; may be given several times.
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub variables: Vec<String>,
    /// A file with values of variables, one `name = value` in a line; may be given several times. `NOMAD_VAR_name` in the
    /// environment is read, too.
    #[arg(long = "var-file", value_name = "FILE")]
    pub variable_files: Vec<PathBuf>,
    /// A host volume: NAME is the `source` in the volume block of the job; `:ro` makes it read-only; may be given several
    /// times.
    #[arg(long = "volume", value_name = "NAME=PATH[:ro]")]
    pub volumes: Vec<String>,
    /// The body of the plugin's `config` block: a file, or the text itself.
    #[arg(long, value_name = "FILE|HCL")]
    pub plugin_config: Option<String>,
    /// Another plugin binary than this one.
    #[arg(long, value_name = "BINARY")]
    pub plugin: Option<PathBuf>,
}

/// The function that reads a job: to run it, or to show it.
type Parse = fn(&str, &BTreeMap<String, Given>, &Path) -> Result<Job, jobspec::Error>;

/// The request of the command line, checked for consistency.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The file of the job, to show lines of it.
    pub(crate) file: JobFile,
    pub(crate) job: Job,
    /// The body of the plugin's `config` block.
    pub(crate) config: Body,
    pub(crate) volumes: Volumes,
    /// The plugin's binary.
    pub(crate) program: PathBuf,
    /// Tasks run under the systemd user manager of the caller, and as the same user.
    pub(crate) own_manager: bool,
}

impl JobOptions {
    /// Reads everything for a run, and prints a note if the configuration was changed.
    pub(crate) fn read(&self) -> Result<Invocation, Error> {
        let (file, job) = self.job(jobspec::parse)?;
        let volumes = Volumes::parse(&self.volumes)?;
        volumes.check(&job)?;
        self.asked(file, job, volumes)
    }

    /// Reads everything for a job that is only shown: what this machine lacks for it is noted.
    pub(crate) fn read_to_show(&self) -> Result<Invocation, Error> {
        let (file, job) = self.job(jobspec::parse_to_show)?;
        if !job.needs_agent.is_empty() {
            note(&format!("job {}: only with a Nomad agent: {}", job.id, job.needs_agent.join(", ")));
        }
        let volumes = Volumes::parse(&self.volumes)?.with_all_of(&job);
        self.asked(file, job, volumes)
    }

    fn asked(&self, file: JobFile, job: Job, volumes: Volumes) -> Result<Invocation, Error> {
        let given = plugin_config(self.plugin_config.as_deref())?;
        let (config, added) = with_manager(given, rustix::process::geteuid().is_root());
        if added {
            note("not root: the plugin's configuration gets `manager = \"user\"`, for your own systemd");
        }
        let program = self.plugin.clone().map_or_else(std::env::current_exe, Ok);
        let program = program.map_err(|source| Error::Program { source })?;
        let user = Expression::from("user");
        let own_manager = manager(&config).is_some_and(|manager| *manager == user);
        Ok(Invocation { file, job, config, volumes, program, own_manager })
    }

    fn job(&self, parse: Parse) -> Result<(JobFile, Job), Error> {
        let path = self.file.clone();
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let file = JobFile { path, text };
        let variables = variables::given(environment(), &self.variable_files, &self.variables)?;
        let directory = file.path.parent().unwrap_or(Path::new(""));
        let job = parse(&file.text, &variables, directory).map_err(|source| {
            let lines = file.lines_of(&source);
            Error::Job { path: file.path.clone(), source: Box::new(source) }.with_lines(lines)
        })?;
        match job.groups.iter().flat_map(|group| &group.tasks).find(|task| task.driver != DRIVER) {
            Some(task) => Err(Error::Driver { task: task.name.clone(), driver: task.driver.clone() }),
            None => Ok((file, job)),
        }
    }
}

/// The environment, without what is not UTF-8.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The body of the plugin's configuration: from a file if there is one of that name.
pub(crate) fn plugin_config(given: Option<&str>) -> Result<Body, Error> {
    let Some(given) = given else {
        return Ok(Body::default());
    };
    let is_text = given.contains(['=', '{', '\n']);
    let text = if Path::new(given).is_file() || !given.is_empty() && !is_text {
        fs::read_to_string(given).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NoPluginConfig { given: given.to_owned() },
            _ => Error::Read { path: given.into(), source },
        })?
    } else {
        given.to_owned()
    };
    let body = hcl::parse(&text)
        .map_err(|source| Error::PluginConfig { text: given.to_owned(), source: Box::new(source) })?;
    Ok(unwrapped(unwrapped(body, "plugin"), "config"))
}

/// The body of the one block of this name, as it is in an agent's configuration; another body unchanged.
fn unwrapped(body: Body, name: &str) -> Body {
    let is_wrapped = body.0.len() == 1 && body.blocks().any(|block| block.identifier() == name);
    let inner = is_wrapped.then(|| body.blocks().next().map(|block| block.body().clone())).flatten();
    inner.unwrap_or(body)
}

fn manager(config: &Body) -> Option<&Expression> {
    config.attributes().find(|attribute| attribute.key() == MANAGER).map(Attribute::expr)
}

/// Adds `manager = "user"` for everybody but root, unless the configuration sets `manager`: an unprivileged user has
/// only a user manager. Returns true if it was added.
pub(crate) fn with_manager(config: Body, root: bool) -> (Body, bool) {
    if root || manager(&config).is_some() {
        return (config, false);
    }
    let mut structures = config.into_inner();
    structures.push(Attribute::new(MANAGER, "user").into());
    (structures.into(), true)
}

/// The host volumes of this node, by their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volumes(BTreeMap<String, HostVolume>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct HostVolume {
    path: PathBuf,
    read_only: bool,
}

impl Volumes {
    fn parse(given: &[String]) -> Result<Self, Error> {
        let mut volumes = BTreeMap::new();
        for text in given {
            let wrong = || Error::Volume { text: text.clone() };
            let (name, path) = text.split_once('=').ok_or_else(wrong)?;
            let (path, read_only) = path.strip_suffix(":ro").map_or((path, false), |path| (path, true));
            let path = path.strip_suffix(":rw").unwrap_or(path);
            // The path is relative to our working directory; an empty one is an error.
            let path = std::path::absolute(path).ok().filter(|_| !name.is_empty()).ok_or_else(wrong)?;
            volumes.insert(name.to_owned(), HostVolume { path, read_only });
        }
        Ok(Self(volumes))
    }

    /// Nomad requires every volume of a group, whether or not a task mounts it.
    fn check(&self, job: &Job) -> Result<(), Error> {
        for volume in job.groups.iter().flat_map(|group| &group.volumes) {
            if !self.0.contains_key(&volume.source) {
                let (name, source) = (volume.name.clone(), volume.source.clone());
                return Err(Error::NoVolume { name, wanted: source });
            }
        }
        Ok(())
    }

    /// Adds the volumes that no `--volume` names, at a placeholder path.
    fn with_all_of(mut self, job: &Job) -> Self {
        for volume in job.groups.iter().flat_map(|group| &group.volumes) {
            let path = || PathBuf::from(format!("/PATH-OF-VOLUME/{}", volume.source));
            self.0
                .entry(volume.source.clone())
                .or_insert_with(|| HostVolume { path: path(), read_only: volume.read_only });
        }
        self
    }

    /// Checks that the paths exist. An agent checks when it starts.
    pub(crate) fn must_exist(&self) -> Result<(), Error> {
        for (name, HostVolume { path, .. }) in &self.0 {
            let wrong = |source| Error::VolumePath { name: name.clone(), path: path.clone(), source };
            fs::metadata(path).map_err(wrong)?;
        }
        Ok(())
    }

    /// The mounts of a task's `volume_mount` blocks (client/allocrunner/taskrunner/volume_hook.go).
    pub(crate) fn mounts(&self, group: &Group, task: &Task, env: &TaskEnv) -> Vec<Mount> {
        let mount = |mount: &jobspec::VolumeMount| {
            let volume = group.volumes.iter().find(|volume| volume.name == mount.volume)?;
            let host = self.0.get(&volume.source)?;
            Some(Mount {
                task_path: env.replace(&mount.destination),
                host_path: host.path.to_string_lossy().into_owned(),
                readonly: host.read_only || volume.read_only || mount.read_only,
                propagation_mode: mount.propagation_mode.clone(),
                selinux_label: mount.selinux_label.clone(),
                request_name: volume.source.clone(),
            })
        };
        task.volume_mounts.iter().filter_map(mount).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_driver_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.nomad.hcl");
        fs::write(&file, "job \"j\" {\n task \"t\" {\n driver = \"docker\"\n }\n}\n").unwrap();
        let options = JobOptions {
            file,
            variables: Vec::new(),
            variable_files: Vec::new(),
            volumes: Vec::new(),
            plugin_config: None,
            plugin: None,
        };
        assert_eq!(
            options.job(jobspec::parse).unwrap_err().to_string(),
            "task t: its driver is `docker`; only `systemd` runs here"
        );
        let options = JobOptions { variables: vec!["x".to_owned()], ..options };
        assert!(matches!(options.job(jobspec::parse), Err(Error::Variable { .. })));
    }

    #[test]
    fn the_plugins_configuration_is_text_or_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "x = 1\n").unwrap();
        let expected = hcl::parse("x = 1").unwrap();
        assert_eq!(plugin_config(Some("x = 1")).unwrap(), expected);
        assert_eq!(plugin_config(file.path().to_str()).unwrap(), expected);
        for wrapped in ["config {\nx = 1\n}", "plugin \"nomad-driver-systemd\" {\nconfig {\nx = 1\n}\n}"] {
            assert_eq!(plugin_config(Some(wrapped)).unwrap(), expected);
        }
        assert!(plugin_config(None).unwrap().0.is_empty());
        assert!(plugin_config(Some("no such file")).is_err());
    }

    #[test]
    fn who_is_not_root_asks_their_own_systemd_unless_they_say_otherwise() {
        let body = |text: &str| hcl::parse(text).unwrap();
        assert_eq!(with_manager(body("x = 1\n"), false), (body("x = 1\nmanager = \"user\"\n"), true));
        assert_eq!(with_manager(body("x = 1\n"), true), (body("x = 1\n"), false));
        let given = "manager = \"system\"\n";
        assert_eq!(with_manager(body(given), false), (body(given), false));
    }

    fn volumes(given: &[&str]) -> Result<Volumes, Error> {
        Volumes::parse(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_volume_is_a_name_and_a_path() {
        let Volumes(read) = volumes(&["a=/srv/a", "b=/srv/b=c:ro", "r=x"]).unwrap();
        let volume = |path: &str, read_only| HostVolume { path: path.into(), read_only };
        assert_eq!(read["a"], volume("/srv/a", false));
        assert_eq!(read["b"], volume("/srv/b=c", true));
        assert!(read["r"].path.is_absolute() && read["r"].path.ends_with("x"));
        for wrong in ["a", "=/srv", "a=", "a=:ro"] {
            let error = volumes(&[wrong]).unwrap_err().to_string();
            assert!(error.contains("--volume NAME=PATH"), "{error}");
        }
    }

    #[test]
    fn a_volume_must_be_given_and_be_there() {
        let job = jobspec::parse(
            "job \"j\" {\n group \"g\" {\n volume \"v\" {\n type = \"host\"\n source = \"data\"\n }\n task \"t\" {\n driver = \
             \"systemd\"\n }\n }\n}\n",
            &BTreeMap::new(),
            Path::new("/"),
        );
        let job = job.unwrap();
        let error = volumes(&["other=/srv"]).unwrap().check(&job).unwrap_err().to_string();
        assert_eq!(error, "volume `v`: this machine has no host volume `data`; add `--volume data=PATH`");
        volumes(&["data=/srv", "other=/srv"]).unwrap().check(&job).unwrap();
        let absent = volumes(&["data=/no/such/place"]).unwrap();
        absent.check(&job).unwrap();
        let error = absent.must_exist().unwrap_err().to_string();
        assert_eq!(error, "find /no/such/place, the host volume `data`; make it first");
    }
}
