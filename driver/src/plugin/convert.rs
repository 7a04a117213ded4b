//! Wire types to ours and back, and our errors to gRPC's.
//!
//! Every message is taken apart by all its fields: one that Nomad adds stops the build instead of being dropped.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use prost::Message;
use proto::base::{ClientTopology, ClientTopologyCore};
use proto::driver as wire;
use tonic::{Code, Status};

use crate::enter::Failure;
use crate::systemd;
use crate::task::config::options::{self, Block};
use crate::task::config::{
    Device, Dns, DriverConfig, Known, MemoryMax, Mount, NetworkMode, Port, Propagation, Resources,
    TaskConfig, TaskId,
};
use crate::task::live::events::Event;
use crate::task::live::exec::{self, Input, Output, Report};
use crate::task::live::stats::{Memory, Usage};
use crate::task::wasm::outcome::Served;
use crate::task::{self, Exit, Handle, Phase, Saved};

/// The version of what we save in a handle. Zero is Nomad's own; older versions must stay readable for ever.
const SAVED_VERSION: i32 = 1;

/// What a task's message means in our words.
pub(super) fn task_config(config: wire::TaskConfig) -> Result<TaskConfig, Status> {
    let wire::TaskConfig {
        id,
        name,
        msgpack_driver_config,
        env,
        device_env: _, // repeated in `env`
        resources,
        mounts,
        devices,
        user,
        alloc_dir,
        stdout_path,
        stderr_path,
        task_group_name,
        job_name,
        alloc_id,
        network_isolation_spec,
        dns,
        job_id,
        namespace,
        node_name: _,
        node_id: _,
        parent_job_id: _,
    } = config;
    let driver = DriverConfig::decode(&msgpack_driver_config)
        .map_err(|error| Status::invalid_argument(for_a_terminal(&crate::chain(&error))))?;
    Ok(TaskConfig {
        known: Known {
            id: TaskId(id),
            name,
            alloc_id,
            alloc_dir: PathBuf::from(alloc_dir),
            env: env.into_iter().collect(),
        },
        job_id,
        job_name,
        namespace,
        group_name: task_group_name,
        driver,
        given: options::given(&msgpack_driver_config, DriverConfig::OPTIONS),
        user,
        stdout_path: PathBuf::from(stdout_path),
        stderr_path: PathBuf::from(stderr_path),
        ports: resources.as_ref().map(ports).transpose()?.unwrap_or_default(),
        resources: resources.map(resources_of).unwrap_or_default(),
        mounts: mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        devices: devices.into_iter().map(device).collect(),
        network: network_isolation_spec.map(network).transpose()?.unwrap_or_default(),
        dns: dns.map(|wire::DnsConfig { servers, searches, options }| Dns { servers, searches, options }),
    })
}

fn mount(mount: wire::Mount) -> Result<Mount, Status> {
    // SELinux labels are for containers' mounts; the request's name is the server's.
    let wire::Mount { task_path, host_path, readonly, propagation_mode, selinux_label: _, request_name: _ } =
        mount;
    let propagation = match propagation_mode.as_str() {
        "" | "private" => Propagation::Private,
        "host-to-task" => Propagation::HostToTask,
        "bidirectional" => Propagation::Bidirectional,
        other => {
            return Err(Status::invalid_argument(format!(
                "the volume mounted at {task_path}: its `propagation_mode` is `{other}`, we know \"private\", \
                 \"host-to-task\" and \"bidirectional\""
            )));
        }
    };
    Ok(Mount { source: host_path.into(), target: task_path.into(), read_only: readonly, propagation })
}

fn device(device: wire::Device) -> Device {
    let wire::Device { task_path, host_path, cgroup_permissions } = device;
    let permissions = if cgroup_permissions.is_empty() { "rwm".to_owned() } else { cgroup_permissions };
    Device { source: host_path.into(), target: task_path.into(), permissions }
}

fn network(spec: wire::NetworkIsolationSpec) -> Result<NetworkMode, Status> {
    use wire::network_isolation_spec::NetworkIsolationMode as Mode;
    let mode = spec.mode();
    let wire::NetworkIsolationSpec { mode: _, path, labels: _, hosts_config } = spec;
    let host = hosts_config.map(|wire::HostsConfig { hostname, address }| (hostname, address));
    match mode {
        Mode::Host => Ok(NetworkMode::Host),
        Mode::None => Ok(NetworkMode::None),
        Mode::Group => Ok(NetworkMode::Group {
            namespace: path.into(),
            host: host.filter(|(name, address)| !name.is_empty() && !address.is_empty()),
        }),
        Mode::Task => Err(Status::invalid_argument(
            "a `network` block with mode \"driver\": this driver makes no networks, use \"bridge\", \"host\" or \"none\"",
        )),
    }
}

