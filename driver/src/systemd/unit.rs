//! The words in which we speak of a unit: its name, the properties it is made of, and what became of it.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use zbus::{OwnedVariant, Variant};

use super::assignment::Assignment;

/// The longest name that we give a unit, suffix included. systemd takes 255 bytes, but makes the names of a unit's
/// private directories from it (`systemd-private-<boot>-<unit>-<random>`), which may not be longer than that either.
const NAME_MAX: usize = 190;

/// The full name of a service unit, such as `nomad-ab12cd34-web-1f2e3d4c.service`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnitName(String);

impl UnitName {
    /// Joins `words` and `unique` by dashes into the name of a service.
    ///
    /// Bytes that systemd does not take in a name are written as `\xNN`, as `systemd-escape` does. A name that would
    /// be too long loses the end of its last word. So two different inputs may give the same words: `unique` (hex
    /// digits or the like, never cut) is what keeps names apart.
    pub fn service(words: &[&str], unique: &str) -> Self {
        let tail = format!("-{unique}.service");
        let mut name = String::new();
        for piece in words.join("-").bytes().map(escaped) {
            if name.len() + piece.len() + tail.len() > NAME_MAX {
                break;
            }
            name.push_str(&piece);
        }
        Self(name + &tail)
    }

    /// Surely nothing of its words was cut off.
    pub fn is_whole(&self) -> bool {
        // The longest piece that may have been left out is an escape, four bytes.
        self.0.len() + 4 <= NAME_MAX
    }

    /// A name that systemd or a saved state gave us.
    pub fn known(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name of the socket unit that systemd takes for this service's.
    pub fn socket(&self) -> String {
        format!("{}.socket", self.0.strip_suffix(".service").unwrap_or(&self.0))
    }

    /// The name as systemd writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the unit stands on the bus, `/org/freedesktop/systemd1/unit/…`.
    ///
    /// Every byte but ASCII letters and digits is written as `_` and two hex digits, and so is a leading digit
    /// (systemd, `bus_label_escape`).
    pub(super) fn object_path(&self) -> String {
        use fmt::Write;
        let mut path = String::from("/org/freedesktop/systemd1/unit/");
        for (at, byte) in self.0.bytes().enumerate() {
            if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
                path.push(byte.into());
            } else {
                let _ = write!(path, "_{byte:02x}");
            }
        }
        path
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn escaped(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' | b'-' => char::from(byte).into(),
        other => format!("\\x{other:02x}"),
    }
}

/// A file or directory of the host and where the unit sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the unit's view, absolute.
    pub target: PathBuf,
    /// What is mounted below `source` comes along.
    pub recursive: bool,
    /// A missing `source` is passed over instead of failing the start.
    pub optional: bool,
}

impl Bind {
    /// What is at `source`, at `target`; it must be there.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), recursive: false, optional: false }
    }
}

