//! Properties in systemd's own words: that we read them as `systemd-run` does.
//!
//! `systemd-run --user` speaks to whoever listens where a user's manager would. Here that is the test, which keeps what
//! it is asked to start and starts nothing.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use nomad_driver_systemd::systemd::property::{self, Assignment, Reach};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use zbus::{MessageStream, OwnedVariant, Variant, connection};

/// What we refuse although systemd-run sends it.
const STRICTER: [&str; 6] = [
    "control character",
    "ends in a backslash",
    "it must be one of",
    "is not one name",
    "is not an architecture",
    "is not an address family",
];

/// A property as it goes over the bus.
type Property = (String, Variant<'static>);
/// The arguments of `StartTransientUnit`.
type Start = (String, String, Vec<(String, OwnedVariant)>, Vec<(String, Vec<(String, OwnedVariant)>)>);

/// How many assignments are given to one `systemd-run`.
const AT_ONCE: usize = 40;

/// Stands where the manager of a user would.
struct Manager {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Option<Vec<Property>>>>,
    /// What `systemd-run` sends by itself.
    always: Vec<Property>,
    version: u32,
}

impl Manager {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("systemd")).unwrap();
        let listener = UnixListener::bind(directory.path().join("systemd/private")).unwrap();
        let asked = Arc::new(Mutex::new(None));
        tokio::spawn(listen(listener, Arc::clone(&asked)));
        let words = Command::new("systemd-run").arg("--version").output().await.unwrap().stdout;
        let words = String::from_utf8(words).unwrap();
        let version = words.split([' ', '.', '~']).nth(1).unwrap().parse().unwrap();
        let mut manager = Self { directory, asked, always: Vec::new(), version };
        manager.always = manager.all(&[]).await.expect("systemd-run to ask us");
        manager
    }

    /// What `systemd-run` makes of `assignments`; `Err` has its complaint.
    async fn sent(&self, assignments: &[(&str, &str)]) -> Result<Vec<Property>, String> {
        let mut sent = self.all(assignments).await?;
        let before = sent.iter().zip(&self.always).take_while(|(sent, always)| sent == always).count();
        let behind = self.always.len() - before;
        let end = sent.len() - behind;
        assert_eq!(sent[end..], self.always[before..], "{assignments:?}");
        sent.truncate(end);
        Ok(sent.split_off(before))
    }

    async fn all(&self, assignments: &[(&str, &str)]) -> Result<Vec<Property>, String> {
        let output = Command::new("systemd-run")
            .args(["--user", "--no-block", "--unit=x"])
            .args(assignments.iter().map(|(name, text)| format!("--property={name}={text}")))
            .arg("/bin/true")
            .env_clear()
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let asked = self.asked.lock().unwrap().take();
        asked.ok_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

async fn listen(listener: UnixListener, asked: Arc<Mutex<Option<Vec<Property>>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&asked)));
    }
}

/// Keeps what is to be started, and refuses it.
async fn serve(stream: UnixStream, asked: Arc<Mutex<Option<Vec<Property>>>>) {
    let guid = zbus::Guid::generate();
    let stream = stream.into_std().unwrap();
    let connection = connection::Builder::unix_stream(stream).server(guid).p2p().build().await.unwrap();
    let mut messages = MessageStream::from(&connection);
    while let Some(Ok(message)) = messages.next().await {
        let header = message.header();
        if header.member().is_some_and(|member| member.as_str() == "StartTransientUnit") {
            let (_, _, properties, _): Start = message.body().deserialize().unwrap();
            let properties = properties.into_iter().map(|(name, value)| (name, value.into()));
            *asked.lock().unwrap() = Some(properties.collect());
        }
        let refusal = ("org.freedesktop.DBus.Error.Failed", "this is a test");
        let _ = connection.reply_error(&header, refusal.0, &refusal.1).await;
    }
}

