//! `nomad-driver-systemd warm FILE|URL...`: which modules are to be compiled ahead, and under which configuration of the
//! plugin. The driver's library compiles them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use hcl::Body;

use crate::artifact::Fetch;
use crate::doctor;
use crate::error::Error;
use crate::options;
use crate::plugin_client::{Launch, Plugin};
use crate::run::tell_warnings;
use crate::within;

/// The largest module that the driver compiles, in bytes.
const MODULE_MAX: u64 = 256 << 20;

/// Compile WebAssembly before the tasks that run it start.
///
/// The code goes to the cache of this node (plugin option `state_dir`), where each task of the driver that runs the same
/// module finds it. Run the command as the user of the agent. The options are those of the job's `wasm` block that change
/// the code: a task with other ones compiles the module again. The exit code is 0 if every module is in the cache.
#[derive(Debug, Clone, clap::Args)]
pub struct WarmOptions {
    /// A WebAssembly file, or the http or https address of one; `?checksum=sha256:…` is checked.
    #[arg(value_name = "FILE|URL", required = true)]
    pub modules: Vec<String>,
    /// For tasks with a `serve` block.
    #[arg(long)]
    pub serve: bool,
    /// For tasks with `fuel`, of any number.
    #[arg(long)]
    pub fuel: bool,
    /// For tasks with `backtrace_details = true`.
    #[arg(long)]
    pub backtrace_details: bool,
    /// For tasks with this line in `proposals`; may be given several times.
    #[arg(long = "proposal", value_name = "NAME=true|false")]
    pub proposals: Vec<String>,
    /// A configuration file of the agent, or a directory of them; may be given several times. Default: those of the agent
    /// that runs here, or /etc/nomad.d.
    #[arg(long, value_name = "PATH")]
    pub config: Vec<PathBuf>,
    /// The body of the plugin's `config` block, instead of the agent's: a file, or the text itself.
    #[arg(long, value_name = "FILE|HCL", conflicts_with = "config")]
    pub plugin_config: Option<String>,
}

/// What to compile.
#[derive(Debug)]
pub struct Modules {
    /// The plugin's configuration as `SetConfig` carries it, in MessagePack.
    pub plugin_config: Vec<u8>,
    /// Each module by the name that was given.
    pub modules: Vec<(String, Result<File, Error>)>,
    /// Lines of `proposals`, such as `simd` and `false`.
    pub proposals: BTreeMap<String, String>,
}

/// Finds the configuration and has the plugin check it; opens or fetches each module.
pub async fn modules(options: &WarmOptions) -> Result<Modules, Error> {
    let proposal = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| Error::Proposal { text: text.clone() })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let is_number = |name: &&String| name.parse::<u64>().is_ok() && !Path::new(name).exists();
    if let Some(number) = options.modules.iter().find(is_number).filter(|_| options.fuel) {
        return Err(Error::Fuel { number: number.clone() });
    }
    let proposals = options.proposals.iter().map(proposal).collect::<Result<_, Error>>()?;
    let config = match &options.plugin_config {
        Some(given) => options::plugin_config(Some(given))?,
        None => doctor::plugin_config(&options.config).map_err(|why| Error::AgentConfig { why })?,
    };
    // As for a run.
    let (config, _) = options::with_manager(config, rustix::process::geteuid().is_root());
    let plugin_config = check(&config).await?;
    let mut modules = Vec::new();
    for name in &options.modules {
        modules.push((name.clone(), open(name).await));
    }
    Ok(Modules { plugin_config, modules, proposals })
}

async fn check(config: &Body) -> Result<Vec<u8>, Error> {
    let wrong = |source| Error::Plugin { source: Box::new(source) };
    let program = std::env::current_exe().map_err(|source| Error::Program { source })?;
    let plugin = Plugin::launch(Launch::new(program).records(tell_warnings)).await.map_err(wrong)?;
    let checked = plugin.check(config).await.map_err(wrong);
    plugin.shutdown().await;
    checked
}

/// The file of that name, or a copy of what is at that address. The copy has no name.
async fn open(name: &str) -> Result<File, Error> {
    if !name.contains("://") {
        return within::regular_file(Path::new(name))
            .map_err(|source| Error::Read { path: name.into(), source });
    }
    let store = |source| Error::Read { path: std::env::temp_dir(), source };
    let directory = tempfile::tempdir().map_err(store)?;
    let destination = directory.path().join("module");
    let fetch = Fetch {
        source: name.to_owned(),
        destination: destination.clone(),
        relative_to: Path::new("/").to_owned(),
        mode: "file".to_owned(),
        options: BTreeMap::new(),
        headers: BTreeMap::new(),
        most_bytes: MODULE_MAX,
    };
    fetch.run().await.map_err(|source| Error::Fetch { source })?;
    File::open(destination).map_err(store)
}
