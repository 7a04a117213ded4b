//! `nomad-driver-systemd unit`: the systemd units of tasks, either of a job file, which need not run, or of an
//! allocation that is running.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use nomad_driver_systemd::plugin;
use nomad_driver_systemd::systemd::{Manager, Systemd, shell_word, systemd_run, unit_file};
use nomad_driver_systemd::task::preview::{ByHand, Sketch};
use nomad_local::options::JobOptions;
use nomad_local::unit::{self, UnitRequests};
use shim_interface::visible;

use crate::{chain, finished, runtime};

/// The fewest characters of an allocation's ID that are accepted; Nomad prints eight.
const SHORTEST: usize = 4;

/// Print the unit of each task, of a job file or of a running allocation.
///
/// A job file needs no systemd, and nothing is run.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct UnitOptions {
    #[command(flatten)]
    job: Option<JobOptions>,
    /// Print the units that systemd has of this allocation; the first four or more characters of the ID are enough.
    #[arg(long, value_name = "ID", conflicts_with_all = ["JobOptions", "systemd_run"])]
    alloc: Option<String>,
    /// Print shell commands that start the tasks of the job without the driver, as root.
    #[arg(long)]
    systemd_run: bool,
    /// Print a JSON array of objects with `task`, `unit` and `file`, the text of the unit; with --alloc of objects with `unit`,
    /// `state` and `file`.
    #[arg(long, conflicts_with = "systemd_run")]
    json: bool,
}

/// Prints the units of all tasks, or no unit and the error of one.
pub(crate) fn print(options: UnitOptions) -> ExitCode {
    let printed = match (options.job, options.alloc) {
        (Some(job), _) => match finished(unit::requests(&job)) {
            Some(requested) => of_job(&requested, options.systemd_run),
            // The error has been printed.
            None => return ExitCode::FAILURE,
        },
        (None, Some(alloc)) => of_allocation(&alloc),
        (None, None) => Err("name a job file, or an allocation with `--alloc`".to_owned()),
    };
    match printed {
        Ok(units) => {
            let text = if options.json {
                format!("{:#}", serde_json::json!(units))
            } else {
                visible(&units.iter().map(Shown::text).collect::<Vec<_>>().join("\n"))
            };
            // A reader that has closed the pipe has read enough.
            let _ = writeln!(io::stdout(), "{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("nomad-driver-systemd: {}", visible(&error));
            ExitCode::FAILURE
        }
    }
}

/// One unit as it is printed.
#[derive(serde::Serialize)]
struct Shown {
    /// `<job>/<group>/<task>`, for a unit that need not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    unit: String,
    /// The state of a unit that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// The text of the unit, or the commands that start it.
    file: String,
}

impl Shown {
    fn text(&self) -> String {
        let Self { task, unit, state, file } = self;
        match (task, state) {
            // A name may contain a line break.
            (Some(task), _) => format!("# {}\n{file}", task.escape_debug()),
            (None, state) => format!("# {unit}: {}\n{file}\n", state.as_deref().unwrap_or_default()),
        }
    }
}

fn of_job(requested: &UnitRequests, by_hand: bool) -> Result<Vec<Shown>, String> {
    let shown = requested.tasks.iter().map(|(name, task)| {
        let sketch = plugin::sketch(&requested.plugin_config, task.clone())
            .map_err(|error| format!("{name}: {}", requested.marked(task, chain(&error))))?;
        let unit = sketch.unit();
        let name_of_unit = unit.name.to_string();
        let file = if by_hand { commands(&sketch) } else { unit_file(unit) };
        Ok(Shown { task: Some(name.clone()), unit: name_of_unit, state: None, file })
    });
    shown.collect()
}

/// The shell commands that start a task.
fn commands(sketch: &Sketch) -> String {
    let ByHand { directories, compile, view, unit, env, needs_a_root } = sketch.by_hand();
    let words = |words: Vec<String>| words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    let install = ["install", "-d", "-m", "777"].map(str::to_owned).into_iter();
    let directories = directories.iter().map(|directory| directory.display().to_string());
    let _ = writeln!(text, "{}", words(install.chain(directories).collect()));
    text.push_str("# Put the task's artifacts and templates there.\n");
    if let Some(compile) = compile {
        let _ = writeln!(text, "{}", words(compile));
    }
    // A user who pipes this into a shell does not see comments.
    let warn = |message: &str| format!("echo {} >&2\n", shell_word(message));
    if needs_a_root {
        text.push_str(&warn("this task mounts more than others: the driver makes a root for it, and systemd may not start it without"));
    }
    let absent = warn("there is no view yet: have the driver start any task first, by which it makes one");
    let _ = write!(text, "test -d {} || {absent}", shell_word(&view.display().to_string()));
    let _ = writeln!(text, "{}", systemd_run(unit, &env));
    text
}

/// Says that systemd is waited for, if its answer takes long.
async fn told_to_wait<T>(answer: impl Future<Output = T>) -> T {
    const SOON: Duration = Duration::from_secs(2);
    let mut answer = std::pin::pin!(answer);
    if let Ok(answer) = tokio::time::timeout(SOON, &mut answer).await {
        return answer;
    }
    eprintln!("nomad-driver-systemd: systemd does not answer; trying for half a minute");
    answer.await
}

/// The units of an allocation's tasks in systemd, from the system manager, or else from the user manager.
fn of_allocation(alloc: &str) -> Result<Vec<Shown>, String> {
    if alloc.len() < SHORTEST || !alloc.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Err(format!(
            "`{alloc}` is not an allocation's ID, nor the first {SHORTEST} characters of one"
        ));
    }
    let alloc = alloc.to_ascii_lowercase();
    let managers: &[Manager] = if rustix::process::geteuid().is_root() {
        &[Manager::System]
    } else {
        &[Manager::System, Manager::User]
    };
    let runtime = runtime().map_err(|error| format!("start the runtime: {error}"))?;
    for manager in managers {
        let systemd = Systemd::default();
        systemd.choose(*manager);
        let prefix = format!("nomad-{alloc}");
        let units = match runtime.block_on(told_to_wait(systemd.list(&prefix))) {
            Ok(units) => units,
            // A user's manager is asked even where there is no system bus.
            Err(_) if *manager == Manager::System && managers.len() > 1 => continue,
            Err(error) => return Err(chain(&error)),
        };
        let mut shown = Vec::new();
        for unit in units {
            let (state, files) = runtime.block_on(systemd.files(&unit)).map_err(|error| chain(&error))?;
            let mut text = String::new();
            for path in files {
                // A task that ends meanwhile has no file any more.
                let content = std::fs::read_to_string(&path).unwrap_or_else(|error| format!("# {error}"));
                let _ = writeln!(text, "# {}\n{}", path.display(), content.trim_end());
            }
            shown.push(Shown { task: None, unit: unit.to_string(), state: Some(state.clone()), file: text });
        }
        if !shown.is_empty() {
            return Ok(shown);
        }
    }
    Err(format!(
        "systemd has no unit of allocation {alloc} here; `nomad alloc status` names its node, and a unit goes when its task \
         is removed"
    ))
}