/// Where a standard stream of a unit leads.
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
    /// The device and what of `rwm` may be done with it.
    DeviceAllow(Vec<(PathBuf, String)>),
    DynamicUser(bool),
    /// Read by the manager, as root, when the unit starts.
    EnvironmentFile(PathBuf),
    /// Program and argument vector, passed as they are: systemd expands neither `$` nor `%`.
    ExecStart {
        path: PathBuf,
        argv: Vec<String>,
    },
    InaccessiblePaths(Vec<PathBuf>),
    /// Such as `NOMAD_JOB_ID=web`.
    LogExtraFields(Vec<String>),
    LogNamespace(String),
    /// Messages in one interval.
    LogRateLimitBurst(u32),
    LogRateLimitInterval(Duration),
    Group(String),
    /// What a socket unit listens for, such as `Stream` and `127.0.0.1:80`.
    Listen(Vec<(&'static str, String)>),
    SocketMode(u32),
    /// Names of units that are to be there before.
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
    /// Name and path; the second kind is for encrypted ones.
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
    /// Lines of ours in the words of systemd's manual. What is wrong in them is left out: tests read all of them.
    pub fn assigned(lines: &[(&str, &str)]) -> Vec<Self> {
        let lines = lines.iter().filter_map(|(name, text)| Assignment::parse(name, text).ok());
        lines.map(Self::Assigned).collect()
    }

    /// The property as it goes over the bus.
    pub(super) fn into_wire(self) -> Vec<(String, Variant<'static>)> {
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
            Self::ExecStart { path, argv } => {
                // systemd puts variables in where it finds `$`, and takes two of them for one. The property that leaves
                // arguments alone (`ExecStartEx`) is written to the unit's file under a name that systemd does not read
                // there, so that after a `daemon-reload` the unit would have no command (seen on 252).
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

/// One bit for each core of a list such as `0-3,8`, the first byte for the first eight. What is no number is no core.
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

/// Every path that reaches a unit came to us as text, over gRPC or from our own constants.
fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap_or_else(|raw| raw.to_string_lossy().into_owned())
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A unit to be made and started by `StartTransientUnit`.
#[derive(Debug)]
pub struct TransientUnit {
    /// Its name, not in use yet.
    pub name: UnitName,
    /// What it is made of, in the order in which systemd shall see it.
    pub properties: Vec<Property>,
    /// Sockets that are opened before it, and passed to it.
    pub sockets: Option<SocketUnit>,
    /// How long the program may take to say that it is ready, beside what systemd takes itself.
    pub patience: Duration,
}

impl TransientUnit {
    /// A service with no sockets, which is there when it runs.
    pub fn new(name: UnitName, properties: Vec<Property>) -> Self {
        Self { name, properties, sockets: None, patience: Duration::ZERO }
    }
}

/// A socket unit that goes with a service, and has its name.
#[derive(Debug)]
pub struct SocketUnit {
    /// What it is made of.
    pub properties: Vec<Property>,
}

/// Which run of a unit this is: systemd gives each start 16 new random bytes, here as 32 hex digits.
///
/// A name can be used again, an invocation id cannot: recovery compares it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct InvocationId(pub String);

/// How a unit's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainExit {
    /// It returned this status, 0 to 255.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What systemd has told us of a unit so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `not-found` for a unit that does not exist; systemd answers questions about it all the same.
    pub(super) load_state: String,
    /// `active`, `failed`, `activating`, …
    pub active_state: String,
    /// `running`, `exited`, `failed`, …
    pub sub_state: String,
    /// `success`, `exit-code`, `signal`, `oom-kill`, …
    pub result: String,
    /// What the service says of itself (`STATUS=`, sd_notify(3)).
    pub status_text: String,
    /// Zero when there is no main process.
    pub main_pid: u32,
    /// Which run of the unit all this is about.
    pub invocation: InvocationId,
    /// The unit is no longer in systemd's memory: nothing above will change again.
    pub removed: bool,
    /// `CLD_EXITED` 1, `CLD_KILLED` 2, `CLD_DUMPED` 3; zero before the end.
    code: i32,
    status: i32,
    started_usec: u64,
    exited_usec: u64,
    /// When the main process began to run the program itself; systemd tells since version 256.
    handoff_usec: Option<u64>,
    pub(super) main_pid_ever: u32,
}

impl UnitState {
    /// How the main process ended, once the unit as a whole has come to rest.
    ///
    /// Under `RemainAfterExit` that is sub-state `exited` or `failed`; states we do not know count as not finished.
    pub fn exit(&self) -> Option<MainExit> {
        let at_rest =
            matches!(self.sub_state.as_str(), "exited" | "failed") || self.active_state == "inactive";
        if !at_rest {
            return None;
        }
        match self.code {
            1 => Some(MainExit::Status(self.status)),
            2 | 3 => Some(MainExit::Signal(self.status)),
            _ => None,
        }
    }

    /// The main process has ended, whatever else the unit still does.
    pub(super) fn main_has_ended(&self) -> bool {
        self.code != 0
    }

    /// It came to rest because somebody stopped it (`StopUnit`), or because it said that it would (`STOPPING=1`,
    /// sd_notify(3)): any other that ends by itself stays `active` or is `failed`, under `RemainAfterExit`. One that was
    /// stopped and then failed cannot be told from one that failed.
    pub fn was_stopped(&self) -> bool {
        self.active_state == "inactive" && self.main_has_ended()
    }

    /// The main process is there and the unit has not begun to end.
    pub fn is_running(&self) -> bool {
        self.active_state == "active" && self.main_pid != 0
    }

    /// systemd tells when it handed over to the program (256 and later).
    pub(super) fn tells_handoff(&self) -> bool {
        self.handoff_usec.is_some()
    }

    /// The main process runs, or has ended already.
    pub(super) fn has_begun(&self) -> bool {
        self.is_running() || self.main_has_ended()
    }

    /// When the main process was started.
    pub fn started_at(&self) -> Option<SystemTime> {
        at(self.started_usec)
    }

    /// When the main process ended.
    pub fn exited_at(&self) -> Option<SystemTime> {
        at(self.exited_usec)
    }

    /// Did systemd give up before it ran the program? Then the main process ended with the status of a step, such as
    /// 203 for a failed `execve` (systemd.exec(5), "Process Exit Codes").
    ///
    /// From 256 on systemd tells when it handed over to the program, which is before `execve`: that may still fail, for
    /// want of an interpreter. Before that a program that itself ends at once with such a status looks the same.
    pub(super) fn failed_step(&self, start_job_failed: bool) -> Option<FailedStep> {
        let is_step = self.code == 1 && (200..=245).contains(&self.status);
        match self.handoff_usec {
            Some(0) if self.main_has_ended() => Some(FailedStep::Surely(self.status)),
            _ => (is_step && start_job_failed).then_some(FailedStep::Perhaps(self.status)),
        }
    }

    /// systemd could not even make the process.
    pub(super) fn never_forked(&self) -> bool {
        self.active_state == "failed" && self.main_pid_ever == 0
    }

    /// Takes in what changed, from a signal or an answer; names that we do not use are passed over.
    pub(super) fn apply(&mut self, changed: &HashMap<String, OwnedVariant>) {
        for (name, value) in changed {
            match name.as_str() {
                "LoadState" => set_text(&mut self.load_state, value),
                "ActiveState" => {
                    set_text(&mut self.active_state, value);
                    // Whoever has a state is there: what was removed had the same name.
                    self.removed = false;
                }
                "SubState" => set_text(&mut self.sub_state, value),
                "Result" => set_text(&mut self.result, value),
                "StatusText" => set_text(&mut self.status_text, value),
                "MainPID" => set(&mut self.main_pid, value),
                "ExecMainPID" => set(&mut self.main_pid_ever, value),
                "ExecMainCode" => set(&mut self.code, value),
                "ExecMainStatus" => set(&mut self.status, value),
                "ExecMainStartTimestamp" => set(&mut self.started_usec, value),
                "ExecMainExitTimestamp" => set(&mut self.exited_usec, value),
                "ExecMainHandoffTimestamp" => self.handoff_usec = u64::try_from(&**value).ok(),
                "InvocationID" => {
                    if let Ok(bytes) = value.try_clone().and_then(Vec::<u8>::try_from) {
                        self.invocation = InvocationId(hex::encode(bytes));
                    }
                }
                _ => {}
            }
        }
    }
}

/// What systemd knows of a service beside its state, asked for when it is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// The main process now; zero when there is none.
    pub main_pid: u32,
    /// The unit's cgroup below the hierarchy's root, such as `/system.slice/a.service`; empty without processes.
    pub control_group: String,
    /// `User=` as it was given, empty for root.
    pub user: String,
    /// The number of the user, zero for root.
    pub uid: u32,
    /// The number of the user's group.
    pub gid: u32,
    /// `AmbientCapabilities=`, one bit each.
    pub ambient_capabilities: u64,
    /// `WorkingDirectory=`, in the unit's view.
    pub working_directory: PathBuf,
    /// `MemoryMax=` in bytes.
    pub memory_max: Option<u64>,
    /// The most memory it ever had, in bytes; systemd tells since version 255.
    pub memory_peak: Option<u64>,
    /// `LogExtraFields=`, such as `NOMAD_JOB_ID=web`.
    pub log_extra_fields: Vec<String>,
    /// `PrivateUsers=`, in whatever way.
    pub private_users: bool,
}

impl Service {
    /// Takes what it needs from all properties of a service.
    pub(super) fn of(all: &HashMap<String, OwnedVariant>) -> Self {
        let mut service = Self::default();
        let known = |bytes: u64| (bytes != u64::MAX).then_some(bytes);
        let number = |value: &OwnedVariant| u64::try_from(&**value).ok().and_then(known);
        // systemd's word for "none".
        let id =
            |value: &OwnedVariant| u32::try_from(&**value).ok().filter(|id| *id != u32::MAX).unwrap_or(0);
        for (name, value) in all {
            match name.as_str() {
                "MainPID" => set(&mut service.main_pid, value),
                "ControlGroup" => set_text(&mut service.control_group, value),
                "User" => set_text(&mut service.user, value),
                "UID" => service.uid = id(value),
                "GID" => service.gid = id(value),
                "AmbientCapabilities" => set(&mut service.ambient_capabilities, value),
                "WorkingDirectory" => {
                    let mut path = String::new();
                    set_text(&mut path, value);
                    service.working_directory = path.into();
                }
                "PrivateUsers" => set(&mut service.private_users, value),
                "MemoryMax" => service.memory_max = number(value),
                "MemoryPeak" => service.memory_peak = number(value),
                "LogExtraFields" => {
                    let fields = value.try_clone().and_then(Vec::<Vec<u8>>::try_from).unwrap_or_default();
                    service.log_extra_fields =
                        fields.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
                }
                _ => {}
            }
        }
        service
    }
}

/// The status of a step at which systemd gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailedStep {
    /// It did.
    Surely(i32),
    /// It did, or the program ended with that status.
    Perhaps(i32),
}

impl FailedStep {
    pub(super) fn status(self) -> i32 {
        let (Self::Surely(status) | Self::Perhaps(status)) = self;
        status
    }
}

fn set<'a, T: TryFrom<&'a Variant<'static>>>(field: &mut T, value: &'a OwnedVariant) {
    if let Ok(new) = T::try_from(value) {
        *field = new;
    }
}

