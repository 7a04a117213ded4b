//! Options of `wasm` that are rejected, and what is known about them locally and on the node.

use proto::structs::attribute::Value;
use tests::{Job, Node, program};

use super::{server, with};

#[allow(clippy::too_many_lines, reason = "a table of jobs")]
#[tokio::test]
async fn what_no_guest_can_be_given_is_refused_by_option_and_value_before_anything_is_started() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut precompiled = std::fs::read("/bin/true").unwrap();
    precompiled[7] = 200;
    let cases = vec![
        (
            with("hello.wat", "connect = [\"10.0.0.1\"]"),
            "`wasm.connect`: `10.0.0.1` is not addresses and ports",
        ),
        (with("hello.wat", "connect = [\"db.example:80\"]"), "`wasm.connect`: `db.example:80`"),
        (with("hello.wat", "listen = [\"*:90-80\"]"), "`wasm.listen`: `*:90-80`"),
        (with("hello.wat", "dirs = [\"data\"]"), "`wasm.dirs`: `data`"),
        (with("hello.wat", "dirs = [\"/local::/x:RO\"]"), "`wasm.dirs`: `/local::/x:RO`"),
        (with("hello.wat", "dirs = [\"/local:/x:ro\"]"), "`wasm.dirs`: `/local:/x:ro`"),
        (with("hello.wat", "dirs = [\"/local:ro\"]"), "`wasm.dirs`: `/local:ro`"),
        (with("hello.wat", "dirs = [\"/local/../../etc\"]"), "`wasm.dirs`: `/local/../../etc`"),
        (
            with("hello.wat", "dirs = [\"/local::/x\", \"/alloc::/x:ro\"]"),
            "`wasm.dirs`: `/alloc::/x:ro` is not a directory under a name that no other",
        ),
        (
            with("hello.wat", "inherit_network = true\nconnect = [\"*:80\"]"),
            "`wasm.connect`: `wasm.inherit_network` grants all",
        ),
        (with("hello.wat", "env = [\"NO_SUCH\"]"), "`wasm.env`: `NO_SUCH`"),
        (with("hello.wat", "fuel = 0"), "`wasm.fuel`: `0`"),
        (with("hello.wat", "max_memory = \"much\""), "`wasm.max_memory`: `much`"),
        (with("hello.wat", "max_stack = \"2G\""), "`wasm.max_stack`: `2G`"),
        (with("hello.wat", "timeout = \"soon\""), "`wasm.timeout`: `soon`"),
        (with("hello.wat", "timeout = \"0\""), "`wasm.timeout`: `0`"),
        (with("hello.wat", "proposals = { sims = \"true\" }"), "`wasm.proposals`: `sims`"),
        (with("hello.wat", "proposals = { simd = \"perhaps\" }"), "`wasm.proposals`: `simd = perhaps`"),
        (with("web.wat", "serve {\n}"), "`wasm.serve`: it needs either a `port` or a `socket`"),
        (
            with("web.wat", "serve {\n port = \"x\"\n socket = \"y\"\n}").port("x", 1),
            "`wasm.serve`: it has both a `port` and a `socket`",
        ),
        (with("web.wat", "serve {\n port = \"absent\"\n}"), "`wasm.serve.port`: `absent`"),
        (with("web.wat", "serve {\n socket = \"absent\"\n}"), "`wasm.serve.socket`: `absent`"),
        (server(1, "reuse = 0"), "`wasm.serve.reuse`: `0`"),
        (server(1, "timeout = \"never\""), "`wasm.serve.timeout`: `never`"),
        (server(1, "").args(&["x"]), "`args`: a guest that serves"),
        (
            with("web.wat", "timeout = \"1s\"\nserve {\n port = \"x\"\n}").port("x", 1),
            "`wasm.timeout`: a guest that serves runs until it is stopped",
        ),
        (server(1, "").config("notify {\n access = \"all\"\n}"), "`notify.access`"),
        (with("hello.wat", "").config("notify { ready_within = \"11m\" }"), "`notify.ready_within`"),
        (
            with("hello.wat", "").config("notify {\n ready_within = \"1s\"\n}"),
            "`notify`: a WebAssembly guest",
        ),
        (Job::shell("true").config("wasm {\n fuel = 5\n}"), "`wasm`: `command` is a native program"),
        (
            Job::command("/g/x.wasm").config("files {\n bind_read_only_paths = [\"local:/g\"]\n}"),
            "is in what `files` mounts for the task",
        ),
        (Job::artifact("code.cwasm", &precompiled), "precompiled native code is not accepted from jobs"),
    ];
    for (job, reason) in cases {
        let alloc = job.request.alloc_id.clone();
        let refusal = node.try_run(job).await.expect_err(reason);
        assert!(refusal.message.contains(reason), "{reason}: {refusal}");
        assert!(!refusal.recoverable && !refusal.message.contains('\n'), "{refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new(), "{reason}");
    }
}

