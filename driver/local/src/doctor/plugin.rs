//! Queries the plugin itself, as an agent does: does it accept the configuration, is it healthy, what does it report?

use std::path::Path;

use proto::driver::FingerprintResponse;
use proto::driver::fingerprint_response::HealthState;
use proto::structs::attribute::Value;

use super::agent::Agent;
use super::finding::Finding;
use crate::node::Node;
use crate::plugin_client::{self, Launch, Plugin};
use diagnostics::chain;

/// Starts `program` as the agent would, with the options of the agent's configuration.
pub(super) async fn findings(agent: &Agent, program: &Path) -> Vec<Finding> {
    let unstarted = |error: &plugin_client::Error| {
        vec![Finding::failed(
            "plugin",
            chain(error),
            "The agent cannot start the driver.",
            format!("Install {} again.", program.display()),
        )]
    };
    let plugin = match Plugin::launch(Launch::new(program)).await {
        Ok(plugin) => plugin,
        Err(error) => return unstarted(&error),
    };
    let config = agent.plugin.clone().unwrap_or_default();
    let findings = match plugin.configure(&config, &Node::of_this_machine()).await {
        Ok(()) => {
            let of_options = without_confining(&config).into_iter().chain(missing_host_paths(&config));
            of_options.chain(of_health(&plugin, &config, agent).await).collect()
        }
        Err(error) => vec![Finding::failed(
            "plugin options",
            chain(&error),
            "The agent does not start: it ends when a plugin refuses its options.",
            "Correct the option in the plugin's block of the agent's configuration; driver/README.md lists all.",
        )],
    };
    plugin.shutdown().await;
    findings
}

/// Reports an option whose list of what jobs may set replaces the default list.
fn without_confining(config: &hcl::Body) -> Option<Finding> {
    const CONFINING: &str = "@confining";
    let names = list(config, "allow_properties")?;
    (!names.contains(&CONFINING) && !names.contains(&"*")).then(|| {
        Finding::warning(
            "allow_properties",
            format!("does not have \"{CONFINING}\""),
            "Jobs may not even set what only confines them, such as `files.read_only_paths`.",
            format!("Add \"{CONFINING}\" to the list, unless this is what you want."),
        )
    })
}

/// Paths that jobs may use, or that tasks see, and that do not exist: a typing error, or a disk that is not mounted.
fn missing_host_paths(config: &hcl::Body) -> Vec<Finding> {
    let of_option = |option: &'static str, meaning: &'static str| {
        let paths = list(config, option).unwrap_or_default().into_iter();
        let paths = paths.map(|path| path.strip_suffix(":ro").unwrap_or(path));
        let missing = paths.filter(|path| path.starts_with('/') && !Path::new(path).exists());
        missing.map(move |path| {
            let mend = format!("Correct the path in `{option}`, or create or mount {path}.");
            Finding::warning(option, format!("{path} is not there"), meaning, mend)
        })
    };
    of_option("allow_host_paths", "Jobs that use the path, or one below, do not start.")
        .chain(of_option("host_paths", "No task sees it: programs and libraries in it are missing."))
        .collect()
}

/// The strings of an option that is a list of strings.
pub(super) fn list<'a>(config: &'a hcl::Body, option: &str) -> Option<Vec<&'a str>> {
    let attribute = config.attributes().find(|attribute| attribute.key() == option)?;
    let hcl::Expression::Array(values) = attribute.expr() else { return None };
    let text = |value: &'a hcl::Expression| match value {
        hcl::Expression::String(text) => Some(text.as_str()),
        _ => None,
    };
    Some(values.iter().filter_map(text).collect())
}

/// Confined root needs namespaces that an older systemd does not provide.
fn of_allow_root(config: &hcl::Body, systemd: &str) -> Option<Finding> {
    const CONFINES: u32 = 257;
    let attribute = config.attributes().find(|attribute| attribute.key() == "allow_root")?;
    let is_confined = matches!(attribute.expr(), hcl::Expression::String(text) if text == "confined");
    let version: u32 = systemd.split('.').next()?.parse().ok()?;
    (is_confined && version < CONFINES).then(|| {
        Finding::warning(
            "allow_root",
            format!("\"confined\" needs systemd {CONFINES}, and here is {version}"),
            "Jobs that ask for root do not start, as with \"no\".",
            "Use a newer systemd, or allow root on the host (`allow_root = \"host\"`) where all authors of jobs are trusted with it.",
        )
    })
}

