//! The blocks of a task's `config` whose options are systemd properties, under the names of systemd's man pages.
//!
//! All of them follow one rule: an option means what the property of that name means in a unit file (systemd.exec(5),
//! systemd.resource-control(5)), and its value is written as there. Like a drop-in, it is applied after what the driver
//! and the sandbox preset set. So a string replaces an earlier value, a list adds to it, and an empty list resets it.

use crate::task::config::options::{Block, Opt, settings};

settings! {
    /// The `limits` block of a task.
    pub struct Limits {
        /// CPU time that it may use, in percent of one core, such as `"150%"`.
        cpu_quota: String => "CPUQuota",
        /// The length of time in which the quota is measured.
        cpu_quota_period: String => "CPUQuotaPeriodSec",
        /// Cores to prefer in the kernel's scheduler, such as `"0-3"`; for cores of its own a job has `cores`.
        cpu_affinity: String => "CPUAffinity",
        /// `"other"`, `"batch"`, `"idle"`, or, if the operator allows the property, `"fifo"` and `"rr"`.
        cpu_scheduling_policy: String => "CPUSchedulingPolicy",
        /// 1 to 99, for `"fifo"` and `"rr"`.
        cpu_scheduling_priority: i64 => "CPUSchedulingPriority",
        /// Nice level, up to 19; below 0 only if the operator allows it.
        nice: i64 => "Nice",
        /// Memory above which the task is throttled, such as `"96M"`.
        memory_high: String => "MemoryHigh",
        /// Memory that is never reclaimed; only if the operator allows it.
        memory_min: String => "MemoryMin",
        /// Maximum swap, such as `"64M"` or `"infinity"`. Default: none.
        memory_swap_max: String => "MemorySwapMax",
        /// Compressed swap.
        memory_zswap_max: String => "MemoryZSwapMax",
        /// What happens when a process of the task is OOM-killed: `"kill"` (the default) kills the whole task, `"stop"`, `"continue"`.
        oom_policy: String => "OOMPolicy",
        /// OOM score adjustment; 1000 is killed first. Below 0 only if the operator allows it.
        oom_score_adjust: i64 => "OOMScoreAdjust",
        /// `"kill"`: systemd-oomd may kill the task when swap runs out.
        managed_oom_swap: String => "ManagedOOMSwap",
        /// `"kill"`: systemd-oomd may kill the task under memory pressure.
        managed_oom_memory_pressure: String => "ManagedOOMMemoryPressure",
        /// Memory pressure limit of systemd-oomd, such as `"60%"`.
        managed_oom_memory_pressure_limit: String => "ManagedOOMMemoryPressureLimit",
        /// For how long.
        managed_oom_memory_pressure_duration: String => "ManagedOOMMemoryPressureDurationSec",
        /// `"on"`: the task can watch its memory pressure (`MEMORY_PRESSURE_WATCH`).
        memory_pressure_watch: String => "MemoryPressureWatch",
        /// Pressure within two seconds from which the task is notified.
        memory_pressure_threshold: String => "MemoryPressureThresholdSec",
        /// I/O weight, 1 to 10000; the default is 100.
        io_weight: i64 => "IOWeight",
        /// The same for a device, such as `"/dev/sda 200"`.
        io_device_weight: Vec<String> => "IODeviceWeight",
        /// Latency to aim at, such as `"/dev/sda 25ms"`.
        io_device_latency_target: Vec<String> => "IODeviceLatencyTargetSec",
        /// Bytes per second, such as `"/dev/sda 5M"`; a file stands for the device that it is on.
        io_read_bandwidth_max: Vec<String> => "IOReadBandwidthMax",
        /// The same for writing.
        io_write_bandwidth_max: Vec<String> => "IOWriteBandwidthMax",
        /// Operations per second, such as `"/dev/sda 1K"`.
        io_read_iops_max: Vec<String> => "IOReadIOPSMax",
        /// The same for writing.
        io_write_iops_max: Vec<String> => "IOWriteIOPSMax",
        /// `"best-effort"`, `"idle"`, or, if the operator allows it, `"realtime"`.
        io_scheduling_class: String => "IOSchedulingClass",
        /// 7 is the least.
        io_scheduling_priority: i64 => "IOSchedulingPriority",
        /// Processes and threads, such as `"64"` or `"10%"`.
        tasks_max: String => "TasksMax",
        /// Maximum run time, such as `"1h"`; then the task is stopped and has failed.
        runtime_max: String => "RuntimeMaxSec",
        /// NUMA memory policy: `"preferred"`, `"bind"`, `"interleave"`, `"local"`.
        numa_policy: String => "NUMAPolicy",
        /// NUMA nodes, such as `"0-1"`.
        numa_mask: String => "NUMAMask",
        /// Timer slack, in nanoseconds or as `"1ms"`.
        timer_slack: String => "TimerSlackNSec",
    }
}

