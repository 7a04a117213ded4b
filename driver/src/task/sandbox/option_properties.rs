//! The systemd properties that each option of a job sets: a property that the operator denies is denied by whatever
//! option a job sets it.
//!
//! Options of the blocks `sandbox`, `limits`, `files` and `network` name their property in their table
//! ([`crate::task::config::settings`]), and under `properties` and `ulimit` the job names it. All other options are
//! listed here. A test makes sure that no option is missing.

use crate::systemd;
use crate::task::config::options::Opt;

/// Options that are not properties under another name, and the properties that the driver sets for them.
const PROPERTIES: &[(&str, &[&str])] = &[
    ("cap_add", &["AmbientCapabilities", "CapabilityBoundingSet"]),
    ("cap_drop", &["CapabilityBoundingSet"]),
    ("credential", &["LoadCredential"]),
    ("credential.encrypted", &["LoadCredentialEncrypted"]),
    ("credential.name", &["LoadCredential"]),
    ("credential.path", &["LoadCredential"]),
    ("extra_hosts", &["BindReadOnlyPaths"]),
    ("group", &["Group"]),
    ("hostname", &["ProtectHostname"]),
    ("logging.driver", &["StandardOutput", "StandardError"]),
    ("logging.namespace", &["LogNamespace"]),
    ("logging.rate_limit_burst", &["LogRateLimitBurst"]),
    ("logging.rate_limit_interval", &["LogRateLimitIntervalSec"]),
    ("notify", &["NotifyAccess", "Type"]),
    ("notify.access", &["NotifyAccess"]),
    ("notify.ready_within", &["TimeoutStartSec"]),
    ("notify.watchdog", &["WatchdogSec"]),
    ("sandbox.preset", &["SystemCallFilter"]),
    ("socket", &["ListenStream", "ListenDatagram"]),
    ("socket.kind", &["ListenDatagram"]),
    ("socket.mode", &["SocketMode"]),
    ("socket.name", &["FileDescriptorName"]),
    ("socket.path", &["ListenStream", "ListenDatagram"]),
    ("socket.port", &["ListenStream", "ListenDatagram"]),
    ("supplementary_groups", &["SupplementaryGroups"]),
    ("wasm.connect", &["PrivateNetwork", "RestrictAddressFamilies"]),
    ("wasm.inherit_network", &["PrivateNetwork", "RestrictAddressFamilies"]),
    ("wasm.listen", &["PrivateNetwork", "RestrictAddressFamilies", "SocketBindAllow"]),
    ("wasm.name_lookup", &["PrivateNetwork", "RestrictAddressFamilies"]),
    ("wasm.serve.port", &["ListenStream"]),
    ("wasm.serve.socket", &["ListenStream"]),
    ("work_dir", &["WorkingDirectory"]),
];

/// Options that set what runs, or contain others: their effect is within the limits of the properties.
const NONE: &[&str] =
    &["command", "args", "files", "limits", "logging", "network", "properties", "sandbox", "ulimit"];

/// The names of all properties that a job can set in any way.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    let of_options = PROPERTIES.iter().flat_map(|(_, properties)| properties.iter().copied());
    systemd::properties().map(|property| property.name).chain(of_options)
}