async fn of_health(plugin: &Plugin, config: &hcl::Body, agent: &Agent) -> Vec<Finding> {
    let is_known = agent.plugin.is_some() || agent.unreadable.is_empty();
    let unread = "not checked: the agent's configuration could not be read; the defaults are used below";
    let mut findings = vec![if is_known {
        Finding::ok("plugin options", "accepted")
    } else {
        Finding::ignored("plugin options", unread)
    }];
    match plugin.fingerprint().await {
        Ok(found) if found.health() == HealthState::Healthy => findings.extend(of_attributes(&found, config)),
        Ok(found) => findings.push(Finding::failed(
            "health",
            found.health_description,
            "No task of the driver is placed on this node.",
            "Do what the message says; `journalctl -u nomad` may have details.",
        )),
        Err(error) => findings.push(Finding::failed(
            "health",
            chain(&error),
            "No task of the driver is placed on this node.",
            "Look into `journalctl -u nomad`.",
        )),
    }
    findings
}

fn of_attributes(found: &FingerprintResponse, config: &hcl::Body) -> Vec<Finding> {
    let attribute =
        |name: &str| found.attributes.get(&format!("driver.systemd.{name}")).and_then(|a| a.value.clone());
    let text = |name: &str| match attribute(name) {
        Some(Value::StringVal(text)) => text,
        _ => String::new(),
    };
    let is_set = |name: &str| attribute(name) == Some(Value::BoolVal(true));
    let version = Finding::ok(
        "health",
        format!(
            "{}; driver {}, systemd {}, manager {}",
            found.health_description,
            text("version"),
            text("systemd"),
            text("manager")
        ),
    );
    let filters = if is_set("filters") {
        Finding::ok("BPF", "network and device filters are enforced")
    } else {
        Finding::warning(
            "BPF",
            "network and device filters are not enforced",
            "`ip_address_deny`, `socket_bind_deny` and the like are refused, and only the modes of device nodes protect them.",
            "Use a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL; in a container the host's owner must allow BPF.",
        )
    };
    let wasm = if text("wasmtime").is_empty() && is_set("wasm") {
        Finding::failed(
            "WebAssembly",
            "wasm-shim cannot be executed",
            "No task starts: wasm-shim is the init of native programs, too.",
            "Install the three programs of one release anew; wasm-shim has mode 711, wasm-shim-compile 755.",
        )
    } else if is_set("wasm") {
        Finding::ok("WebAssembly", format!("wasm-shim with wasmtime {}", text("wasmtime")))
    } else {
        Finding::warning(
            "WebAssembly",
            "wasm-shim-compile is not found, cannot be executed, or does not run",
            "Tasks with a WebAssembly `command` do not start. (Without wasm-shim no task does.)",
            "Install both anew, of one release, in /usr/local/libexec/nomad-driver-systemd, or name their directory as `shim_dir`; \
             wasm-shim-compile has mode 755.",
        )
    };
    let root = of_allow_root(config, &text("systemd"));
    [version, filters, wasm].into_iter().chain(root).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_leaves_out_what_only_confines_is_told_of() {
        let finds = |options: &str| without_confining(&hcl::parse(options).unwrap()).is_some();
        assert!(finds("allow_properties = [\"NotifyAccess\"]\n"));
        assert!(!finds("allow_properties = [\"@confining\", \"NotifyAccess\"]\n"));
        assert!(!finds("allow_caps = []\n"));
    }

    #[test]
    fn a_path_that_is_not_there_is_told_of() {
        let options = hcl::parse(
            "allow_host_paths = [\"/usr:ro\", \"local\", \"/no-such/path:ro\"]\nhost_paths = [\"/gone\"]\n",
        )
        .unwrap();
        let found: Vec<_> = missing_host_paths(&options).into_iter().map(|finding| finding.found).collect();
        assert_eq!(found, ["/no-such/path is not there", "/gone is not there"]);
    }

    #[test]
    fn confined_root_needs_a_newer_systemd_and_is_told_of() {
        let finds = |options: &str, systemd| of_allow_root(&hcl::parse(options).unwrap(), systemd).is_some();
        assert!(finds("allow_root = \"confined\"\n", "252.39"));
        assert!(!finds("allow_root = \"confined\"\n", "257"));
        assert!(!finds("allow_root = \"host\"\n", "252"));
    }
}