/// The ports that Nomad allocated. Older jobs have them with a task's networks (`resources.network`) alone.
fn ports(resources: &wire::Resources) -> Result<BTreeMap<String, Port>, Status> {
    let networks = resources.allocated_resources.iter().flat_map(|allocated| &allocated.networks);
    let of_networks = networks.flat_map(|network| {
        let ports = network.reserved_ports.iter().chain(&network.dynamic_ports);
        ports.map(|port| (&port.label, port.value, 0, &network.ip))
    });
    let of_group = resources.ports.iter().map(|port| (&port.label, port.value, port.to, &port.host_ip));
    let port = |(label, value, to, host_ip): (&String, i32, i32, &String)| {
        let wrong = || {
            let text =
                format!("the port `{label}`: Nomad sent no usable address (`{host_ip}`, {value}, {to})");
            Status::invalid_argument(text)
        };
        let address =
            if host_ip.is_empty() { Some(Ipv4Addr::UNSPECIFIED.into()) } else { host_ip.parse().ok() };
        let value = u16::try_from(value).map_err(|_| wrong())?;
        let inside = u16::try_from(to).ok().filter(|to| *to != 0).unwrap_or(value);
        Ok((label.clone(), Port { host: SocketAddr::new(address.ok_or_else(wrong)?, value), inside }))
    };
    of_networks.chain(of_group).map(port).collect()
}

fn resources_of(resources: wire::Resources) -> Resources {
    let wire::Resources { allocated_resources, linux_resources, ports: _ } = resources;
    let memory = allocated_resources.and_then(|allocated| allocated.memory).unwrap_or_default();
    let linux = linux_resources.unwrap_or_default();
    let natural = |number: i64| u64::try_from(number).unwrap_or(0);
    Resources {
        cpu_shares: natural(linux.cpu_shares),
        memory_mb: natural(memory.memory_mb),
        memory_max_mb: match memory.memory_max_mb {
            0 => MemoryMax::Memory,
            -1 => MemoryMax::Unlimited,
            max => MemoryMax::Mebibytes(natural(max)),
        },
        cores: linux.cpuset_cpus,
    }
}

/// What Nomad keeps of a started task; it wants its own message back.
pub(super) fn task_handle(config: wire::TaskConfig, handle: &Handle) -> wire::TaskHandle {
    wire::TaskHandle {
        version: SAVED_VERSION,
        config: Some(config),
        state: wire::TaskState::Running.into(),
        driver_state: serde_json::to_vec(handle.saved()).unwrap_or_default(),
    }
}

/// What Nomad kept of a task. Its driver configuration is not in there, unless Nomad itself was not restarted.
pub(super) fn saved_task(handle: Option<wire::TaskHandle>) -> Result<(Known, Saved), Status> {
    let wire::TaskHandle { version, config, state: _, driver_state } =
        handle.ok_or_else(|| Status::invalid_argument("recover task: Nomad sent no handle"))?;
    let config = config.ok_or_else(|| Status::invalid_argument("recover task: the handle holds no task"))?;
    if version != SAVED_VERSION {
        return Err(Status::failed_precondition(format!(
            "recover task {}: it was started by another version of this driver (its state is version {version}, we know \
             {SAVED_VERSION}); Nomad will start it anew",
            config.id
        )));
    }
    let saved = serde_json::from_slice(&driver_state).map_err(|error| {
        Status::invalid_argument(format!("recover task {}: its saved state is damaged: {error}", config.id))
    })?;
    let wire::TaskConfig { id, name, env, alloc_dir, alloc_id, .. } = config;
    let (id, alloc_dir, env) = (TaskId(id), PathBuf::from(alloc_dir), env.into_iter().collect());
    Ok((Known { id, name, alloc_id, alloc_dir, env }, saved))
}

/// How a task ended, as WaitTask tells it.
pub(super) fn wait_response(exit: &Exit) -> wire::WaitTaskResponse {
    let err = exit.unknown.clone().unwrap_or_default();
    wire::WaitTaskResponse { result: Some(exit_result(exit)), err }
}

