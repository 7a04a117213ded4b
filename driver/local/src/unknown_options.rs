//! The error text for unknown options: the intended option, and the equivalents of options of Nomad's other drivers.

use std::collections::{BTreeMap, BTreeSet};

use proto::hclspec::Spec;
use proto::hclspec::spec::Block as Piece;

use diagnostics::nearest;

/// Options of Nomad's other drivers, and their equivalents here.
const OF_OTHER_DRIVERS: &[(&str, &str)] = &[
    ("bind_paths", "`files.bind_paths`"),
    ("bind_read_only_paths", "`files.bind_read_only_paths`"),
    ("cgroup_v1_override", "none; the unit has its own control group"),
    ("cgroup_v2_override", "none; the unit has its own control group"),
    ("denied_envvars", "`properties { UnsetEnvironment = \"NAME OTHER\" }`, without patterns"),
    ("dns_servers", "the `dns` block of the group's `network`"),
    ("env", "the `env` block of the task"),
    ("entrypoint", "`command` and `args`"),
    ("group_add", "`supplementary_groups`"),
    ("healthcheck", "a `check` in a `service` of the task"),
    ("healthchecks", "a `check` in a `service` of the task"),
    ("init", "every task has an init"),
    ("memory_hard_limit", "`memory_max` in the task's `resources`"),
    ("shm_size", "`files.temporary_file_system`, such as `\"/dev/shm:size=256M,mode=1777\"`"),
    ("sysctl", "sysctl.d(5) on the node"),
    ("user", "`user` of the task"),
    ("artifact", "the `artifact` block of the task"),
    ("cmd", "`args`"),
    ("cpu", "`cpu` in the task's `resources`"),
    ("cpu_cfs_period", "`limits.cpu_quota_period`"),
    ("credential.file", "`path`"),
    ("credential.mode", "none; the task's user alone may read it"),
    ("credential.source", "`path`"),
    ("credential.value", "`path`, the file of a `template` in `secrets/`"),
    ("environment", "the `env` block of the task"),
    ("files.devices", "`files.bind_paths` and `sandbox.device_allow`, or a device plugin"),
    ("files.mount", "`files.bind_paths`, or `files.temporary_file_system` for a tmpfs"),
    ("files.readonly_rootfs", "the view of the host is read-only"),
    ("limits.cpu_hard_limit", "`limits.cpu_quota`"),
    ("limits.cpu_weight", "`cpu` in the task's `resources`"),
    ("limits.memory_limit", "`memory_max` in the task's `resources`"),
    ("limits.memory_swap", "`limits.memory_swap_max`, which does not contain the memory"),
    ("limits.pids_limit", "`limits.tasks_max`"),
    ("limits.shm_size", "`files.temporary_file_system`, such as `\"/dev/shm:size=256M,mode=1777\"`"),
    ("mac_address", "none; networks are Nomad's"),
    ("memory", "`memory` in the task's `resources`"),
    ("network.dns_servers", "the `dns` block of the group's `network`"),
    ("network.extra_hosts", "`extra_hosts`"),
    ("network_aliases", "a `service` of the task"),
    ("nofile", "`ulimit { nofile = … }`"),
    ("runtime", "there are no containers"),
    ("secrets", "`credential`, or a `template` in `secrets/`"),
    ("stop_signal", "`kill_signal` of the task"),
    ("storage_opt", "none; the disk is the allocation's"),
    ("secret", "`credential`, or a `template` in `secrets/`"),
    ("socket.address", "`port` or `path`"),
    ("socket.group", "none; the socket belongs to the task's user"),
    ("socket.listen_stream", "`port` or `path`"),
    ("socket.owner", "none; the socket belongs to the task's user"),
    ("socket.protocol", "`kind`"),
    ("socket.type", "`kind`"),
    ("socket.user", "none; the socket belongs to the task's user"),
    ("ulimits", "`ulimit`"),
    ("wasm.serve.host", "the `port` of the group's `network`, which has an address"),
    ("kill_timeout", "`kill_timeout` of the task"),
    ("lifecycle", "the `lifecycle` block of the task"),
    ("logs", "the `logs` block of the task"),
    ("meta", "the `meta` block of the task"),
    ("resources", "the `resources` block of the task"),
    ("restart", "the `restart` block of the task"),
    ("service", "the `service` block of the task"),
    ("template", "the `template` block of the task"),
    ("volume_mount", "the `volume_mount` block of the task"),
    ("limits.nofile", "`ulimit`"),
    ("force_pull", "there are no images; an `artifact` block fetches the program"),
    (
        "image",
        "there are no container images; an `artifact` block fetches the program, or `files.root_image` a file system",
    ),
    ("ipc_mode", "`sandbox.private_ipc`; it is `true`, and the operator allows `false` by `\"PrivateIPC\"`"),
    ("labels", "`meta` of the job"),
    ("limits.memory_max", "`memory_max` in the task's `resources`"),
    (
        "mount",
        "`files.bind_paths`, or `files.temporary_file_system` for a tmpfs, such as `\"/cache:mode=1777\"`",
    ),
    (
        "mounts",
        "`files.bind_paths`, or `files.temporary_file_system` for a tmpfs, such as `\"/cache:mode=1777\"`",
    ),
    (
        "network.mode",
        "the group's `network` block; for \"none\" `network { private = true }`, \"host\" is the default",
    ),
    (
        "network_mode",
        "the group's `network` block; for \"none\" `network { private = true }`, \"host\" is the default",
    ),
    (
        "pid_mode",
        "`sandbox.private_pids`; for \"host\" `sandbox.protect_proc = \"default\"` shows the processes of others",
    ),
    ("pids_limit", "`limits.tasks_max`"),
    ("ports", "the group's `network` block, whose ports are those of the host"),
    ("privileged", "`cap_add`, and the operator's `allow_root`"),
    ("readonly_rootfs", "the view of the host is read-only"),
    ("security_opt", "`sandbox`; `no-new-privileges` is the default"),
    (
        "tmpfs",
        "`files.temporary_file_system`, such as `\"/cache:size=64M,mode=1777\"`; `/tmp` is the task's own already",
    ),
    ("auto_remove", "there are no containers to remove"),
    ("cpu_hard_limit", "`limits.cpu_quota`"),
    ("cpuset_cpus", "`cores` in the task's `resources`"),
    ("devices", "`files.bind_paths` and `sandbox.device_allow`, or a device plugin"),
    ("interactive", "`nomad alloc exec` brings a terminal"),
    ("kill_signal", "`kill_signal` of the task"),
    ("memory_reservation", "`memory` in the task's `resources`"),
    ("memory_swap", "`limits.memory_swap_max`, which does not contain the memory"),
    ("memory_swappiness", "none; `limits.memory_swap_max` is how much may be swapped"),
    ("oom_score_adj", "`limits.oom_score_adjust`"),
    ("tty", "`nomad alloc exec` brings a terminal"),
    ("userns", "`sandbox.private_users`; for \"host\" and \"keep-id\" leave it out"),
    ("userns_mode", "`sandbox.private_users`; for \"host\" leave it out"),
    ("working_dir", "`work_dir`"),
    (
        "unveil",
        "`files.bind_read_only_paths`, or `files.bind_paths` for what the task writes; its own directories are in view",
    ),
    ("volumes", "`files.bind_paths`, or `files.bind_read_only_paths` in place of `:ro`"),
    ("logging.type", "`logging.driver`"),
    ("wasm.args", "`args` beside `command`"),
    ("advertise_ipv6_address", "none; a `port` of the group's `network` has its address"),
    ("container_exists_attempts", "there are no containers"),
    ("ipv4_address", "none; addresses are Nomad's"),
    ("ipv6_address", "none; addresses are Nomad's"),
    ("isolation", "`sandbox`"),
    ("volume_driver", "a `volume` of the group and a `volume_mount` of the task"),
    ("arch", "a `constraint`, and `${attr.cpu.arch}` in the source of the `artifact`"),
    ("auth_soft_fail", "`options` and `headers` of the `artifact`"),
    ("dns_options", "the `dns` block of the group's `network`"),
    ("image_pull_timeout", "there are no images; an `artifact` block fetches the program"),
    ("init_path", "every task has an init"),
    ("os", "a `constraint`, and an `artifact` for it"),
    ("static_ips", "none; addresses are Nomad's"),
    ("static_mac", "none; networks are Nomad's"),
    ("variant", "a `constraint`, and `${attr.cpu.arch}` in the source of the `artifact`"),
    ("wasm.allow_ip_name_lookup", "`wasm.name_lookup`"),
    ("wasm.serve.addr", "`port`, the label of a port of the group's `network`"),
    ("apparmor_profile", "`sandbox.app_armor_profile`"),
    ("args_escape", "`args` are not read by a shell"),
    ("accelerator", "there are no virtual machines"),
    ("auth", "`options` and `headers` of the `artifact`"),
    ("cgroupns", "every task sees the host's control groups, read-only in the preset \"standard\""),
    ("class", "`command = \"java\"`, `args = [\"-cp\", PATH, CLASS]`"),
    ("class_path", "`command = \"java\"`, `args = [\"-cp\", PATH, CLASS]`"),
    ("dns_search_domains", "the `dns` block of the group's `network`"),
    (
        "files.tmpfs",
        "`files.temporary_file_system`, such as `\"/cache:size=64M,mode=1777\"`; `/tmp` is the task's own already",
    ),
    ("files.volumes", "`files.bind_paths`"),
    ("graceful_shutdown", "there are no virtual machines"),
    ("image_path", "there are no virtual machines; `files.root_image` is a file system"),
    ("jar_path", "`command = \"java\"`, `args = [\"-jar\", \"${NOMAD_TASK_DIR}/x.jar\"]`"),
    ("jvm_options", "`command = \"java\"`, and the options before `-jar` in `args`"),
    ("load", "there are no container images; an `artifact` block fetches the program"),
    (
        "logging.config",
        "`logging.driver`; for a tag `properties.SyslogIdentifier`, for sizes the `logs` block of the task",
    ),
    (
        "logging.options",
        "`logging.driver`; for a tag `properties.SyslogIdentifier`, for sizes the `logs` block of the task",
    ),
    ("logging.tag", "`properties { SyslogIdentifier = … }`"),
    ("network.dns", "the `dns` block of the group's `network`"),
    ("network.port", "a `port` in the group's `network`"),
    ("network.private_network", "`network.private`"),
    ("no_pivot_root", "none; systemd makes the mount namespace"),
    ("port_map", "a `port` in the group's `network`"),
    ("sandbox.private_network", "`network.private`"),
    ("sandbox.seccomp", "`sandbox.system_call_filter`"),
    ("selinux_opts", "`sandbox.selinux_context`"),
    ("uts_mode", "`hostname`, or `sandbox.protect_hostname`"),
    ("wasm.memory", "`wasm.max_memory`"),
    ("wasm.network", "`wasm.connect` and `wasm.listen`"),
];

