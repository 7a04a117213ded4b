//! The allocation of a job, and the events of its task.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Agent, Said};
use super::service::Service;
use super::spec::Spec;
use crate::{SOON, eventually};

/// Numbers of the jobs.
static NUMBER: AtomicU32 = AtomicU32::new(1);

impl Agent {
    /// Submits a job and waits for its allocation.
    pub async fn run(&self, spec: Spec) -> Alloc<'_> {
        self.run_on(self.driver(), spec).await
    }

    /// The same, with another driver.
    pub async fn run_on(&self, driver: &str, spec: Spec) -> Alloc<'_> {
        let job = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.put("/v1/jobs", &spec.submission(&job, driver));
        self.placed(job).await
    }

    /// The same, for text that a job file contains in its group and in its only task.
    pub async fn run_file(&self, group: &str, task: &str) -> Alloc<'_> {
        let job = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let driver = self.driver();
        let text = format!(
            r#"job "{job}" {{
                type = "batch"
                group "group" {{
                    restart {{
                        attempts = 0
                        mode     = "fail"
                    }}
                    reschedule {{
                        attempts  = 0
                        unlimited = false
                    }}
                    {group}
                    task "main" {{
                        driver = "{driver}"
                        {task}
                    }}
                }}
            }}"#
        );
        let output = self.nomad(&["job", "run", "-detach", "-"], &text).await;
        assert_eq!(output.status, 0, "{output:?} {text}");
        self.placed(job).await
    }

    /// Submits a job file as it is, with values of its variables such as `module=x`; `job` is its name.
    pub async fn run_job_file(&self, job: &str, file: &Path, variables: &[&str]) -> Alloc<'_> {
        let mut args = vec!["job", "run", "-detach"];
        args.extend(variables.iter().flat_map(|variable| ["-var", variable]));
        let file = file.display().to_string();
        args.push(&file);
        let output = self.nomad(&args, "").await;
        assert_eq!(output.status, 0, "{output:?}");
        self.placed(job.to_owned()).await
    }

    async fn placed(&self, job: String) -> Alloc<'_> {
        // From this point the job is purged, whatever happens.
        let mut alloc = Alloc { agent: self, job, id: String::new() };
        alloc.id = eventually("the job is placed", async || {
            let placed = self.get(&format!("/v1/job/{}/allocations", alloc.job));
            placed[0]["ID"].as_str().map(str::to_owned)
        })
        .await;
        alloc
    }
}

/// The one allocation of a job. The job is purged when this is dropped.
pub struct Alloc<'a> {
    agent: &'a Agent,
    job: String,
    id: String,
}

/// An event of a task, as Nomad reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `Started`, `Terminated`, ….
    pub kind: String,
    /// The message for the operator.
    pub message: String,
    /// The time of the event, since 1970.
    pub at: Duration,
    /// Of `Terminated`: exit code, signal, and whether the task was killed by the OOM killer.
    pub end: (i32, i32, bool),
}

