//! Every property that `systemd-run -p` takes for a service, one line each.

/// What is known of one property.
#[derive(Debug, PartialEq)]
pub struct Known {
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
    pub(super) conv: Conv,
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
pub(super) enum Conv {
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

impl Known {
    const fn on(mut self, controller: &'static str) -> Self {
        self.controller = Some(controller);
        self
    }

    const fn bpf(mut self) -> Self {
        self.bpf = true;
        self
    }

    /// Only the manager of the system can do it.
    const fn system(mut self) -> Self {
        self.user_manager = false;
        self
    }
}

const fn row(name: &'static str, since: u32, group: Group, conv: Conv, reach: Reach) -> Known {
    Known { name, since, group, controller: None, bpf: false, user_manager: true, reach, conv }
}

const fn reserved(name: &'static str, since: u32, group: Group, reason: &'static str) -> Known {
    row(name, since, group, Conv::None, Reach::Reserved(reason))
}

use Group::{Exec, Process, Resource, Sandbox, Service, Unit as UnitFile};
use Reach::{BeyondTask, Confining};

const ACTION: &str = "a task may not turn the machine off";
const COMMAND: &str =
    "the driver runs the task's `command`, alone: write further steps as tasks with a `lifecycle` block";
const CREDENTIAL: &str = "every user of the machine can read it over the bus: write a `credential` block";
const ENDS: &str = "the driver starts the task by it, and reads its end from it";
const KILL: &str = "Nomad stops tasks: write `kill_signal` and `kill_timeout` in the task block";
const OTHER_START: &str = "it is for services that start in other ways than a task";
const RESTART: &str = "Nomad restarts tasks: write a `restart` block";
const STREAM: &str = "the driver hands the task's output to Nomad, and gives it no input";
const TERMINAL: &str = "a task has no terminal of its own: `nomad alloc exec` brings one";

// Why a property can only take from the task.
const COUNTS: Reach = Confining("it only counts what the task uses");
const HIDES: Reach = Confining("it only hides or write-protects files in the task's own view");
const LOGS: Reach = Confining("it only changes how the task's own log lines are recorded");
const LOWERS: Reach = Confining("it only lowers what the task may use, as far as its value does");
const NOTES: Reach = Confining("it is a remark about the unit");
const OWN: Reach = Confining("it changes nothing but the task's own processes");
const SANDBOX: Reach =
    Confining("it only takes rights from the task, or gives back what the operator's floor leaves open");
const TIMES: Reach = Confining("it only decides when the task itself is ended");
// Why it reaches further.
const DEVICES: Reach = BeyondTask("it gives devices of the host");
const DIRECTORIES: Reach = BeyondTask("it makes directories on the host that outlive the task");
const FILES: Reach = BeyondTask("it names files of the host");
const PATTERNS: Reach = BeyondTask("journald, which all share, evaluates it for each line");
const FIELDS: Reach =
    BeyondTask("systemd writes the fields into its own log lines as well, which the driver believes");
const IPC: Reach = BeyondTask(
    "it removes objects of the host that belong to the same user or group, although the task has none there",
);
const KERNEL: Reach = BeyondTask("it hands programs or labels to the kernel");
const KERNEL_LOG: Reach = BeyondTask("it writes to the log of the kernel, which all share");
const MOUNTS: Reach =
    BeyondTask("it changes the mounts that the driver made, or passes mounts on to the host");
const NAMESPACES: Reach = BeyondTask("it joins namespaces of the host, or makes the task their manager");
const NETWORK: Reach = BeyondTask("it changes the network of the host");
const PROBES: Reach = BeyondTask("its outcome tells the task about the host");
const SHARES: Reach = BeyondTask("it takes memory, cores or I/O from other tasks");
const MEMORY: Reach = BeyondTask(
    "it takes memory from other tasks (`memory` and `memory_max` in the job's `resources` set it)",
);
const CPU: Reach =
    BeyondTask("it takes processor time from other tasks (`cpu` in the job's `resources` sets it)");
const CORES: Reach =
    BeyondTask("it takes cores from other tasks (`cores` in the job's `resources` reserves them)");
const STALLS: Reach =
    BeyondTask("a task that waits for its I/O can hold up the writes of everybody on the same file system");
const STORES: Reach = BeyondTask("it has systemd itself keep things for the task");
const UNITS: Reach = BeyondTask("it acts on other units");
const USERS: Reach = BeyondTask("it gives the task the rights of further users or groups");
const VARIABLES: Reach = BeyondTask("it takes variables from systemd or from files of the host");

/// Every property.
#[rustfmt::skip]
pub(super) static TABLE: &[Known] = &[
    row("MemoryMin", 247, Resource, Conv::Memory(0), SHARES).on("memory"),
    row("MemoryLow", 247, Resource, Conv::Memory(0), SHARES).on("memory"),
    row("StartupMemoryLow", 254, Resource, Conv::Memory(u64::MAX), SHARES).on("memory"),
    row("MemoryHigh", 247, Resource, Conv::Memory(u64::MAX), LOWERS).on("memory"),
    row("StartupMemoryHigh", 254, Resource, Conv::Memory(u64::MAX), LOWERS).on("memory"),
    row("MemoryMax", 247, Resource, Conv::Memory(u64::MAX), MEMORY).on("memory"),
    row("MemorySwapMax", 247, Resource, Conv::Memory(u64::MAX), LOWERS).on("memory"),
    row("StartupMemoryMax", 254, Resource, Conv::Memory(u64::MAX), SHARES).on("memory"),
    row("StartupMemorySwapMax", 254, Resource, Conv::Memory(u64::MAX), SHARES).on("memory"),
    row("StartupMemoryZSwapMax", 254, Resource, Conv::Memory(u64::MAX), SHARES).on("memory"),
    row("MemoryZSwapMax", 253, Resource, Conv::Memory(u64::MAX), SHARES).on("memory"),
    row("MemoryZSwapWriteback", 256, Resource, Conv::Bool, LOWERS).on("memory"),
    row("TasksMax", 247, Resource, Conv::Tasks, LOWERS).on("pids"),
    row("CPUWeight", 247, Resource, Conv::CpuWeight, CPU).on("cpu"),
    row("StartupCPUWeight", 247, Resource, Conv::CpuWeight, SHARES).on("cpu"),
    row("CPUQuota", 247, Resource, Conv::CpuQuota, LOWERS).on("cpu"),
    row("CPUQuotaPeriodSec", 247, Resource, Conv::SecondsOrInfinity, LOWERS).on("cpu"),
    row("AllowedCPUs", 247, Resource, Conv::BitSet, CORES).on("cpuset"),
    row("AllowedMemoryNodes", 247, Resource, Conv::BitSet, LOWERS).on("cpuset"),
    row("StartupAllowedCPUs", 250, Resource, Conv::BitSet, SHARES).on("cpuset"),
    row("StartupAllowedMemoryNodes", 250, Resource, Conv::BitSet, LOWERS).on("cpuset"),
    row("CPUSetPartition", 261, Resource, Conv::Text, SHARES).on("cpuset"),
    row("IOWeight", 247, Resource, Conv::Weight, LOWERS).on("io"),
    row("StartupIOWeight", 247, Resource, Conv::Weight, SHARES).on("io"),
    row("IODeviceWeight", 247, Resource, Conv::IoWeight, SHARES).on("io"),
    row("IODeviceLatencyTargetSec", 247, Resource, Conv::IoLatency, SHARES).on("io"),
    row("IOReadBandwidthMax", 247, Resource, Conv::IoLimit, STALLS).on("io"),
    row("IOWriteBandwidthMax", 247, Resource, Conv::IoLimit, STALLS).on("io"),
    row("IOReadIOPSMax", 247, Resource, Conv::IoLimit, STALLS).on("io"),
    row("IOWriteIOPSMax", 247, Resource, Conv::IoLimit, STALLS).on("io"),
    row("CPUAccounting", 247, Resource, Conv::Bool, COUNTS),
    row("MemoryAccounting", 247, Resource, Conv::Bool, COUNTS).on("memory"),
    row("IOAccounting", 247, Resource, Conv::Bool, COUNTS).on("io"),
    row("TasksAccounting", 247, Resource, Conv::Bool, COUNTS).on("pids"),
    row("IPAccounting", 247, Resource, Conv::Bool, COUNTS).bpf().system(),
    row("DeviceAllow", 247, Resource, Conv::DeviceAllow, DEVICES).bpf().system(),
    row("DevicePolicy", 247, Resource, Conv::Word(&["auto", "closed", "strict"]), SANDBOX).bpf().system(),
    row("IPAddressAllow", 247, Resource, Conv::IpFilter, SANDBOX).bpf().system(),
    row("IPAddressDeny", 247, Resource, Conv::IpFilter, SANDBOX).bpf().system(),
    row("SocketBindAllow", 249, Resource, Conv::SocketBind, SANDBOX).bpf().system(),
    row("SocketBindDeny", 249, Resource, Conv::SocketBind, SANDBOX).bpf().system(),
    row("RestrictNetworkInterfaces", 250, Resource, Conv::Filter, SANDBOX).bpf().system(),
    row("BindNetworkInterface", 260, Resource, Conv::Text, NETWORK).bpf().system(),
    row("IPIngressFilterPath", 247, Resource, Conv::IpFilterPath, KERNEL).bpf().system(),
    row("IPEgressFilterPath", 247, Resource, Conv::IpFilterPath, KERNEL).bpf().system(),
    row("BPFProgram", 249, Resource, Conv::BpfProgram, KERNEL).bpf().system(),
    row("NFTSet", 255, Resource, Conv::NftSet, NETWORK).system(),
    row("ManagedOOMSwap", 247, Resource, Conv::Word(&["auto", "kill"]), TIMES).on("memory"),
    row("ManagedOOMMemoryPressure", 247, Resource, Conv::Word(&["auto", "kill"]), TIMES).on("memory"),
    row("ManagedOOMMemoryPressureLimit", 248, Resource, Conv::Permyriad, TIMES).on("memory"),
    row("ManagedOOMMemoryPressureDurationSec", 257, Resource, Conv::SecondsOrInfinity, TIMES).on("memory"),
    row("ManagedOOMPreference", 248, Resource, Conv::Word(&["none", "avoid", "omit"]), SHARES).on("memory"),
    row("OOMRules", 261, Resource, Conv::Words, SHARES),
    row("MemoryPressureWatch", 254, Resource, Conv::Switch(&["auto", "on", "off", "skip"]), OWN).on("memory"),
    row("CPUPressureWatch", 261, Resource, Conv::Switch(&["auto", "on", "off", "skip"]), OWN),
    row("IOPressureWatch", 261, Resource, Conv::Switch(&["auto", "on", "off", "skip"]), OWN),
    row("MemoryPressureThresholdSec", 254, Resource, Conv::Seconds, OWN).on("memory"),
    row("CPUPressureThresholdSec", 261, Resource, Conv::Seconds, OWN),
    row("IOPressureThresholdSec", 261, Resource, Conv::Seconds, OWN),
    row("CoredumpReceive", 255, Resource, Conv::Bool, STORES),
    row("Delegate", 247, Resource, Conv::Delegate, NAMESPACES),
    row("DelegateSubgroup", 254, Resource, Conv::Text, NAMESPACES),
    reserved("DisableControllers", 247, Resource, "the limits of a task are the driver's"),
    reserved("Slice", 247, Resource, "every task runs in the driver's own slice, where the driver finds it again"),
    reserved("Environment", 247, Exec, "write an `env` block: systemd shows this to every user of the machine"),
    row("EnvironmentFile", 247, Exec, Conv::EnvironmentFile, VARIABLES),
    row("PassEnvironment", 247, Exec, Conv::WordsUnescaped, VARIABLES),
    row("UnsetEnvironment", 247, Exec, Conv::WordsUnescaped, OWN),
    row("SetLoginEnvironment", 255, Exec, Conv::Bool, OWN),
    reserved("WorkingDirectory", 247, Exec, "the driver sets it: write `work_dir` in the task's configuration, or let the program change its directory"),
    row("RootDirectory", 247, Exec, Conv::Text, FILES).system(),
    row("RootImage", 247, Exec, Conv::Text, FILES).system(),
    row("RootVerity", 247, Exec, Conv::Text, FILES).system(),
    row("RootImageOptions", 247, Exec, Conv::RootImageOptions, FILES).system(),
    row("RootHash", 247, Exec, Conv::RootHash, FILES).system(),
    row("RootHashSignature", 247, Exec, Conv::RootHashSignature, FILES).system(),
    row("RootEphemeral", 254, Exec, Conv::Bool, FILES).system(),
    row("RootImagePolicy", 254, Exec, Conv::Text, FILES).system(),
    row("MountImagePolicy", 254, Exec, Conv::Text, FILES).system(),
    row("ExtensionImagePolicy", 254, Exec, Conv::Text, FILES).system(),
    row("RootMStack", 260, Exec, Conv::Text, FILES).system(),
    row("MountImages", 247, Exec, Conv::MountImages, FILES).system(),
    row("ExtensionImages", 248, Exec, Conv::ExtensionImages, FILES).system(),
    row("ExtensionDirectories", 251, Exec, Conv::Words, FILES).system(),
    row("BindPaths", 247, Exec, Conv::Binds, FILES),
    row("BindReadOnlyPaths", 247, Exec, Conv::Binds, FILES),
    row("TemporaryFileSystem", 247, Exec, Conv::TemporaryFileSystem, HIDES),
    row("MountAPIVFS", 247, Exec, Conv::Bool, MOUNTS),
    row("MountFlags", 247, Exec, Conv::MountFlag, MOUNTS),
    row("BindLogSockets", 257, Exec, Conv::Bool, FILES),
    row("StateDirectory", 247, Exec, Conv::Directory, DIRECTORIES),
    row("CacheDirectory", 247, Exec, Conv::Directory, DIRECTORIES),
    row("LogsDirectory", 247, Exec, Conv::Directory, DIRECTORIES),
    row("RuntimeDirectory", 247, Exec, Conv::Directory, DIRECTORIES),
    row("ConfigurationDirectory", 247, Exec, Conv::Words, DIRECTORIES),
    row("StateDirectoryMode", 247, Exec, Conv::Mode, DIRECTORIES),
    row("CacheDirectoryMode", 247, Exec, Conv::Mode, DIRECTORIES),
    row("LogsDirectoryMode", 247, Exec, Conv::Mode, DIRECTORIES),
    row("RuntimeDirectoryMode", 247, Exec, Conv::Mode, DIRECTORIES),
    row("ConfigurationDirectoryMode", 247, Exec, Conv::Mode, DIRECTORIES),
    row("StateDirectoryQuota", 258, Exec, Conv::DirectoryQuota, LOWERS).system(),
    row("CacheDirectoryQuota", 258, Exec, Conv::DirectoryQuota, LOWERS).system(),
    row("LogsDirectoryQuota", 258, Exec, Conv::DirectoryQuota, LOWERS).system(),
    row("StateDirectoryAccounting", 258, Exec, Conv::Bool, COUNTS).system(),
    row("CacheDirectoryAccounting", 258, Exec, Conv::Bool, COUNTS).system(),
    row("LogsDirectoryAccounting", 258, Exec, Conv::Bool, COUNTS).system(),
    row("RuntimeDirectoryPreserve", 247, Exec, Conv::Text, DIRECTORIES),
    reserved("User", 247, Exec, "write `user` in the task block"),
    row("Group", 247, Exec, Conv::Text, USERS).system(),
    row("SupplementaryGroups", 247, Exec, Conv::Words, USERS).system(),
    reserved("DynamicUser", 247, Exec, "the driver decides it by the task's `user`"),
    row("PAMName", 247, Exec, Conv::Text, USERS).system(),
    reserved("SetCredential", 247, Exec, CREDENTIAL),
    reserved("SetCredentialEncrypted", 250, Exec, CREDENTIAL),
    row("LoadCredential", 247, Exec, Conv::LoadCredential, FILES),
    row("LoadCredentialEncrypted", 250, Exec, Conv::LoadCredential, FILES),
    row("ImportCredential", 254, Exec, Conv::ImportCredential, FILES),
    row("OpenFile", 253, Exec, Conv::OpenFile, FILES),
    row("UtmpIdentifier", 247, Exec, Conv::Text, USERS).system(),
    row("UtmpMode", 247, Exec, Conv::Text, USERS).system(),
    reserved("StandardInput", 247, Exec, STREAM),
    reserved("StandardOutput", 247, Exec, STREAM),
    reserved("StandardError", 247, Exec, STREAM),
    reserved("StandardInputText", 247, Exec, STREAM),
    reserved("StandardInputData", 247, Exec, STREAM),
    reserved("TTYPath", 247, Exec, TERMINAL),
    reserved("TTYReset", 247, Exec, TERMINAL),
    reserved("TTYVHangup", 247, Exec, TERMINAL),
    reserved("TTYVTDisallocate", 247, Exec, TERMINAL),
    reserved("TTYRows", 250, Exec, TERMINAL),
    reserved("TTYColumns", 250, Exec, TERMINAL),
    row("SyslogIdentifier", 247, Exec, Conv::Text, LOGS),
    row("SyslogFacility", 247, Exec, Conv::Facility, LOGS),
    row("SyslogLevel", 247, Exec, Conv::Level, LOGS),
    row("LogLevelMax", 247, Exec, Conv::Level, LOGS),
    row("SyslogLevelPrefix", 247, Exec, Conv::Bool, LOGS),
    row("LogExtraFields", 247, Exec, Conv::LogField, FIELDS),
    row("LogNamespace", 247, Exec, Conv::Text, UNITS).system(),
    row("LogRateLimitIntervalSec", 247, Exec, Conv::Seconds, LOGS),
    row("LogRateLimitBurst", 247, Exec, Conv::Unsigned, LOGS),
    row("LogFilterPatterns", 253, Exec, Conv::LogPattern, PATTERNS),
    row("ExecSearchPath", 250, Exec, Conv::WordsOrColons, OWN),
    row("LimitAS", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("LimitCORE", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("LimitCPU", 247, Process, Conv::Limit(Unit::Seconds), OWN),
    row("LimitDATA", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("LimitFSIZE", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("LimitLOCKS", 247, Process, Conv::Limit(Unit::Count), OWN),
    row("LimitMEMLOCK", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("LimitMSGQUEUE", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("LimitNICE", 247, Process, Conv::Limit(Unit::Nice), OWN),
    row("LimitNOFILE", 247, Process, Conv::Limit(Unit::Count), OWN),
    row("LimitNPROC", 247, Process, Conv::Limit(Unit::Count), OWN),
    row("LimitRSS", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("LimitRTPRIO", 247, Process, Conv::Limit(Unit::Count), OWN),
    row("LimitRTTIME", 247, Process, Conv::Limit(Unit::Microseconds), OWN),
    row("LimitSIGPENDING", 247, Process, Conv::Limit(Unit::Count), OWN),
    row("LimitSTACK", 247, Process, Conv::Limit(Unit::Size), OWN),
    row("Nice", 247, Process, Conv::Nice, OWN),
    row("OOMScoreAdjust", 247, Process, Conv::Integer, OWN),
    row("UMask", 247, Process, Conv::Mode, OWN),
    row("IOSchedulingClass", 247, Process, Conv::IoClass, OWN),
    row("IOSchedulingPriority", 247, Process, Conv::IoPriority, OWN),
    row("CPUSchedulingPolicy", 247, Process, Conv::Scheduler, OWN),
    row("CPUSchedulingPriority", 247, Process, Conv::Integer, OWN),
    row("CPUSchedulingResetOnFork", 247, Process, Conv::Bool, OWN),
    row("CPUAffinity", 247, Process, Conv::CpuAffinity, OWN),
    row("NUMAPolicy", 247, Process, Conv::NumaPolicy, OWN),
    row("NUMAMask", 247, Process, Conv::NumaMask, OWN),
    row("TimerSlackNSec", 247, Process, Conv::Nanoseconds, OWN),
    row("CoredumpFilter", 247, Process, Conv::CoredumpFilter, OWN),
    row("Personality", 247, Process, Conv::Word(&["x86", "x86-64", "arm", "arm64", "ppc", "ppc-le", "ppc64", "ppc64-le", "s390", "s390x"]), OWN),
    row("IgnoreSIGPIPE", 247, Process, Conv::Bool, OWN),
    row("MemoryKSM", 254, Process, Conv::Bool, SHARES),
    row("MemoryTHP", 260, Process, Conv::Text, OWN),
    reserved("NonBlocking", 247, Process, "it is for sockets that systemd hands over, and a task gets none"),
    row("SecureBits", 247, Sandbox, Conv::SecureBits, SANDBOX),
    // Which of them a task may have is another matter than whether it may say so.
    row("CapabilityBoundingSet", 247, Sandbox, Conv::Capabilities, SANDBOX),
    row("AmbientCapabilities", 247, Sandbox, Conv::Capabilities, SANDBOX).system(),
    row("NoNewPrivileges", 247, Sandbox, Conv::Bool, SANDBOX),
    row("PrivateDevices", 247, Sandbox, Conv::Bool, SANDBOX),
    row("PrivateNetwork", 247, Sandbox, Conv::Bool, SANDBOX),
    row("PrivateMounts", 247, Sandbox, Conv::Bool, SANDBOX),
    row("PrivateIPC", 248, Sandbox, Conv::Bool, SANDBOX),
    row("ProtectSystem", 247, Sandbox, Conv::Switch(&["full", "strict"]), SANDBOX),
    row("ProtectHome", 247, Sandbox, Conv::Switch(&["read-only", "tmpfs"]), SANDBOX),
    row("ProtectProc", 247, Sandbox, Conv::Word(&["noaccess", "invisible", "ptraceable", "default"]), SANDBOX).system(),
    row("ProcSubset", 247, Sandbox, Conv::Word(&["all", "pid"]), SANDBOX).system(),
    row("PrivateTmp", 247, Sandbox, Conv::BoolOrEx(&["disconnected"]), SANDBOX),
    row("PrivateUsers", 247, Sandbox, Conv::BoolOrEx(&["self", "identity", "full", "managed"]), SANDBOX),
    row("ProtectControlGroups", 247, Sandbox, Conv::BoolOrEx(&["private", "strict"]), SANDBOX),
    row("ProtectHostname", 247, Sandbox, Conv::Hostname, SANDBOX),
    row("PrivatePIDs", 257, Sandbox, Conv::Switch(&[]), SANDBOX),
    row("PrivateBPF", 258, Sandbox, Conv::Text, KERNEL).system(),
    row("BPFDelegateCommands", 258, Sandbox, Conv::Text, KERNEL).system(),
    row("BPFDelegateMaps", 258, Sandbox, Conv::Text, KERNEL).system(),
    row("BPFDelegatePrograms", 258, Sandbox, Conv::Text, KERNEL).system(),
    row("BPFDelegateAttachments", 258, Sandbox, Conv::Text, KERNEL).system(),
    row("NetworkNamespacePath", 247, Sandbox, Conv::Text, NAMESPACES).system(),
    row("IPCNamespacePath", 248, Sandbox, Conv::Text, NAMESPACES).system(),
    row("UserNamespacePath", 259, Sandbox, Conv::Text, NAMESPACES).system(),
    row("DelegateNamespaces", 258, Sandbox, Conv::DelegateNamespaces, NAMESPACES),
    row("ProtectClock", 247, Sandbox, Conv::Bool, SANDBOX),
    row("ProtectKernelTunables", 247, Sandbox, Conv::Bool, SANDBOX),
    row("ProtectKernelModules", 247, Sandbox, Conv::Bool, SANDBOX),
    row("ProtectKernelLogs", 247, Sandbox, Conv::Bool, SANDBOX),
    row("ReadWritePaths", 247, Sandbox, Conv::Words, MOUNTS),
    row("ReadOnlyPaths", 247, Sandbox, Conv::Words, HIDES),
    row("InaccessiblePaths", 247, Sandbox, Conv::Words, HIDES),
    row("ExecPaths", 248, Sandbox, Conv::Words, MOUNTS),
    row("NoExecPaths", 248, Sandbox, Conv::Words, HIDES),
    row("SystemCallFilter", 247, Sandbox, Conv::Filter, SANDBOX),
    row("SystemCallLog", 247, Sandbox, Conv::Filter, KERNEL_LOG),
    row("SystemCallErrorNumber", 247, Sandbox, Conv::Errno, SANDBOX),
    row("SystemCallArchitectures", 247, Sandbox, Conv::Words, SANDBOX),
    row("RestrictAddressFamilies", 247, Sandbox, Conv::Filter, SANDBOX),
    row("RestrictFileSystems", 250, Sandbox, Conv::Filter, SANDBOX).bpf().system(),
    row("RestrictNamespaces", 247, Sandbox, Conv::RestrictNamespaces, SANDBOX),
    row("RestrictRealtime", 247, Sandbox, Conv::Bool, SANDBOX),
    row("RestrictSUIDSGID", 247, Sandbox, Conv::Bool, SANDBOX),
    row("LockPersonality", 247, Sandbox, Conv::Bool, SANDBOX),
    row("MemoryDenyWriteExecute", 247, Sandbox, Conv::Bool, SANDBOX),
    row("RemoveIPC", 247, Sandbox, Conv::Bool, IPC),
    row("KeyringMode", 247, Sandbox, Conv::Word(&["inherit", "private", "shared"]), SANDBOX),
    row("AppArmorProfile", 247, Sandbox, Conv::Ignorable, KERNEL).system(),
    row("SmackProcessLabel", 247, Sandbox, Conv::Ignorable, KERNEL).system(),
    row("SELinuxContext", 247, Sandbox, Conv::Text, KERNEL).system(),
    reserved("ExecStart", 247, Service, COMMAND),
    reserved("ExecStartPre", 247, Service, COMMAND),
    reserved("ExecStartPost", 247, Service, COMMAND),
    reserved("ExecCondition", 247, Service, COMMAND),
    reserved("ExecReload", 247, Service, COMMAND),
    reserved("ExecStop", 247, Service, COMMAND),
    reserved("ExecStopPost", 247, Service, COMMAND),
    reserved("ExecReloadPost", 259, Service, COMMAND),
    reserved("Type", 247, Service, ENDS),
    reserved("RemainAfterExit", 247, Service, ENDS),
    reserved("ExitType", 250, Service, ENDS),
    reserved("Restart", 247, Service, RESTART),
    reserved("RestartSec", 247, Service, RESTART),
    reserved("RestartPreventExitStatus", 247, Service, RESTART),
    reserved("RestartForceExitStatus", 247, Service, RESTART),
    reserved("RestartKillSignal", 247, Service, RESTART),
    reserved("RestartMode", 254, Service, RESTART),
    reserved("RestartSteps", 254, Service, RESTART),
    reserved("RestartMaxDelaySec", 254, Service, RESTART),
    reserved("RestartRandomizedDelaySec", 262, Service, RESTART),
    reserved("KillMode", 247, Service, KILL),
    reserved("KillSignal", 247, Service, KILL),
    reserved("SendSIGKILL", 247, Service, KILL),
    reserved("FinalKillSignal", 247, Service, KILL),
    reserved("TimeoutStopSec", 247, Service, KILL),
    reserved("TimeoutAbortSec", 247, Service, KILL),
    reserved("TimeoutSec", 247, Service, KILL),
    reserved("TimeoutStopFailureMode", 247, Service, KILL),
    reserved("TimeoutStartFailureMode", 247, Service, KILL),
    row("TimeoutStartSec", 247, Service, Conv::Seconds, TIMES),
    row("SendSIGHUP", 247, Service, Conv::Bool, TIMES),
    row("WatchdogSignal", 247, Service, Conv::Signal, TIMES),
    row("WatchdogSec", 247, Service, Conv::Seconds, TIMES),
    row("RuntimeMaxSec", 247, Service, Conv::Seconds, TIMES),
    row("RuntimeRandomizedExtraSec", 250, Service, Conv::Seconds, TIMES),
    row("OOMPolicy", 247, Service, Conv::Word(&["continue", "stop", "kill"]), TIMES),
    row("SuccessExitStatus", 247, Service, Conv::ExitStatus, TIMES),
    reserved("NotifyAccess", 247, Service, "the driver decides who is listened to: write a `notify` block"),
    row("FileDescriptorStoreMax", 247, Service, Conv::Unsigned, STORES),
    row("FileDescriptorStorePreserve", 254, Service, Conv::Text, STORES),
    reserved("GuessMainPID", 247, Service, OTHER_START),
    reserved("PIDFile", 247, Service, OTHER_START),
    reserved("BusName", 247, Service, OTHER_START),
    reserved("USBFunctionDescriptors", 247, Service, OTHER_START),
    reserved("USBFunctionStrings", 247, Service, OTHER_START),
    reserved("PermissionsStartOnly", 247, Service, OTHER_START),
    reserved("RootDirectoryStartOnly", 247, Service, OTHER_START),
    reserved("ReloadSignal", 253, Service, "Nomad does not reload tasks: let a `template` block send a signal"),
    reserved("RefreshOnReload", 260, Service, "Nomad does not reload tasks: let a `template` block send a signal"),
    reserved("CollectMode", 247, UnitFile, "the driver removes the unit once Nomad has seen how it ended"),
    reserved("StartLimitIntervalSec", 247, UnitFile, RESTART),
    reserved("StartLimitBurst", 247, UnitFile, RESTART),
    reserved("Description", 247, UnitFile, "the driver describes the unit by its job, group and task"),
    row("Documentation", 247, UnitFile, Conv::Words, NOTES),
    row("SourcePath", 247, UnitFile, Conv::Text, PROBES),
    row("DefaultDependencies", 247, UnitFile, Conv::Bool, UNITS),
    row("Wants", 247, UnitFile, Conv::Words, UNITS),
    row("Requires", 247, UnitFile, Conv::Words, UNITS),
    row("Requisite", 247, UnitFile, Conv::Words, UNITS),
    row("BindsTo", 247, UnitFile, Conv::Words, UNITS),
    row("PartOf", 247, UnitFile, Conv::Words, UNITS),
    row("Conflicts", 247, UnitFile, Conv::Words, UNITS),
    row("Before", 247, UnitFile, Conv::Words, UNITS),
    row("After", 247, UnitFile, Conv::Words, UNITS),
    row("OnFailure", 247, UnitFile, Conv::Words, UNITS),
    row("PropagatesReloadTo", 247, UnitFile, Conv::Words, UNITS),
    row("ReloadPropagatedFrom", 247, UnitFile, Conv::Words, UNITS),
    row("JoinsNamespaceOf", 247, UnitFile, Conv::Words, UNITS),
    row("Upholds", 249, UnitFile, Conv::Words, UNITS),
    row("OnSuccess", 249, UnitFile, Conv::Words, UNITS),
    row("PropagatesStopTo", 249, UnitFile, Conv::Words, UNITS),
    row("StopPropagatedFrom", 249, UnitFile, Conv::Words, UNITS),
    row("RequiresMountsFor", 247, UnitFile, Conv::Words, UNITS),
    row("WantsMountsFor", 256, UnitFile, Conv::Words, UNITS),
    row("OnFailureJobMode", 247, UnitFile, Conv::Text, UNITS),
    reserved("StopWhenUnneeded", 247, UnitFile, "the driver starts and stops the unit for Nomad"),
    reserved("RefuseManualStart", 247, UnitFile, "the driver starts and stops the unit for Nomad"),
    reserved("RefuseManualStop", 247, UnitFile, "the driver starts and stops the unit for Nomad"),
    reserved("AllowIsolate", 247, UnitFile, "the driver starts and stops the unit for Nomad"),
    row("IgnoreOnIsolate", 247, UnitFile, Conv::Bool, UNITS),
    reserved("SuccessAction", 247, UnitFile, ACTION),
    reserved("FailureAction", 247, UnitFile, ACTION),
    reserved("StartLimitAction", 247, UnitFile, ACTION),
    reserved("JobTimeoutAction", 247, UnitFile, ACTION),
    reserved("RebootArgument", 247, UnitFile, ACTION),
    reserved("JobTimeoutRebootArgument", 247, UnitFile, ACTION),
    reserved("SuccessActionExitStatus", 247, UnitFile, ACTION),
    reserved("FailureActionExitStatus", 247, UnitFile, ACTION),
    row("JobTimeoutSec", 247, UnitFile, Conv::Seconds, TIMES),
    row("JobRunningTimeoutSec", 247, UnitFile, Conv::Seconds, TIMES),
    row("SurviveFinalKillSignal", 255, UnitFile, Conv::Bool, UNITS),
    reserved("Markers", 248, UnitFile, "it is systemd's note of units to restart, and Nomad restarts tasks"),
    reserved("Names", 247, UnitFile, "the driver names the unit, and finds it again by its name"),
    reserved("AddRef", 247, UnitFile, "it binds the unit to a connection, and a task outlives the driver"),
    row("ConditionArchitecture", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionVirtualization", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionHost", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionKernelCommandLine", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionKernelVersion", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionEnvironment", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionSecurity", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionCapability", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionACPower", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionMemory", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionCPUs", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionNeedsUpdate", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionFirstBoot", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionPathExists", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionPathExistsGlob", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionPathIsDirectory", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionPathIsSymbolicLink", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionPathIsMountPoint", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionPathIsReadWrite", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionPathIsEncrypted", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionDirectoryNotEmpty", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionFileNotEmpty", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionFileIsExecutable", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionUser", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionGroup", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionControlGroupController", 247, UnitFile, Conv::Condition, PROBES),
    row("ConditionCPUFeature", 248, UnitFile, Conv::Condition, PROBES),
    row("ConditionFirmware", 249, UnitFile, Conv::Condition, PROBES),
    row("ConditionOSRelease", 249, UnitFile, Conv::Condition, PROBES),
    row("ConditionMemoryPressure", 250, UnitFile, Conv::Condition, PROBES),
    row("ConditionCPUPressure", 250, UnitFile, Conv::Condition, PROBES),
    row("ConditionIOPressure", 250, UnitFile, Conv::Condition, PROBES),
    row("ConditionCredential", 252, UnitFile, Conv::Condition, PROBES),
    row("ConditionVersion", 258, UnitFile, Conv::Condition, PROBES),
    row("ConditionKernelModuleLoaded", 258, UnitFile, Conv::Condition, PROBES),
    row("AssertArchitecture", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertVirtualization", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertHost", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertKernelCommandLine", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertKernelVersion", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertEnvironment", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertSecurity", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertCapability", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertACPower", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertMemory", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertCPUs", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertNeedsUpdate", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertFirstBoot", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertPathExists", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertPathExistsGlob", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertPathIsDirectory", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertPathIsSymbolicLink", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertPathIsMountPoint", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertPathIsReadWrite", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertPathIsEncrypted", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertDirectoryNotEmpty", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertFileNotEmpty", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertFileIsExecutable", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertUser", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertGroup", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertControlGroupController", 247, UnitFile, Conv::Condition, PROBES),
    row("AssertCPUFeature", 248, UnitFile, Conv::Condition, PROBES),
    row("AssertFirmware", 249, UnitFile, Conv::Condition, PROBES),
    row("AssertOSRelease", 249, UnitFile, Conv::Condition, PROBES),
    row("AssertMemoryPressure", 250, UnitFile, Conv::Condition, PROBES),
    row("AssertCPUPressure", 250, UnitFile, Conv::Condition, PROBES),
    row("AssertIOPressure", 250, UnitFile, Conv::Condition, PROBES),
    row("AssertCredential", 252, UnitFile, Conv::Condition, PROBES),
    row("AssertVersion", 258, UnitFile, Conv::Condition, PROBES),
    row("AssertKernelModuleLoaded", 258, UnitFile, Conv::Condition, PROBES),
];

/// What systemd has given up, and what took its place.
pub(super) const GONE: [(&str, &str); 12] = [
    ("BlockIOAccounting", "IOAccounting"),
    ("BlockIODeviceWeight", "IODeviceWeight"),
    ("BlockIOReadBandwidth", "IOReadBandwidthMax"),
    ("BlockIOWeight", "IOWeight"),
    ("BlockIOWriteBandwidth", "IOWriteBandwidthMax"),
    ("CPUShares", "CPUWeight"),
    ("InaccessibleDirectories", "InaccessiblePaths"),
    ("MemoryLimit", "MemoryMax"),
    ("ReadOnlyDirectories", "ReadOnlyPaths"),
    ("ReadWriteDirectories", "ReadWritePaths"),
    ("StartupBlockIOWeight", "StartupIOWeight"),
    ("StartupCPUShares", "StartupCPUWeight"),
];
