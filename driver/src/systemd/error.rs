//! Why systemd did not do what it was asked for.

use super::features::Manager;
use super::name::UnitName;

/// Why systemd did not do what we asked. The message names the act and the unit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bus, or nobody on it who answers as systemd.
    #[error(
        "connect to systemd on the {manager} bus (is this machine booted with systemd, and is dbus running?)"
    )]
    Connect {
        /// Which of them.
        manager: Manager,
        /// What the bus said.
        source: Box<zbus::Error>,
    },
    /// The bus or systemd refused a call.
    #[error("{act} {thing}")]
    Call {
        /// Such as `start unit`.
        act: &'static str,
        /// The unit or property it was about.
        thing: String,
        /// What systemd said.
        source: Box<zbus::Error>,
    },
    /// We are not root, and polkit does not let us.
    #[error(
        "start unit {unit}: polkit does not let this user start units; install examples/nomad-driver-systemd.rules, a rule that does (it needs \
         systemd 257 or newer, which tells polkit the name of the unit)"
    )]
    Denied {
        /// Its name.
        unit: UnitName,
    },
    /// The bus refuses to be asked because the name is taken.
    #[error("start unit {unit}: a unit of that name is there already")]
    Exists {
        /// The name that is taken.
        unit: UnitName,
    },
    /// The unit was made, but the program was never run.
    #[error("start unit {unit}: {words} ({status})")]
    Step {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's exit status for the step, 200 to 245 (systemd.exec(5), "Process Exit Codes").
        status: i32,
        /// systemd's own words, such as `Failed at step EXEC spawning /x: No such file or directory`.
        words: String,
    },
    /// The unit was made, and the init of its program could not do its part.
    #[error("start unit {unit}: {words}")]
    Init {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// What it could not do.
        words: String,
    },
    /// The unit was made, and its program did not come to run.
    #[error("start unit {unit}: systemd did not run the program, the start ended as `{result}`")]
    NotStarted {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's word, such as `resources` or `canceled`.
        result: String,
    },
    /// The unit was made and its program ran, but it did not say that it was ready.
    #[error("start unit {unit}: the program was not ready: {how}")]
    NotReady {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// Such as `before it ended with status 1`.
        how: String,
        /// What it said of itself (`STATUS=`, sd_notify(3)).
        said: String,
    },
    /// A socket that the unit was to have could not be opened.
    #[error("open the sockets of unit {unit}: {words}")]
    Sockets {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's own words, such as `Failed to create listening socket (127.0.0.1:80): Address already in use`.
        words: String,
    },
    /// A value that could become more of the unit than what it is.
    #[error("unit {unit}, property `{property}`: {why}")]
    Unfit {
        /// The unit it was for.
        unit: String,
        /// As systemd calls it.
        property: String,
        /// A whole clause.
        why: String,
    },
    /// systemd took longer than we wait.
    #[error("{act} {unit}: systemd did not finish in time")]
    Slow {
        /// Such as `start unit`.
        act: &'static str,
        /// The unit it was about.
        unit: UnitName,
    },
    /// There is no such unit.
    #[error("find unit {unit}: systemd does not know it (it was removed, or the machine has rebooted)")]
    NoSuchUnit {
        /// The name that is not there.
        unit: UnitName,
    },
}

impl Error {
    /// Was the connection lost before the answer? Then nobody knows whether the call was read.
    pub(super) fn is_lost_connection(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Call { source, .. } => match &**source {
                // A systemd that is busy for as long as that has the call, and will obey it.
                zbus::Error::InputOutput(error) => error.kind() != std::io::ErrorKind::TimedOut,
                // systemd executes itself anew, or the bus does not know it yet.
                error => ["NoReply", "Disconnected", "ServiceUnknown", "NameHasNoOwner"]
                    .iter()
                    .any(|name| is_named(error, name)),
            },
            _ => false,
        }
    }

    /// May the same succeed a little later? Not when systemd has understood what we want, and refuses.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Slow { .. }
            | Self::NotStarted { .. }
            | Self::NotReady { .. }
            | Self::Sockets { .. } => true,
            Self::Call { source, .. } => {
                !["InvalidArgs", "PropertyReadOnly", "ENXIO", "NoSuchUnit", "AccessDenied"]
                    .iter()
                    .any(|refusal| is_named(source, refusal))
            }
            Self::Denied { .. }
            | Self::Exists { .. }
            | Self::Step { .. }
            | Self::Init { .. }
            | Self::Unfit { .. }
            | Self::NoSuchUnit { .. } => false,
        }
    }
}

/// A property that cannot be sent, of this unit.
pub(super) fn unfit(unit: &str, (property, why): (String, String)) -> Error {
    Error::Unfit { unit: unit.to_owned(), property, why }
}

/// Is this the D-Bus error whose name ends so, such as `NoSuchUnit`?
pub(super) fn is_named(error: &zbus::Error, end: &str) -> bool {
    use zbus::DBusError;
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str().to_owned(),
        zbus::Error::FDO(error) => error.name().to_string(),
        _ => return false,
    };
    name.rsplit('.').next() == Some(end)
}
