//! The resource usage of a task, as Nomad counts it.

use std::time::SystemTime;

use proto::base::{ClientTopology, ClientTopologyCore};
use proto::driver as wire;

use crate::task::config::TaskId;
use crate::task::live::stats::{Memory, Usage};

/// A task's usage at one moment. `core_speed` is the speed of one core in MHz, which Nomad calls ticks.
pub(crate) fn stats_response(
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

/// The speed of a core in MHz, as Nomad counts it: one core's share of the total compute (client/lib/cpustats).
pub(crate) fn core_speed(topology: &ClientTopology) -> Option<f64> {
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
