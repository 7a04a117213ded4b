//! Contracts that Nomad, the readers of the documents and this project rely on. Runs anywhere, without root.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::path::Path;
use std::process::{Command, Stdio};

use nomad_driver_systemd::task::config::options::{self, Block as _, Kind, Opt};
use nomad_driver_systemd::task::config::{DriverConfig, PluginConfig};
use nomad_local::plugin_client::{Launch, Plugin};
use proto::base::{ConfigSchemaRequest, PluginInfoRequest, PluginType};
use proto::driver::TaskConfigSchemaRequest;
use proto::hclspec::{Spec, spec::Block};
use tests::{Desk, program, repository};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The import rule of driver/ARCHITECTURE.md: arrows point down only.
const RULES: &[(&str, &[&str])] = &[
    ("systemd", &["crate::plugin", "crate::task", "nomad_local", "tonic::", "proto::"]),
    ("task", &["crate::plugin", "nomad_local", "tonic::", "proto::", "zbus::"]),
    ("task/config", &["task::spec", "task::sandbox", "task::host", "task::wasm", "task::unit", "task::live"]),
    ("task/sandbox", &["task::spec", "task::wasm", "task::unit", "task::live"]),
    ("task/wasm", &["task::spec", "task::unit", "task::live"]),
    ("task/spec", &["task::unit", "task::live"]),
    ("task/unit", &["task::live"]),
    ("plugin", &["nomad_local", "zbus::"]),
    ("../local/src", &["nomad_driver_systemd::", "zbus::"]),
];

#[test]
fn imports_go_one_way() {
    for (room, forbidden) in RULES {
        let mut paths = vec![repository().join("driver/src").join(room)];
        let mut files = 0;
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let text = read(&path);
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                for import in *forbidden {
                    assert!(!line.contains(import), "{}: code line {}: {line}", path.display(), number + 1);
                }
            }
            files += 1;
        }
        assert!(files >= 3, "{room} has its files");
    }
}

#[test]
fn the_drivers_page_shows_every_option() {
    let page = read(&repository().join("driver/README.md"));
    for (block, options) in [("task", DriverConfig::OPTIONS), ("plugin", PluginConfig::OPTIONS)] {
        let table = options::table(options);
        assert!(page.contains(&table), "the table of {block} options in driver/README.md must be:\n{table}");
    }
    let presets = nomad_driver_systemd::task::sandbox::preset::table();
    assert!(page.contains(&presets), "the table of presets in driver/README.md must be:\n{presets}");
    for option in DriverConfig::OPTIONS {
        let Some(Kind::Once(options)) = option.block else { continue };
        if options::has_properties(options) {
            let table = options::table_of_properties(options);
            let block = option.name;
            assert!(
                page.contains(&table),
                "the table of the `{block}` block in driver/README.md must be:\n{table}"
            );
        }
    }
}

#[test]
fn the_readme_shows_an_example_letter_for_letter_and_the_examples_page_names_them_all() {
    let page = read(&repository().join("examples/README.md"));
    let readme = read(&repository().join("README.md"));
    let shown = read(&repository().join("examples/hello.nomad.hcl"));
    assert!(readme.contains(shown.trim_end()), "README.md shows examples/hello.nomad.hcl as it is");
    for entry in std::fs::read_dir(repository().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".nomad.hcl") {
            assert!(page.contains(&name), "examples/README.md names {name}");
        }
    }
}

/// The examples fetch these files as they are, so that a user needs no tool to build them.
#[test]
fn the_examples_guests_are_made_of_the_text_beside_them() {
    for name in ["echo", "greet", "serve"] {
        let path = repository().join("examples/guests").join(name);
        let made = tests::wasm(&read(&path.with_extension("wat")));
        assert!(std::fs::read(path.with_extension("wasm")).unwrap() == made, "{name}.wasm is not {name}.wat");
    }
}

