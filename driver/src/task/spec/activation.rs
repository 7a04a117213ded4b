//! Sockets that are opened before a task starts, and tasks that report when they are ready.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::task::config::{NetworkMode, Notify, Socket, TaskConfig};
use crate::task::host::view::{PLAIN_PATH, is_plain};
use crate::task::refusal::{Error, check_label, duration};

/// Maximum number of sockets of a task.
const SOCKETS_MAX: usize = 32;

/// No program can report more often than this on a busy machine.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(100);

/// A socket of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name of the socket for the task.
    pub name: String,
    /// Where it listens.
    pub at: Address,
    /// Datagrams instead of connections.
    pub datagrams: bool,
    /// The mode of the socket's path.
    pub mode: Option<u32>,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and port, such as `127.0.0.1:80`.
    Port(SocketAddr),
    /// A path in the task's view.
    Path(PathBuf),
}

impl Address {
    fn is_path(&self) -> bool {
        matches!(self, Self::Path(_))
    }
}

/// What a task reports about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The task reports that it is ready, within this time.
    pub ready_within: Option<Duration>,
    /// The task sends watchdog messages at least this often.
    pub watchdog: Option<Duration>,
    /// Every process of the task may send messages.
    pub all: bool,
    /// The job has a `notify` block: the task may send other messages, too (`STATUS=`, sd_notify(3)). For a guest that
    /// serves wasm-shim sends them.
    pub speaks: bool,
}

/// The sockets of a task.
pub(crate) fn listeners(config: &TaskConfig) -> Result<Vec<Listener>, Error> {
    let requested = config.driver.socket.iter().map(|socket| listener(socket, config));
    let sockets = listener_of_server(config).transpose().into_iter().chain(requested);
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
    if sockets.len() > SOCKETS_MAX {
        let reason =
            format!("a task may have {SOCKETS_MAX} sockets: systemd itself holds all of them, for all tasks");
        return Err(Error::Refused { option: "socket".to_owned(), reason });
    }
    for (index, socket) in sockets.iter().enumerate() {
        let earlier = || sockets.iter().take(index);
        if earlier().any(|other| other.name == socket.name) {
            let wanted = "a name that no other socket of the task has";
            return Err(Error::option("socket.name", &socket.name, wanted));
        }
        if let Some(other) = earlier().find(|other| {
            other.at == socket.at && (other.datagrams == socket.datagrams || other.at.is_path())
        }) {
            let reason = format!(
                "`{}` and `{}` listen on the same {}; leave one of them out",
                other.name,
                socket.name,
                if other.at.is_path() { "path" } else { "port" }
            );
            return Err(Error::refused("socket", reason));
        }
    }
    let mut modes = sockets.iter().filter_map(|socket| socket.mode);
    let first = modes.next();
    if modes.any(|mode| Some(mode) != first) {
        let reason = "all sockets of a task have the same mode".to_owned();
        return Err(Error::Refused { option: "socket.mode".to_owned(), reason });
    }
    Ok(sockets)
}

fn listener(socket: &Socket, config: &TaskConfig) -> Result<Listener, Error> {
    let Socket { name, port, path, kind, mode } = socket;
    check_label("socket.name", name)?;
    let at = match (port, path) {
        (Some(label), None) => {
            let wanted = "the label of a port in the group's `network` block";
            Address::Port(
                address_of_port(label, config).ok_or_else(|| Error::option("socket.port", label, wanted))?,
            )
        }
        (None, Some(path)) if is_plain(Path::new(path)) => Address::Path(path.into()),
        (None, Some(path)) if Path::new(path).is_relative() => {
            return Err(Error::option("socket.path", path, "an absolute path, such as \"/alloc/app.sock\""));
        }
        (None, Some(path)) => return Err(Error::option("socket.path", path, PLAIN_PATH)),
        (Some(_), Some(_)) => {
            return Err(Error::option("socket", name, "a socket with either `port` or `path`; it has both"));
        }
        (None, None) => {
            return Err(Error::option("socket", name, "a socket with `port` or `path`; it has neither"));
        }
    };
    if mode.is_some() && path.is_none() {
        return Err(Error::refused(
            "socket.mode",
            "a port has no file mode; leave `mode` out, or set `path` instead of `port`",
        ));
    }
    let mode = mode
        .as_deref()
        .map(|text| {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
            mode.ok_or_else(|| Error::option("socket.mode", text, "a mode such as \"0660\""))
        })
        .transpose()?;
    let datagrams = match kind.as_str() {
        "stream" => false,
        "datagram" => true,
        other => return Err(Error::option("socket.kind", other, "one of \"stream\" and \"datagram\"")),
    };
    Ok(Listener { name: name.clone(), at, datagrams, mode })
}

