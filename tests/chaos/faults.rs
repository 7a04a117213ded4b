//! Faults that happen to the tasks: of plugin, agent, bus and systemd.

use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use proto::driver::{DestroyTaskRequest, ShutdownRequest, StartTaskRequest, StopTaskRequest};
use proto::plugin::grpc_controller_client::GrpcControllerClient;
use tests::{SOON, eventually};
use tonic::Status;

use super::fate::Ending;
use super::population::World;
use super::run::{Run, wait_for};

impl World {
    /// Injects a fault. Its name is for the log.
    pub(crate) async fn suffer(&mut self) -> &'static str {
        self.compare_what_was_told().await;
        let (what, ()) = match self.dice.roll(11) {
            0 => ("plugin killed", self.plugin_killed().await),
            1 => ("agent stopped", self.agent_stopped().await),
            2 => ("agent killed", self.agent_killed().await),
            3 => ("handle lost", self.handle_lost().await),
            4 => ("bus killed", self.bus_killed().await),
            5 => ("systemd executed anew", self.systemd_reexecuted().await),
            6 => ("systemd reloaded", self.systemd_reloaded().await),
            7 => ("failure in start", self.failure_in_start().await),
            8 => ("failure in stop", self.failure_in_stop().await),
            9 => ("failure in destroy", self.failure_in_destroy().await),
            _ => ("failure in recover", self.failure_in_recover().await),
        };
        what
    }

    /// The plugin dies, and Nomad starts another.
    async fn plugin_killed(&mut self) {
        self.node.restart().await;
        self.find_all_again().await;
    }

    /// The agent is stopped, and with it the plugin; both are started again.
    async fn agent_stopped(&mut self) {
        let plugin = self.node.plugin();
        plugin.driver().shutdown(ShutdownRequest {}).await.unwrap();
        GrpcControllerClient::new(plugin.channel()).shutdown(proto::plugin::Empty {}).await.unwrap();
        assert!(plugin.ended(Duration::from_secs(2)).await, "the plugin ends when it is told to");
        self.plugin_killed().await;
    }

    /// The agent dies, and the next one finds the plugin running.
    async fn agent_killed(&mut self) {
        self.runs.iter().for_each(|run| run.waiting.abort());
        self.node.lose_the_agent().await;
        self.find_all_again().await;
    }

    /// A new agent, or an agent with a new plugin, recovers every task by its handle and waits for it again.
    async fn find_all_again(&mut self) {
        let found = join_all(self.runs.iter().map(|run| self.node.recover(&run.task))).await;
        for (run, found) in self.runs.iter_mut().zip(found) {
            found.unwrap_or_else(|refusal| panic!("{refusal}: {}", run.story()));
            run.waiting.abort();
            run.waiting = wait_for(&mut self.node, &run.task);
        }
    }

    /// The agent dies before it has noted that a task was started.
    async fn handle_lost(&mut self) {
        self.come_to_rest().await;
        let fate = self.any_fate();
        let prepared = self.node.prepare(&fate.job(1));
        let mut config = prepared.config.clone();
        let first = self.node.begin(prepared).await.unwrap();
        match self.dice.roll(2) {
            0 => self.agent_killed().await,
            _ => self.plugin_killed().await,
        }
        // The next agent knows the allocation and its task, and creates a new id.
        config.id.replace_range(config.id.len() - 8.., "ffffffff");
        config.msgpack_driver_config = fate.job(2).msgpack();
        let second = self.node.start_again(first, config).await.unwrap();
        assert_eq!(self.host.units(&second.id[..36]).len(), 1, "{fate:?}");
        self.runs.push(Run::new(&mut self.node, fate, second, 2));
    }

    async fn bus_killed(&mut self) {
        self.is_shaken = true;
        kill_the_bus().await;
    }

    async fn systemd_reexecuted(&mut self) {
        self.is_shaken = true;
        command("systemctl", &["daemon-reexec"]).await;
    }

    async fn systemd_reloaded(&mut self) {
        command("systemctl", &["daemon-reload"]).await;
    }

    /// A moment in the middle of a call.
    fn moment(&mut self) -> Duration {
        Duration::from_millis(self.dice.roll(40))
    }

    /// Injects a fault in the middle of a call that was just made.
    async fn failure_soon(&mut self) {
        tokio::time::sleep(self.moment()).await;
        match self.dice.roll(5) {
            0 => self.bus_killed().await,
            1 => self.systemd_reexecuted().await,
            _ => self.plugin_killed().await,
        }
    }

    async fn failure_in_start(&mut self) {
        let fate = self.any_fate();
        let prepared = self.node.prepare(&fate.job(1));
        let mut driver = self.node.plugin().driver();
        let request = StartTaskRequest { task: Some(prepared.config.clone()) };
        let call = tokio::spawn(async move { driver.start_task(request).await });
        self.failure_soon().await;
        let task = match call.await.unwrap() {
            Ok(answer) => self.node.begun(prepared, answer.into_inner().handle.unwrap()),
            Err(status) => {
                assert!(is_of_a_dead_plugin(&status), "{status:?}: {fate:?}");
                self.come_to_rest().await;
                // Nomad repeats the call with the same id. The next plugin continues what a dead plugin had started.
                self.node.begin(prepared).await.unwrap()
            }
        };
        // The plugin that died may have answered the call.
        self.node.recover(&task).await.unwrap();
        self.runs.push(Run::new(&mut self.node, fate, task, 1));
    }

    async fn failure_in_stop(&mut self) {
        let fate = self.fate(&[Ending::Stopped]);
        let task = self.start(&fate).await;
        let mut run = Run::new(&mut self.node, fate, task, 1);
        run.has_started().await;
        run.is_ending = true;
        let mut driver = self.node.plugin().driver();
        let request = StopTaskRequest {
            task_id: run.task.id.clone(),
            timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            signal: "SIGTERM".to_owned(),
        };
        let call = tokio::spawn(async move { driver.stop_task(request).await });
        self.runs.push(run);
        self.failure_soon().await;
        if let Err(status) = call.await.unwrap() {
            assert!(is_of_a_dead_plugin(&status) || self.is_shaken, "{status:?}");
            // Nomad tries again, after a pause.
            self.come_to_rest().await;
            self.node.stop(&self.runs.last().unwrap().task, "SIGTERM", SOON).await.unwrap();
        }
    }

    async fn failure_in_destroy(&mut self) {
        let Some(last) = self.runs.len().checked_sub(1) else { return };
        let chosen = usize::try_from(self.dice.roll(last as u64 + 1)).unwrap();
        let run = self.runs.remove(chosen);
        run.has_started().await;
        let mut driver = self.node.plugin().driver();
        let request = DestroyTaskRequest { task_id: run.task.id.clone(), force: true };
        let call = tokio::spawn(async move { driver.destroy_task(request).await });
        self.failure_soon().await;
        if let Err(status) = call.await.unwrap() {
            // Nomad does not repeat a call to a plugin that is alive.
            assert!(is_of_a_dead_plugin(&status), "{status:?}: {}", run.story());
            self.node.destroy(&run.task, true).await.unwrap();
        }
        self.check_what_is_left(run, false);
    }

    async fn failure_in_recover(&mut self) {
        self.is_shaken = true;
        let (moment, kills_the_bus) = (self.moment(), self.dice.roll(2) == 0);
        let failure = async {
            tokio::time::sleep(moment).await;
            if kills_the_bus { kill_the_bus().await } else { command("systemctl", &["daemon-reexec"]).await }
        };
        self.node.restart().await;
        tokio::join!(self.find_all_again(), failure);
    }

    /// Waits until systemd can be reached, directly and over the bus.
    pub(crate) async fn come_to_rest(&mut self) {
        let (name, path) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
        command("busctl", &["call", name, path, "org.freedesktop.DBus.Peer", "Ping"]).await;
        command("systemctl", &["show", "--property=Version"]).await;
        self.is_shaken = false;
    }
}

/// Whether the call was not answered, as opposed to refused.
fn is_of_a_dead_plugin(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

async fn kill_the_bus() {
    // systemd starts it when a client connects, but not too often in a short time.
    for act in [&["reset-failed"][..], &["start"], &["kill", "--signal=KILL"]] {
        command("systemctl", &[act, &["dbus.service"]].concat()).await;
    }
}

/// Runs a command that must succeed, and retries while systemd or the bus is restarting.
async fn command(program: &str, args: &[&str]) {
    let run = async || Command::new(program).args(args).output().unwrap().status.success().then_some(());
    eventually(&format!("{program} {args:?}"), run).await;
}
