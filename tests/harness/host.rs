//! The machine that a test runs on.
//!
//! `tests/host` gives a command a systemd; cargo starts each test binary through it (`.cargo/config.toml`). So a test
//! already runs on a host and only states its requirements.

use std::path::Path;
use std::process::Command;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The requirements of a test on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Root, and systemd on the system bus: the namespace host provides this.
    Systemd,
    /// The same, and all cgroup controllers: the virtual machine provides this.
    Controllers,
}

/// The machine a test runs on, which meets the test's requirements.
#[derive(Debug)]
pub struct Host {
    #[allow(dead_code, reason = "held while the test runs")]
    use_of_it: Use,
}

#[derive(Debug)]
#[allow(dead_code, reason = "held while the test runs")]
enum Use {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Most tests share the host; tests that break something that all rely on run exclusively.
static IN_USE: RwLock<()> = RwLock::const_new(());

impl Host {
    /// This machine, or none if it does not meet the requirements; then the reason is printed, and under CI it is a
    /// failure: there, no test may be skipped for want of a host.
    pub async fn with(need: Need) -> Option<Self> {
        Self::fits(need).then_some(Self { use_of_it: Use::Shared(IN_USE.read().await) })
    }

    /// The same machine, without other tests on it meanwhile.
    pub async fn alone(need: Need) -> Option<Self> {
        Self::fits(need).then_some(Self { use_of_it: Use::Alone(IN_USE.write().await) })
    }

    fn fits(need: Need) -> bool {
        let Some(lack) = lack(need) else {
            return true;
        };
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "this host lacks {lack}");
        eprintln!("skipped: this host lacks {lack}; run tests/run as root");
        false
    }

    /// The names of all units with `text` in them, whatever their state.
    pub fn units(&self, text: &str) -> Vec<String> {
        let pattern = format!("*{text}*");
        let listed = self
            .run("systemctl", &["list-units", "--all", "--plain", "--no-legend", "--full", "--", &pattern]);
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// A property of a unit, as `systemctl show` prints it.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.run("systemctl", &["show", "--property", name, "--value", "--", unit]);
        shown.trim_end().to_owned()
    }

    /// The output of a command, which must succeed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).output().expect("the command can be started");
        assert!(
            output.status.success(),
            "{program} {args:?}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }
}

fn lack(need: Need) -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("root");
    }
    if !Path::new("/run/systemd/system").is_dir() {
        return Some("systemd");
    }
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let all = ["cpu", "memory", "pids"]
        .iter()
        .all(|wanted| controllers.split_whitespace().any(|one| one == *wanted));
    (need == Need::Controllers && !all).then_some("the cgroup controllers cpu, memory and pids")
}

/// A drop-in for the units of one task, as an administrator may have one for all of them (systemd.unit(5)).
#[derive(Debug)]
pub struct DropIn(std::path::PathBuf);

impl DropIn {
    /// Applies to the units of this allocation that are started later.
    pub fn new(alloc_id: &str, text: &str) -> Self {
        let directory = format!("/run/systemd/system/nomad-{}-.service.d", &alloc_id[..8]);
        std::fs::create_dir_all(&directory).expect("a directory for the drop-in");
        std::fs::write(Path::new(&directory).join("test.conf"), text).expect("the drop-in");
        Self(directory.into())
    }
}

impl Drop for DropIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
