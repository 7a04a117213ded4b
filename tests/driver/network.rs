//! The network of a task.

use proto::driver::network_isolation_spec::NetworkIsolationMode as Mode;
use proto::driver::{DnsConfig, HostsConfig, NetworkIsolationSpec};
use tests::{Host, Job, Node};

/// A named network namespace, as Nomad creates one for a group.
pub(crate) struct Namespace {
    /// The file of the namespace.
    pub path: String,
}

impl Namespace {
    pub(crate) fn new(host: &Host, name: &str) -> Self {
        let path = format!("/run/netns/{name}");
        host.run("sh", &["-c", &format!("mkdir -p /run/netns && touch {path} && unshare --net={path} true")]);
        Self { path }
    }

    pub(crate) fn spec(&self) -> NetworkIsolationSpec {
        let hosts_config = Some(HostsConfig { hostname: "web-1".into(), address: "172.26.64.9".into() });
        NetworkIsolationSpec {
            mode: Mode::Group.into(),
            path: self.path.clone(),
            hosts_config,
            ..Default::default()
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.path).status();
        let _ = std::fs::remove_file(&self.path);
    }
}

#[tokio::test]
async fn tasks_of_a_group_share_its_network_and_its_name() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let namespace = Namespace::new(&host, "nomad-test-group");
    let inode = host.run("stat", &["-Lc", "%i", &namespace.path]);
    let script = "readlink /proc/self/ns/net | tr -dc 0-9; echo; getent hosts web-1 | tr -s ' '; cat /proc/net/dev | grep -c :";
    for user in ["", "root"] {
        let job = Job::shell(script).user(user).with(|request| request.network = Some(namespace.spec()));
        assert_eq!(node.output_of(job).await, format!("{inode}172.26.64.9 web-1\n1\n"), "as {user:?}");
    }
    let gone = NetworkIsolationSpec { path: "/run/netns/no-such".into(), ..namespace.spec() };
    let refusal =
        node.try_run(Job::shell("true").with(|request| request.network = Some(gone))).await.unwrap_err();
    assert!(refusal.message.contains("/run/netns/no-such"), "{refusal}");
}

#[tokio::test]
async fn a_group_with_no_network_has_a_loopback_device() {
    let host = host!();
    let node = Node::start(&host).await;
    let isolated = NetworkIsolationSpec { mode: Mode::None.into(), ..Default::default() };
    let script = "grep : /proc/net/dev | tr -d ' ' | cut -d: -f1";
    let job = Job::shell(script).with(|request| request.network = Some(isolated));
    assert_eq!(node.output_of(job).await, "lo\n");
    assert_eq!(node.output_of(Job::shell(script).config("network { private = true }")).await, "lo\n");
}

#[tokio::test]
async fn names_are_looked_up_where_the_job_says() {
    let host = host!();
    let node = Node::start(&host).await;
    let dns = DnsConfig {
        servers: vec!["10.1.2.3".into()],
        searches: vec!["a.example".into(), "b.example".into()],
        options: vec!["ndots:2".into()],
    };
    let job = Job::shell("cat /etc/resolv.conf; getent hosts db | tr -s ' '; getent hosts six | tr -s ' '")
        .config("extra_hosts = [\"db:10.0.0.5\", \"six:[2001:db8::1]\"]")
        .with(|request| request.dns = Some(dns));
    let expected =
        "nameserver 10.1.2.3\nsearch a.example b.example\noptions ndots:2\n10.0.0.5 db\n2001:db8::1 six\n";
    assert_eq!(node.output_of(job).await, expected);
    for wrong in ["db", "db:here", "a b:10.0.0.1", ":10.0.0.1"] {
        let refusal = node
            .try_run(Job::shell("true").config(&format!("extra_hosts = [\"{wrong}\"]")))
            .await
            .unwrap_err();
        assert!(refusal.message.contains("`extra_hosts`"), "{refusal}");
    }
    // What the job itself mounts there is what its task sees.
    let own = |name: &str| format!("files {{ bind_read_only_paths = [\"/local/own:/etc/{name}\"] }}");
    let dns = DnsConfig { servers: vec!["10.1.2.3".into()], ..DnsConfig::default() };
    let job =
        Job::shell("cat /etc/resolv.conf").file("own", b"options ndots:7\n").config(&own("resolv.conf"));
    assert_eq!(node.output_of(job.with(|request| request.dns = Some(dns))).await, "options ndots:7\n");
    let both = format!("extra_hosts = [\"db:10.0.0.5\"]\n{}", own("hosts"));
    let refusal = node.try_run(Job::shell("true").file("own", b"\n").config(&both)).await.unwrap_err();
    assert!(refusal.message.contains("`extra_hosts`: the job mounts"), "{refusal}");
}

#[tokio::test]
async fn addresses_and_ports_that_are_denied_cannot_be_reached() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let filters = format!("{:?}", node.plugin().fingerprint().await.unwrap().attributes);
    let script = "perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0); \
         print send(S, \"x\", 0, sockaddr_in(9, inet_aton(\"127.0.0.1\"))) ? \"sent\\n\" : \"refused\\n\"; \
         socket(T, PF_INET, SOCK_STREAM, 0); print bind(T, sockaddr_in(0, INADDR_ANY)) ? \"bound\\n\" : \"refused\\n\"'";
    assert_eq!(node.output_of(Job::shell(script)).await, "sent\nbound\n");
    for (config, expected) in [
        ("network { ip_address_deny = [\"any\"] }", "refused\nbound\n"),
        ("network {\n ip_address_deny = [\"any\"]\n ip_address_allow = [\"localhost\"]\n }", "sent\nbound\n"),
        ("network { socket_bind_deny = [\"any\"] }", "sent\nrefused\n"),
        ("network { socket_bind_deny = [\"udp\"] }", "sent\nbound\n"),
    ] {
        match node.try_run(Job::shell(script).config(config)).await {
            Ok(task) => assert_eq!(node.finish(task).await.1, expected, "{config}"),
            // What is not available is rejected, and never ignored.
            Err(refusal) => assert!(
                refusal.message.contains("not supported on this node"),
                "{config}: {refusal}; {filters}"
            ),
        }
    }
}
