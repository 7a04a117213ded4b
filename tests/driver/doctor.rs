//! `nomad-driver-systemd doctor` on a real systemd: a deliberate fault is found by its name, with its solution.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{Host, Need, program};

/// The block that makes an agent a client.
const CLIENT: &str = "client {\n enabled = true\n}\n";

/// An agent's configuration with the plugin in place.
struct Installed {
    place: tempfile::TempDir,
}

impl Installed {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let new = Self { place };
        fs::create_dir_all(new.plugins()).unwrap();
        symlink(program("nomad-driver-systemd"), new.plugin()).unwrap();
        new.configure("");
        new
    }

    fn plugins(&self) -> PathBuf {
        self.place.path().join("plugins")
    }

    fn plugin(&self) -> PathBuf {
        self.plugins().join("nomad-driver-systemd")
    }

    /// Writes the agent's configuration with these options of the plugin.
    fn configure(&self, options: &str) {
        self.write(&format!(
            "data_dir = \"{}\"\n{CLIENT}plugin \"nomad-driver-systemd\" {{\n config {{\n{options}\n }}\n}}\n",
            self.place.path().display()
        ));
    }

    fn write(&self, text: &str) {
        fs::write(self.place.path().join("agent.hcl"), text).unwrap();
    }

    /// The exit code, and the failed checks: the name, and what was found.
    fn examined(&self, more: &[&str]) -> (i32, Vec<(String, String)>) {
        self.with_status("failed", more)
    }

    /// The exit code, and the checks that went like this.
    fn with_status(&self, status: &str, more: &[&str]) -> (i32, Vec<(String, String)>) {
        let mut doctor = Command::new(program("nomad-driver-systemd"));
        doctor.args(["doctor", "--json", "--config"]).arg(self.place.path().join("agent.hcl")).args(more);
        let output = doctor.output().unwrap();
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let failed = findings.iter().filter(|finding| finding["status"] == status).map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap().to_owned();
            assert!(!text("means").is_empty() && !text("mend").is_empty(), "{finding}");
            (text("check"), text("found"))
        });
        (output.status.code().unwrap(), failed.collect())
    }

    /// Exactly one check fails, and its message contains this text.
    fn fails(&self, more: &[&str], check: &str, words: &str) {
        let (code, failed) = self.examined(more);
        assert_eq!(code, 1, "{check}: {words}");
        assert!(
            matches!(&failed[..], [(name, found)] if name == check && found.contains(words)),
            "{words}: {failed:?}"
        );
    }
}