#[tokio::test]
async fn the_node_says_which_wasmtime_it_has() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let attributes = node.plugin().fingerprint().await.unwrap().attributes;
    let Some(Value::StringVal(version)) = &attributes["driver.systemd.wasmtime"].value else {
        panic!("a text")
    };
    let output = host.run(&program("wasm-shim").display().to_string(), &["--version"]);
    assert!(
        version.split('.').count() == 3 && output.contains(&format!("wasmtime {version}+")),
        "{version}: {output}"
    );
}

#[tokio::test]
async fn at_the_desk_the_block_means_the_same() {
    let host = host!();
    let directory = tempfile::tempdir().unwrap();
    let guest = directory.path().join("echo.wasm");
    std::fs::write(&guest, super::guest("echo.wat")).unwrap();
    let job = format!(
        r#"job "j" {{
            type = "batch"
            group "g" {{
                network {{
                    port "http" {{}}
                }}
                task "t" {{
                    driver = "systemd"
                    env {{
                        GREETING = "good morning"
                        OTHER    = "x"
                    }}
                    artifact {{
                        source = "{}"
                    }}
                    config {{
                        command = "echo.wasm"
                        wasm {{
                            env     = ["GREETING"]
                            connect = ["tcp:10.0.0.0/8:${{NOMAD_PORT_http}}"]
                            config {{
                                token = "s3cret"
                            }}
                            proposals {{
                                relaxed_simd = false
                            }}
                        }}
                    }}
                }}
            }}
        }}"#,
        guest.display()
    );
    let path = directory.path().join("j.nomad.hcl");
    std::fs::write(&path, job).unwrap();
    let (driver, path) = (program("nomad-driver-systemd").display().to_string(), path.display().to_string());
    let unit = host.run(&driver, &["unit", &path]);
    for part in [
        "--connect tcp:10.0.0.0/8:2",
        "--env GREETING",
        "relaxed-simd=n",
        "PrivateNetwork=no",
        "IPAddressAllow=",
    ] {
        assert!(unit.contains(part), "{part} in {unit}");
    }
    assert!(!unit.contains("--env OTHER") && !unit.contains("s3cret"), "{unit}");
    // If the operator denies the property to jobs, the unit of a guest does not set it either: it would take precedence
    // over what the slice denies.
    let denied =
        host.run(&driver, &["unit", "--plugin-config", "deny_properties = [\"IPAddressAllow\"]", &path]);
    assert!(denied.contains("--connect tcp:10.0.0.0/8:2") && !denied.contains("IPAddress"), "{denied}");
    let config = format!("shim_dir = {:?}", tests::programs().display().to_string());
    let output = host.run(&driver, &["run", "--plugin-config", &config, &path]);
    assert!(output.contains("GREETING=good morning") && !output.contains("OTHER=x"), "{output}");
}
