//! A port that Nomad did not allocate, or an invalid port.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use proto::driver::network_isolation_spec::NetworkIsolationMode as Mode;
use proto::driver::{NetworkIsolationSpec, PortMapping, TaskConfig};
use tests::{Host, Job, MAY_LISTEN, Node};

const SOCKET: &str = "socket {\n name = \"http\"\n port = \"http\"\n}";
const SERVE: &str = "wasm {\n serve {\n port = \"http\"\n }\n}";

/// Each option that names a port, and a job with it.
fn jobs() -> [(&'static str, Job); 2] {
    // The job prints the address that it was given, so that a test knows that the forged value has reached it.
    let native = Job::shell("echo \"<$NOMAD_ADDR_http>\"; exec sleep infinity").config(SOCKET);
    let guest = Job::artifact("web.wasm", &super::guest("web.wat")).config(SERVE);
    [("socket.port", native), ("wasm.serve.port", guest)]
}

fn allocate(config: &mut TaskConfig, label: &str, value: u16, to: u16) {
    let port =
        PortMapping { label: label.into(), value: value.into(), to: to.into(), host_ip: "127.0.0.1".into() };
    config.resources.get_or_insert_default().ports.push(port);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where the sockets of a task's unit listen, as `systemctl show` prints it.
fn listens(host: &Host, unit: &str) -> String {
    host.property(&unit.replace(".service", ".socket"), "Listen")
}

/// A file that the job must not access.
struct Prize(tempfile::TempDir);

impl Prize {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("prize-").tempdir_in("/srv").unwrap();
        std::fs::write(directory.path().join("passwd"), "root\n").unwrap();
        Self(directory)
    }

    fn path(&self) -> String {
        self.0.path().join("passwd").display().to_string()
    }

    #[track_caller]
    fn is_untouched(&self) {
        let path = self.path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        assert!(!kind.is_socket(), "{path} has become a socket");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "root\n");
        assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), 1, "a file was made beside it");
    }
}

#[tokio::test]
async fn a_variable_of_the_job_allocates_no_port() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let prize = Prize::new();
    let free = free_port();
    for address in [
        prize.path(),
        format!("127.0.0.1:{free}"),
        format!("[::]:{free}"),
        "@abstract".to_owned(),
        "vsock::1234".to_owned(),
        format!("{0}x\nExecStopPost=+/bin/touch {0}-touched", prize.path()),
    ] {
        for (option, job) in jobs() {
            let job = job.env("NOMAD_ADDR_http", &address).env("NOMAD_PORT_http", &free.to_string());
            let message = super::refusal(&host, &node, job).await;
            assert!(message.contains(option) && message.contains("`http`"), "{address:?}: {message}");
        }
    }
    prize.is_untouched();
}

#[tokio::test]
async fn a_variable_of_the_job_moves_no_port_that_nomad_allocated() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let prize = Prize::new();
    let admin = free_port();
    for address in [prize.path(), format!("127.0.0.1:{admin}")] {
        for (option, job) in jobs() {
            let port = free_port();
            let lies = ["NOMAD_ADDR_http", "NOMAD_PORT_http", "NOMAD_IP_http", "NOMAD_HOST_ADDR_http"];
            let job = lies.iter().fold(job, |job, name| job.env(name, &address));
            let mut prepared = node.prepare(&job);
            allocate(&mut prepared.config, "http", port, 0);
            assert_eq!(prepared.config.env["NOMAD_ADDR_http"], address);
            let mut task = node.begin(prepared).await.unwrap_or_else(|refusal| panic!("{option}: {refusal}"));
            if option == "socket.port" {
                task.says(&format!("<{address}>")).await;
            }
            let unit = node.unit(&task).await;
            assert_eq!(listens(&host, &unit), format!("127.0.0.1:{port} (Stream)"), "{option}");
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            assert!(TcpStream::connect(("127.0.0.1", admin)).is_err(), "{option} took another port");
            node.destroy(&task, true).await.unwrap();
        }
    }
    prize.is_untouched();
}