async fn plugin() -> Plugin {
    Plugin::launch(Launch::new(program("nomad-driver-systemd"))).await.expect("the handshake succeeds")
}

#[tokio::test]
async fn the_plugin_says_who_it_is() {
    let plugin = plugin().await;
    let info = plugin.base().plugin_info(PluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.r#type(), PluginType::Driver);
    assert_eq!((info.name.as_str(), info.plugin_api_versions), ("systemd", vec!["v0.1.0".to_owned()]));
    assert_eq!(info.plugin_version, env!("CARGO_PKG_VERSION"));
    assert!(plugin.shutdown().await, "it ends within two seconds");
}

#[tokio::test]
async fn the_schemas_hold_every_option_with_its_type_and_default() {
    let plugin = plugin().await;
    let task =
        plugin.driver().task_config_schema(TaskConfigSchemaRequest {}).await.unwrap().into_inner().spec;
    let config = plugin.base().config_schema(ConfigSchemaRequest {}).await.unwrap().into_inner().spec;
    for (spec, options) in [(task, DriverConfig::OPTIONS), (config, PluginConfig::OPTIONS)] {
        holds(spec, options);
    }
}

fn holds(spec: Option<Spec>, options: &[Opt]) {
    let Some(Spec { block: Some(Block::Object(object)) }) = spec else { panic!("an object: {spec:?}") };
    assert_eq!(object.attributes.len(), options.len());
    for option in options {
        let (attr, default) = match object.attributes[option.name].block.clone().unwrap() {
            Block::BlockValue(block) => {
                assert_eq!(block.name, option.name);
                let Some(Kind::Once(options)) = option.block else { panic!("{}", option.name) };
                holds(block.nested.map(|nested| *nested), options);
                continue;
            }
            Block::BlockList(list) => {
                assert_eq!(list.name, option.name);
                let Some(Kind::Often(options)) = option.block else { panic!("{}", option.name) };
                holds(list.nested.map(|nested| *nested), options);
                continue;
            }
            Block::BlockAttrs(attrs) => {
                assert_eq!((attrs.name.as_str(), attrs.r#type.as_str()), (option.name, "string"));
                assert!(matches!(option.block, Some(Kind::Free)), "{}", option.name);
                continue;
            }
            Block::Attr(attr) => (attr, None),
            Block::Default(default) => {
                let Some(Block::Attr(attr)) = default.primary.unwrap().block else { panic!("an attribute") };
                let Some(Block::Literal(literal)) = default.default.unwrap().block else {
                    panic!("a literal")
                };
                (attr, Some(literal.value))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((attr.name.as_str(), attr.r#type.as_str()), (option.name, option.hcl_type));
        assert_eq!((attr.required, default.as_deref()), (option.required, option.default));
    }
}

#[tokio::test]
async fn what_is_claimed_is_what_is_there() {
    let plugin = plugin().await;
    let capabilities = plugin.capabilities().await.unwrap();
    assert!(capabilities.send_signals && capabilities.exec && !capabilities.must_create_network);
    assert_eq!(capabilities.mount_configs(), proto::driver::driver_capabilities::MountConfigs::AnyMounts);
    assert!(!capabilities.dynamic_workload_users, "unless the operator says so");
    let network = proto::driver::CreateNetworkRequest::default();
    let refusal = plugin.driver().create_network(network).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unimplemented);
}

#[test]
fn a_person_who_starts_the_plugin_is_told_what_it_is() {
    let output = Command::new(program("nomad-driver-systemd"))
        .env_remove("NOMAD_PLUGIN_MAGIC_COOKIE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "stdout belongs to the handshake");
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains("plugin_dir") && printed.contains("nomad-driver-systemd run"), "{printed}");
}

#[tokio::test]
async fn a_host_of_another_age_is_refused_in_words() {
    let launch = Launch::new(program("nomad-driver-systemd")).env("PLUGIN_CLIENT_CERT", "a certificate");
    let error = Plugin::launch(launch).await.expect_err("mutual TLS is not to be had");
    assert!(nomad_driver_systemd::chain(&error).contains("TLS"), "{error}");
}

#[test]
fn no_file_names_this_machine_or_a_registry() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(repository()).output();
    // A copy of the tree without its history has nothing to list.
    let Ok(listed) = listed else { return };
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let Ok(text) = std::fs::read_to_string(repository().join(name)) else {
            continue;
        };
        for word in [concat!("/root/", ".cargo"), concat!("deb.", "debian.org"), concat!("/work", "/main")] {
            assert!(!text.contains(word), "{name} holds {word}");
        }
    }
}

/// The file that asdf and mise read.
#[test]
fn the_pinned_toolchain_is_of_the_version_that_the_crates_ask_for() {
    let pinned = read(&repository().join(".tool-versions"));
    let pinned = pinned.trim().strip_prefix("rust ").unwrap();
    let manifest = read(&repository().join("Cargo.toml"));
    let asked = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap();
    assert!(pinned.starts_with(&format!("{}.", asked.trim_matches('"'))), "{pinned} {asked}");
}

#[test]
fn the_conformance_list_names_tests_that_exist() {
    let mut tests = String::new();
    let mut paths = ["tests", "driver/src", "driver/local/src"].map(|path| repository().join(path)).to_vec();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests.push_str(&read(&path));
        }
    }
    let list = read(&repository().join("tests/conformance.md"));
    let rows = list
        .lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let names: Vec<&str> =
        rows.filter(|word| word.contains('_') && !word.contains(['-', '.', ' '])).collect();
    assert!(names.len() > 60, "{} names", names.len());
    for name in names {
        assert!(
            tests.contains(&format!("fn {name}()")),
            "tests/conformance.md names `{name}`, which is no test"
        );
    }
}

/// All files below a directory of driver/src, concatenated.
fn sources(below: &str) -> String {
    let mut paths = vec![repository().join("driver/src").join(below)];
    let mut text = String::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            text += read(&path).split("#[cfg(test)]").next().unwrap_or_default();
        }
    }
    text
}

