//! The blocks of a task's `config` whose options are properties of systemd's, under the names of its manual.
//!
//! One rule for all of them: an option means what the property of its name means in a unit file (systemd.exec(5),
//! systemd.resource-control(5)), the value is written as there, and it stands after what the driver and the sandbox's
//! preset say, as a drop-in would. So a text replaces what was said before, a list adds to it, and an empty list takes
//! it back.

use super::options::settings;

settings! {
    /// The `limits` block of a task.
    pub struct Limits {
        /// CPU time that it may use, in percent of one core, such as `"150%"`.
        cpu_quota: String => "CPUQuota",
        /// The length of time in which the quota is measured.
        cpu_quota_period: String => "CPUQuotaPeriodSec",
        /// Cores to prefer in the kernel's scheduler, such as `"0-3"`; for cores of its own a job has `cores`.
        cpu_affinity: String => "CPUAffinity",
        /// `"other"`, `"batch"`, `"idle"`, or with the operator's leave `"fifo"` and `"rr"`.
        cpu_scheduling_policy: String => "CPUSchedulingPolicy",
        /// 1 to 99, for `"fifo"` and `"rr"`.
        cpu_scheduling_priority: i64 => "CPUSchedulingPriority",
        /// 19 is the least; below 0 with the operator's leave.
        nice: i64 => "Nice",
        /// Memory above which it is slowed down, such as `"96M"`.
        memory_high: String => "MemoryHigh",
        /// Memory that is never taken from it; with the operator's leave.
        memory_min: String => "MemoryMin",
        /// Swap beside its memory, such as `"64M"` or `"infinity"`. Not given: none.
        memory_swap_max: String => "MemorySwapMax",
        /// Compressed swap.
        memory_zswap_max: String => "MemoryZSwapMax",
        /// What happens to the others when one process is killed for want of memory: `"kill"` (the default), `"stop"`, `"continue"`.
        oom_policy: String => "OOMPolicy",
        /// 1000 is killed first; below 0 with the operator's leave.
        oom_score_adjust: i64 => "OOMScoreAdjust",
        /// `"kill"`: systemd-oomd may kill it when swap runs out.
        managed_oom_swap: String => "ManagedOOMSwap",
        /// `"kill"`: systemd-oomd may kill it when it suffers from memory pressure.
        managed_oom_memory_pressure: String => "ManagedOOMMemoryPressure",
        /// From which pressure on, such as `"60%"`.
        managed_oom_memory_pressure_limit: String => "ManagedOOMMemoryPressureLimit",
        /// For how long.
        managed_oom_memory_pressure_duration: String => "ManagedOOMMemoryPressureDurationSec",
        /// `"on"`: the task is told of memory pressure (`MEMORY_PRESSURE_WATCH`).
        memory_pressure_watch: String => "MemoryPressureWatch",
        /// How much pressure in two seconds it is told of.
        memory_pressure_threshold: String => "MemoryPressureThresholdSec",
        /// 1 to 10000; 100 is everybody's.
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
        /// `"best-effort"`, `"idle"`, or with the operator's leave `"realtime"`.
        io_scheduling_class: String => "IOSchedulingClass",
        /// 7 is the least.
        io_scheduling_priority: i64 => "IOSchedulingPriority",
        /// Processes and threads, such as `"64"` or `"10%"`.
        tasks_max: String => "TasksMax",
        /// How long it may run, such as `"1h"`; then it is ended, as a failure.
        runtime_max: String => "RuntimeMaxSec",
        /// Where its memory comes from: `"preferred"`, `"bind"`, `"interleave"`, `"local"`.
        numa_policy: String => "NUMAPolicy",
        /// From which nodes, such as `"0-1"`.
        numa_mask: String => "NUMAMask",
        /// How late its timers may be, in nanoseconds or as `"1ms"`.
        timer_slack: String => "TimerSlackNSec",
    }
}

