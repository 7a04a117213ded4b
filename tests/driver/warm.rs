//! `nomad-driver-systemd warm`: code that was compiled ahead is what tasks run.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tests::{Exit, Host, Job, Node, exiting_guest, program};

use super::cache::{compilations, entries, exit_of};

/// Runs `warm` with the state directory of the node.
fn warm(node: &Node, args: &[&str]) -> Output {
    let (state, programs) = (node.state_dir(), tests::programs());
    let config = format!("state_dir = \"{}\"\nshim_dir = \"{}\"", state.display(), programs.display());
    let mut command = Command::new(program("nomad-driver-systemd"));
    command.args(["warm", "--plugin-config", &config]).args(args).output().unwrap()
}

fn write(host: &Path, name: &str, content: &[u8]) -> String {
    let path = host.join(name);
    fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_task_runs_the_code_that_was_compiled_ahead() {
    let host: Host = host!();
    let node = Node::start(&host).await;
    let place = tempfile::tempdir().unwrap();
    let module = write(place.path(), "seven.wasm", &exiting_guest(7));
    let warmed = warm(&node, &[&module]);
    let printed = String::from_utf8(warmed.stdout).unwrap();
    assert!(warmed.status.success(), "{}", String::from_utf8_lossy(&warmed.stderr));
    let entry = entries(&node.state_dir()).remove(0);
    assert!(printed.starts_with(&format!("{module}: {} (", entry.display())), "{printed}");
    assert_eq!(exit_of(&node, &exiting_guest(7)).await, Exit::status(7));
    assert_eq!(compilations(&node), 0, "the node had the code already");

    // Fuel changes the code.
    assert!(warm(&node, &["--fuel", &module]).status.success());
    assert_eq!(entries(&node.state_dir()).len(), 2);
    let job = Job::artifact("seven.wasm", &exiting_guest(7)).config("wasm {\n fuel = 100000\n}");
    let task = node.run(job).await;
    assert_eq!(node.finish(task).await.0, Exit::status(7));
    assert_eq!(compilations(&node), 0, "the node had the code with fuel, too");
}

#[tokio::test]
async fn a_module_is_fetched_and_one_that_cannot_be_compiled_fails_by_its_name() {
    let host: Host = host!();
    let node = Node::start(&host).await;
    let place = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/eight.wasm", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, body) = (stream.unwrap(), exiting_guest(8));
            let _ = stream.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    let cut = write(place.path(), "cut.wasm", &exiting_guest(0)[..20]);
    let warmed = warm(&node, &[&cut, &url]);
    let errors = String::from_utf8(warmed.stderr).unwrap();
    assert_eq!(warmed.status.code(), Some(1));
    assert!(errors.contains(&format!("{cut}: ")) && errors.contains("cannot be used"), "{errors}");
    assert!(String::from_utf8(warmed.stdout).unwrap().starts_with(&url), "the others are compiled");
    assert_eq!(exit_of(&node, &exiting_guest(8)).await, Exit::status(8));
    assert_eq!(compilations(&node), 0);

    for (args, words) in [
        (&["/no/such.wasm"][..], "/no/such.wasm"),
        (&["--proposal", "simd", "/no/such.wasm"], "--proposal simd=true"),
        (&["--proposal", "smd=true", &cut], "`--proposal`: `smd`"),
        (&["--fuel", "100", &cut], "`--fuel` takes no number"),
        (&["ftp://127.0.0.1/x.wasm"], "`ftp`"),
    ] {
        let failed = warm(&node, args);
        let errors = String::from_utf8(failed.stderr).unwrap();
        assert!(failed.status.code() == Some(1) && errors.contains(words), "{args:?}: {errors}");
    }
}
