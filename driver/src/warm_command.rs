//! `nomad-driver-systemd warm`: compiles modules into the cache of this node.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use nomad_driver_systemd::systemd::Systemd;
use nomad_driver_systemd::task::Tasks;
use nomad_driver_systemd::task::config::PluginConfig;
use nomad_driver_systemd::task::warm::CodeOptions;
use nomad_local::warm::{self, Modules, WarmOptions};
use shim_interface::{visible, visible_line};
use tokio::sync::Notify;

use crate::{chain, finished, runtime};

/// Compiles each module, and prints what became of it.
pub(crate) fn compile(options: &WarmOptions) -> ExitCode {
    let Some(Modules { plugin_config, modules, proposals }) = finished(warm::modules(options)) else {
        return ExitCode::FAILURE;
    };
    let WarmOptions { serve, fuel, backtrace_details, .. } = *options;
    let options = CodeOptions { serve, fuel, backtrace_details, proposals };
    let failed = |name: &str, error: String| {
        eprintln!("nomad-driver-systemd: {}", visible(&format!("{name}: {error}")));
    };
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
        let warmed = match module {
            Ok(module) => runtime.block_on(until_interrupted(&tasks, module, &name, &options)),
            Err(error) => Err(diagnostics::with_causes(&error)),
        };
        match warmed {
            Ok(code) => {
                let seconds = start.elapsed().as_secs_f64();
                // A reader that has gone away has read enough.
                let _ =
                    writeln!(io::stdout(), "{}: {} ({seconds:.1} s)", visible_line(&name), code.display());
            }
            Err(text) => {
                failed(&name, in_words_of_command(&text, options.serve));
                all = ExitCode::FAILURE;
            }
        }
    }
    all
}

/// A message about options of a job, with those of this command.
fn in_words_of_command(text: &str, serves: bool) -> String {
    if text.contains("`serve`") || text.contains("wasm.serve") {
        let here = if serves { "leave `--serve` out" } else { "give `--serve`" };
        return format!("{text} (here: {here})");
    }
    text.replace("option `wasm.proposals`", "`--proposal`")
}

/// Compiles one module. Ctrl-C gives it up: the unit that compiles is removed.
async fn until_interrupted(
    tasks: &Tasks,
    module: File,
    name: &str,
    options: &CodeOptions,
) -> Result<PathBuf, String> {
    let stopped = Notify::new();
    let mut warmed = std::pin::pin!(tasks.warm(module, name, options, &stopped));
    let result = tokio::select! {
        result = &mut warmed => result,
        _ = tokio::signal::ctrl_c() => {
            stopped.notify_one();
            warmed.await
        }
    };
    result.map_err(|error| chain(&error))
}
