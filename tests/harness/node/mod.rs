//! A node with our plugin on it, and the tasks that a test runs there.

mod events;
mod job;
mod task;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nomad_local::allocdir::AllocDir;
use nomad_local::node::Node as Machine;
use nomad_local::plugin_client::{CallError, Launch, Plugin, Record};
use proto::driver::driver_client::DriverClient;
use proto::driver::{
    DestroyTaskRequest, InspectTaskRequest, InspectTaskResponse, RecoverTaskRequest, SignalTaskRequest,
    StartTaskRequest, StopTaskRequest, TaskConfig, TaskEventsRequest, TaskHandle, TaskState,
    TaskStatsRequest, TaskStatsResponse, WaitTaskRequest,
};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::{Host, SOON, User, program, programs};

pub use events::Events;
pub use job::Job;
pub use task::{Exit, Prepared, Task};

/// A plugin that was found running is not our child, and does not end with us by itself.
struct Found(u32);

impl Drop for Found {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            // The plugin still belongs to us: nobody else would notice its end.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// A refusal of the plugin: its message.
pub type Refusal = CallError;

/// A node: our plugin, and a directory for its allocations.
pub struct Node {
    plugin: Plugin,
    config: String,
    records: Arc<Mutex<Vec<Record>>>,
    data: Arc<tempfile::TempDir>,
    #[allow(dead_code, reason = "kept for its drop")]
    found: Option<Found>,
    /// The owner of the plugin and its allocations, if not root.
    owner: Option<User>,
    has_private_mounts: bool,
}

impl Node {
    /// A plugin with the default configuration.
    pub async fn start(host: &Host) -> Self {
        Self::configured(host, "").await
    }

    /// A plugin with these options in its `config` block.
    pub async fn configured(_host: &Host, options: &str) -> Self {
        // Not below /tmp: an ephemeral user's tasks have one of their own.
        let base = Path::new("/var/lib/nomad-driver-systemd");
        Self::in_directory(base, options, None, &[]).await
    }

    /// A plugin that reaches systemd over the bus, as a plugin that does not run as root does, and not over systemd's
    /// own socket.
    pub async fn over_the_bus(_host: &Host) -> Self {
        let bus = ("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket");
        Self::in_directory(Path::new("/var/lib/nomad-driver-systemd"), "", None, &[bus]).await
    }

    /// A plugin that logs each step of a start.
    pub async fn tracing(_host: &Host) -> Self {
        let trace = ("RUST_LOG", "nomad_driver_systemd=trace");
        Self::in_directory(Path::new("/var/lib/nomad-driver-systemd"), "", None, &[trace]).await
    }

    /// A plugin with these options that does not run as root, and runs its tasks under a systemd user manager.
    pub async fn of_user(user: User, options: &str) -> Self {
        Self::in_directory(&user.home(), &format!("manager = \"user\"\n{options}"), Some(user), &[]).await
    }

    /// A plugin in a mount namespace of its own, as that of an agent whose service has `PrivateMounts=yes`.
    pub async fn with_private_mounts(host: &Host, options: &str) -> Self {
        let mut node = Self::configured(host, options).await;
        node.has_private_mounts = true;
        node.restart().await;
        node
    }

