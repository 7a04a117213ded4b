//! The machine's own systemd, driven by an unprivileged user, where polkit allows it.

use std::process::Command;

use tests::{Host, program, repository};

/// The output of a command of the user `nomad`, and whether it succeeds.
fn as_nomad(words: &[&str]) -> (bool, String) {
    let user = [
        "--reuid=nomad",
        "--regid=nomad",
        "--init-groups",
        "env",
        "-i",
        "HOME=/home/nomad",
        "PATH=/usr/bin:/bin",
    ];
    let output = Command::new("setpriv").args(user).args(words).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

fn prepare(host: &Host) {
    let script = "useradd -m nomad && install -d -o nomad -m 700 /run/user/$(id -u nomad) &&
        install -D -m 644 $0/examples/nomad-driver-systemd.rules /etc/polkit-1/rules.d/50-nomad.rules &&
        install -D -m 644 $0/examples/hello.nomad.hcl /home/nomad/hello.nomad.hcl &&
        install -m 755 $1 /home/nomad/driver && install -m 755 $2 /home/nomad/wasm-shim && systemctl restart polkit";
    let repository = repository().display().to_string();
    let [driver, shim] =
        ["nomad-driver-systemd", "wasm-shim"].map(|name| program(name).display().to_string());
    host.run("sh", &["-ec", script, &repository, &driver, &shim]);
}

#[tokio::test]
async fn the_shipped_rule_lets_one_user_start_our_units_and_no_others() {
    let host = host!();
    prepare(&host);
    let run = [
        "/home/nomad/driver",
        "run",
        "/home/nomad/hello.nomad.hcl",
        "--plain",
        "--alloc-dir",
        "/home/nomad/allocs",
        "--plugin-config",
    ];
    let with = |config: &'static str| as_nomad(&[&run[..], &[config]].concat());
    let (succeeded, output) = with("manager = \"system\"");
    if super::version(&host) < 257 {
        // The call does not tell polkit which unit it is about.
        assert!(!succeeded && output.contains("polkit") && output.contains("257"), "{output}");
        return;
    }
    assert!(succeeded && output.contains("Hello from hello, I am user "), "{output}");
    let (succeeded, output) = as_nomad(&["systemd-run", "--unit=other", "true"]);
    assert!(!succeeded, "{output}");
    // The rule cannot see this, and its file states so.
    let (succeeded, output) =
        as_nomad(&["systemd-run", "--unit=nomad-root", "--uid=0", "--wait", "--pipe", "--quiet", "id", "-u"]);
    assert!(succeeded && output == "0\n", "{output}");
}
