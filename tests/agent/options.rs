//! Options that only our driver has, as users write them in job files.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use futures_util::future::join_all;
use serde_json::json;
use tests::{Agent, Said, eventually};

use super::ends;

/// The `config` of a task that runs a shell script, with more options.
fn shell(script: &str, options: &str) -> String {
    format!(
        "config {{\n command = \"/bin/sh\"\n args = [\"-c\", <<-SCRIPT\n{script}\nSCRIPT\n ]\n{options}\n}}"
    )
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_host_volume_is_mounted_as_the_job_says() {
    let agent = ours!(Agent::shared());
    let volume = |name: &str, more: &str| {
        format!("volume \"{name}\" {{\n type = \"host\"\n source = \"volume\"\n {more}\n}}\n")
    };
    let mount = |name: &str, more: &str| {
        format!("volume_mount {{\n volume = \"{name}\"\n destination = \"/{name}\"\n {more}\n}}\n")
    };
    let read_only = "read_only = true";
    let script = "echo kept > /data/note; cat /fixed/note; touch /fixed/x 2>/dev/null || echo refused
        touch /half/x 2>/dev/null || echo refused";
    let task = [mount("data", ""), mount("fixed", read_only), mount("half", read_only), shell(script, "")];
    let group = [volume("data", ""), volume("fixed", read_only), volume("half", "")];
    agent.run_file(&group.concat(), &task.concat()).await.prints("kept\nrefused\nrefused\n").await;
    assert_eq!(fs::read_to_string(agent.volume().join("note")).unwrap(), "kept\n");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_task_without_a_network_has_a_loopback_device() {
    let agent = ours!(Agent::shared());
    let script = "grep : /proc/net/dev | tr -d ' ' | cut -d: -f1";
    let private = "network {\n private = true\n}";
    agent.run_file("", &shell(script, private)).await.prints("lo\n").await;

    let alloc = agent.run_file("network {\n mode = \"none\"\n}", &shell(script, "")).await;
    let (_, events) = alloc.ended().await;
    let of_nomad = "network already configured but not found in state";
    if events.iter().any(|event| event.kind == "Setup Failure" && event.message.contains(of_nomad)) {
        eprintln!(
            "not asked: this Nomad (as 2.0.5) fails every group with the mode \"none\" itself: {of_nomad}"
        );
        return;
    }
    alloc.prints("lo\n").await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn options_arrive_as_a_job_file_has_them() {
    let agent = ours!(Agent::shared());
    // Numbers where strings are expected, and vice versa.
    let options = r#"
        cap_drop    = ["all"]
        extra_hosts = ["db:10.0.0.5"]
        sandbox {
            preset                    = "strict"
            umask                     = "0027"
            protect_clock             = "true"
            restrict_address_families = ["", "AF_UNIX"]
        }
        limits {
            nice             = "7"
            oom_score_adjust = 300
            runtime_max      = 3600
            timer_slack      = "2ms"
        }
        ulimit {
            nofile = "1024:2048"
            core   = 0
        }
        properties {
            LogLevelMax   = "info"
            LimitMSGQUEUE = 4096
            UnsetEnvironment = <<-LINES
                ONE
                TWO
            LINES
        }
        logging {
            driver           = "nomad"
            rate_limit_burst = "100"
        }"#;
    let script =
        "echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -c) $(nice) $(umask) $(cat /proc/self/oom_score_adj)
        getent hosts db | tr -s ' '
        until test -e $NOMAD_ALLOC_DIR/data/enough; do sleep 0.1; done";
    let alloc = agent.run_file("", &shell(script, options)).await;
    let output = "1024 2048 0 7 0027 300\n10.0.0.5 db\n";
    alloc.says(output).await;
    let units = agent.host().units(&format!("{}-main", alloc.id()));
    for (name, value) in [
        ("LogLevelMax", "6"),
        ("LimitMSGQUEUE", "4096"),
        ("UnsetEnvironment", "ONE TWO"),
        ("RuntimeMaxUSec", "1h"),
        ("TimerSlackNSec", "2000000"),
        ("LogRateLimitBurst", "100"),
        ("ProtectClock", "yes"),
        ("PrivateUsers", "yes"),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
    ] {
        assert_eq!(agent.host().property(&units[0], name), value, "{name} of {units:?}");
    }
    fs::write(alloc.shared_file("enough"), "").unwrap();
    alloc.prints(output).await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_option_that_cannot_be_had_is_named_in_the_events() {
    let agent = ours!(Agent::shared());
    join_all(
        [
            ("properties {\n NoSuchProperty = \"x\"\n}", &["NoSuchProperty"][..]),
            ("properties {\n ExecStart = \"/bin/true\"\n}", &["ExecStart"]),
            ("limits {\n nice = -5\n}", &["limits.nice", "allow_properties"]),
            ("limits {\n nice = \"much\"\n}", &["number"]),
            ("limits {\n nise = 5\n}", &["nise"]),
            ("sandbox {\n preset = \"stern\"\n}", &["sandbox.preset", "stern", "strict"]),
            ("files {\n root_image = \"root.img\"\n}", &["allow_host_paths"]),
        ]
        .map(async |(options, words)| {
            let alloc = agent.run_file("", &shell("true", options)).await;
            let (status, events) = alloc.ended().await;
            let told = events.iter().map(|event| event.message.as_str()).collect::<Vec<_>>().join("\n");
            assert!(words.iter().all(|word| told.contains(word)), "{options}: {told}");
            assert_eq!((status.as_str(), ends(&events)), ("failed", vec![]), "{options}: {events:?}");
        }),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_template_in_secrets_can_be_a_credential() {
    let agent = ours!(Agent::shared());
    let templates = r#"
        template {
            data        = "{{ \"s3cr3t\" | toUpper }}"
            destination = "secrets/db/token"
        }
        template {
            data        = "plain"
            destination = "${NOMAD_SECRETS_DIR}/other"
        }"#;
    let options = r#"
        credential {
            name = "token"
            path = "db/token"
        }
        credential {
            name = "other"
            path = "${NOMAD_SECRETS_DIR}/other"
        }"#;
    let script = "cd $CREDENTIALS_DIRECTORY && echo $(cat token other) && stat -c %a token";
    let task = format!("{templates}\n{}", shell(script, options));
    agent.run_file("", &task).await.prints("S3CR3Tplain\n400\n").await;
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_static_port_is_open_before_the_task_starts() {
    let agent = ours!(Agent::shared());
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let group = format!("network {{\n port \"web\" {{\n static = {}\n }}\n}}", free.port());
    let options = "socket {\n name = \"http\"\n port = \"web\"\n}\nnotify {\n access = \"all\"\n}";
    let serve = "use IO::Socket; my $s = IO::Socket->new; $s->fdopen(3, \"r+\"); \
        my $c = $s->accept; print $c \"hello from $ENV{LISTEN_FDNAMES}\\n\"";
    let alloc = agent
        .run_file(&group, &shell(&format!("systemd-notify --ready; exec perl -e '{serve}'"), options))
        .await;
    let answer = eventually("it is open", async || {
        let connection = TcpStream::connect(free).ok()?;
        connection.set_read_timeout(Some(tests::SOON)).unwrap();
        std::io::read_to_string(connection).ok()
    })
    .await;
    assert_eq!(answer, "hello from http\n");
    assert_eq!(alloc.end().await, (0, 0, false));
    assert!(TcpStream::connect(free).is_err(), "and closed after it");
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn a_task_without_a_user_may_be_one_of_nomads() {
    let agent = ours!(Agent::configured("dynamic_workload_users", json!(true)));
    let script = "id -u; id -g; touch /local/mine /alloc/data/mine && stat -c %u /local/mine /alloc/data/mine
        test \"$(cat $NOMAD_SECRETS_DIR/nomad_token)\" = \"$NOMAD_TOKEN\" && echo a token of $(echo $NOMAD_TOKEN | tr -dc . | wc -c) dots
        until test -e /alloc/data/enough; do sleep 0.1; done";
    let identity = "identity {\n env = true\n file = true\n}";
    let task = format!("{identity}\n{}", shell(script, ""));
    let [one, other] = [agent.run_file("", &task).await, agent.run_file("", &task).await];
    let mut users = Vec::new();
    for alloc in [&one, &other] {
        let output = alloc.says("a token of 2 dots\n").await;
        let user: u32 = output.lines().next().unwrap().parse().unwrap();
        assert!((80_000..90_000).contains(&user), "{output}");
        assert_eq!(output, format!("{user}\n{user}\n{user}\n{user}\na token of 2 dots\n"));
        let exec = alloc.exec("id -u", "").await;
        assert_eq!(exec, Said { status: 0, out: format!("{user}\n"), err: String::new() });
        users.push(user);
    }
    assert_ne!(users[0], users[1]);
    for alloc in [&one, &other] {
        fs::write(alloc.shared_file("enough"), "").unwrap();
        assert_eq!(alloc.end().await, (0, 0, false));
    }
    eventually("the host has forgotten them", async || {
        let known = |user: &u32| Path::new(&format!("/run/userdb/{user}.user")).is_symlink();
        (!users.iter().any(known)).then_some(())
    })
    .await;
    agent.run_file("", &format!("user = \"nobody\"\n{}", shell("id -un", ""))).await.prints("nobody\n").await;
}