/// The properties that an option sets, by its path, such as `notify.watchdog` or `limits.nice`.
pub(crate) fn properties_of(path: &str, option: Option<&Opt>) -> Option<Vec<String>> {
    if let Some(property) = option.and_then(|option| option.property) {
        return Some(vec![property.to_owned()]);
    }
    if let Some((_, properties)) = PROPERTIES.iter().find(|(named, _)| *named == path) {
        return Some(properties.iter().map(ToString::to_string).collect());
    }
    match path.split_once('.') {
        Some(("properties", name)) => Some(vec![name.to_owned()]),
        Some(("ulimit", name)) => Some(vec![format!("Limit{}", name.to_uppercase())]),
        // Grants that a guest gets from its runner.
        _ if path == "wasm" || path.starts_with("wasm.") || NONE.contains(&path) => Some(Vec::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd;
    use crate::task::config::options::{self, Block, Kind};
    use crate::task::config::{DriverConfig, PluginConfig};
    use crate::task::sandbox::policy::Policy;

    /// Every option of the schema, by its path.
    fn all(options: &'static [Opt], within: &str) -> Vec<(String, &'static Opt)> {
        let mut paths = Vec::new();
        for option in options {
            let path = format!("{within}{}", option.name);
            paths.push((path.clone(), option));
            if let Some(Kind::Once(options) | Kind::Often(options)) = option.block {
                paths.extend(all(options, &format!("{path}.")));
            }
        }
        paths
    }

    /// The `config` of a job that sets this option, to some value of its type.
    fn job_with(path: &str, option: &Opt) -> Vec<u8> {
        use rmpv::Value;
        let text = || Value::from("x");
        let mut value = match (option.block, option.hcl_type) {
            (Some(Kind::Free), _) => Value::Map(vec![(free(path).into(), text())]),
            (Some(Kind::Often(_)), _) => Value::Array(vec![Value::Map(vec![])]),
            (Some(Kind::Once(_)), _) => Value::Map(vec![]),
            (None, "bool") => true.into(),
            (None, "number") => 7.into(),
            (None, "list(string)") => Value::Array(vec![text()]),
            _ => text(),
        };
        let mut parts: Vec<&str> = path.split('.').collect();
        while let Some(part) = parts.pop() {
            let map = Value::Map(vec![(part.into(), value)]);
            value = if ["credential", "socket"].contains(&parts.last().copied().unwrap_or_default()) {
                Value::Array(vec![map])
            } else {
                map
            };
        }
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &value).unwrap();
        bytes
    }

    /// A name for a block whose names the job chooses.
    fn free(path: &str) -> &'static str {
        if path == "properties" { "LimitNOFILE" } else { "NOFILE" }
    }

    #[test]
    fn no_option_gets_around_what_the_operator_denies() {
        let (mut denied, mut without) = (0, Vec::new());
        for (path, option) in all(DriverConfig::OPTIONS, "") {
            let given = options::given(&job_with(&path, option), DriverConfig::OPTIONS);
            assert!(given.iter().any(|(given, _)| given.starts_with(&path)), "{path} is not seen: {given:?}");
            let mut properties = properties_of(&path, Some(option))
                .unwrap_or_else(|| panic!("`{path}`: say in this file which property it stands for"));
            if option.block.is_some_and(|kind| matches!(kind, Kind::Free)) {
                properties = properties_of(&format!("{path}.{}", free(&path)), None).unwrap();
            }
            if properties.is_empty() {
                without.push(path);
                continue;
            }
            for property in properties {
                let mut config = PluginConfig::decode(&[]).unwrap();
                config.deny_properties = vec![property.clone()];
                let refusal = Policy::resolve(&config).unwrap().check_given(&given).unwrap_err().to_string();
                assert!(
                    refusal.contains("`deny_properties`") && refusal.contains(&property),
                    "{path}: {refusal}"
                );
                denied += 1;
            }
        }
        assert!(denied > 130, "{denied}");
        without.retain(|path| !path.starts_with("wasm") && !NONE.contains(&path.as_str()));
        assert_eq!(without, Vec::<String>::new());
    }

    #[test]
    fn every_property_of_this_file_is_one_of_systemds() {
        for property in PROPERTIES.iter().flat_map(|(_, properties)| *properties) {
            let of_socket = ["ListenStream", "ListenDatagram", "SocketMode", "FileDescriptorName"];
            assert!(systemd::property(property).is_some() || of_socket.contains(property), "{property}");
        }
    }

    #[test]
    fn a_default_that_nomad_repeats_is_not_given() {
        use rmpv::Value;
        let config = Value::Map(vec![
            ("command".into(), "x".into()),
            ("args".into(), Value::Array(vec![])),
            ("supplementary_groups".into(), Value::Array(vec![])),
            ("work_dir".into(), Value::Nil),
            ("notify".into(), Value::Nil),
        ]);
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &config).unwrap();
        let given = options::given(&bytes, DriverConfig::OPTIONS);
        assert_eq!(given.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["command"]);
    }
}