settings! {
    /// The `files` block of a task. A path of the host is taken where the operator allows it (`allow_host_paths`); a relative one is in the task's `local/`.
    pub struct Files {
        /// Files and directories of the host, as `"SOURCE"` or `"SOURCE:TARGET"`; a target in what the task sees of the host must be there.
        bind_paths: Vec<String> => "BindPaths",
        /// The same, read-only.
        bind_read_only_paths: Vec<String> => "BindReadOnlyPaths",
        /// Empty file systems in memory, as `"/path"` or `"/path:size=10M,mode=0700"`.
        temporary_file_system: Vec<String> => "TemporaryFileSystem",
        /// Paths that are read-only for it.
        read_only_paths: Vec<String> => "ReadOnlyPaths",
        /// Paths that are writable within such a one; with the operator's leave.
        read_write_paths: Vec<String> => "ReadWritePaths",
        /// Paths that it cannot reach.
        inaccessible_paths: Vec<String> => "InaccessiblePaths",
        /// Paths from which nothing can be executed.
        no_exec_paths: Vec<String> => "NoExecPaths",
        /// Paths within such a one from which something can.
        exec_paths: Vec<String> => "ExecPaths",
        /// A directory that is its `/` instead of the view; `/alloc`, `/local` and `/secrets` are mounted on it.
        root_directory: String => "RootDirectory",
        /// A disk image that is its `/`.
        root_image: String => "RootImage",
        /// Mount options of the image, such as `"root:ro,nodev"`.
        root_image_options: Vec<String> => "RootImageOptions",
        /// Verity: the root hash in hex, or a file with it.
        root_hash: String => "RootHash",
        /// Its signature, as `"base64:…"` or a file with it.
        root_hash_signature: String => "RootHashSignature",
        /// The file with the verity data.
        root_verity: String => "RootVerity",
        /// A copy of the root that is thrown away afterwards.
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
        /// Directories that outlive the allocation, below the host's `/var/lib`, where the task sees them too. With the operator's leave, as all of the following.
        state_directory: Vec<String> => "StateDirectory",
        /// Their mode, such as `"0700"`.
        state_directory_mode: String => "StateDirectoryMode",
        /// The same below `/var/cache`.
        cache_directory: Vec<String> => "CacheDirectory",
        /// Their mode.
        cache_directory_mode: String => "CacheDirectoryMode",
        /// The same below `/var/log`.
        logs_directory: Vec<String> => "LogsDirectory",
        /// Their mode.
        logs_directory_mode: String => "LogsDirectoryMode",
        /// Directories below `/run` that go with the task.
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
        /// Addresses that it may speak with in spite of `ip_address_deny`, such as `"10.0.0.0/8"` or `"localhost"`.
        ip_address_allow: Vec<String> => "IPAddressAllow",
        /// Addresses that it may not, such as `"any"`.
        ip_address_deny: Vec<String> => "IPAddressDeny",
        /// Ports that it may bind in spite of `socket_bind_deny`, such as `"tcp:8080"`.
        socket_bind_allow: Vec<String> => "SocketBindAllow",
        /// Ports that it may not, such as `"any"`.
        socket_bind_deny: Vec<String> => "SocketBindDeny",
        /// Network interfaces that it may use, or with `~` before one that it may not.
        restrict_network_interfaces: Vec<String> => "RestrictNetworkInterfaces",
        /// The interface that its sockets are bound to.
        bind_network_interface: String => "BindNetworkInterface",
    }
}

