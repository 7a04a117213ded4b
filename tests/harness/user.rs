//! An unprivileged user of the host with a systemd user manager, as a login or `loginctl enable-linger` starts one.

use std::path::{Path, PathBuf};
use std::process::Command;

use nomad_local::plugin_client::Launch;
use tokio::sync::OnceCell;

use crate::{Host, program};

/// The user. A host has one, who stays when the tests have finished, as the host is discarded.
#[derive(Debug, Clone, Copy)]
pub struct User {
    name: &'static str,
    uid: u32,
    /// An agent of this user is itself a unit of their user manager.
    has_agent_as_unit: bool,
}

/// Not a UID that `useradd` would give to somebody else.
const UID: u32 = 4711;
const NAME: &str = "tasker";

/// What a session provides and a host without sessions lacks: the user, their runtime directory, a bus, and their user
/// manager in a cgroup that they own. They may read the journal, as administrators may. (The mount point for message
/// queues is always there on a machine that was booted.)
const SETUP: &str = r"
set -e
id tasker >/dev/null 2>&1 || useradd --create-home --uid 4711 --groups systemd-journal --shell /bin/sh tasker
mkdir -p /dev/mqueue
run=/run/user/4711
install -d -o tasker -g tasker -m 700 $run
setpriv --reuid 4711 --regid 4711 --init-groups sh -e <<'AS_USER'
units=/run/user/4711/systemd/user
mkdir -p $units/sockets.target.wants
printf '[Socket]\nListenStream=%%t/bus\n' >$units/dbus.socket
printf '[Unit]\nRequires=dbus.socket\n[Service]\nExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only\n' >$units/dbus.service
ln -sf ../dbus.socket $units/sockets.target.wants/dbus.socket
AS_USER
systemctl is-active --quiet systemd-of-tasker || systemd-run --quiet --unit=systemd-of-tasker --uid=4711 \
    -p Type=notify -p Delegate=yes -p KillMode=mixed -E XDG_RUNTIME_DIR=$run -E HOME=/home/tasker \
    /lib/systemd/systemd --user
";

impl User {
    /// The host's user, with their user manager.
    pub async fn of(host: &Host) -> Self {
        static USER: OnceCell<User> = OnceCell::const_new();
        let make = async || {
            host.run("sh", &["-c", SETUP]);
            Self { name: NAME, uid: UID, has_agent_as_unit: false }
        };
        *USER.get_or_init(make).await
    }

    /// The same user, who starts an agent not from a session, but as a unit of their user manager.
    #[must_use]
    pub fn with_the_agent_as_a_unit(self) -> Self {
        Self { has_agent_as_unit: true, ..self }
    }

    /// The UID of the user.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The home directory of the user.
    pub fn home(&self) -> PathBuf {
        Path::new("/home").join(self.name)
    }

    /// The directory in which their user manager and their driver keep files until the next boot.
    pub fn runtime_dir(&self) -> PathBuf {
        PathBuf::from(format!("/run/user/{}", self.uid))
    }

    /// The output of a command of this user; it must succeed.
    pub fn run(&self, host: &Host, args: &[&str]) -> String {
        let all = self.words();
        let all: Vec<&str> = all.iter().map(String::as_str).chain(args.iter().copied()).collect();
        host.run("setpriv", &all)
    }

    /// A command of this user, which may fail.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(self.words()).args(args).current_dir("/");
        command
    }

    /// The names of all units of their user manager with `text` in them, whatever their state.
    pub fn units(&self, host: &Host, text: &str) -> Vec<String> {
        let pattern = format!("*{text}*");
        let args = ["list-units", "--all", "--plain", "--no-legend", "--full", "--", &pattern];
        let listed = self.run(host, &[&["systemctl", "--user"], &args[..]].concat());
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// Makes the user the owner of everything in a directory.
    pub(crate) fn own(&self, directory: &Path) {
        let owner = format!("{0}:{0}", self.uid);
        let done = Command::new("chown").args(["-hR", &owner, "--"]).arg(directory).status();
        assert!(done.expect("chown can be started").success(), "{}", directory.display());
    }

    /// The plugin, as an agent of this user starts it.
    pub(crate) fn launch(&self) -> Launch {
        let within: &[&str] =
            if self.has_agent_as_unit { &["systemd-run", "--user", "--scope", "--quiet"] } else { &[] };
        let words = self.words().into_iter().chain(within.iter().map(ToString::to_string));
        let launch = words.fold(Launch::new("/usr/bin/setpriv"), Launch::arg);
        launch.arg(program("nomad-driver-systemd"))
    }

    /// Ends the processes that a test has left in a unit.
    pub(crate) fn remove(&self, unit: &str) {
        for action in [&["kill", "--signal=KILL"][..], &["stop"], &["reset-failed"]] {
            let _ = self.command(&[&["systemctl", "--user"], action, &["--", unit]].concat()).output();
        }
    }

    /// The arguments of `setpriv`. The plugin has to find the bus by itself.
    fn words(&self) -> Vec<String> {
        let Self { name, uid, .. } = self;
        [
            format!("--reuid={uid}"),
            format!("--regid={uid}"),
            "--init-groups".to_owned(),
            "env".to_owned(),
            format!("HOME={}", self.home().display()),
            format!("USER={name}"),
            format!("LOGNAME={name}"),
            format!("XDG_RUNTIME_DIR={}", self.runtime_dir().display()),
        ]
        .to_vec()
    }
}
