//! Errors of calls to systemd.

use super::features::Manager;
use super::name::UnitName;

/// Why systemd did not do what the driver requested. The message names the act and the unit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bus, or no systemd that answers on it.
    #[error(
        "connect to systemd on the {manager} bus (is this machine booted with systemd, and is dbus running?)"
    )]
    Connect {
        /// The manager.
        manager: Manager,
        /// The error of the bus.
        source: Box<zbus::Error>,
    },
    /// The bus or systemd refused a call.
    #[error("{act} {thing}")]
    Call {
        /// What was to be done, for example `start unit`.
        act: &'static str,
        /// The unit or property of the call.
        thing: String,
        /// The error of systemd or the bus.
        source: Box<zbus::Error>,
    },
    /// The driver is not root, and polkit denies the request.
    #[error(
        "start unit {unit}: polkit does not let this user start units; install examples/nomad-driver-systemd.rules, a rule that does (it needs \
         systemd 257 or newer, which tells polkit the name of the unit)"
    )]
    Denied {
        /// The unit's name.
        unit: UnitName,
    },
    /// systemd refuses the request because the name is taken.
    #[error("start unit {unit}: a unit of that name is there already")]
    Exists {
        /// The name that is taken.
        unit: UnitName,
    },
    /// The unit was created, but the program was never executed.
    #[error("start unit {unit}: {words} ({status})")]
    Step {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's exit status for the step, 200 to 245 (systemd.exec(5), "Process Exit Codes").
        status: i32,
        /// systemd's own message, for example `Failed at step EXEC spawning /x: No such file or directory`.
        words: String,
    },
    /// The unit was created, but the init of its program failed.
    #[error("start unit {unit}: {words}")]
    Init {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// What the init could not do.
        words: String,
    },
    /// The unit was created, but its program did not run.
    #[error("start unit {unit}: systemd did not run the program, the start ended as `{result}`")]
    NotStarted {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's result, for example `resources` or `canceled`.
        result: String,
    },
    /// The unit was created and its program ran, but did not report that it was ready.
    #[error("start unit {unit}: the program was not ready: {how}")]
    NotReady {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// For example `before it ended with status 1`.
        how: String,
        /// The status that the program reported (`STATUS=`, sd_notify(3)).
        said: String,
    },
    /// A socket of the unit could not be opened.
    #[error("open the sockets of unit {unit}: {words}")]
    Sockets {
        /// The unit, which has been removed again.
        unit: UnitName,
        /// systemd's own message, for example `Failed to create listening socket (127.0.0.1:80): Address already in
        /// use`.
        words: String,
    },
    /// A value that could become more of the unit than its own property.
    #[error("unit {unit}, property `{property}`: {why}")]
    Unfit {
        /// The unit of the property.
        unit: String,
        /// The property's name in systemd.
        property: String,
        /// The reason, a whole clause.
        why: String,
    },
    /// systemd took longer than the driver waits.
    #[error("{act} {unit}: systemd did not finish in time")]
    Slow {
        /// What was to be done, for example `start unit`.
        act: &'static str,
        /// The unit.
        unit: UnitName,
    },
    /// There is no such unit.
    #[error("find unit {unit}: systemd does not know it (it was removed, or the machine has rebooted)")]
    NoSuchUnit {
        /// The name of the missing unit.
        unit: UnitName,
    },
}

impl Error {
    /// Was the connection lost before the answer? Then it is unknown whether systemd has read the call.
    pub(super) fn is_lost_connection(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Call { source, .. } => match &**source {
                // After a timeout systemd is busy, but has the call and will execute it.
                zbus::Error::InputOutput(error) => error.kind() != std::io::ErrorKind::TimedOut,
                // systemd is re-executing itself, or the bus does not know it yet.
                error => ["NoReply", "Disconnected", "ServiceUnknown", "NameHasNoOwner"]
                    .iter()
                    .any(|name| is_named(error, name)),
            },
            _ => false,
        }
    }

    /// May the same call succeed a little later? Not if systemd has understood the request, and refuses it.
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

/// The error for a property of this unit that cannot be sent.
pub(super) fn unfit(unit: &str, (property, why): (String, String)) -> Error {
    Error::Unfit { unit: unit.to_owned(), property, why }
}

/// Is this the D-Bus error whose name ends with `end`, for example `NoSuchUnit`?
pub(super) fn is_named(error: &zbus::Error, end: &str) -> bool {
    use zbus::DBusError;
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str().to_owned(),
        zbus::Error::FDO(error) => error.name().to_string(),
        _ => return false,
    };
    name.rsplit('.').next() == Some(end)
}