/// Time for a server to become ready, if its job has no `notify` block.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The socket of the port that the guest serves on. It takes precedence over all others of that name.
fn listener_of_server(config: &TaskConfig) -> Result<Option<Listener>, Error> {
    let serve = config.driver.wasm.as_ref().and_then(|wasm| wasm.serve.as_ref());
    let Some(label) = serve.and_then(|serve| serve.port.as_ref()) else { return Ok(None) };
    check_label("wasm.serve.port", label)?;
    let at = address_of_port(label, config).ok_or_else(|| Error::Option {
        option: "wasm.serve.port",
        value: label.clone(),
        wanted: "the label of a port in the group's `network` block",
    })?;
    Ok(Some(Listener { name: label.clone(), at: Address::Port(at), datagrams: false, mode: None }))
}

/// What the runner of a server reports, unless the job has a `notify` block.
fn readiness_of_server(config: &TaskConfig) -> Readiness {
    let serves = config.driver.wasm.as_ref().is_some_and(|wasm| wasm.serve.is_some());
    Readiness { ready_within: serves.then_some(READY_WITHIN), ..Readiness::default() }
}

/// Where a socket for the port with this label listens: what Nomad allocated, and never what a variable contains.
pub(crate) fn address_of_port(label: &str, config: &TaskConfig) -> Option<SocketAddr> {
    let port = config.ports.get(label)?;
    Some(match &config.network {
        // In a network of its own the group has another address than the host.
        NetworkMode::Group { .. } => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.inside),
        NetworkMode::Host | NetworkMode::None => port.host,
    })
}

/// The longest start of a guest: Nomad asks for no stop of a task while it waits for the start, so that a task that never becomes ready
/// would run on when its job is gone.
const LONGEST_START: Duration = Duration::from_mins(10);

pub(crate) fn readiness(config: &TaskConfig) -> Result<Readiness, Error> {
    let Some(Notify { ready_within, watchdog, access }) = &config.driver.notify else {
        return Ok(readiness_of_server(config));
    };
    let time = |option, text: &String| {
        duration(text).map_err(|wanted| Error::Option { option, value: text.clone(), wanted })
    };
    let some = |time: Duration| (!time.is_zero()).then_some(time);
    let every = |text: &String| match time("notify.watchdog", text)? {
        every if every < SHORTEST_WATCHDOG && !every.is_zero() => Err(Error::Option {
            option: "notify.watchdog",
            value: text.clone(),
            wanted: "at least \"100ms\": systemd ends a program that has not reported for so long",
        }),
        every => Ok(some(every)),
    };
    Ok(Readiness {
        speaks: true,
        ready_within: match time("notify.ready_within", ready_within)? {
            // A native task needs the operator's word for the block.
            within if within > LONGEST_START && config.driver.wasm.is_some() => {
                return Err(Error::Option {
                    option: "notify.ready_within",
                    value: ready_within.clone(),
                    wanted: "at most \"10m\" for WebAssembly: Nomad cannot stop a task that has not started yet",
                });
            }
            within => some(within),
        },
        watchdog: watchdog.as_ref().map(every).transpose()?.flatten(),
        all: match access.as_str() {
            "main" => false,
            "all" => true,
            other => {
                let wanted = "one of \"main\" and \"all\"";
                return Err(Error::Option { option: "notify.access", value: other.to_owned(), wanted });
            }
        },
    })
}
