//! A transient unit: its properties, and their form on the bus.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use zbus::Variant;

use super::name::UnitName;
use super::property::Assignment;
use super::wire::Wire;

/// A file or directory of the host, and the path under which the unit sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host, absolute.
    pub source: PathBuf,
    /// The path in the unit's view, absolute.
    pub target: PathBuf,
    /// Whether mounts below `source` are included.
    pub recursive: bool,
    /// Whether a missing `source` is ignored instead of failing the start.
    pub optional: bool,
}

impl Bind {
    /// Makes `source` visible at `target`; `source` must exist.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), recursive: false, optional: false }
    }
}

/// Where a standard stream of a unit is connected.
#[derive(Debug)]
pub enum Stream {
    /// `/dev/null`.
    Null,
    /// The journal.
    Journal,
    /// A descriptor that the manager takes over.
    Fd(OwnedFd),
}

/// One property of a transient unit, spelled as in systemd's manual.
///
/// Names and types on the bus are those of systemd 247 and later (`org.freedesktop.systemd1(5)`).
#[derive(Debug)]
#[allow(
    missing_docs,
    reason = "systemd.exec(5) and systemd.resource-control(5) describe each under this name"
)]
pub enum Property {
    /// A property under the name and with the value that it has in a unit file.
    Assigned(Assignment),
    /// The cores, such as `0-3,8`.
    AllowedCPUs(String),
    BindPaths(Vec<Bind>),
    BindReadOnlyPaths(Vec<Bind>),
    /// 1 to 10000.
    CPUWeight(u64),
    CollectMode(&'static str),
    Description(String),
    /// The device and which of `rwm` are allowed.
    DeviceAllow(Vec<(PathBuf, String)>),
    DynamicUser(bool),
    /// Read by the manager, as root, when the unit starts.
    EnvironmentFile(PathBuf),
    /// Added to the paths that the unit has.
    ExecPaths(Vec<PathBuf>),
    /// Program and argument vector, passed literally: systemd expands neither `$` nor `%`.
    ExecStart {
        path: PathBuf,
        argv: Vec<String>,
    },
    InaccessiblePaths(Vec<PathBuf>),
    /// For example `NOMAD_JOB_ID=web`.
    LogExtraFields(Vec<String>),
    LogNamespace(String),
    /// Messages in one interval.
    LogRateLimitBurst(u32),
    LogRateLimitInterval(Duration),
    Group(String),
    KillMode(&'static str),
    /// The addresses that a socket unit listens on, such as `Stream` and `127.0.0.1:80`.
    Listen(Vec<(&'static str, String)>),
    SocketMode(u32),
    /// Names of units that start before this unit.
    After(Vec<String>),
    BindsTo(Vec<String>),
    Requires(Vec<String>),
    TimeoutStart(Duration),
    Watchdog(Duration),
    /// Bytes.
    MemoryLow(u64),
    /// Bytes; `u64::MAX` is no limit.
    MemoryMax(u64),
    NotifyAccess(&'static str),
    /// The processes of a scope.
    PIDs(Vec<u32>),
    /// Name and path; the second property is for encrypted credentials.
    LoadCredential(Vec<(String, PathBuf)>),
    LoadCredentialEncrypted(Vec<(String, PathBuf)>),
    MountFlags(u64),
    NetworkNamespacePath(PathBuf),
    ReadOnlyPaths(Vec<PathBuf>),
    ReadWritePaths(Vec<PathBuf>),
    RemainAfterExit(bool),
    RootDirectory(PathBuf),
    RuntimeMax(Duration),
    Slice(&'static str),
    /// Mount points, and options such as `mode=1777`.
    TemporaryFileSystem(Vec<(PathBuf, &'static str)>),
    StandardError(Stream),
    StandardInput(Stream),
    StandardOutput(Stream),
    SyslogIdentifier(String),
    Type(&'static str),
    User(String),
    WorkingDirectory(PathBuf),
}

impl Property {
    /// Assignments of the driver's own, in the syntax of systemd's manual. Invalid lines are left out: tests read all
    /// of them.
    pub fn assigned(lines: &[(&str, &str)]) -> Vec<Self> {
        let lines = lines.iter().filter_map(|(name, text)| Assignment::parse(name, text).ok());
        lines.map(Self::Assigned).collect()
    }

    /// The property as it goes over the bus.
    #[allow(clippy::too_many_lines, reason = "one line per property")]
    pub(super) fn into_wire(self) -> Wire {
        let (name, value): (&str, Variant<'static>) = match self {
            Self::Assigned(assignment) => return assignment.wire(),
            Self::AllowedCPUs(cores) => ("AllowedCPUs", cpu_set(&cores).into()),
            Self::BindPaths(binds) => ("BindPaths", bind_mounts(binds)),
            Self::BindReadOnlyPaths(binds) => ("BindReadOnlyPaths", bind_mounts(binds)),
            Self::CPUWeight(weight) => ("CPUWeight", weight.into()),
            Self::CollectMode(mode) => ("CollectMode", mode.into()),
            Self::Description(text) => ("Description", text.into()),
            Self::DeviceAllow(devices) => {
                let devices: Vec<_> =
                    devices.into_iter().map(|(path, allowed)| (text(path), allowed)).collect();
                ("DeviceAllow", devices.into())
            }
            Self::DynamicUser(on) => ("DynamicUser", on.into()),
            Self::EnvironmentFile(path) => ("EnvironmentFiles", vec![(text(path), false)].into()),
            Self::ExecPaths(paths) => ("ExecPaths", texts(paths)),
            Self::ExecStart { path, argv } => {
                // systemd expands variables after a `$`, and reads `$$` as `$`. The property that leaves arguments
                // alone (`ExecStartEx`) is written to the unit's file under a name that systemd does not read there.
                // After a `daemon-reload` the unit would have no command (seen on 252).
                let argv: Vec<String> = argv.into_iter().map(|arg| arg.replace('$', "$$")).collect();
                ("ExecStart", vec![(text(path), argv, false)].into())
            }
            Self::InaccessiblePaths(paths) => ("InaccessiblePaths", texts(paths)),
            Self::LogExtraFields(fields) => {
                let fields: Vec<Vec<u8>> = fields.into_iter().map(String::into_bytes).collect();
                ("LogExtraFields", fields.into())
            }
            Self::LogNamespace(name) => ("LogNamespace", name.into()),
            Self::LogRateLimitBurst(count) => ("LogRateLimitBurst", count.into()),
            Self::LogRateLimitInterval(time) => ("LogRateLimitIntervalUSec", microseconds(time).into()),
            Self::After(units) => ("After", units.into()),
            Self::BindsTo(units) => ("BindsTo", units.into()),
            Self::Requires(units) => ("Requires", units.into()),
            Self::Group(name) => ("Group", name.into()),
            Self::KillMode(mode) => ("KillMode", mode.into()),
            Self::Listen(addresses) => ("Listen", addresses.into()),
            Self::SocketMode(mode) => ("SocketMode", mode.into()),
            Self::TimeoutStart(time) => ("TimeoutStartUSec", microseconds(time).into()),
            Self::Watchdog(time) => ("WatchdogUSec", microseconds(time).into()),
            Self::MemoryLow(bytes) => ("MemoryLow", bytes.into()),
            Self::MemoryMax(bytes) => ("MemoryMax", bytes.into()),
            Self::NotifyAccess(whom) => ("NotifyAccess", whom.into()),
            Self::PIDs(pids) => ("PIDs", pids.into()),
            Self::LoadCredential(files) => ("LoadCredential", credentials(files)),
            Self::LoadCredentialEncrypted(files) => ("LoadCredentialEncrypted", credentials(files)),
            Self::MountFlags(flags) => ("MountFlags", flags.into()),
            Self::NetworkNamespacePath(path) => ("NetworkNamespacePath", text(path).into()),
            Self::ReadOnlyPaths(paths) => ("ReadOnlyPaths", texts(paths)),
            Self::ReadWritePaths(paths) => ("ReadWritePaths", texts(paths)),
            Self::RemainAfterExit(on) => ("RemainAfterExit", on.into()),
            Self::RootDirectory(path) => ("RootDirectory", text(path).into()),
            Self::RuntimeMax(time) => ("RuntimeMaxUSec", microseconds(time).into()),
            Self::TemporaryFileSystem(mounts) => {
                let mounts = mounts.into_iter().map(|(path, options)| (text(path), options.to_owned()));
                ("TemporaryFileSystem", mounts.collect::<Vec<_>>().into())
            }
            Self::Slice(name) => ("Slice", name.into()),
            Self::StandardError(stream) => stream.into_wire("StandardError", "StandardErrorFileDescriptor"),
            Self::StandardInput(stream) => stream.into_wire("StandardInput", "StandardInputFileDescriptor"),
            Self::StandardOutput(stream) => {
                stream.into_wire("StandardOutput", "StandardOutputFileDescriptor")
            }
            Self::SyslogIdentifier(name) => ("SyslogIdentifier", name.into()),
            Self::Type(kind) => ("Type", kind.into()),
            Self::User(name) => ("User", name.into()),
            Self::WorkingDirectory(path) => ("WorkingDirectory", text(path).into()),
        };
        vec![(name.to_owned(), value)]
    }
}

impl Stream {
    fn into_wire(self, by_word: &'static str, by_fd: &'static str) -> (&'static str, Variant<'static>) {
        match self {
            Self::Null => (by_word, "null".into()),
            Self::Journal => (by_word, "journal".into()),
            Self::Fd(fd) => (by_fd, Variant::Fd(zbus::Fd::Owned(fd))),
        }
    }
}

/// One bit for each core of a list such as `0-3,8`, the first byte for the first eight. Words that are not numbers are
/// ignored.
fn cpu_set(cores: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for piece in cores.trim().split(',') {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) else {
            continue;
        };
        for core in first..=last {
            let at = usize::from(core / 8);
            bytes.resize(bytes.len().max(at + 1), 0);
            bytes[at] |= 1 << (core % 8);
        }
    }
    bytes
}

fn credentials(files: Vec<(String, PathBuf)>) -> Variant<'static> {
    files.into_iter().map(|(name, path)| (name, text(path))).collect::<Vec<_>>().into()
}

/// `a(ssbt)`: source, target, ignore a missing source, mount flags.
fn bind_mounts(binds: Vec<Bind>) -> Variant<'static> {
    const MS_REC: u64 = 0x4000;
    let wire = |bind: Bind| {
        let flags = if bind.recursive { MS_REC } else { 0 };
        (text(bind.source), text(bind.target), bind.optional, flags)
    };
    binds.into_iter().map(wire).collect::<Vec<_>>().into()
}

fn texts(paths: Vec<PathBuf>) -> Variant<'static> {
    paths.into_iter().map(text).collect::<Vec<_>>().into()
}

/// Every path of a unit reached the driver as text, over gRPC or from the driver's own constants.
fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap_or_else(|raw| raw.to_string_lossy().into_owned())
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A unit to be created and started by `StartTransientUnit`.
#[derive(Debug)]
pub struct TransientUnit {
    /// The unit's name, not in use yet.
    pub name: UnitName,
    /// The properties, in the order in which they are sent to systemd.
    pub properties: Vec<Property>,
    /// Sockets that are opened before the service starts, and passed to it.
    pub sockets: Option<SocketUnit>,
    /// How long the program may take to report that it is ready, in addition to the time that systemd itself takes.
    pub ready_within: Duration,
}

impl TransientUnit {
    /// A service without sockets, which counts as ready when it runs.
    pub fn new(name: UnitName, properties: Vec<Property>) -> Self {
        Self { name, properties, sockets: None, ready_within: Duration::ZERO }
    }

    /// The properties of the service, and those of its socket unit if it has one, each bound to the other.
    pub(super) fn bound(self) -> (UnitName, Vec<Property>, Option<Vec<Property>>) {
        let Self { name, mut properties, sockets, ready_within: _ } = self;
        let sockets = sockets.map(|SocketUnit { properties: mut of_sockets }| {
            let socket = name.socket();
            properties.extend([Property::Requires(vec![socket.clone()]), Property::After(vec![socket])]);
            of_sockets.extend([
                // The socket unit stops with the service: a connection after the end would start the service again.
                Property::BindsTo(vec![name.to_string()]),
                Property::CollectMode("inactive-or-failed"),
            ]);
            of_sockets
        });
        (name, properties, sockets)
    }
}

/// A socket unit that belongs to a service, and has its name.
#[derive(Debug)]
pub struct SocketUnit {
    /// The properties of the socket unit.
    pub properties: Vec<Property>,
}
