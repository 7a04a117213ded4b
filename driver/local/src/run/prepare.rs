//! Prepares the tasks of a job: directories, pipes, artifacts, templates. If this fails, no task has run.

use std::collections::BTreeMap;
use std::path::Path;

use crate::allocdir::AllocDir;
use crate::artifact::Fetch;
use crate::error::Error;
use crate::jobspec::{Group, Hook, Task};
use crate::request::{Ports, Requests};
use crate::task_request::{TaskRequest, new_alloc_id};
use crate::taskenv::TaskEnv;
use crate::terminal::{Name, Terminal};

use super::Run;
use super::output::Output;

/// A task that can be started.
pub(super) struct Prepared<'a> {
    /// The index of the task's group.
    pub(super) group: usize,
    pub(super) task: &'a Task,
    pub(super) request: TaskRequest,
    pub(super) output: Option<Output>,
    /// The environment of templates that can only be rendered at the start.
    pub(super) env: Option<TaskEnv>,
}

impl Prepared<'_> {
    /// Renders the templates that have to wait for the start.
    pub(super) fn render_late(&mut self) -> Result<(), Error> {
        if let Some(env) = self.env.take() {
            self.request.env.extend(render(self.task, &env)?);
        }
        Ok(())
    }
}

/// Renders the templates of a task; returns the variables that they define.
fn render(task: &Task, env: &TaskEnv) -> Result<BTreeMap<String, String>, Error> {
    let mut variables = BTreeMap::new();
    for template in &task.templates {
        let wrong = |source| Error::Template { task: task.name.clone(), source };
        variables.extend(template.write(env).map_err(wrong)?);
    }
    Ok(variables)
}

/// Whether other tasks of the group run before this one, and may create the files that its templates read.
fn comes_later(task: &Task, group: &Group) -> bool {
    match task.lifecycle.hook {
        Hook::Prestart => false,
        Hook::Main => group.tasks.iter().any(|task| task.lifecycle.hook == Hook::Prestart),
        Hook::Poststart | Hook::Poststop => true,
    }
}

/// All tasks of the job, in its order. `allocs` contains the directories that were created, also if this fails.
pub(super) async fn prepare<'a>(
    run: &Run<'a>,
    base: &Path,
    allocs: &mut Vec<AllocDir>,
) -> Result<Vec<Prepared<'a>>, Error> {
    let wrong = |source| Error::AllocDir { source };
    let job = &run.asked.job;
    let names = job.groups.iter().flat_map(|group| &group.tasks).map(|task| task.name.chars().count());
    let terminal = match (run.options.json, run.options.plain) {
        (true, _) => Terminal::Json,
        (false, true) => Terminal::Plain,
        (false, false) => Terminal::Named { width: names.max().unwrap_or(0) },
    };
    let mut requests = Requests::new(run.plugin, run.asked, run.node, Ports::free(job)).await?;
    let mut tasks = Vec::new();
    for (number, group) in job.groups.iter().enumerate() {
        let id = new_alloc_id();
        let alloc = AllocDir::create(base, &id).map_err(wrong)?;
        allocs.push(alloc);
        let Some(alloc) = allocs.last() else { continue };
        if requests.tasks_have_views() {
            alloc.close().map_err(wrong)?;
        }
        let allocation = requests.allocation(group, id, alloc.path().to_owned())?;
        for task in &group.tasks {
            alloc.task(&task.name).map_err(wrong)?;
            let mut environment = requests.environment(&allocation, task)?;
            let is_later = comes_later(task, group);
            // The configuration may use variables of the templates. Otherwise, an error in it is reported before any
            // other work.
            let makes_known = !is_later && task.templates.iter().any(|template| template.env);
            let early =
                if makes_known { None } else { Some(requests.task(&allocation, task, &environment).await?) };
            fetch(run, task, &environment.env).await?;
            if !is_later {
                environment.env.add(render(task, &environment.env)?);
            }
            let request = match early {
                Some(request) => request,
                None => requests.task(&allocation, task, &environment).await?,
            };
            let env = is_later.then_some(environment.env);
            let mut prepared = Prepared { group: number, task, request, output: None, env };
            if !task.logs_disabled {
                let logs = alloc.logs(&task.name).map_err(wrong)?;
                prepared.request.stdout.clone_from(&logs.stdout.path);
                prepared.request.stderr.clone_from(&logs.stderr.path);
                prepared.output = Some(Output::write(logs, terminal, Name::new(&task.name, tasks.len())));
            }
            tasks.push(prepared);
        }
    }
    Ok(tasks)
}

/// Fetches the artifacts of a task; relative sources refer to the directory of the job file.
async fn fetch(run: &Run<'_>, task: &Task, env: &TaskEnv) -> Result<(), Error> {
    let here = run.options.job.file.parent();
    // A bare file name is in the working directory.
    let here = here.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for artifact in &task.artifacts {
        let fetched = match Fetch::new(artifact, env, here) {
            Ok(fetch) => fetch.run().await,
            Err(error) => Err(error),
        };
        fetched.map_err(|source| Error::Artifact { task: task.name.clone(), source })?;
    }
    Ok(())
}
