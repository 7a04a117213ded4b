//! `nomad-driver-systemd doctor`: why the driver is not loaded, or what of a job has no effect on this node.
//!
//! ```text
//! agent ──► the agent's process and configuration files ──► plugin_dir, data_dir, the body of `config`
//! host ───► systemd, cgroups, the kernel: what tasks need of the machine
//! plugin_dir ► is the plugin where the agent looks, and can it be executed there?
//! units ──► settings of systemd that reach every task: a masked slice, drop-ins
//! room ───► directories that the driver and the agent write to: room, and `noexec`
//! metrics, resolver ► does another program have the port? do tasks see where /etc/resolv.conf leads?
//! plugin ─► the plugin itself: does it take the configuration, is it healthy, what does it find?
//! left_over ► processes and units of drivers that are gone
//! ```
//!
//! Nothing is changed on the node. (A missing `state_dir` is created, as by every driver at its start.)

mod agent;
mod client;
mod configuration;
mod finding;
mod host;
mod left_over;
mod metrics;
mod plugin;
mod plugin_dir;
mod resolver;
mod room;
mod trust;
mod units;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

use self::finding::{Finding, Status};

/// Check whether this node can run tasks of the driver, and say what to mend.
///
/// Needs no agent. Finds the configuration of a running agent, or reads /etc/nomad.d. Run it as the user that the agent
/// runs as. The exit code is 0 if nothing failed, also with warnings, and 1 otherwise.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorOptions {
    /// A configuration file of the agent, or a directory of them; may be given several times.
    #[arg(long, value_name = "PATH")]
    pub config: Vec<PathBuf>,
    /// Another plugin binary than this one.
    #[arg(long, value_name = "BINARY")]
    pub plugin: Option<PathBuf>,
    /// Print a JSON array of objects with `check`, `status` (ok, warning, failed, ignored), `found`, `means` and `mend`.
    #[arg(long)]
    pub json: bool,
}

/// The plugin's options in the agent's configuration: those of the files `given`, or of the agent that runs here, or of the
/// usual directory.
///
/// The error names the file that cannot be read, and why.
pub(crate) fn plugin_config(given: &[PathBuf]) -> Result<hcl::Body, String> {
    let agent = agent::Agent::find(Path::new("/"), given);
    match agent.unreadable.first() {
        Some((file, why)) => Err(format!("{}: {why}", file.display())),
        None => Ok(agent.plugin.unwrap_or_default()),
    }
}

/// Runs all checks and prints them; the result is our exit code.
pub async fn run(options: DoctorOptions) -> Result<u8, Error> {
    let program = options.plugin.clone().map_or_else(std::env::current_exe, Ok);
    let program = program.map_err(|source| Error::Program { source })?;
    let agent = agent::Agent::find(Path::new("/"), &options.config);
    let mut findings = agent.findings();
    findings.extend(host::findings(Path::new("/")));
    findings.extend(plugin_dir::findings(&agent, &program));
    findings.extend(units::findings(Path::new("/"), &agent));
    findings.extend(room::findings(&agent));
    findings.extend(metrics::finding(&agent));
    findings.extend(resolver::finding(Path::new("/"), &agent));
    findings.extend(plugin::findings(&agent, &program).await);
    findings.extend(left_over::findings(Path::new("/"), agent.pid.is_some()));
    findings.iter_mut().for_each(Finding::make_visible);
    let failed = findings.iter().any(|finding| finding.status == Status::Failed);
    // A reader that has closed the pipe has read enough.
    let _ = if options.json { print_json(&findings) } else { print(&findings) };
    Ok(u8::from(failed))
}

fn print_json(findings: &[Finding]) -> io::Result<()> {
    writeln!(io::stdout(), "{:#}", serde_json::json!(findings))
}

fn print(findings: &[Finding]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    for finding in findings {
        let Finding { check, status, found, means, mend } = finding;
        // A further line of a text does not look like one of ours.
        let indented = |text: &str| text.replace('\n', &format!("\n{:9}{:width$}  | ", "", ""));
        let (found, means, mend) = (indented(found), indented(means), indented(mend));
        let word = format!("{:7}", status.word());
        let word = if coloured { format!("\x1b[{}m{word}\x1b[0m", status.colour()) } else { word };
        writeln!(out, "{word}  {check:width$}  {found}")?;
        for (title, text) in [("", &means), ("mend: ", &mend)] {
            if !text.is_empty() {
                writeln!(out, "{:9}{:width$}  {title}{text}", "", "")?;
            }
        }
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let warnings = count(Status::Warning);
    writeln!(
        out,
        "\n{} failed, {warnings} warning{}",
        count(Status::Failed),
        if warnings == 1 { "" } else { "s" }
    )
}