#[tokio::test]
async fn a_variable_of_the_job_adds_no_line_to_the_unit_of_its_sockets() {
    // systemd is reloaded.
    let host = host!(alone);
    let node = Node::configured(&host, MAY_LISTEN).await;
    let directory = tempfile::Builder::new().prefix("m").rand_bytes(4).tempdir_in("/srv").unwrap();
    let marker = directory.path().join("x");
    // A socket address has room for 107 bytes.
    let address = format!("/run/a\nExecStopPost=/bin/touch {}", marker.display());
    assert!(address.len() < 108);
    let port = free_port();
    let (_, job) = jobs().into_iter().next().unwrap();
    let mut prepared = node.prepare(&job.env("NOMAD_ADDR_http", &address));
    allocate(&mut prepared.config, "http", port, 0);
    let task = node.begin(prepared).await.unwrap();
    let unit = node.unit(&task).await;
    let socket = unit.replace(".service", ".socket");
    host.run("systemctl", &["daemon-reload"]);
    let commands = ["ExecStopPre", "ExecStopPost"].map(|name| host.property(&socket, name));
    assert_eq!(commands, [String::new(), String::new()]);
    assert_eq!(listens(&host, &unit), format!("127.0.0.1:{port} (Stream)"), "the unit was read again");
    node.destroy(&task, true).await.unwrap();
    assert!(!marker.exists(), "a command of the job's ran as root");
    assert!(!Path::new("/run/a").exists());
}

#[tokio::test]
async fn a_label_stands_for_no_other_label() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    for (asked, allocated) in
        [("my_port", "my-port"), ("HTTP", "http"), ("http ", "http"), ("", "http"), ("http\n", "http")]
    {
        let config = format!("socket {{\n name = \"http\"\n port = {asked:?}\n}}");
        let mut prepared = node.prepare(&Job::shell("true").config(&config));
        allocate(&mut prepared.config, allocated, free_port(), 0);
        let refusal = node.begin(prepared).await.expect_err(asked);
        assert!(refusal.message.contains("socket.port"), "{asked:?}: {refusal}");
    }
}

#[tokio::test]
async fn a_variable_of_the_job_chooses_no_port_in_the_network_of_its_group() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let path = "/run/netns/attack-on-ports";
    host.run("sh", &["-c", &format!("mkdir -p /run/netns && touch {path} && unshare --net={path} true")]);
    let spec = NetworkIsolationSpec { mode: Mode::Group.into(), path: path.into(), ..Default::default() };
    let prize = Prize::new();
    let lie = "22";
    for (to, wanted) in [(0, "[::]:20123 (Stream)"), (8080, "[::]:8080 (Stream)")] {
        let (_, job) = jobs().into_iter().next().unwrap();
        let job = job.env("NOMAD_PORT_http", lie).env("NOMAD_ADDR_http", &prize.path());
        let mut prepared = node.prepare(&job.with(|request| request.network = Some(spec.clone())));
        allocate(&mut prepared.config, "http", 20_123, to);
        let task = node.begin(prepared).await.unwrap();
        assert_eq!(listens(&host, &node.unit(&task).await), wanted);
        node.destroy(&task, true).await.unwrap();
    }
    host.run("umount", &[path]);
    std::fs::remove_file(path).unwrap();
    prize.is_untouched();
}

/// Sends to an address through a socket that systemd passed, and through one of its own.
const SEND: &str = r#"
    use Socket;
    open(my $passed, "+<&=", 3) or die "nothing was passed: $!";
    socket(my $own, PF_INET, SOCK_DGRAM, 0) or die "socket: $!";
    for ($own, $passed) {
        print defined send($_, "hello", 0, sockaddr_in(9, inet_aton("127.0.0.2"))) ? "sent " : "refused ";
    }
"#;

/// The kernel filters a socket by the cgroup in which it was created: in the slice that the operator filters, and not
/// in the system's.
#[tokio::test]
async fn a_passed_socket_reaches_no_address_that_the_operator_or_the_job_denies() {
    let host = host!(alone);
    let node = Node::configured(&host, MAY_LISTEN).await;
    let job = || {
        let socket = "socket {\n name = \"http\"\n port = \"http\"\n kind = \"datagram\"\n}";
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        super::perl(SEND, &[]).config(socket).port("http", free)
    };
    assert_eq!(node.output_of(job()).await, "sent sent ", "the control");
    let denying = job().config("network { ip_address_deny = [\"127.0.0.2\"] }");
    assert_eq!(node.output_of(denying).await, "refused refused ");
    let _filter = super::policy::SliceFilter::set(&host, "127.0.0.2");
    assert_eq!(node.output_of(job()).await, "refused refused ");
}

/// A socket that is connected elsewhere stays readable, and systemd before version 255 reads nothing else.
#[tokio::test]
async fn no_task_is_passed_a_socket_by_a_systemd_that_it_could_stop_with_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = Job::shell("exit 0").config(SOCKET).port("http", free_port());
    match node.try_run(job).await {
        Ok(task) => {
            assert!(super::version(&host) >= 255, "it could stop all of systemd");
            node.finish(task).await;
        }
        Err(refusal) => {
            assert!(super::version(&host) < 255, "{refusal}");
            assert!(
                refusal.message.contains("`socket`") && refusal.message.contains("\"ListenStream\""),
                "{refusal}"
            );
        }
    }
}