/// The string literals in `source` that `is_one` accepts.
fn quoted(source: &str, is_one: impl Fn(&str) -> bool) -> Vec<&str> {
    source.split('"').filter(|text| is_one(text)).collect()
}

#[test]
fn the_drivers_page_shows_every_node_attribute_and_every_detail_of_an_event() {
    let page = read(&repository().join("driver/README.md"));
    let plugin = sources("plugin");
    let attributes = quoted(&plugin, |text| text.starts_with("driver.systemd"));
    assert!(attributes.len() > 5, "{attributes:?}");
    for attribute in attributes {
        assert!(page.contains(&format!("| `{attribute}` |")), "`{attribute}` is not in driver/README.md");
    }
    let task = sources("task");
    // `tell(message, &[("module", …)])`
    let lists = task.split(".tell(").skip(1).filter_map(|rest| rest.split_once(';')?.0.split_once("&["));
    let details =
        lists.flat_map(|(_, list)| list.split("(\"").skip(1).filter_map(|name| name.split('"').next()));
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let ends = sources("task/live/exit.rs") + &sources("task/wasm/outcome.rs");
    // `("wasm_requests", …)`
    let of_ends = ends.split("(\"").skip(1).filter_map(|rest| Some(rest.split_once("\", ")?.0));
    let details: std::collections::BTreeSet<&str> = details.chain(of_ends).filter(is_name).collect();
    assert!(details.contains("wasm_outcome") && details.contains("memory_peak"), "{details:?}");
    assert!(details.contains("module") && details.contains("kill_timeout"), "{details:?}");
    for detail in details {
        assert!(page.contains(&format!("`{detail}`")), "`{detail}` is not in driver/README.md");
    }
}