    async fn in_directory(base: &Path, options: &str, owner: Option<User>, env: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(base).expect("a directory for the test");
        let data =
            tempfile::Builder::new().prefix("test-").tempdir_in(base).expect("a directory for the test");
        std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o711))
            .expect("our own directory");
        let state = if options.contains("state_dir") {
            String::new()
        } else {
            format!("state_dir = {:?}\n", data.path().join("state").display().to_string())
        };
        let shim = if options.contains("shim_dir") {
            String::new()
        } else {
            format!("shim_dir = {:?}\n", programs().display().to_string())
        };
        let config = format!("{options}\n{state}{shim}");
        if let Some(owner) = owner {
            owner.own(data.path());
        }
        Self::launched(config, data, env, owner).await
    }

    /// A plugin without a bus.
    pub async fn without_systemd(_host: &Host) -> Self {
        let data = tempfile::tempdir().expect("a directory for the test");
        Self::launched(String::new(), data, &[("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/no/such/socket")], None)
            .await
    }

    async fn launched(
        config: String,
        data: tempfile::TempDir,
        env: &[(&str, &str)],
        owner: Option<User>,
    ) -> Self {
        let (plugin, records) = launch(&config, env, owner, false).await.expect("the plugin starts");
        Self { plugin, config, records, data: Arc::new(data), found: None, owner, has_private_mounts: false }
    }

    /// The error of the plugin for a configuration that it rejects.
    pub async fn refusal(options: &str) -> String {
        match launch(options, &[], None, false).await {
            Ok(_) => panic!("the plugin takes `{options}`"),
            Err(error) => nomad_driver_systemd::chain(&error),
        }
    }

    /// The plugin itself.
    pub fn plugin(&mut self) -> &mut Plugin {
        &mut self.plugin
    }

    /// The driver service of the plugin, as Nomad calls it.
    pub fn driver(&self) -> DriverClient<Channel> {
        self.plugin.driver()
    }

    /// The events of tasks, from this point.
    pub async fn events(&self) -> Events {
        let events = self.plugin.driver().task_events(TaskEventsRequest {}).await;
        Events(events.expect("the stream opens").into_inner())
    }

    /// The resource usage of a task, as a stream.
    pub async fn stats(&self, task: &Task, every: Duration) -> Streaming<TaskStatsResponse> {
        let collection_interval = Some(prost_types::Duration::try_from(every).expect("a short time"));
        let request = TaskStatsRequest { task_id: task.id.clone(), collection_interval };
        self.plugin.driver().task_stats(request).await.expect("the stream opens").into_inner()
    }

    /// The plugin's log.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().expect("nobody panics here").clone()
    }

    /// The directory of the plugin's persistent state.
    pub fn state_dir(&self) -> PathBuf {
        self.data.path().join("state")
    }

    /// Kills the plugin and starts a new one with the same configuration, as Nomad does when a plugin has died.
    pub async fn restart(&mut self) {
        self.plugin.kill().await;
        let started = launch(&self.config, &[], self.owner, self.has_private_mounts).await;
        let (plugin, records) = started.expect("the plugin starts again");
        (self.plugin, self.records, self.found) = (plugin, records, None);
    }

    /// The agent dies and leaves the plugin; a new one finds it by process and socket, and does not configure it.
    #[must_use]
    pub async fn after_the_agents_death(mut self) -> Self {
        self.lose_the_agent().await;
        self
    }

    /// The same, also for a plugin that was already reattached before.
    pub async fn lose_the_agent(&mut self) {
        let (pid, socket) = (self.plugin.pid(), self.plugin.socket().expect("a socket"));
        let found = Plugin::reattach(pid, socket).await.expect("the plugin lives");
        std::mem::replace(&mut self.plugin, found).abandon();
        // An earlier agent's record of it would end it.
        std::mem::forget(self.found.replace(Found(pid)));
    }

    /// Starts a task; it must start.
    pub async fn run(&self, job: Job) -> Task {
        match self.try_run(job).await {
            Ok(task) => task,
            Err(refusal) => panic!("{refusal}"),
        }
    }

    /// Lays out a task's directories and asks the plugin to start it.
    pub async fn try_run(&self, job: Job) -> Result<Task, Refusal> {
        let prepared = self.prepare(&job);
        self.begin(prepared).await
    }

    /// The steps of Nomad before it calls the plugin.
    pub fn prepare(&self, job: &Job) -> Prepared {
        let alloc = match AllocDir::create(self.data.path(), &job.request.alloc_id) {
            Ok(alloc) => alloc,
            Err(_) => AllocDir::existing(&self.data.path().join(&job.request.alloc_id)),
        };
        let dir = alloc.task(&job.request.task).expect("its task");
        for (name, content) in &job.files {
            std::fs::write(dir.local.join(name), content).expect("its files");
        }
        let logs = alloc.logs(&job.request.task).expect("its logs");
        if let Some(owner) = self.owner {
            owner.own(alloc.path());
        }
        let mut request = job.request.clone();
        request.config = job.msgpack();
        alloc.path().clone_into(&mut request.alloc_dir);
        (request.stdout, request.stderr) = (logs.stdout.path.clone(), logs.stderr.path.clone());
        let directories =
            [("NOMAD_TASK_DIR", "/local"), ("NOMAD_ALLOC_DIR", "/alloc"), ("NOMAD_SECRETS_DIR", "/secrets")];
        for (name, path) in directories {
            request.env.entry(name.to_owned()).or_insert_with(|| path.to_owned());
        }
        Prepared { config: request.task_config(), alloc, logs }
    }

    /// Calls the plugin to start the prepared task.
    pub async fn begin(&self, prepared: Prepared) -> Result<Task, Refusal> {
        let request = StartTaskRequest { task: Some(prepared.config.clone()) };
        let started = self.plugin.driver().start_task(request).await;
        let handle = match started {
            Ok(answer) => answer.into_inner().handle.expect("a handle, without which Nomad loses the task"),
            Err(status) => return Err(refused("StartTask", &status)),
        };
        // As Nomad does, as soon as it has reported the start.
        let (mut driver, request) = (self.driver(), WaitTaskRequest { task_id: prepared.config.id.clone() });
        tokio::spawn(async move { driver.wait_task(request).await });
        Ok(self.begun(prepared, handle))
    }

    /// The task that was prepared, with the handle that the plugin gave for it.
    pub fn begun(&self, prepared: Prepared, handle: TaskHandle) -> Task {
        let Prepared { config, alloc, logs } = prepared;
        let data = Arc::clone(&self.data);
        Task { id: config.id, name: config.name, handle, alloc, logs: Some(logs), data, owner: self.owner }
    }

    /// Starts a destroyed task again, with this `config`, in its existing directories and with its logs.
    pub async fn start_again(&self, mut task: Task, config: TaskConfig) -> Result<Task, Refusal> {
        let request = StartTaskRequest { task: Some(config.clone()) };
        let answer =
            self.plugin.driver().start_task(request).await.map_err(|status| refused("StartTask", &status))?;
        task.handle = answer.into_inner().handle.expect("a handle, without which Nomad loses the task");
        task.id = config.id;
        Ok(task)
    }

    /// Waits for the end of a task.
    pub async fn wait(&self, task: &Task) -> Exit {
        let request = WaitTaskRequest { task_id: task.id.clone() };
        let waiting = tokio::time::timeout(SOON, self.plugin.driver().wait_task(request)).await;
        waiting.expect("the task ends").expect("WaitTask answers").into_inner().into()
    }

    /// Stops a task.
    pub async fn stop(&self, task: &Task, signal: &str, patience: Duration) -> Result<(), Refusal> {
        let timeout = prost_types::Duration::try_from(patience).expect("a short time");
        let request =
            StopTaskRequest { task_id: task.id.clone(), timeout: Some(timeout), signal: signal.to_owned() };
        self.plugin.driver().stop_task(request).await.map(drop).map_err(|status| refused("StopTask", &status))
    }

    /// Sends a task a signal.
    pub async fn signal(&self, task: &Task, signal: &str) -> Result<(), Refusal> {
        let request = SignalTaskRequest { task_id: task.id.clone(), signal: signal.to_owned() };
        self.plugin
            .driver()
            .signal_task(request)
            .await
            .map(drop)
            .map_err(|status| refused("SignalTask", &status))
    }

    /// Destroys a task.
    pub async fn destroy(&self, task: &Task, force: bool) -> Result<(), Refusal> {
        let request = DestroyTaskRequest { task_id: task.id.clone(), force };
        self.plugin
            .driver()
            .destroy_task(request)
            .await
            .map(drop)
            .map_err(|status| refused("DestroyTask", &status))
    }

    /// The plugin's status of a task.
    pub async fn inspect(&self, task: &Task) -> Result<InspectTaskResponse, Refusal> {
        let request = InspectTaskRequest { task_id: task.id.clone() };
        let answer = self.plugin.driver().inspect_task(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| refused("InspectTask", &status))
    }

    /// The state that Nomad gets.
    pub async fn state(&self, task: &Task) -> TaskState {
        self.inspect(task).await.expect("the task is known").task.expect("a status").state()
    }

    /// The unit of a task.
    pub async fn unit(&self, task: &Task) -> String {
        let attributes =
            self.inspect(task).await.expect("the task is known").driver.expect("a status").attributes;
        attributes.get("unit").expect("the unit's name").clone()
    }

    /// Gives the plugin the handle that Nomad kept. After a restart of the agent, the handle does not contain the
    /// driver's configuration.
    pub async fn recover(&self, task: &Task) -> Result<(), Refusal> {
        let mut handle = task.handle.clone();
        if let Some(config) = &mut handle.config {
            config.msgpack_driver_config.clear();
        }
        let request = RecoverTaskRequest { task_id: String::new(), handle: Some(handle) };
        self.plugin
            .driver()
            .recover_task(request)
            .await
            .map(drop)
            .map_err(|status| refused("RecoverTask", &status))
    }

    /// Waits for the end, destroys the task, and returns its exit, stdout and stderr.
    pub async fn finish(&self, mut task: Task) -> (Exit, String, String) {
        let exit = self.wait(&task).await;
        self.destroy(&task, true).await.expect("a task that ended can be destroyed");
        let (output, errors) = task.output().await;
        (exit, output, errors)
    }

    /// The output of a job, which must exit with 0.
    pub async fn output_of(&self, job: Job) -> String {
        let task = self.run(job).await;
        let (exit, output, errors) = self.finish(task).await;
        assert_eq!(exit, Exit::status(0), "{output}{errors}");
        output
    }
}

pub(crate) fn refused(call: &'static str, status: &Status) -> Refusal {
    CallError::new(call, status)
}

type Launched = (Plugin, Arc<Mutex<Vec<Record>>>);

async fn launch(
    config: &str,
    env: &[(&str, &str)],
    owner: Option<User>,
    has_private_mounts: bool,
) -> Result<Launched, nomad_local::plugin_client::Error> {
    const APART: [&str; 4] = ["--mount", "--propagation", "slave", "--"];
    let records = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&records);
    let launch = match owner {
        Some(owner) => owner.launch(),
        None if has_private_mounts => APART
            .into_iter()
            .fold(Launch::new("/usr/bin/unshare"), Launch::arg)
            .arg(program("nomad-driver-systemd")),
        None => Launch::new(program("nomad-driver-systemd")),
    };
    let launch = launch.records(move |record| sink.lock().expect("nobody panics here").push(record.clone()));
    let launch = env.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    let plugin = Plugin::launch(launch).await?;
    let body = hcl::parse(config).expect("the test's own text");
    plugin.configure(&body, &Machine::of_this_machine()).await?;
    Ok((plugin, records))
}