settings! {
    /// The `sandbox` block of a task.
    pub struct Sandbox {
        /// `"strict"`, `"standard"` or `"off"`: what the other options begin with. Not given: as the plugin's `sandbox` says; for WebAssembly a preset of its own, `"wasm"`.
        preset: String,
        /// Nothing that it executes has more rights than itself.
        no_new_privileges: bool => "NoNewPrivileges",
        /// Capabilities that it may ever have. An empty text takes back those of the operator, as in `["", "CAP_CHOWN"]`. `cap_add` and `cap_drop` come after.
        capability_bounding_set: Vec<String> => "CapabilityBoundingSet",
        /// Capabilities that it has without being root. They must be in the bounding set.
        ambient_capabilities: Vec<String> => "AmbientCapabilities",
        /// Such as `"noroot-locked"`.
        secure_bits: Vec<String> => "SecureBits",
        /// System calls that it may make, such as `"@mount"`, or with `~` before one that it may not.
        system_call_filter: Vec<String> => "SystemCallFilter",
        /// What the others get: an error such as `"EPERM"`, or `"kill"`.
        system_call_error_number: String => "SystemCallErrorNumber",
        /// Such as `"native"`.
        system_call_architectures: Vec<String> => "SystemCallArchitectures",
        /// System calls to note in the log.
        system_call_log: Vec<String> => "SystemCallLog",
        /// Kinds of sockets, such as `"AF_INET"`, or `"none"`.
        restrict_address_families: Vec<String> => "RestrictAddressFamilies",
        /// Kinds of file systems, such as `"ext4"`.
        restrict_file_systems: Vec<String> => "RestrictFileSystems",
        /// `"yes"`: it makes no namespaces; or those that it may make, such as `"user mnt"`.
        restrict_namespaces: String => "RestrictNamespaces",
        /// Namespaces that are its own to manage.
        delegate_namespaces: String => "DelegateNamespaces",
        /// No real-time scheduling.
        restrict_realtime: bool => "RestrictRealtime",
        /// It makes no set-user-ID files.
        restrict_suid_sgid: bool => "RestrictSUIDSGID",
        /// No memory that is writable and executable.
        memory_deny_write_execute: bool => "MemoryDenyWriteExecute",
        /// The kernel's personality stays.
        lock_personality: bool => "LockPersonality",
        /// Such as `"x86"`.
        personality: String => "Personality",
        /// `"full"`, `"strict"`, `"yes"` or `"no"`: what of the host is read-only.
        protect_system: String => "ProtectSystem",
        /// `"yes"`, `"read-only"`, `"tmpfs"` or `"no"`.
        protect_home: String => "ProtectHome",
        /// `"yes"`, `"no"`, or `"private"` with a name of its own as `"private:NAME"`.
        protect_hostname: String => "ProtectHostname",
        /// The clock stays as it is.
        protect_clock: bool => "ProtectClock",
        /// `/proc/sys` and `/sys` are read-only.
        protect_kernel_tunables: bool => "ProtectKernelTunables",
        /// It loads no kernel modules.
        protect_kernel_modules: bool => "ProtectKernelModules",
        /// It reads no kernel log.
        protect_kernel_logs: bool => "ProtectKernelLogs",
        /// `"yes"`: cgroups are read-only; `"private"`, `"strict"`: it sees its own alone.
        protect_control_groups: String => "ProtectControlGroups",
        /// `"invisible"`, `"noaccess"`, `"ptraceable"`, `"default"`: what it sees of other processes.
        protect_proc: String => "ProtectProc",
        /// `"pid"`: `/proc` has processes and nothing else.
        proc_subset: String => "ProcSubset",
        /// A `/tmp` of its own.
        private_tmp: String => "PrivateTmp",
        /// A `/dev` with pseudo devices alone.
        private_devices: bool => "PrivateDevices",
        /// Devices that it may use, as `"/dev/NAME rwm"`.
        device_allow: Vec<String> => "DeviceAllow",
        /// `"closed"`, `"strict"`, `"auto"`.
        device_policy: String => "DevicePolicy",
        /// System V objects and message queues of its own.
        private_ipc: bool => "PrivateIPC",
        /// Process numbers of its own, with its main process as 1.
        private_pids: String => "PrivatePIDs",
        /// `"yes"`, `"self"`, `"identity"`, `"full"`, `"managed"`: user numbers of its own.
        private_users: String => "PrivateUsers",
        /// A BPF file system of its own.
        private_bpf: String => "PrivateBPF",
        /// Mounts of its own.
        private_mounts: bool => "PrivateMounts",
        /// `"slave"`, `"private"`, `"shared"`: whether later mounts of the host reach it.
        mount_flags: String => "MountFlags",
        /// System V objects of its user are removed after it.
        remove_ipc: bool => "RemoveIPC",
        /// `"private"`, `"shared"`, `"inherit"`.
        keyring_mode: String => "KeyringMode",
        /// The mode bits that its files do not have, such as `"0077"`.
        umask: String => "UMask",
        /// What of it a core dump holds.
        coredump_filter: String => "CoredumpFilter",
        /// A profile of AppArmor.
        app_armor_profile: String => "AppArmorProfile",
        /// A context of SELinux.
        selinux_context: String => "SELinuxContext",
        /// A label of Smack.
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