fn exit_result(exit: &Exit) -> wire::ExitResult {
    let Exit { code, signal, oom_killed, unknown: _, at: _ } = exit;
    wire::ExitResult { exit_code: *code, signal: *signal, oom_killed: *oom_killed }
}

/// What InspectTask tells. Nomad takes no field for granted but crashes without any of them.
pub(super) fn inspect_response(handle: &Handle) -> wire::InspectTaskResponse {
    let (state, completed_at, result) = match handle.phase() {
        Phase::Running => (wire::TaskState::Running, None, wire::ExitResult::default()),
        Phase::Exited(exit) => (wire::TaskState::Exited, Some(exit.at), exit_result(&exit)),
    };
    wire::InspectTaskResponse {
        task: Some(wire::TaskStatus {
            id: handle.id().0.clone(),
            name: handle.known().name.clone(),
            state: state.into(),
            started_at: Some(handle.started_at().into()),
            completed_at: Some(completed_at.map_or(NEVER, prost_types::Timestamp::from)),
            result: Some(result),
        }),
        driver: Some(wire::TaskDriverStatus {
            attributes: [("unit", handle.unit().to_string()), ("pid", handle.pid().to_string())]
                .into_iter()
                .chain(handle.served().iter().flat_map(Served::attributes))
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }),
        network_override: None,
    }
}

/// An event as Nomad wants it: it finds the task by allocation and name.
pub(super) fn task_event(event: Event) -> wire::DriverTaskEvent {
    let Event { task, alloc_id, task_name, at, message, details } = event;
    wire::DriverTaskEvent {
        task_id: task.0,
        alloc_id,
        task_name,
        timestamp: Some(at.into()),
        message: for_a_terminal(&message),
        annotations: details.into_iter().map(|(name, value)| (name, for_a_terminal(&value))).collect(),
    }
}

/// A task's usage at one moment. `core_speed` is that of one core in MHz, which Nomad calls ticks.
pub(super) fn stats_response(
    id: &TaskId,
    at: SystemTime,
    usage: &Usage,
    core_speed: f64,
) -> wire::TaskStatsResponse {
    let by_pid = usage.processes.iter();
    wire::TaskStatsResponse {
        stats: Some(wire::TaskStats {
            id: id.0.clone(),
            timestamp: Some(at.into()),
            agg_resource_usage: Some(resource_usage(usage, core_speed, true)),
            resource_usage_by_pid: by_pid
                .map(|(pid, usage)| (pid.as_raw_pid().to_string(), resource_usage(usage, core_speed, false)))
                .collect(),
        }),
    }
}

fn resource_usage(usage: &Usage, core_speed: f64, whole_task: bool) -> wire::TaskResourceUsage {
    use wire::cpu_usage::Fields as Cpu;
    use wire::memory_usage::Fields as Mem;
    let mut cpu = vec![Cpu::SystemMode, Cpu::UserMode, Cpu::TotalTicks, Cpu::Percent];
    if whole_task {
        cpu.extend([Cpu::ThrottledPeriods, Cpu::ThrottledTime]);
    }
    let Memory { usage: all, rss, cache, swap, peak, kernel } = usage.memory;
    let memory = [
        (all, Mem::Usage),
        (rss, Mem::Rss),
        (cache, Mem::Cache),
        (swap, Mem::Swap),
        (peak, Mem::MaxUsage),
        (kernel, Mem::KernelUsage),
    ];
    let measured = memory.iter().filter(|(bytes, _)| bytes.is_some()).map(|(_, field)| (*field).into());
    wire::TaskResourceUsage {
        cpu: Some(wire::CpuUsage {
            system_mode: usage.cpu.system,
            user_mode: usage.cpu.user,
            total_ticks: usage.cpu.percent / 100.0 * core_speed,
            throttled_periods: usage.cpu.throttled_periods,
            throttled_time: u64::try_from(usage.cpu.throttled.as_nanos()).unwrap_or(u64::MAX),
            percent: usage.cpu.percent,
            measured_fields: cpu.into_iter().map(Into::into).collect(),
        }),
        memory: Some(wire::MemoryUsage {
            rss: rss.unwrap_or_default(),
            cache: cache.unwrap_or_default(),
            max_usage: peak.unwrap_or_default(),
            kernel_usage: kernel.unwrap_or_default(),
            kernel_max_usage: 0,
            measured_fields: measured.collect(),
            usage: all.unwrap_or_default(),
            swap: swap.unwrap_or_default(),
        }),
    }
}