settings! {
    /// The `files` block of a task. A path of the host is taken where the operator allows it (`allow_host_paths`); a relative one is in the task's `local/`.
    pub struct Files {
        /// Files and directories to bind-mount, as `"SOURCE"` or `"SOURCE:TARGET"`: the task's own, such as `"local/app.conf:/etc/app.conf"`, or of the host.
        bind_paths: Vec<String> => "BindPaths",
        /// The same, read-only.
        bind_read_only_paths: Vec<String> => "BindReadOnlyPaths",
        /// tmpfs mounts, as `"/path"` or `"/path:size=10M,mode=1777"`; without such a mode only root can write there.
        temporary_file_system: Vec<String> => "TemporaryFileSystem",
        /// Paths that are read-only for the task. `/` does not include what is mounted below it: name `/local`, `/alloc` and others one by one.
        read_only_paths: Vec<String> => "ReadOnlyPaths",
        /// Paths that are writable inside a read-only one; only if the operator allows it.
        read_write_paths: Vec<String> => "ReadWritePaths",
        /// Paths that are inaccessible to the task.
        inaccessible_paths: Vec<String> => "InaccessiblePaths",
        /// Paths from which nothing can be executed.
        no_exec_paths: Vec<String> => "NoExecPaths",
        /// Paths inside a no-exec one from which programs can be executed.
        exec_paths: Vec<String> => "ExecPaths",
        /// Root directory in place of the view; `/alloc`, `/local` and `/secrets` are mounted in it.
        root_directory: String => "RootDirectory",
        /// Disk image used as the root file system.
        root_image: String => "RootImage",
        /// Mount options of the image, such as `"root:ro,nodev"`.
        root_image_options: Vec<String> => "RootImageOptions",
        /// Verity: the root hash in hex, or a file with it.
        root_hash: String => "RootHash",
        /// Signature of the root hash, as `"base64:…"` or a file.
        root_hash_signature: String => "RootHashSignature",
        /// The file with the verity data.
        root_verity: String => "RootVerity",
        /// Runs from a copy of the root that is removed afterwards.
        root_ephemeral: bool => "RootEphemeral",
        /// Which partitions must be there, and how protected.
        root_image_policy: String => "RootImagePolicy",
        /// Images to mount, as `"IMAGE:/target"`.
        mount_images: Vec<String> => "MountImages",
        /// As `root_image_policy`.
        mount_image_policy: String => "MountImagePolicy",
        /// Images to lay over `/usr` and `/opt` (systemd-sysext(8)).
        extension_images: Vec<String> => "ExtensionImages",
        /// Directories to lay over them.
        extension_directories: Vec<String> => "ExtensionDirectories",
        /// As `root_image_policy`.
        extension_image_policy: String => "ExtensionImagePolicy",
        /// Directories below the host's `/var/lib` that outlive the allocation; their names begin with that of the group's ephemeral user, and `STATE_DIRECTORY` has the path. Needs `"StateDirectory"` in `allow_properties`.
        state_directory: Vec<String> => "StateDirectory",
        /// Their mode, such as `"0700"`.
        state_directory_mode: String => "StateDirectoryMode",
        /// The same below `/var/cache`; needs `"CacheDirectory"`.
        cache_directory: Vec<String> => "CacheDirectory",
        /// Their mode.
        cache_directory_mode: String => "CacheDirectoryMode",
        /// The same below `/var/log`; needs `"LogsDirectory"`.
        logs_directory: Vec<String> => "LogsDirectory",
        /// Their mode.
        logs_directory_mode: String => "LogsDirectoryMode",
        /// Directories below `/run` that are removed with the task; needs `"RuntimeDirectory"`.
        runtime_directory: Vec<String> => "RuntimeDirectory",
        /// Their mode.
        runtime_directory_mode: String => "RuntimeDirectoryMode",
    }
}