fn set_text(field: &mut String, value: &OwnedVariant) {
    if let Ok(new) = <&str>::try_from(&**value) {
        new.clone_into(field);
    }
}

fn at(microseconds: u64) -> Option<SystemTime> {
    (microseconds != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_what_systemd_takes_and_escapes_the_rest() {
        let name = UnitName::service(&["nomad", "ab-12", "my task%/é"], "0f");
        assert_eq!(name.as_str(), r"nomad-ab-12-my\x20task\x25\x2f\xc3\xa9-0f.service");
    }

    #[test]
    fn a_long_name_is_cut_between_escapes_and_keeps_its_unique_end() {
        let name = UnitName::service(&["nomad", &"%".repeat(300)], "cafe");
        assert!(name.as_str().len() <= NAME_MAX);
        assert!(name.as_str().ends_with(r"\x25-cafe.service"), "{name}");
    }

    #[test]
    fn an_object_path_escapes_all_but_letters_and_digits() {
        let path = UnitName::known("a-1.service").object_path();
        assert_eq!(path, "/org/freedesktop/systemd1/unit/a_2d1_2eservice");
    }

    #[test]
    fn a_unit_at_rest_tells_its_exit_and_a_running_one_does_not() {
        let state =
            |sub: &str, code| UnitState { sub_state: sub.into(), code, status: 7, ..Default::default() };
        assert_eq!(state("running", 0).exit(), None);
        assert_eq!(state("final-sigterm", 1).exit(), None);
        assert_eq!(state("failed", 1).exit(), Some(MainExit::Status(7)));
        assert_eq!(state("exited", 2).exit(), Some(MainExit::Signal(7)));
        assert_eq!(state("a-state-of-the-future", 1).exit(), None);
    }

    #[test]
    fn a_failed_set_up_is_told_from_a_program_that_ends_with_the_same_status() {
        let state = |handoff_usec| UnitState { code: 1, status: 203, handoff_usec, ..Default::default() };
        assert_eq!(state(Some(0)).failed_step(false), Some(FailedStep::Surely(203)));
        assert_eq!(state(Some(9)).failed_step(true), Some(FailedStep::Perhaps(203)));
        assert_eq!(state(Some(9)).failed_step(false), None);
        assert_eq!(state(None).failed_step(true), Some(FailedStep::Perhaps(203)));
        assert_eq!(state(None).failed_step(false), None);
    }
}