/// What a client of `nomad alloc exec` sent; a heartbeat is nothing.
pub(super) fn exec_input(frame: wire::ExecTaskStreamingRequest) -> Vec<Input> {
    let wire::ExecTaskStreamingRequest { setup: _, tty_size, stdin } = frame;
    let mut input = Vec::new();
    if let Some(wire::exec_task_streaming_request::TerminalSize { height, width }) = tty_size {
        let cells = |count: i32| u16::try_from(count).unwrap_or(u16::MAX);
        input.push(Input::Size(cells(height), cells(width)));
    }
    if let Some(wire::ExecTaskStreamingIoOperation { data, close }) = stdin {
        if !data.is_empty() {
            input.push(Input::Data(data));
        }
        if close {
            input.push(Input::End);
        }
    }
    input
}

/// What a client of `nomad alloc exec` gets.
pub(super) fn exec_output(output: Output) -> wire::ExecTaskStreamingResponse {
    let data = |data| Some(wire::ExecTaskStreamingIoOperation { data, close: false });
    let end = || Some(wire::ExecTaskStreamingIoOperation { data: Vec::new(), close: true });
    let none = wire::ExecTaskStreamingResponse::default();
    match output {
        Output::Stdout(bytes) => wire::ExecTaskStreamingResponse { stdout: data(bytes), ..none },
        Output::Stderr(bytes) => wire::ExecTaskStreamingResponse { stderr: data(bytes), ..none },
        Output::StdoutEnd => wire::ExecTaskStreamingResponse { stdout: end(), ..none },
        Output::StderrEnd => wire::ExecTaskStreamingResponse { stderr: end(), ..none },
        Output::Exited(status) => {
            wire::ExecTaskStreamingResponse { exited: true, result: Some(exit_status(status)), ..none }
        }
    }
}

/// What a client gets whose command is not there, or cannot be executed: the reason, and a shell's exit code for it.
pub(super) fn exec_not_found(error: &task::Error, terminal: bool) -> [Output; 4] {
    const NOT_FOUND: i32 = 127;
    let line = format!("{}{}", crate::chain(error), if terminal { "\r\n" } else { "\n" });
    let said = if terminal { Output::Stdout(line.into()) } else { Output::Stderr(line.into()) };
    // A status as wait(2) has it: the exit code is the second byte.
    [said, Output::StdoutEnd, Output::StderrEnd, Output::Exited(ExitStatus::from_raw(NOT_FOUND << 8))]
}

/// What a script check gets: as with Nomad's own drivers everything is in stdout, the only field that is read.
pub(super) fn exec_response(report: Report) -> wire::ExecTaskResponse {
    let Report { output, status } = report;
    wire::ExecTaskResponse { stdout: output, stderr: Vec::new(), result: Some(exit_status(status)) }
}

fn exit_status(status: ExitStatus) -> wire::ExitResult {
    let signal = status.signal().unwrap_or_default();
    let exit_code = status.code().unwrap_or(128 + signal);
    wire::ExitResult { exit_code, signal, oom_killed: false }
}

/// The speed of a core in MHz, as Nomad counts it: of all compute the share of one (client/lib/cpustats).
pub(super) fn core_speed(topology: &ClientTopology) -> Option<f64> {
    let speed = |core: &ClientTopologyCore| {
        let speeds = [core.base_speed, core.max_speed, core.guess_speed];
        speeds.into_iter().find(|speed| *speed > 0).unwrap_or_default()
    };
    let total = match topology.override_total_compute {
        0 => topology.cores.iter().map(speed).sum(),
        given => given,
    };
    #[allow(clippy::cast_precision_loss, reason = "a speed in MHz, far below 2^52")]
    (total > 0 && !topology.cores.is_empty()).then(|| total as f64 / topology.cores.len() as f64)
}

/// Go's zero time.
const NEVER: prost_types::Timestamp = prost_types::Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// A length of time; a negative or missing one is none.
pub(super) fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
}