/// Options of the plugins of Nomad's other drivers, in the plugin's configuration.
const OF_OTHER_PLUGINS: &[(&str, &str)] = &[
    ("allow_privileged", "`allow_root`"),
    ("auth", "`options` and `headers` of the `artifact`"),
    ("default_ipc_mode", "`sandbox.private_ipc` of jobs"),
    ("default_pid_mode", "`sandbox.private_pids` of jobs"),
    ("enabled", "remove the plugin from nodes that must not have it"),
    ("gc", "there are no images or containers to collect; systemd removes the unit of a task with the task"),
    ("no_cgroups", "every task has a control group, which is systemd's"),
    ("no_pivot_root", "none; systemd makes the mount namespace"),
    ("volumes", "`allow_host_paths`"),
];

/// What stands here for an option of the plugins of Nomad's other drivers.
pub(crate) fn of_other_plugin(option: &str) -> Option<&'static str> {
    OF_OTHER_PLUGINS.iter().find(|(theirs, _)| *theirs == option).map(|(_, ours)| *ours)
}

/// The unknown keys, each with a suggestion.
pub(crate) fn told(keys: &[String], known: &str, elsewhere: &BTreeMap<String, String>) -> String {
    let is_plugins = known.split(", ").any(|known| known == "allow_host_paths");
    let table = if is_plugins { OF_OTHER_PLUGINS } else { OF_OTHER_DRIVERS };
    let told = keys.iter().map(|key| {
        let moved = table.iter().find(|(theirs, _)| theirs == key);
        match moved {
            Some((_, ours)) => format!("`{key}` (here: {ours})"),
            None if is_label(key, known) => {
                format!(
                    "`{key}` (the block has no label: write `name = {:?}` in it)",
                    key.split('.').nth(1).unwrap_or(key)
                )
            }
            None => match elsewhere.get(&snake_case(key)) {
                Some(place) => format!("`{key}` (here: `{place}`)"),
                None => format!("`{key}`{}", suggestion(key, known)),
            },
        }
    });
    let plural = if keys.len() == 1 { "key" } else { "keys" };
    format!("{plural} {}", told.collect::<Vec<_>>().join(", "))
}

