//! Kinds of values.

/// How a text becomes the value that is sent over the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Binds,
    BitSet,
    Bool,
    /// A boolean, or one of these words, which are sent as another property, whose name has the suffix `Ex`.
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
    /// A size or a share of the machine's memory. An empty text stands for this number.
    Memory(u64),
    Mode,
    MountFlag,
    MountImages,
    Nanoseconds,
    NftSet,
    Nice,
    /// The property cannot be set.
    None,
    NumaMask,
    NumaPolicy,
    OomScore,
    OpenFile,
    Permyriad,
    RealTimePriority,
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
    /// A boolean, or one of these words.
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