#[allow(clippy::too_many_lines, reason = "a table of properties")]
#[tokio::test]
async fn an_assignment_is_read_as_systemd_run_reads_it() {
    let _host = host!();
    let manager = Manager::start().await;
    let (mut taken, mut refused, mut later, mut wrong) = (Vec::new(), 0, 0, Vec::new());
    // Percentages are rounded otherwise there, and texts refused that are taken today: the kinds of values stay.
    let coarse = manager.version < 252;
    let passed_over = |name| UNHEARD_OF.contains(&name) || manager.version >= 258 && name == DROPPED;
    for (name, text) in cases().into_iter().filter(|(name, _)| !passed_over(*name)) {
        match Assignment::parse(name, text) {
            Ok(ours) if ours.needs().max(since(name, text)) > manager.version => {
                later += 1;
                // Some clients take a value that their manager does not know yet.
                let theirs = manager.sent(&[(name, text)]).await;
                if !coarse
                    && theirs
                        .is_ok_and(|theirs| since(name, text) <= manager.version && theirs != ours.wire())
                {
                    wrong.push(format!("{name}={text} differs though it needs {}", ours.needs()));
                }
            }
            Ok(ours) => taken.push(((name, text), ours.wire())),
            Err(property::Error::Value { why, .. }) => {
                // systemd-run sends what systemd refuses or passes over, or what would change on the way to its file.
                let is_stricter = STRICTER.iter().any(|words| why.contains(words));
                if !coarse
                    && !is_stricter
                    && since(name, text) <= manager.version
                    && manager.sent(&[(name, text)]).await.is_ok()
                {
                    wrong.push(format!("{name}={text} is taken, and we say: {why}"));
                }
                refused += 1;
            }
            Err(other) => wrong.push(other.to_string()),
        }
    }
    for batch in taken.chunks(AT_ONCE) {
        let assignments: Vec<_> = batch.iter().map(|(assignment, _)| *assignment).collect();
        let ours: Vec<_> = batch.iter().flat_map(|(_, wire)| wire.clone()).collect();
        if manager.sent(&assignments).await.as_ref() == Ok(&ours) {
            continue;
        }
        for ((name, text), ours) in batch {
            let theirs = manager.sent(&[(name, text)]).await;
            if coarse && theirs.as_ref().map_or(true, |theirs| kinds(theirs) == kinds(ours)) {
                continue;
            }
            if theirs.as_ref() != Ok(ours) {
                wrong.push(format!(
                    "{name}={text}\n    ours   {}\n    theirs {}",
                    said(ours),
                    match &theirs {
                        Ok(theirs) => said(theirs),
                        Err(complaint) => complaint.clone(),
                    }
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong beside {} that are taken, {refused} refused and {later} for releases later than {}:\n{}",
        wrong.len(),
        taken.len(),
        manager.version,
        wrong.join("\n")
    );
}

fn kinds(wire: &[Property]) -> Vec<(&str, String)> {
    wire.iter().map(|(name, value)| (name.as_str(), value.value_signature().to_string())).collect()
}

fn said(wire: &[Property]) -> String {
    let said = wire.iter().map(|(name, value)| format!("{name} {} {value}", value.value_signature()));
    said.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn every_property_is_known_to_systemd_run() {
    let _host = host!();
    let manager = Manager::start().await;
    let mut wrong = Vec::new();
    for property in property::all().filter(|property| property.since <= manager.version) {
        if UNHEARD_OF.contains(&property.name) {
            continue;
        }
        let taken = manager.sent(&[(property.name, "\u{1}")]).await;
        if taken.is_err_and(|complaint| complaint.contains("Unknown assignment")) {
            wrong.push(property.name);
        }
    }
    assert!(wrong.is_empty(), "systemd {} does not know {wrong:?}", manager.version);
}

#[test]
fn every_property_that_is_not_ours_is_compared() {
    let cases = cases();
    let missing: Vec<_> = property::all()
        .filter(|property| !matches!(property.reach, Reach::Reserved(_)))
        .filter(|property| !cases.iter().any(|(name, _)| *name == property.name))
        .map(|property| property.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_goes_over_the_bus_can_be_said_in_a_unit_file() {
    let mut wrong = Vec::new();
    for (name, text) in cases() {
        let Ok(ours) = Assignment::parse(name, text) else { continue };
        // A unit file takes words here, and systemd-run one field.
        if name == "LogExtraFields" {
            continue;
        }
        let wire = ours.wire();
        // The hard limit stands for both.
        let one = |wire: &[Property]| wire[0].clone();
        let (sent, value) = one(&wire);
        let Some((name, said)) = property::text_of(&sent, &value) else {
            wrong.push(format!("{sent} {value} cannot be said"));
            continue;
        };
        let again = Assignment::parse(&name, &said);
        if again.as_ref().map(|again| one(&again.wire())).ok() != Some((sent, value)) {
            wrong.push(format!("{name}={text} is said {name}={said}, which is {again:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a manager takes, and no systemd-run knows.
const UNHEARD_OF: [&str; 8] = [
    "AddRef",
    "Names",
    "NonBlocking",
    "StartupMemoryHigh",
    "StartupMemoryLow",
    "StartupMemoryMax",
    "StartupMemorySwapMax",
    "StartupMemoryZSwapMax",
];

/// What systemd-run takes and passes over from 258 on, because it is always so.
const DROPPED: &str = "CPUAccounting";

/// The first release whose systemd-run reads `text` as today's does, where that came later than the property.
fn since(name: &str, text: &str) -> u32 {
    LATER.iter().find(|(_, at, of)| (*at, *of) == (name, text)).map_or(0, |(version, ..)| *version)
}

/// Texts that came to mean something else.
const LATER: &[(u32, &str, &str)] = &[
    (257, "SocketBindAllow", "0"),
    (257, "StateDirectory", "a:b:ro"),
    (257, "StateDirectory", "a::ro"),
    (257, "StateDirectory", "a:b:x"),
    (257, "StateDirectory", "c:d:ro a:b"),
    (258, "ImportCredential", "a.*:b"),
    (258, "ImportCredential", "a:"),
    (258, "LogFilterPatterns", ""),
    (258, "PrivateTmp", "disconnected"),
    (258, "PrivateUsers", "identity"),
    (258, "PrivateUsers", "self"),
    (258, "ProtectControlGroups", "private"),
    (258, "ProtectControlGroups", "strict"),
    // Time namespaces became ones that a list without them shuts out.
    (258, "RestrictNamespaces", "no"),
    (258, "RestrictNamespaces", "~"),
    (258, "RestrictNamespaces", "~cgroup net"),
    (258, "RestrictNamespaces", "~user"),
    (258, "ExecSearchPath", "/a:/b /c"),
];

/// Names and texts: some for each kind of value, and one for each name that shares a kind with others.
fn cases() -> Vec<(&'static str, &'static str)> {
    let many = CASES.iter().flat_map(|(name, texts)| texts.iter().map(|text| (*name, *text)));
    let kinds = KINDS.iter().flat_map(|(names, texts)| {
        names.split(' ').flat_map(|name| texts.iter().map(move |text| (name, *text)))
    });
    many.chain(kinds).collect()
}

const KINDS: &[(&str, &[&str])] = &[
    (
        "CPUAccounting MemoryAccounting IOAccounting TasksAccounting IPAccounting MemoryZSwapWriteback CoredumpReceive \
         SetLoginEnvironment RootEphemeral MountAPIVFS BindLogSockets StateDirectoryAccounting \
         CacheDirectoryAccounting LogsDirectoryAccounting SyslogLevelPrefix CPUSchedulingResetOnFork IgnoreSIGPIPE \
         MemoryKSM NoNewPrivileges PrivateDevices PrivateNetwork PrivateMounts PrivateIPC ProtectClock \
         ProtectKernelTunables ProtectKernelModules ProtectKernelLogs RestrictRealtime RestrictSUIDSGID \
         LockPersonality MemoryDenyWriteExecute RemoveIPC SendSIGHUP DefaultDependencies IgnoreOnIsolate \
         SurviveFinalKillSignal",
        &["yes", "perhaps"],
    ),
    (
        "CPUSetPartition DevicePolicy BindNetworkInterface ManagedOOMSwap ManagedOOMMemoryPressure \
         ManagedOOMPreference MemoryPressureWatch CPUPressureWatch IOPressureWatch DelegateSubgroup RootImage \
         RootVerity RootImagePolicy MountImagePolicy ExtensionImagePolicy RuntimeDirectoryPreserve Group \
         PAMName UtmpIdentifier UtmpMode SyslogIdentifier LogNamespace Personality MemoryTHP ProtectSystem \
         ProtectHome ProtectProc ProcSubset PrivatePIDs PrivateBPF BPFDelegateCommands BPFDelegateMaps \
         BPFDelegatePrograms BPFDelegateAttachments NetworkNamespacePath IPCNamespacePath UserNamespacePath \
         KeyringMode SELinuxContext FileDescriptorStorePreserve SourcePath OnFailureJobMode",
        &["a  word"],
    ),
    (
        "ExtensionDirectories ConfigurationDirectory SupplementaryGroups ReadWritePaths \
         ReadOnlyPaths InaccessiblePaths ExecPaths NoExecPaths SystemCallArchitectures Documentation Wants Requires \
         Requisite BindsTo PartOf Conflicts Before After OnFailure PropagatesReloadTo ReloadPropagatedFrom \
         JoinsNamespaceOf Upholds OnSuccess PropagatesStopTo StopPropagatedFrom RequiresMountsFor WantsMountsFor \
         OOMRules",
        &["/a 'b c'"],
    ),
    ("PassEnvironment UnsetEnvironment", &["A B", "A\\x42", ""]),
    (
        "MemoryMin MemoryLow StartupMemoryLow MemoryHigh StartupMemoryHigh MemoryMax MemorySwapMax \
         StartupMemoryMax StartupMemorySwapMax StartupMemoryZSwapMax MemoryZSwapMax",
        &["1G", "", "infinity", "10%", "x"],
    ),
    ("StartupCPUWeight IOWeight StartupIOWeight", &["1", "10000", "0", "10001", "", "x"]),
    (
        "TimeoutStartSec WatchdogSec RuntimeMaxSec RuntimeRandomizedExtraSec JobTimeoutSec JobRunningTimeoutSec \
         LogRateLimitIntervalSec MemoryPressureThresholdSec CPUPressureThresholdSec IOPressureThresholdSec",
        &["1min 30s", ""],
    ),
    ("CPUQuotaPeriodSec ManagedOOMMemoryPressureDurationSec", &["10ms", "", "infinity", "x"]),
    ("AllowedMemoryNodes StartupAllowedCPUs StartupAllowedMemoryNodes", &["0-3"]),
    (
        "IOReadBandwidthMax IOWriteBandwidthMax IOReadIOPSMax IOWriteIOPSMax",
        &["/dev/vda 5M", "/dev/vda infinity", "/dev/vda", "", "/dev/vda x"],
    ),
    ("IPAddressDeny", &["any"]),
    ("SocketBindDeny", &["any"]),
    ("IPIngressFilterPath IPEgressFilterPath", &["/sys/fs/bpf/x", ""]),
    ("CacheDirectory LogsDirectory RuntimeDirectory", &["a", "a:b"]),
    (
        "StateDirectoryMode CacheDirectoryMode LogsDirectoryMode RuntimeDirectoryMode ConfigurationDirectoryMode",
        &["0750"],
    ),
    ("CacheDirectoryQuota LogsDirectoryQuota", &["1G"]),
    ("LoadCredential LoadCredentialEncrypted", &["a:/b", "a", "a:", "", "a:b:c", ":x"]),
    ("SyslogLevel LogLevelMax", &["emerg", "debug", "3", "8", "x", ""]),
    ("LogRateLimitBurst FileDescriptorStoreMax", &["5", "0x10", "-1", "4294967295", "4294967296", ""]),
    (
        "LimitAS LimitCORE LimitDATA LimitFSIZE LimitMEMLOCK LimitMSGQUEUE LimitRSS LimitSTACK",
        &["1M", "1K:2M"],
    ),
    ("LimitLOCKS LimitNPROC LimitRTPRIO LimitSIGPENDING", &["10", "5:infinity", "x"]),
    ("CapabilityBoundingSet AmbientCapabilities", &["CAP_NET_ADMIN", "~cap_net_admin", "", "~"]),
    ("BindReadOnlyPaths", &["/a"]),
    ("SystemCallLog", &["~@clock"]),
    ("AppArmorProfile SmackProcessLabel", &["x", "-x", ""]),
    (
        "ConditionArchitecture ConditionVirtualization ConditionHost ConditionKernelCommandLine \
         ConditionKernelVersion ConditionEnvironment ConditionSecurity ConditionCapability ConditionACPower \
         ConditionMemory ConditionCPUs ConditionNeedsUpdate ConditionFirstBoot ConditionPathExists \
         ConditionPathExistsGlob ConditionPathIsDirectory ConditionPathIsSymbolicLink ConditionPathIsMountPoint \
         ConditionPathIsReadWrite ConditionPathIsEncrypted ConditionDirectoryNotEmpty ConditionFileNotEmpty \
         ConditionFileIsExecutable ConditionUser ConditionGroup ConditionControlGroupController \
         ConditionCPUFeature ConditionFirmware ConditionOSRelease ConditionMemoryPressure ConditionCPUPressure \
         ConditionIOPressure ConditionCredential ConditionVersion ConditionKernelModuleLoaded",
        &["|!x"],
    ),
    (
        "AssertArchitecture AssertVirtualization AssertHost AssertKernelCommandLine AssertKernelVersion \
         AssertEnvironment AssertSecurity AssertCapability AssertACPower AssertMemory AssertCPUs AssertNeedsUpdate \
         AssertFirstBoot AssertPathExists AssertPathExistsGlob AssertPathIsDirectory AssertPathIsSymbolicLink \
         AssertPathIsMountPoint AssertPathIsReadWrite AssertPathIsEncrypted AssertDirectoryNotEmpty \
         AssertFileNotEmpty AssertFileIsExecutable AssertUser AssertGroup AssertControlGroupController \
         AssertCPUFeature AssertFirmware AssertOSRelease AssertMemoryPressure AssertCPUPressure AssertIOPressure \
         AssertCredential AssertVersion AssertKernelModuleLoaded",
        &["!x"],
    ),
];

const CASES: &[(&str, &[&str])] = &[
    ("RootDirectory", &["/srv/root", ""]),
    ("OOMPolicy", &["kill", "stop", "continue"]),
    // Yes and no.
    (
        "PrivateDevices",
        &[
            "1", "y", "YES", "true", "T", "on", "0", "n", "No", "false", "F", "oFF", "", " yes", "2",
            "enabled",
        ],
    ),
    ("PrivateTmp", &["yes", "no", "disconnected"]),
    ("PrivateUsers", &["yes", "0", "self", "identity", "full", "managed"]),
    ("ProtectControlGroups", &["on", "private", "strict"]),
    ("ProtectHostname", &["yes", "private", "private:name", "private:", "no"]),
    // Sizes.
    (
        "MemoryMax",
        &[
            "0",
            "1",
            "1K",
            "1M",
            "1T",
            "1P",
            "1E",
            "16E",
            "17E",
            "1.5G",
            "0.5K",
            "1G 500M",
            "1G500M",
            "500M 1G",
            "1M 1M",
            "1 K",
            "1K ",
            " 1K",
            "1k",
            "-1",
            "+1",
            "1.",
            "1.M",
            ".5M",
            "1B",
            "1KB",
            "1K 1B",
            "1K 1 ",
            "18446744073709551615",
            "18446744073709551616",
            "0x10",
            "1.25M",
            "12.34.56",
            "1,5G",
            "inf",
            "Infinity",
            "100%",
            "0%",
            "101%",
            "12.5%",
            "12.34%",
            "12.345%",
            "5‰",
            "5.1‰",
            "5‱",
            "5.1‱",
            "%",
            "1.%",
            "-1%",
            " 5%",
            "1e3",
        ],
    ),
    ("TasksMax", &["100", "50%", "infinity", "", "x", "0", "0x20", "1K", "-1", "010"]),
    ("ManagedOOMMemoryPressureLimit", &["50%", "0%", "100%", "33.33%", "50", "", "120%"]),
    // Shares of the processor.
    ("CPUWeight", &["1", "100", "10000", "idle", "0", "10001", "", "Idle", "x", "0x64", " 5", "5 "]),
    (
        "CPUQuota",
        &["20%", "150%", "0%", "0.01%", "", "x", "20", "1000%", "99.99%", "5‰", "214748%", "21474837%"],
    ),
    (
        "AllowedCPUs",
        &[
            "0", "0-3", "0-3,8", "0-3,8 10", "63", "64", "100 1", "8191", "8192", "-1", "1-", "x", "1,,2",
            "'1 2'", "1 2-", "0x3", "2-2", "",
        ],
    ),
    ("CPUAffinity", &["1-2", "numa", ""]),
    ("NUMAMask", &["0", "0-1", "x"]),
    ("NUMAPolicy", &["default", "preferred", "bind", "interleave", "local", "x", "", "2"]),
    // Devices.
    ("IODeviceWeight", &["/dev/vda 200", "/dev/vda x", "/dev/vda", "", "/dev/vda  5", "/dev/vda 1 2"]),
    ("IODeviceLatencyTargetSec", &["/dev/vda 25ms", "/dev/vda", "/dev/vda x"]),
    ("IOReadBandwidthMax", &["/a 1G 500M", "/a 1.5K", "/a -1", " /a 1", "/a  1", "/a 1K "]),
    ("DeviceAllow", &["/dev/null rw", "/dev/null", "", "char-pts rwm", "/dev/null  rw", "/dev/null rw x"]),
    ("Delegate", &["yes", "no", "cpu memory", "", "'cpu'"]),
    // Addresses.
    (
        "IPAddressAllow",
        &[
            "any",
            "localhost",
            "LocalHost",
            "link-local",
            "multicast",
            "",
            "10.0.0.0/8",
            "10.1.2.3",
            "::1",
            "fe80::/10",
            "10.0.0.0/8 ::1/128",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0",
            "x",
            "any localhost",
            "10.0.0.1/",
            "::/129",
            "1.2.3.4/0x8",
            "01.2.3.4",
            "::ffff:1.2.3.4",
        ],
    ),
    (
        "SocketBindAllow",
        &[
            "any",
            "80",
            "80-90",
            "tcp:80",
            "udp:1-65535",
            "ipv4:80",
            "ipv6:udp:53",
            "ipv4:",
            "ipv4",
            "ipv4:tcp",
            "tcp",
            "ipv4:any",
            "tcp:any",
            "",
            "0",
            "65535",
            "65536",
            "90-80",
            "tcp:ipv4:80",
            "sctp:80",
            "x",
            "80:",
            "any:",
            "ipv4:tcp:80:1",
            "-5",
            "5-",
            ":80",
            "ipv4::80",
        ],
    ),
    ("BPFProgram", &["ingress:/sys/fs/bpf/x", "", "egress:/a:b"]),
    (
        "NFTSet",
        &[
            "cgroup:inet:t:s",
            "",
            "user:ip:a:b group:ip6:c:d",
            "x:inet:t:s",
            "cgroup:x:t:s",
            "cgroup:inet:t",
            "cgroup:inet:t:s:u",
            "cgroup:inet:1:s",
            "cgroup:arp:t:s",
            "cgroup:bridge:t:s",
            "cgroup:netdev:t:s",
        ],
    ),
    // Words.
    (
        "ReadWritePaths",
        &[
            "",
            " ",
            "/a",
            "/a /b",
            "-/a +/b",
            "'/a b'",
            "\"/a b\"",
            "/a\\ b",
            "/a\\nb",
            "/a'b c'd",
            "'/a",
            "\"",
            "/a\\",
            "/a\t/b /c",
            "'a\"b'",
            "\"a'b\"",
            "\"a\\\"b\"",
            "'' x",
            "a\\\\b",
            "  /a  /b  ",
            "/a:/b",
            "é ü",
            "/a\\x20b",
        ],
    ),
    (
        "UnsetEnvironment",
        &[
            "A=b",
            "'A=b c'",
            "A=\\n",
            "A=\\x41",
            "A=\\u00e9",
            "A=\\U0001F600",
            "A=\\101",
            "A=\\x",
            "A=\\xZZ",
            "A=\\q",
            "A=\\x00",
            "A=\\000",
            "A=\\xff",
            "A=\\ud800",
            "A=\\400",
            "A=\\\\",
            "A=\\s",
            "A=\\'",
            "A=\\\"",
            "A=\\a\\b\\f",
            "A=\\r\\t\\v",
            "A=\\18",
            "A=\\u12",
            "'A=\\n'",
            "A=\\xc3\\xa9",
            "A\\ b",
            "A=\\303\\251",
        ],
    ),
    ("ExecSearchPath", &["/a", "/a /b", "/a:/b /c", ""]),
    (
        "SystemCallFilter",
        &["@system-service", "~@clock @mount", "", "~", "read:EPERM write", "'a b' c", "'", "~ a", " ~a"],
    ),
    // Not `none`, which systemd-run sends as it is and systemd refuses; nor nothing, which it sends as `none`.
    ("RestrictAddressFamilies", &["AF_UNIX AF_INET", "~AF_PACKET"]),
    ("RestrictFileSystems", &["ext4 tmpfs", "~ext4"]),
    ("RestrictNetworkInterfaces", &["lo", "~eth0 eth1", ""]),
    (
        "RestrictNamespaces",
        &[
            "yes",
            "no",
            "",
            "user",
            "~user",
            "cgroup ipc net mnt pid user uts",
            "~cgroup net",
            "x",
            "~x",
            "'user'",
            "~",
        ],
    ),
    ("RestrictNamespaces", &["time", "net time"]),
    ("DelegateNamespaces", &["yes", "no", "net", "~net", "~user", "mnt user", "x", ""]),
    (
        "CapabilityBoundingSet",
        &[
            "CAP_CHOWN CAP_KILL",
            "cap_sys_admin",
            "~CAP_SYS_ADMIN CAP_SYS_MODULE",
            "CAP_CHECKPOINT_RESTORE",
            "CAP_BPF",
            "'CAP_CHOWN'",
            "5",
            "0x5",
            "CAP_PERFMON CAP_AUDIT_READ CAP_WAKE_ALARM",
        ],
    ),
    (
        "SystemCallErrorNumber",
        &["EPERM", "1", "kill", "ENOSYS", "0", "4095", "4096", "-1", "eperm", "x", "", "E2BIG"],
    ),
    // Files.
    ("EnvironmentFile", &["/a", "-/a", "", "/a b"]),
    (
        "BindPaths",
        &[
            "/a",
            "/a:/b",
            "-/a:/b",
            "/a:/b:rbind",
            "/a:/b:norbind",
            "/a:/b:x",
            "/a /b",
            "/a:/b /c:/d:norbind -/e",
            "'/a b:/c':/d",
            "/a\\:b:/c",
            "/a:",
            "/a::norbind",
            "/a:/b:",
            "'/a",
            "/a:/b:norbind:x",
            "-",
            "/a:/b: /c",
        ],
    ),
    ("TemporaryFileSystem", &["/a", "/a:size=1M", "/a:size=1M,mode=755 /b", "", "'/a b:ro'", "/a:b:c", ":x"]),
    (
        "MountImages",
        &[
            "/a:/b",
            "-/a:/b",
            "/a:/b:ro",
            "/a:/b:root:ro",
            "/a:/b:root:ro:home:rw",
            "/a",
            "",
            "/a\\:x:/b",
            "/a:/b /c:/d",
            "/a:",
            "'/a b':/c",
            "'/a",
            "/a:/b:root:ro:x",
        ],
    ),
    ("ExtensionImages", &["/a", "-/a", "/a:ro", "/a:root:ro", "", "/a /b:root:ro:home:rw", "/a\\:b"]),
    ("RootImageOptions", &["ro", "root:ro", "root:ro home:rw", "", "a:b:c", "'", "a\\:b"]),
    (
        "RootHash",
        &[
            "/a",
            "00112233445566778899aabbccddeeff",
            "0011",
            "",
            "xx",
            "00112233445566778899AABBCCDDEEFF01",
            "001",
        ],
    ),
    (
        "RootHashSignature",
        &["/a", "base64:AAEC", "base64:AA==", "base64:AA=", "base64:A", "x", "", "base64:AB=="],
    ),
    (
        "StateDirectory",
        &[
            "a",
            "a b",
            "a:b",
            "a:b c d:e",
            "'a b'",
            "a//b/",
            "./a",
            "a:",
            "a:b:ro",
            "a::ro",
            "a:b:x",
            "c:d:ro a:b",
        ],
    ),
    ("StateDirectoryQuota", &["off", "", "1G", "10%", "x", "101%"]),
    ("ImportCredential", &["a.*", "a.*:b", "", "a:"]),
    (
        "OpenFile",
        &[
            "/a",
            "/a:n",
            "/a:n:read-only",
            "/a::graceful",
            "/a:n:append,graceful",
            "a",
            "/a:n:x",
            "/a:n:read-only:y",
            "/a:n:truncate",
            "/a\\:b:n",
        ],
    ),
    ("LogExtraFields", &["A=b", "A=b c"]),
    ("LogFilterPatterns", &["a", "~a", "", "a b"]),
    // Numbers, and words for them.
    ("UMask", &["0022", "22", "7777", "10000", "8", "", "+22", "0x12", " 22", "u=rw"]),
    ("Nice", &["5", "-5", "-20", "19", "20", "-21", "", "x", "+3", "0x5", " 5"]),
    (
        "OOMScoreAdjust",
        &["100", "-100", "x", "", "2147483647", "2147483648", "0b11", "0o17", "010", "08", "1 "],
    ),
    ("CPUSchedulingPriority", &["0", "50"]),
    ("CPUSchedulingPolicy", &["other", "batch", "idle", "fifo", "rr", "x", "", "5", "-1", "Other"]),
    ("IOSchedulingClass", &["none", "realtime", "best-effort", "idle", "0", "3", "7", "x", ""]),
    ("IOSchedulingPriority", &["0", "7", "8", "-1", "x", ""]),
    (
        "SyslogFacility",
        &["kern", "daemon", "local7", "3", "127", "128", "x", "", "authpriv", "ftp", "local0", "23"],
    ),
    (
        "SecureBits",
        &["keep-caps", "noroot noroot-locked", "", "keep-caps-locked no-setuid-fixup no-setuid-fixup-locked"],
    ),
    ("MountFlags", &["shared", "slave", "private", "", "x"]),
    (
        "CoredumpFilter",
        &[
            "default",
            "private-anonymous",
            "0x33",
            "33",
            "default private-dax shared-dax",
            "x",
            "",
            "elf-headers shared-huge private-huge shared-file-backed private-file-backed shared-anonymous",
        ],
    ),
    (
        "WatchdogSignal",
        &[
            "SIGTERM",
            "TERM",
            "15",
            "RTMIN",
            "RTMIN+3",
            "SIGRTMIN+30",
            "RTMIN+31",
            "RTMAX",
            "RTMAX-1",
            "RTMAX-30",
            "RTMAX-31",
            "0",
            "65",
            "64",
            "x",
            "",
            "term",
            "RTMIN-1",
            "RTMIN+",
            "SIGSTKFLT",
            "SYS",
            "-1",
            "SIGPWR",
            "RTMIN+x",
            "SIG9",
        ],
    ),
    (
        "SuccessExitStatus",
        &[
            "0 1",
            "77",
            "SIGKILL",
            "77 SIGKILL 9 TERM",
            "TEMPFAIL",
            "CREDENTIALS",
            "256",
            "x",
            "",
            "-1",
            "DATAERR USAGE",
            "'1 2'",
        ],
    ),
    // Limits.
    (
        "LimitNOFILE",
        &[
            "1024",
            "1024:4096",
            "infinity",
            "1024:infinity",
            "infinity:5",
            "4096:1024",
            "x",
            "",
            "1:2:3",
            ":5",
            "5:",
            "1K",
            "-1",
        ],
    ),
    ("LimitCPU", &["10", "1min", "1500ms", "infinity", "10:20", "x", "1us"]),
    ("LimitRTTIME", &["10", "1s", "infinity", "10ms:20ms"]),
    ("LimitNICE", &["+5", "-5", "0", "40", "41", "-20", "-21", "+19", "+20", "infinity", "+0", "-0", "1:20"]),
    ("LimitFSIZE", &["18446744073709551615", "18446744073709551614", "1G:infinity"]),
    // Times.
    (
        "RuntimeMaxSec",
        &[
            "0",
            "1",
            "90s",
            "1min",
            "1min 30s",
            "1min30s",
            "1h",
            "1hr",
            "2hours",
            "1d",
            "1day",
            "1w",
            "2weeks",
            "1month",
            "1months",
            "1M",
            "1y",
            "1year",
            "5ms",
            "5msec",
            "5us",
            "5usec",
            "5µs",
            "1.5",
            "1.5s",
            ".5",
            "5.",
            "5.s",
            "-5",
            "-0",
            "+5",
            "5 s",
            "5 6",
            "5x",
            "x",
            "infinity",
            " infinity ",
            "infinityx",
            "infinity 5",
            "12.34.56",
            "12.34 .56",
            "1m",
            "5S",
            "1 min 2",
            "0.000001",
            "0.0000001",
            "1.9999999s",
            "18446744073709s",
            "18446744073710s",
            " 5",
            "5 ",
            "2 minutes",
            "3 second",
            "1sec",
            "1e3",
            "999999999999999999999s",
            "9223372036854775807us",
        ],
    ),
    (
        "TimerSlackNSec",
        &["1", "50us", "1ms", "1s", "infinity", "", "5ns", "5nsec", "1.5us", "x", "0.5", "1h 2ns"],
    ),
    ("ConditionPathExists", &["/a", "!/a", "|/a", "|!/a", "!|/a", "", "|", "!!/a"]),
    ("AssertPathExists", &["/a", ""]),
    ("Documentation", &["man:x(1) https://a.b/c", ""]),
];