#[test]
fn every_boundary_of_the_threat_model_names_attacks_that_are_there_and_no_attack_is_left_out() {
    let page = read(&repository().join("driver/SECURITY.md"));
    let attacks = repository().join("tests/attacks");
    let (mut named, mut paragraphs) = (std::collections::BTreeSet::new(), 0);
    for shown in page.split("Shown by").skip(1) {
        paragraphs += 1;
        let paragraph = shown.split("\n\n").next().unwrap_or_default();
        for name in paragraph.split('`').skip(1).step_by(2) {
            let path = if name.contains('/') { repository().join(name) } else { attacks.join(name) };
            assert!(path.exists(), "SECURITY.md: \"Shown by\" names `{name}`, which is not there");
            named.insert(name.to_owned());
        }
    }
    assert!(paragraphs > 10, "{paragraphs}");
    for file in std::fs::read_dir(&attacks).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let is_named = named.contains(&name) || name == "main.rs";
        assert!(is_named, "SECURITY.md: no \"Shown by\" names tests/attacks/{name}");
    }
}

/// Operators and users read these texts in the documents, and the driver's events use them.
#[test]
fn the_exit_codes_of_the_documents_are_those_of_the_shim() {
    let shim = read(&repository().join("shim/src/outcome.rs"));
    let row = |line: &str| -> Option<(u8, String)> {
        let mut cells = line.trim_start_matches("//!").trim().strip_prefix('|')?.split('|').map(str::trim);
        Some((cells.next()?.parse().ok()?, cells.next().filter(|word| !word.is_empty())?.to_owned()))
    };
    let ours: Vec<_> = shim.lines().filter_map(row).collect();
    assert!(ours.len() > 5, "{ours:?}");
    for page in ["driver/README.md", "shim/README.md"] {
        let text = read(&repository().join(page));
        let told: Vec<_> = text.lines().filter_map(row).collect();
        for end in &ours {
            assert!(told.contains(end), "{end:?} is not in the table of {page}");
        }
    }
}

/// Both share the parser (`shim/interface`), and each must use it.
#[test]
fn driver_and_shim_read_a_grant_alike() {
    let desk = Desk::new();
    for (grant, is_one) in [
        ("tcp:10.0.0.0/8:5432", true),
        ("[::1]:53", true),
        ("udp:[fd00::]/8:1-65535", true),
        ("*:*", true),
        ("*:0", true),
        ("10.0.0.0/0:443", true),
        ("", false),
        ("*", false),
        ("tcp:*", false),
        ("*:+80", false),
        ("*:80-79", false),
        ("*:-80", false),
        ("*: 80", false),
        ("*:65536", false),
        ("10.0.0.0/+8:80", false),
        ("10.0.0.0/33:80", false),
        ("10.0.0.0/:80", false),
        ("010.0.0.1:80", false),
        ("[::1/128]:80", false),
        ("[10.0.0.1]:80", false),
        ("::1:80", false),
        ("localhost:80", false),
        ("TCP:*:80", false),
        ("sctp:*:80", false),
    ] {
        let config = format!("command = \"/bin/true\"\n wasm {{\n connect = [\"{grant}\"]\n }}");
        let task = format!("task \"t\" {{\n driver = \"systemd\"\n config {{\n {config}\n }}\n}}");
        let job = desk.file("job.hcl", format!("job \"j\" {{\n group \"g\" {{\n {task}\n }}\n}}").as_bytes());
        let unit = Command::new(program("nomad-driver-systemd")).args(["unit", &job]).output().unwrap();
        let printed = String::from_utf8_lossy(&unit.stderr);
        assert_eq!(!printed.contains("`wasm.connect`"), is_one, "the driver of `{grant}`: {printed}");
        let shim = desk.run(&["run", &format!("--connect={grant}"), "/nonexistent"]);
        let printed = String::from_utf8_lossy(&shim.0.stderr);
        assert_eq!(!printed.contains("--connect"), is_one, "the shim of `{grant}`: {printed}");
    }
}
