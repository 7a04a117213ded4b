//! `nomad-driver-systemd warm`: compiles modules into the cache of this node.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use nomad_driver_systemd::systemd::Systemd;
use nomad_driver_systemd::task::Tasks;
use nomad_driver_systemd::task::config::PluginConfig;
use nomad_driver_systemd::task::warm::CodeOptions;
use nomad_local::warm::{self, Modules, WarmOptions};

use crate::{chain, finished, runtime};

/// Compiles each module, and prints what became of it.
pub(crate) fn compile(options: &WarmOptions) -> ExitCode {
    let Some(Modules { plugin_config, modules, proposals }) = finished(warm::modules(options)) else {
        return ExitCode::FAILURE;
    };
    let WarmOptions { serve, fuel, backtrace_details, .. } = *options;
    let options = CodeOptions { serve, fuel, backtrace_details, proposals };
    let failed = |name: &str, error: String| eprintln!("nomad-driver-systemd: {name}: {error}");
    let configured = PluginConfig::decode(&plugin_config).map_err(|error| chain(&error)).and_then(|config| {
        let tasks = Tasks::new(Systemd::default());
        tasks.configure(config).map_err(|error| chain(&error))?;
        let runtime = runtime().map_err(|error| format!("start the runtime: {error}"))?;
        Ok((tasks, runtime))
    });
    let (tasks, runtime) = match configured {
        Ok(configured) => configured,
        Err(error) => {
            failed("plugin options", error);
            return ExitCode::FAILURE;
        }
    };
    let mut all = ExitCode::SUCCESS;
    for (name, module) in modules {
        let start = Instant::now();
        match runtime.block_on(tasks.warm(module, &name, &options)) {
            Ok(code) => {
                let seconds = start.elapsed().as_secs_f64();
                // A reader that has gone away has read enough.
                let _ = writeln!(io::stdout(), "{name}: {} ({seconds:.1} s)", code.display());
            }
            Err(error) => {
                failed(&name, chain(&error));
                all = ExitCode::FAILURE;
            }
        }
    }
    all
}