impl Alloc<'_> {
    /// The id of the allocation.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of the job.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The allocation's directory on the host.
    pub fn dir(&self) -> PathBuf {
        self.agent.service.dir.join("client/alloc").join(&self.id)
    }

    /// A file of `alloc/data`, which all tasks of the allocation share with the test.
    pub fn shared_file(&self, name: &str) -> PathBuf {
        self.dir().join("alloc/data").join(name)
    }

    /// The state in Nomad's API.
    fn state(&self) -> Value {
        self.agent.get(&format!("/v1/allocation/{}", self.id))
    }

    fn events(&self) -> Vec<Event> {
        self.state()["TaskStates"]["main"]["Events"].as_array().into_iter().flatten().map(event).collect()
    }

    /// Polls like [`eventually`], and reports the last state if it fails.
    async fn until<T>(&self, what: &str, ask: impl Fn() -> Result<T, String>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            match ask() {
                Ok(answer) => return answer,
                Err(state) if Instant::now() > deadline => {
                    panic!("waited {SOON:?} in vain: {what}, but {state}; {:?}", self.events())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits for the end of the allocation; returns its client status and the events of its task.
    pub async fn ended(&self) -> (String, Vec<Event>) {
        let status = || match self.state()["ClientStatus"].as_str() {
            Some(status) if is_end(status) => Ok(status.to_owned()),
            other => Err(format!("it is {other:?}")),
        };
        (self.until("it ends", status).await, self.events())
    }

    /// Waits for the end of the task: exit code, signal, and whether it was killed by the OOM killer.
    pub async fn end(&self) -> (i32, i32, bool) {
        let (_, events) = self.ended().await;
        let last = events.iter().rev().find(|event| event.kind == "Terminated");
        last.unwrap_or_else(|| panic!("it never ran: {events:?}")).end
    }

    /// Waits until Nomad reports the task, and this many restarts.
    pub async fn was_restarted(&self, times: u64) {
        let told = || match self.state()["TaskStates"]["main"]["Restarts"].as_u64() {
            Some(told) if told == times => Ok(()),
            other => Err(format!("{other:?}")),
        };
        self.until(&format!("it was restarted {times} times"), told).await;
    }

    /// Waits until the stdout of the task contains this text, and returns all of it.
    pub async fn says(&self, text: &str) -> String {
        let path = format!("/v1/client/fs/logs/{}?task=main&type=stdout&plain=true", self.id);
        let url = format!("{}{path}", self.agent.service.address);
        let output = || match self.agent.service.ask("GET", &url, "") {
            Ok(output) if output.contains(text) => Ok(output),
            other => Err(format!("{other:?}")),
        };
        self.until(&format!("it says {text:?}"), output).await
    }

    /// Waits until an event of the task contains this text.
    pub async fn tells(&self, text: &str) {
        let told = || match self.events() {
            events if events.iter().any(|event| event.message.contains(text)) => Ok(()),
            _ => Err("no event does".to_owned()),
        };
        self.until(&format!("an event tells {text:?}"), told).await;
    }

    /// Waits for the end of a task that must exit with 0 and print exactly this text.
    pub async fn prints(&self, text: &str) {
        assert_eq!(self.end().await, (0, 0, false), "{:?}", self.events());
        assert_eq!(self.says(text).await, text);
    }

    /// `nomad alloc COMMAND [OPTION]... ID`, which must succeed.
    pub async fn order(&self, args: &[&str]) {
        let output = self.agent.nomad(&[&["alloc"], args, &[&self.id]].concat(), "").await;
        assert_eq!(output.status, 0, "{args:?}: {output:?}");
    }

    /// Stops the job, without waiting for its end.
    pub async fn stop(&self) {
        let output = self.agent.nomad(&["job", "stop", "-detach", &self.job], "").await;
        assert_eq!(output.status, 0, "{output:?}");
    }

    /// Runs a shell script in the running task.
    pub async fn exec(&self, script: &str, input: &str) -> Said {
        let args = ["alloc", "exec", "-t=false", "-task", "main", &self.id, "/bin/sh", "-c", script];
        self.agent.nomad(&args, input).await
    }

    /// All processes of the allocation on the host, the oldest first: they have its id in their environment.
    pub fn processes(&self) -> Vec<u32> {
        let wanted = format!("NOMAD_ALLOC_ID={}", self.id);
        let own = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        let listed = fs::read_dir("/proc").expect("/proc can be read");
        let pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut found: Vec<u32> = pids.filter(own).collect();
        found.sort_unstable();
        found
    }

    /// Waits until no process of the allocation is left.
    pub async fn has_no_process(&self) {
        let processes = || Some(self.processes()).filter(|left| !left.is_empty());
        self.until("all its processes end", || {
            processes().map_or(Ok(()), |left| Err(format!("{left:?} live")))
        })
        .await;
    }
}

fn is_end(status: &str) -> bool {
    matches!(status, "complete" | "failed" | "lost")
}

fn event(told: &Value) -> Event {
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| told["Details"][name].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    Event {
        kind: text("Type"),
        message: text("DisplayMessage"),
        at: Duration::from_nanos(told["Time"].as_u64().unwrap_or_default()),
        end: (number("exit_code"), number("signal"), told["Details"]["oom_killed"] == "true"),
    }
}

impl Drop for Alloc<'_> {
    /// Purges the job and waits for its end, so that nothing of the job is left when the agent is ended.
    fn drop(&mut self) {
        let Service { address, .. } = self.agent.service;
        let url = format!("{address}/v1/job/{}?purge=true", self.job);
        let asked = self.agent.service.ask("DELETE", &url, "");
        let deadline = Instant::now() + Duration::from_secs(20);
        while asked.is_ok() && Instant::now() < deadline {
            if self.state()["ClientStatus"].as_str().is_none_or(is_end) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
