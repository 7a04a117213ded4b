//! Texts for each kind of value, with all names that share it.

pub(crate) const KINDS: &[(&str, &[&str])] = &[
    (
        "CPUAccounting MemoryAccounting IOAccounting TasksAccounting IPAccounting MemoryZSwapWriteback CoredumpReceive \
         SetLoginEnvironment RootEphemeral MountAPIVFS BindLogSockets StateDirectoryAccounting \
         CacheDirectoryAccounting LogsDirectoryAccounting SyslogLevelPrefix CPUSchedulingResetOnFork IgnoreSIGPIPE \
         MemoryKSM NoNewPrivileges PrivateDevices PrivateNetwork PrivateMounts PrivateIPC ProtectClock \
         ProtectKernelTunables ProtectKernelModules ProtectKernelLogs RestrictRealtime RestrictSUIDSGID \
         LockPersonality MemoryDenyWriteExecute RemoveIPC SendSIGHUP DefaultDependencies IgnoreOnIsolate \
         SurviveFinalKillSignal",
        &["yes", "perhaps"],
    ),
    (
        "CPUSetPartition DevicePolicy BindNetworkInterface ManagedOOMSwap ManagedOOMMemoryPressure \
         ManagedOOMPreference MemoryPressureWatch CPUPressureWatch IOPressureWatch DelegateSubgroup RootImage \
         RootVerity RootImagePolicy MountImagePolicy ExtensionImagePolicy RuntimeDirectoryPreserve Group \
         PAMName UtmpIdentifier UtmpMode SyslogIdentifier LogNamespace Personality MemoryTHP ProtectSystem \
         ProtectHome ProtectProc ProcSubset PrivatePIDs PrivateBPF BPFDelegateCommands BPFDelegateMaps \
         BPFDelegatePrograms BPFDelegateAttachments NetworkNamespacePath IPCNamespacePath UserNamespacePath \
         KeyringMode SELinuxContext FileDescriptorStorePreserve SourcePath OnFailureJobMode",
        &["a  word"],
    ),
    (
        "ExtensionDirectories ConfigurationDirectory SupplementaryGroups ReadWritePaths \
         ReadOnlyPaths InaccessiblePaths ExecPaths NoExecPaths SystemCallArchitectures Documentation Wants Requires \
         Requisite BindsTo PartOf Conflicts Before After OnFailure PropagatesReloadTo ReloadPropagatedFrom \
         JoinsNamespaceOf Upholds OnSuccess PropagatesStopTo StopPropagatedFrom RequiresMountsFor WantsMountsFor \
         OOMRules",
        &["/a 'b c'"],
    ),
    ("PassEnvironment UnsetEnvironment", &["A B", "A\\x42", ""]),
    (
        "MemoryMin MemoryLow StartupMemoryLow MemoryHigh StartupMemoryHigh MemoryMax MemorySwapMax \
         StartupMemoryMax StartupMemorySwapMax StartupMemoryZSwapMax MemoryZSwapMax",
        &["1G", "", "infinity", "10%", "x"],
    ),
    ("StartupCPUWeight IOWeight StartupIOWeight", &["1", "10000", "0", "10001", "", "x"]),
    (
        "TimeoutStartSec WatchdogSec RuntimeMaxSec RuntimeRandomizedExtraSec JobTimeoutSec JobRunningTimeoutSec \
         LogRateLimitIntervalSec MemoryPressureThresholdSec CPUPressureThresholdSec IOPressureThresholdSec",
        &["1min 30s", ""],
    ),
    ("CPUQuotaPeriodSec ManagedOOMMemoryPressureDurationSec", &["10ms", "", "infinity", "x"]),
    ("AllowedMemoryNodes StartupAllowedCPUs StartupAllowedMemoryNodes", &["0-3"]),
    (
        "IOReadBandwidthMax IOWriteBandwidthMax IOReadIOPSMax IOWriteIOPSMax",
        &["/dev/vda 5M", "/dev/vda infinity", "/dev/vda", "", "/dev/vda x"],
    ),
    ("IPAddressDeny", &["any"]),
    ("SocketBindDeny", &["any"]),
    ("IPIngressFilterPath IPEgressFilterPath", &["/sys/fs/bpf/x", ""]),
    ("CacheDirectory LogsDirectory RuntimeDirectory", &["a", "a:b"]),
    (
        "StateDirectoryMode CacheDirectoryMode LogsDirectoryMode RuntimeDirectoryMode ConfigurationDirectoryMode",
        &["0750"],
    ),
    ("CacheDirectoryQuota LogsDirectoryQuota", &["1G"]),
    ("LoadCredential LoadCredentialEncrypted", &["a:/b", "a", "a:", "", "a:b:c", ":x"]),
    ("SyslogLevel LogLevelMax", &["emerg", "debug", "3", "8", "x", ""]),
    ("LogRateLimitBurst FileDescriptorStoreMax", &["5", "0x10", "-1", "4294967295", "4294967296", ""]),
    (
        "LimitAS LimitCORE LimitDATA LimitFSIZE LimitMEMLOCK LimitMSGQUEUE LimitRSS LimitSTACK",
        &["1M", "1K:2M"],
    ),
    ("LimitLOCKS LimitNPROC LimitRTPRIO LimitSIGPENDING", &["10", "5:infinity", "x"]),
    ("CapabilityBoundingSet AmbientCapabilities", &["CAP_NET_ADMIN", "~cap_net_admin", "", "~"]),
    ("BindReadOnlyPaths", &["/a"]),
    ("SystemCallLog", &["~@clock"]),
    ("AppArmorProfile SmackProcessLabel", &["x", "-x", ""]),
    (
        "ConditionArchitecture ConditionVirtualization ConditionHost ConditionKernelCommandLine \
         ConditionKernelVersion ConditionEnvironment ConditionSecurity ConditionCapability ConditionACPower \
         ConditionMemory ConditionCPUs ConditionNeedsUpdate ConditionFirstBoot ConditionPathExists \
         ConditionPathExistsGlob ConditionPathIsDirectory ConditionPathIsSymbolicLink ConditionPathIsMountPoint \
         ConditionPathIsReadWrite ConditionPathIsEncrypted ConditionDirectoryNotEmpty ConditionFileNotEmpty \
         ConditionFileIsExecutable ConditionUser ConditionGroup ConditionControlGroupController \
         ConditionCPUFeature ConditionFirmware ConditionOSRelease ConditionMemoryPressure ConditionCPUPressure \
         ConditionIOPressure ConditionCredential ConditionVersion ConditionKernelModuleLoaded",
        &["|!x"],
    ),
    (
        "AssertArchitecture AssertVirtualization AssertHost AssertKernelCommandLine AssertKernelVersion \
         AssertEnvironment AssertSecurity AssertCapability AssertACPower AssertMemory AssertCPUs AssertNeedsUpdate \
         AssertFirstBoot AssertPathExists AssertPathExistsGlob AssertPathIsDirectory AssertPathIsSymbolicLink \
         AssertPathIsMountPoint AssertPathIsReadWrite AssertPathIsEncrypted AssertDirectoryNotEmpty \
         AssertFileNotEmpty AssertFileIsExecutable AssertUser AssertGroup AssertControlGroupController \
         AssertCPUFeature AssertFirmware AssertOSRelease AssertMemoryPressure AssertCPUPressure AssertIOPressure \
         AssertCredential AssertVersion AssertKernelModuleLoaded",
        &["!x"],
    ),
];
