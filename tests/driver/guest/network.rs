//! The network access that a guest is granted, and that of the unit around it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use proto::driver::network_isolation_spec::NetworkIsolationMode as Mode;
use proto::driver::{DnsConfig, NetworkIsolationSpec};
use tests::{Exit, Job, Node};

use super::{command, free_port, with};
use crate::guest;
use crate::network::Namespace;

/// A listener on this machine that greets every client.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.write_all(b"hello\n");
        }
    });
    address
}

#[tokio::test]
async fn a_guest_connects_to_what_it_is_granted_and_to_nothing_else() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let address = greeter().to_string();
    let other = greeter().to_string();
    for granted in [
        format!("connect = [\"tcp:{address}\"]"),
        format!("connect = [\"{address}\", \"tcp:192.0.2.0/24:80\"]"),
        "connect = [\"tcp:127.0.0.0/8:1024-65535\"]".to_owned(),
        "connect = [\"*:*\"]".to_owned(),
        "inherit_network = true".to_owned(),
    ] {
        let task = node.run(command!(&granted, &["connect", &address])).await;
        assert_eq!(node.finish(task).await, (Exit::status(0), "hello\n".into(), String::new()), "{granted}");
    }
    let rule = format!("`connect = [\"tcp:{address}\"]`");
    for (denied, advice) in [
        (format!("connect = [\"tcp:{other}\"]"), rule.as_str()),
        ("connect = [\"[::1]:*\"]".to_owned(), &rule),
        // Before a TCP connection, the socket would be bound.
        (format!("connect = [\"udp:{address}\"]"), "connect"),
        (format!("listen = [\"tcp:{address}\"]"), "connect"),
    ] {
        let task = node.run(command!(&denied, &["connect", &address])).await;
        let event = events.until(&task, "WebAssembly: ").await;
        assert!(event.message.contains(advice), "{denied}: {event:?}");
        assert_eq!(event.annotations["wasm_outcome"], "denied");
        assert_eq!(node.finish(task).await.0, Exit::status(1), "{denied}");
    }
    // The unit does not even allow the runner a socket, which is told all the same.
    let task = node.run(command!("", &["connect", &address])).await;
    let event = events.until(&task, "WebAssembly: ").await;
    let told = ["open a socket for tcp", "`connect` or `listen`"];
    assert!(told.iter().all(|words| event.message.contains(words)), "{event:?}");
    assert_eq!(event.annotations["wasm_outcome"], "denied");
    assert_eq!(node.finish(task).await.0, Exit::status(1));
}

#[tokio::test]
async fn a_guest_listens_where_it_is_granted() {
    let host = host!();
    let node = Node::start(&host).await;
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let granted = format!("listen = [\"tcp:*:{}\"]", address.port());
    let mut task = node.run(command!(&granted, &["listen", &address.to_string()])).await;
    task.says(&address.to_string()).await;
    let mut answer = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello from a guest\n");
    assert_eq!(node.finish(task).await.0, Exit::status(0));
    for denied in ["", "connect = [\"*:*\"]", "listen = [\"tcp:*:9\"]"] {
        let task = node.run(command!(denied, &["listen", &address.to_string()])).await;
        assert_eq!(node.finish(task).await.0, Exit::status(1), "{denied}");
    }
}

/// A name server on an address of this machine that knows one address for all names.
struct NameServer(UdpSocket);

impl NameServer {
    fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 77, 1), 53)).unwrap();
        let ours = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, asker)) = ours.recv_from(&mut message) {
                let question = &message[..length];
                // The last of the name is an empty label, then come type and class (RFC 1035, section 4.1.2).
                let Some(end) = question.iter().skip(12).position(|byte| *byte == 0).map(|at| at + 12 + 5)
                else {
                    return;
                };
                let is_address = question[end - 3] == 1;
                let mut answer = question[..end].to_vec();
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
                if is_address {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                }
                let _ = ours.send_to(&answer, asker);
            }
        });
        Self(socket)
    }

    fn config(&self) -> DnsConfig {
        let servers = vec![self.0.local_addr().unwrap().ip().to_string()];
        DnsConfig { servers, searches: vec![], options: vec!["timeout:5".into()] }
    }
}

#[tokio::test]
async fn a_guest_looks_up_names_where_it_may() {
    let host = host!();
    let node = Node::start(&host).await;
    let server = NameServer::new();
    let job = |options, name: &str| {
        Some(command(options, &["lookup", name])?.with(|request| request.dns = Some(server.config())))
    };
    for (name, address) in [("db.example", "192.0.2.7\n"), ("localhost", "127.0.0.1\n")] {
        for options in ["name_lookup = true", "name_lookup = true\n connect = [\"tcp:192.0.2.7:80\"]"] {
            let Some(job) = job(options, name) else { return };
            let output = node.output_of(job).await;
            assert!(output.contains(address), "{name}, {options}: {output}");
        }
        let Some(job) = job("connect = [\"*:*\"]", name) else { return };
        let task = node.run(job).await;
        assert_eq!(node.finish(task).await.0, Exit::status(1), "{name}");
    }
}