/// Whether this is the label of a block that has a `name` instead, as in `socket "http" { … }`.
fn is_label(key: &str, known: &str) -> bool {
    let of_block = ["credential.", "socket."].iter().any(|block| key.starts_with(block));
    of_block && known.split(", ").any(|known| known == "name")
}

/// Suggests the known key with a similar name.
fn suggestion(key: &str, known: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    nearest(&snake_case(name), known.split(", "))
        .map(|known| format!(" (did you mean `{known}`?)"))
        .unwrap_or_default()
}

/// The option name for a systemd property: `protect_proc` for `ProtectProc`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut before = '_';
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !before.is_ascii_uppercase() && before != '_' {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
        before = letter;
    }
    snake
}

/// The keys of the blocks in a body of this schema, each with its full path.
pub(crate) fn names_in_blocks(spec: &Spec, places: &mut BTreeMap<String, String>) {
    let Some(Piece::Object(object)) = &spec.block else { return };
    for (implied, child) in &object.attributes {
        let (block, nested) = match &child.block {
            Some(Piece::BlockValue(block)) => (&block.name, &block.nested),
            Some(Piece::BlockList(list)) => (&list.name, &list.nested),
            _ => continue,
        };
        let block = if block.is_empty() { implied } else { block };
        let mut keys = BTreeSet::new();
        if let Some(nested) = nested {
            names(nested, "", &mut keys);
        }
        for key in keys {
            places.entry(key.to_owned()).or_insert_with(|| format!("{block}.{key}"));
        }
    }
}

/// The keys in a body of this schema.
pub(crate) fn names<'a>(spec: &'a Spec, implied: &'a str, known: &mut BTreeSet<&'a str>) {
    let mut add = |name: &'a str| {
        known.insert(if name.is_empty() { implied } else { name });
    };
    match &spec.block {
        Some(Piece::Object(object)) => {
            for (key, child) in &object.attributes {
                names(child, key, known);
            }
        }
        Some(Piece::Array(array)) => {
            for child in &array.values {
                names(child, "", known);
            }
        }
        Some(Piece::Default(default)) => {
            for child in [&default.primary, &default.default].into_iter().flatten() {
                names(child, "", known);
            }
        }
        Some(Piece::Attr(attr)) => add(&attr.name),
        Some(Piece::BlockValue(block)) => add(&block.name),
        Some(Piece::BlockAttrs(attrs)) => add(&attrs.name),
        Some(Piece::BlockList(list)) => add(&list.name),
        Some(Piece::BlockSet(set)) => add(&set.name),
        Some(Piece::BlockMap(map)) => add(&map.name),
        Some(Piece::Literal(_)) | None => {}
    }
}