fn write(path: &Path, mode: u32) {
    fs::write(path, "").unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_healthy_node_is_called_healthy() {
    let _host = host!();
    assert_eq!(Installed::new().examined(&[]), (0, Vec::new()));
}

#[tokio::test]
async fn why_the_plugin_is_not_loaded_is_told() {
    let host = host!();
    let installed = Installed::new();
    let (plugins, plugin) = (installed.plugins(), installed.plugin());
    for name in ["wasm-shim", "nomad-driver-systemd_0.0.9"] {
        write(&plugins.join(name), 0o755);
        installed.fails(&[], "plugin_dir", name);
        fs::remove_file(plugins.join(name)).unwrap();
    }
    fs::set_permissions(&plugins, PermissionsExt::from_mode(0o777)).unwrap();
    installed.fails(&[], "plugin_dir", "other users of this node can write to");
    fs::set_permissions(&plugins, PermissionsExt::from_mode(0o755)).unwrap();
    fs::remove_file(&plugin).unwrap();
    installed.fails(&[], "plugin_dir", "has no nomad-driver-systemd");
    symlink("/nowhere", &plugin).unwrap();
    installed.fails(&[], "plugin_dir", "is a link to nothing");
    fs::remove_file(&plugin).unwrap();
    write(&plugin, 0o644);
    installed.fails(&[], "plugin_dir", "is not executable");
    fs::remove_dir_all(&plugins).unwrap();
    installed.fails(&[], "plugin_dir", "is not there");
    fs::create_dir(&plugins).unwrap();
    let shown = plugins.display().to_string();
    host.run("mount", &["-t", "tmpfs", "-o", "noexec", "none", &shown]);
    write(&plugin, 0o755);
    let (_, failed) = installed.examined(&[]);
    host.run("umount", &[&shown]);
    assert!(failed[0].1.ends_with("is on a file system that is mounted noexec"), "{failed:?}");
}

#[tokio::test]
async fn what_is_wrong_in_the_configuration_is_told() {
    let _host = host!();
    let installed = Installed::new();
    installed.fails(&["--plugin", "/bin/false"], "plugin", "ended (exit status: 1) before its handshake");
    for (options, check, words) in [
        ("allow_rot = \"no\"", "plugin options", "did you mean `allow_root`?"),
        ("sandbox = \"strong\"", "plugin options", "`sandbox`"),
        ("default_user = \"nobody-here\"", "health", "`default_user`"),
        ("shim_dir = \"/usr/share\"", "health", "`shim_dir`"),
        ("state_dir = \"/proc/state\"", "health", "`state_dir`"),
    ] {
        installed.configure(options);
        installed.fails(&[], check, words);
    }
    let data = format!("data_dir = \"{}\"\n{CLIENT}", installed.place.path().display());
    for label in ["systemd", "nomad-driver-systmd"] {
        installed.write(&format!("{data}plugin \"{label}\" {{\n}}\n"));
        installed.fails(&[], "agent configuration", &format!("plugin \"{label}\""));
    }
    installed.write(&format!("{data}plugin \"nomad-driver-systemd\" {{\n args = [\"serve\"]\n}}\n"));
    installed.fails(&[], "agent configuration", "{ args }");
    installed.write(&data);
    installed.fails(&[], "agent configuration", "no block `plugin \"nomad-driver-systemd\"`");
    installed.write(&format!("{}plugin \"nomad-driver-systemd\" {{\n}}\n", data.replace("true", "false")));
    installed.fails(&[], "client", "enabled = false");
    installed.write(&format!("{data}plugin_dir = \"plugins\"\nplugin \"nomad-driver-systemd\" {{\n}}\n"));
    let (code, failed) = installed.examined(&[]);
    assert_eq!((code, failed[0].1.as_str()), (1, "plugin_dir = \"plugins\""));
    installed.write("plugin {");
    let (code, failed) = installed.examined(&[]);
    assert_eq!((code, failed[0].0.as_str()), (1, "agent configuration"));
}

#[tokio::test]
async fn programs_that_are_damaged_are_told_apart_from_those_that_are_missing() {
    let _host = host!();
    let installed = Installed::new();
    let programs = installed.place.path().join("programs");
    fs::create_dir(&programs).unwrap();
    installed.configure(&format!("shim_dir = {programs:?}"));
    let copy = |damaged: &str| {
        for name in ["wasm-shim", "wasm-shim-compile"] {
            fs::copy(program(name), programs.join(name)).unwrap();
        }
        let file = fs::File::options().write(true).open(programs.join(damaged)).unwrap();
        file.set_len(fs::metadata(program(damaged)).unwrap().len() / 3).unwrap();
    };
    copy("wasm-shim");
    installed.fails(&[], "health", "wasm-shim does not run");
    copy("wasm-shim-compile");
    let (code, warnings) = installed.with_status("warning", &[]);
    let is_told =
        |(check, found): &(String, String)| check == "WebAssembly" && found.contains("does not run");
    assert!(code == 0 && warnings.iter().any(is_told), "{warnings:?}");
}

#[tokio::test]
async fn what_the_node_does_to_every_task_is_told() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let installed = Installed::new();
    let warns = |check: &str, words: &str| {
        let (code, warnings) = installed.with_status("warning", &[]);
        let is_told = warnings.iter().any(|(name, found)| name == check && found.contains(words));
        assert!(code == 0 && is_told, "{check}, {words}: {warnings:?}");
    };
    host.run("systemctl", &["mask", "--runtime", "nomad_tasks-share.slice"]);
    let (_, failed) = installed.examined(&[]);
    host.run("systemctl", &["unmask", "--runtime", "nomad_tasks-share.slice"]);
    assert_eq!(failed, [("slices".to_owned(), "nomad_tasks-share.slice is masked".to_owned())]);

    let directory = Path::new("/run/systemd/system/nomad-.service.d");
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("user.conf"), "[Service]\nUser=nobody\n").unwrap();
    warns("drop-ins", "user.conf sets User");
    fs::remove_dir_all(directory).unwrap();

    let data = installed.place.path().join("data");
    fs::create_dir(&data).unwrap();
    host.run("mount", &["-t", "tmpfs", "-o", "noexec,size=1m", "none", &data.display().to_string()]);
    installed.write(&format!(
        "data_dir = \"{}\"\nplugin_dir = \"{}\"\n{CLIENT}plugin \"nomad-driver-systemd\" {{\n}}\n",
        data.display(),
        installed.plugins().display()
    ));
    let (_, failed) = installed.examined(&[]);
    let (_, warnings) = installed.with_status("warning", &[]);
    host.run("umount", &[&data.display().to_string()]);
    assert!(
        matches!(&failed[..], [(check, found)] if check == "data_dir" && found.contains("MiB of room")),
        "{failed:?}"
    );
    assert!(warnings.iter().any(|(_, found)| found.ends_with("mounted noexec")), "{warnings:?}");
}