/// The filters that the host's systemd supports: of addresses, and of ports.
async fn filters(node: &mut Node) -> bool {
    let attributes = node.plugin().fingerprint().await.unwrap().attributes;
    format!("{:?}", attributes["driver.systemd.filters"]).contains("true")
}

#[tokio::test]
async fn the_unit_around_a_guest_has_the_network_that_the_guest_is_granted_and_no_more() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let filters = filters(&mut node).await;
    let sockets = "perl -MSocket -e 'print socket(S, PF_INET, SOCK_STREAM, 0) ? \"some\" : \"none\"'";
    for (options, expected) in [
        ("", ["yes", "AF_UNIX", "", "none"]),
        ("serve {\n port = \"http\"\n}", ["yes", "AF_UNIX", "", "none"]),
        ("connect = [\"tcp:10.0.0.0/8:80\"]", ["no", "AF_INET AF_INET6 AF_UNIX", "10.0.0.0/8", "some"]),
        ("listen = [\"tcp:*:80\"]", ["no", "AF_INET AF_INET6 AF_UNIX", "", "some"]),
        ("listen = [\"tcp:[::1]:80\"]", ["no", "AF_INET AF_INET6 AF_UNIX", "::1/128", "some"]),
        ("inherit_network = true", ["no", "AF_INET AF_INET6 AF_UNIX", "", "some"]),
    ] {
        let name = if options.contains("serve") { "web.wat" } else { "spin.wat" };
        let task = node.run(with(name, options).port("http", free_port())).await;
        let unit = node.unit(&task).await;
        let property = |name| {
            let shown = host.property(&unit, name);
            let mut words: Vec<&str> = shown.split_whitespace().collect();
            words.sort_unstable();
            words.join(" ")
        };
        let [private, families, allowed, kinds] = expected;
        assert_eq!(property("PrivateNetwork"), private, "{options}");
        assert_eq!(property("RestrictAddressFamilies"), families, "{options}");
        if filters {
            assert_eq!(property("IPAddressAllow"), allowed, "{options}");
            let denied = if allowed.is_empty() { "" } else { "0.0.0.0/0 ::/0" };
            assert_eq!(property("IPAddressDeny"), denied, "{options}");
        } else {
            assert_eq!(property("IPAddressDeny"), "", "{options}");
        }
        // A command in the unit is subject to the same filters.
        assert_eq!(node.output_in(&task, sockets).await, kinds, "{options}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_job_says_of_its_sandbox_comes_after_the_fence() {
    let host = host!();
    let node = Node::start(&host).await;
    let granted = "wasm {\n connect = [\"tcp:10.0.0.0/8:80\"]\n}\n";
    for (config, expected) in [
        ("network { private = true }", ["yes", "AF_INET AF_INET6 AF_UNIX"]),
        ("sandbox { restrict_address_families = [\"\", \"AF_UNIX\"] }", ["no", "AF_UNIX"]),
        ("sandbox { preset = \"off\" }", ["no", "AF_INET AF_INET6 AF_UNIX"]),
    ] {
        let job = Job::artifact("spin.wasm", &guest("spin.wat")).config(&format!("{granted}{config}"));
        let task = node.run(job).await;
        let unit = node.unit(&task).await;
        let mut families: Vec<String> =
            host.property(&unit, "RestrictAddressFamilies").split_whitespace().map(str::to_owned).collect();
        families.sort_unstable();
        assert_eq!([host.property(&unit, "PrivateNetwork"), families.join(" ")], expected, "{config}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn the_network_of_a_group_is_that_of_a_guest_which_is_granted_some_of_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let namespace = Namespace::new(&host, "nomad-test-guests");
    let inode = host.run("stat", &["-Lc", "%i", &namespace.path]);
    let nothing = NetworkIsolationSpec { mode: Mode::None.into(), ..Default::default() };
    for (options, network, is_groups, is_private) in [
        ("connect = [\"*:*\"]", namespace.spec(), true, false),
        ("", namespace.spec(), false, true),
        ("connect = [\"*:*\"]", nothing, false, true),
    ] {
        let task = node.run(with("spin.wat", options).with(|request| request.network = Some(network))).await;
        let seen = node.output_in(&task, "stat -Lc %i /proc/self/ns/net").await;
        assert_eq!(seen == inode, is_groups, "{options}");
        let hosts = host.run("stat", &["-Lc", "%i", "/proc/self/ns/net"]);
        assert_ne!(seen, hosts, "{options}");
        assert_eq!(
            host.property(&node.unit(&task).await, "PrivateNetwork") == "yes",
            is_private,
            "{options}"
        );
        node.destroy(&task, true).await.unwrap();
    }
}
