//! What a property is: its place in the manual, what it needs, how far it reaches, and the kind of its value.

/// What is known of one property.
#[derive(Debug, PartialEq)]
pub struct PropertyDef {
    /// As the manual writes it.
    pub name: &'static str,
    /// The first systemd that takes it for a transient unit; 247 stands for that and all before.
    pub since: u32,
    /// The part of the manual that describes it.
    pub group: Group,
    /// The cgroup controller without which it has no effect.
    pub controller: Option<&'static str>,
    /// It needs the kernel's BPF.
    pub bpf: bool,
    /// It can have an effect in the manager of a user.
    pub user_manager: bool,
    /// How far it reaches, or why it is not to be set. Some values reach further: see [`super::Assignment::reach`].
    pub reach: Reach,
    pub(super) kind: Kind,
}

/// The part of the manual that describes a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// systemd.resource-control(5).
    Resource,
    /// systemd.exec(5): files, names, output.
    Exec,
    /// systemd.exec(5): what a process brings with it, such as limits and priorities.
    Process,
    /// systemd.exec(5): what is taken from a process.
    Sandbox,
    /// systemd.service(5) and systemd.kill(5).
    Service,
    /// systemd.unit(5).
    Unit,
}

/// How far a property reaches, and why: a clause that begins with "it", for the operator who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It can only take from the task.
    Confining(&'static str),
    /// It reaches beyond the task: to files, users, units or hardware of the host, to what others need, or to what the
    /// driver set. An operator must allow it.
    BeyondTask(&'static str),
    /// It would break what the driver owes to Nomad. The clause says why, or what to write instead.
    Reserved(&'static str),
}

/// How a text becomes what goes over the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Binds,
    BitSet,
    Bool,
    /// A yes or no, or one of these words, which go to another property of the same name and `Ex`.
    BoolOrEx(&'static [&'static str]),
    BpfProgram,
    Capabilities,
    Condition,
    CoredumpFilter,
    CpuAffinity,
    CpuQuota,
    CpuWeight,
    Delegate,
    DelegateNamespaces,
    DeviceAllow,
    Directory,
    DirectoryQuota,
    EnvironmentFile,
    Errno,
    ExitStatus,
    ExtensionImages,
    Facility,
    Filter,
    Hostname,
    Ignorable,
    ImportCredential,
    Integer,
    IoClass,
    IoLatency,
    IoLimit,
    IoPriority,
    IoWeight,
    IpFilter,
    IpFilterPath,
    Level,
    Limit(Unit),
    LoadCredential,
    LogField,
    LogPattern,
    /// A size or a share of the machine's memory; nothing stands for the number.
    Memory(u64),
    Mode,
    MountFlag,
    MountImages,
    Nanoseconds,
    NftSet,
    Nice,
    /// It is not to be set.
    None,
    NumaMask,
    NumaPolicy,
    OpenFile,
    Permyriad,
    RestrictNamespaces,
    RootHash,
    RootHashSignature,
    RootImageOptions,
    Scheduler,
    Seconds,
    SecondsOrInfinity,
    SecureBits,
    Signal,
    SocketBind,
    /// A yes or no, or one of these words.
    Switch(&'static [&'static str]),
    Tasks,
    TemporaryFileSystem,
    Text,
    Unsigned,
    Weight,
    /// One of these words.
    Word(&'static [&'static str]),
    Words,
    WordsOrColons,
    WordsUnescaped,
}

/// What a resource limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    Microseconds,
    Nice,
    Seconds,
    Size,
}

impl Kind {
    /// Do later assignments add to earlier ones?
    pub(super) fn is_list(self) -> bool {
        matches!(
            self,
            Self::Binds
                | Self::BitSet
                | Self::BpfProgram
                | Self::Capabilities
                | Self::Condition
                | Self::CpuAffinity
                | Self::DelegateNamespaces
                | Self::DeviceAllow
                | Self::Directory
                | Self::EnvironmentFile
                | Self::ExitStatus
                | Self::ExtensionImages
                | Self::Filter
                | Self::ImportCredential
                | Self::IoLatency
                | Self::IoLimit
                | Self::IoWeight
                | Self::IpFilter
                | Self::IpFilterPath
                | Self::LoadCredential
                | Self::LogField
                | Self::LogPattern
                | Self::MountImages
                | Self::NftSet
                | Self::NumaMask
                | Self::OpenFile
                | Self::RestrictNamespaces
                | Self::RootImageOptions
                | Self::SecureBits
                | Self::SocketBind
                | Self::TemporaryFileSystem
                | Self::Words
                | Self::WordsOrColons
                | Self::WordsUnescaped
        )
    }
}

impl PropertyDef {
    pub(super) const fn on(mut self, controller: &'static str) -> Self {
        self.controller = Some(controller);
        self
    }

    pub(super) const fn bpf(mut self) -> Self {
        self.bpf = true;
        self
    }

    /// Only the manager of the system can do it.
    pub(super) const fn system(mut self) -> Self {
        self.user_manager = false;
        self
    }
}

pub(super) const fn row(
    name: &'static str,
    since: u32,
    group: Group,
    kind: Kind,
    reach: Reach,
) -> PropertyDef {
    PropertyDef { name, since, group, controller: None, bpf: false, user_manager: true, reach, kind }
}

pub(super) const fn reserved(
    name: &'static str,
    since: u32,
    group: Group,
    reason: &'static str,
) -> PropertyDef {
    row(name, since, group, Kind::None, Reach::Reserved(reason))
}