/// The message without what a terminal would obey: it may hold what a job's author wrote.
fn for_a_terminal(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// The one table from our errors to gRPC's codes.
///
/// `UNAVAILABLE` and `CANCELLED` are not in it: Nomad takes them for the death of the plugin.
pub(super) fn status(error: &task::Error) -> Status {
    use task::Error;
    let message = for_a_terminal(&crate::chain(error));
    // One that may succeed at the next try must be this code with this detail, first and alone (Nomad v2.0.5,
    // helper/pluginutils/grpcutils and plugins/drivers/client.go).
    if error.is_recoverable() {
        let recoverable = proto::structs::RecoverableError { recoverable: true };
        let detail = prost_types::Any {
            type_url: "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError"
                .to_owned(),
            value: recoverable.encode_to_vec(),
        };
        let code = Code::FailedPrecondition;
        let status =
            proto::rpc::Status { code: code.into(), message: message.clone(), details: vec![detail] };
        return Status::with_details(code, message, status.encode_to_vec().into());
    }
    let code = match error {
        Error::Unknown { .. } | Error::Lost { .. } => Code::NotFound,
        Error::Duplicate { .. } => Code::AlreadyExists,
        Error::StillRunning { .. }
        | Error::Exec(exec::Error::Ended | exec::Error::BesideGuest | exec::Error::Many) => {
            Code::FailedPrecondition
        }
        Error::Spec(_)
        | Error::Program(_)
        | Error::Files(_)
        | Error::NotReady { .. }
        | Error::Guest { .. }
        | Error::Init { .. }
        | Error::Wasm(_)
        | Error::Env(_)
        | Error::Signal(_)
        | Error::Logs(_)
        | Error::Exec(exec::Error::Enter(Failure::Command { .. }))
        | Error::Systemd(systemd::Error::Unfit { .. })
        | Error::SetUp { .. } => Code::InvalidArgument,
        Error::Exec(exec::Error::TimedOut { .. }) => Code::DeadlineExceeded,
        Error::View { .. }
        | Error::Connection { .. }
        | Error::Overlay { .. }
        | Error::Systemd(_)
        | Error::Immortal { .. }
        | Error::Panicked
        | Error::Exec(_) => Code::Internal,
    };
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_a_device_and_a_network_mean_what_nomad_means() {
        use wire::network_isolation_spec::NetworkIsolationMode as Mode;
        let mount = |mode: &str| {
            let (task_path, host_path) = ("/data".to_owned(), "/srv/data".to_owned());
            let propagation_mode = mode.to_owned();
            super::mount(wire::Mount { task_path, host_path, propagation_mode, ..Default::default() })
        };
        assert_eq!(mount("").unwrap().propagation, Propagation::Private);
        assert_eq!(mount("bidirectional").unwrap().propagation, Propagation::Bidirectional);
        assert!(mount("rshared").unwrap_err().message().contains("/data"));
        assert_eq!(device(wire::Device::default()).permissions, "rwm");
        let network = |mode: Mode| {
            network(wire::NetworkIsolationSpec {
                mode: mode.into(),
                path: "/run/netns/x".into(),
                ..Default::default()
            })
        };
        assert_eq!(network(Mode::Host).unwrap(), NetworkMode::Host);
        assert!(matches!(network(Mode::Group).unwrap(), NetworkMode::Group { host: None, .. }));
        assert!(network(Mode::Task).is_err());
    }

    #[test]
    fn an_error_that_may_pass_carries_the_detail_that_nomad_looks_for() {
        let status =
            status(&task::Error::View { directory: "/run".into(), source: std::io::ErrorKind::Other.into() });
        assert_eq!(status.code(), Code::FailedPrecondition);
        let rich = proto::rpc::Status::decode(status.details()).unwrap();
        assert_eq!(rich.code, 9);
        let detail = proto::structs::RecoverableError::decode(&*rich.details[0].value).unwrap();
        assert!(detail.recoverable && rich.details[0].type_url.ends_with("structs.RecoverableError"));
    }

    #[test]
    fn a_handle_from_nowhere_is_refused_with_its_reason() {
        let task = |version, state: &[u8]| wire::TaskHandle {
            version,
            config: Some(wire::TaskConfig { id: "a/b/c".into(), ..Default::default() }),
            driver_state: state.to_vec(),
            ..Default::default()
        };
        assert!(saved_task(None).is_err());
        assert!(saved_task(Some(task(7, b"{}"))).unwrap_err().message().contains("version 7"));
        assert!(saved_task(Some(task(1, b"{"))).unwrap_err().message().contains("damaged"));
    }
}