settings! {
    /// The `network` block of a task.
    pub struct Network {
        /// `true`: a network with nothing but a loopback device. (A `network` block of the group with `mode = "none"` is to do the same for all of its tasks; Nomad 2.0.5 fails it for every driver.)
        private: bool => "PrivateNetwork",
        /// Addresses that are allowed although `ip_address_deny` has them, such as `"10.0.0.0/8"` or `"localhost"`.
        ip_address_allow: Vec<String> => "IPAddressAllow",
        /// Addresses that are denied, such as `"any"`.
        ip_address_deny: Vec<String> => "IPAddressDeny",
        /// Ports that the task may bind although `socket_bind_deny` has them, such as `"tcp:8080"`.
        socket_bind_allow: Vec<String> => "SocketBindAllow",
        /// Ports that the task may not bind, such as `"any"`.
        socket_bind_deny: Vec<String> => "SocketBindDeny",
        /// Network interfaces that the task may use, or, with the prefix `~`, may not use.
        restrict_network_interfaces: Vec<String> => "RestrictNetworkInterfaces",
        /// Network interface that all sockets of the task are bound to.
        bind_network_interface: String => "BindNetworkInterface",
    }
}

settings! {
    /// The `sandbox` block of a task.
    pub struct Sandbox {
        /// Preset that the other options change: `"strict"`, `"standard"` or `"off"`. Default: the plugin's `sandbox`; for WebAssembly the preset `"wasm"`.
        preset: String,
        /// Programs that the task executes cannot gain privileges.
        no_new_privileges: bool => "NoNewPrivileges",
        /// Capability bounding set. An empty string resets it, as in `["", "CAP_CHOWN"]`. `cap_add` and `cap_drop` are applied afterwards.
        capability_bounding_set: Vec<String> => "CapabilityBoundingSet",
        /// Ambient capabilities; they must be in the bounding set.
        ambient_capabilities: Vec<String> => "AmbientCapabilities",
        /// Such as `"noroot-locked"`.
        secure_bits: Vec<String> => "SecureBits",
        /// System calls that are allowed, such as `"@mount"`, or, with the prefix `~`, denied.
        system_call_filter: Vec<String> => "SystemCallFilter",
        /// Result of denied system calls: an error such as `"EPERM"`, or `"kill"`.
        system_call_error_number: String => "SystemCallErrorNumber",
        /// Such as `"native"`.
        system_call_architectures: Vec<String> => "SystemCallArchitectures",
        /// System calls to log.
        system_call_log: Vec<String> => "SystemCallLog",
        /// Address families of sockets that are allowed, such as `"AF_INET"`, beside those of the preset; after `""` alone; or `"none"`.
        restrict_address_families: Vec<String> => "RestrictAddressFamilies",
        /// File system types that are allowed, such as `"ext4"`.
        restrict_file_systems: Vec<String> => "RestrictFileSystems",
        /// `"yes"` denies the creation of namespaces; or the types that are allowed, such as `"user mnt"`.
        restrict_namespaces: String => "RestrictNamespaces",
        /// Namespaces that the task may manage itself.
        delegate_namespaces: String => "DelegateNamespaces",
        /// No real-time scheduling.
        restrict_realtime: bool => "RestrictRealtime",
        /// The task cannot create set-user-ID or set-group-ID files; it can by `false`, which needs `"RestrictSUIDSGID"` in `allow_properties`.
        restrict_suid_sgid: bool => "RestrictSUIDSGID",
        /// No memory that is writable and executable.
        memory_deny_write_execute: bool => "MemoryDenyWriteExecute",
        /// The task cannot change its personality(2).
        lock_personality: bool => "LockPersonality",
        /// Such as `"x86"`.
        personality: String => "Personality",
        /// Host directories that are read-only: `"full"`, `"strict"`, `"yes"` or `"no"`. With the default view only `"strict"`: the host is read-only as a whole.
        protect_system: String => "ProtectSystem",
        /// `"yes"`, `"read-only"`, `"tmpfs"` or `"no"`.
        protect_home: String => "ProtectHome",
        /// `"yes"`, `"no"`, or `"private"` with a name of its own as `"private:NAME"`.
        protect_hostname: String => "ProtectHostname",
        /// The task cannot change the clock.
        protect_clock: bool => "ProtectClock",
        /// `/proc/sys` and `/sys` are read-only.
        protect_kernel_tunables: bool => "ProtectKernelTunables",
        /// The task cannot load kernel modules.
        protect_kernel_modules: bool => "ProtectKernelModules",
        /// The task cannot read the kernel log.
        protect_kernel_logs: bool => "ProtectKernelLogs",
        /// `"yes"`: the cgroup tree is read-only; `"private"`, `"strict"`: a cgroup namespace of its own.
        protect_control_groups: String => "ProtectControlGroups",
        /// Visibility of other processes: `"invisible"`, `"noaccess"`, `"ptraceable"`, `"default"`.
        protect_proc: String => "ProtectProc",
        /// `"pid"`: `/proc` shows only processes.
        proc_subset: String => "ProcSubset",
        /// Private `/tmp` and `/var/tmp`; `"no"` only for a task with a root of its own.
        private_tmp: String => "PrivateTmp",
        /// Private `/dev` with pseudo devices only.
        private_devices: bool => "PrivateDevices",
        /// Devices that the task may use, as `"/dev/NAME rwm"`.
        device_allow: Vec<String> => "DeviceAllow",
        /// `"closed"`, `"strict"`, `"auto"`.
        device_policy: String => "DevicePolicy",
        /// IPC namespace of its own: System V objects and POSIX message queues.
        private_ipc: bool => "PrivateIPC",
        /// PID namespace of its own, in which the init of the task is PID 1.
        private_pids: String => "PrivatePIDs",
        /// User namespace of its own: `"yes"`, `"self"`, `"identity"`, `"full"`, `"managed"`.
        private_users: String => "PrivateUsers",
        /// A BPF file system of its own.
        private_bpf: String => "PrivateBPF",
        /// Mount namespace of its own.
        private_mounts: bool => "PrivateMounts",
        /// Mount propagation: `"slave"`, `"private"`, `"shared"`.
        mount_flags: String => "MountFlags",
        /// IPC objects of the task's user are removed when the task stops.
        remove_ipc: bool => "RemoveIPC",
        /// `"private"`, `"shared"`, `"inherit"`.
        keyring_mode: String => "KeyringMode",
        /// File mode creation mask, such as `"0077"`.
        umask: String => "UMask",
        /// Memory mappings that a core dump contains.
        coredump_filter: String => "CoredumpFilter",
        /// AppArmor profile.
        app_armor_profile: String => "AppArmorProfile",
        /// SELinux security context.
        selinux_context: String => "SELinuxContext",
        /// Smack process label.
        smack_process_label: String => "SmackProcessLabel",
    }
}

impl Sandbox {
    /// The preset that the job names.
    pub fn preset(&self) -> Option<&str> {
        let named = self.0.iter().find(|setting| setting.option.name == "preset");
        named.and_then(|setting| setting.values.first()).map(String::as_str)
    }
}

/// How an error names a property or another option: by the option that sets the property, if there is one, such as ``
/// `files.bind_paths` (BindPaths) ``.
pub(crate) fn shown(property: &str) -> String {
    match option_of(property) {
        Some(option) => format!("`{option}` ({property})"),
        None => format!("`{property}`"),
    }
}

/// The option that sets a property, such as `files.bind_paths`.
pub(crate) fn option_of(property: &str) -> Option<String> {
    let blocks: [(&str, &[Opt]); 4] = [
        ("files", Files::OPTIONS),
        ("limits", Limits::OPTIONS),
        ("network", Network::OPTIONS),
        ("sandbox", Sandbox::OPTIONS),
    ];
    let named = |(block, options): (&str, &[Opt])| {
        let option = options.iter().find(|option| option.property == Some(property))?;
        Some(format!("{block}.{}", option.name))
    };
    blocks.into_iter().find_map(named)
}
