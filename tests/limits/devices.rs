//! Attacks on the machine's disks, where there are disks and the kernel can refuse them by cgroup.

use tests::{Host, Job, Node};

/// Reads a disk, by its own name and by a name that the task gives it. Prints the result of each attempt.
const SCRIPT: &str = r#"
    my ($disk, $major, $minor) = @ARGV;
    my $try = sub {
        my ($path, $handle, $data) = @_;
        open($handle, "<", $path) or return $! + 0;
        (sysread($handle, $data, 512) // 0) == 512 ? "read" : $! + 0;
    };
    print "by name: ", $try->($disk), "\n";
    my $node = "/alloc/data/disk-$$";
    # mknod(2); its mode is that of a block device for everybody.
    my $made = syscall(133, $node, 0060666, ($major << 8) | $minor) == 0;
    print "made: ", $made ? "yes" : $! + 0, "\n";
    print "by number: ", $made ? $try->($node) : "not made", "\n";
    unlink $node;
    print "done\n";
"#;

/// The disk that the machine booted from: its name, major and minor number.
fn disk(host: &Host) -> [String; 3] {
    let listed = host.run("lsblk", &["--noheadings", "--nodeps", "--output", "NAME,MAJ:MIN"]);
    let mut words =
        listed.lines().find(|line| line.starts_with("nvme")).unwrap_or(&listed).split_whitespace();
    let name = words.next().expect("a disk").to_owned();
    let (major, minor) = words.next().and_then(|numbers| numbers.split_once(':')).expect("its numbers");
    // In the form of udev, which does not run everywhere.
    host.run("sh", &["-c", &format!("chgrp disk /dev/{name} && chmod 660 /dev/{name}")]);
    [format!("/dev/{name}"), major.to_owned(), minor.to_owned()]
}

fn attack(host: &Host, config: &str) -> Job {
    let [name, major, minor] = disk(host);
    Job::command("/usr/bin/perl").args(&["-e", SCRIPT, &name, &major, &minor]).user("nobody").config(config)
}

async fn carried_out(node: &Node, job: Job) -> String {
    let task = node.run(job).await;
    let (exit, output, errors) = node.finish(task).await;
    assert!(output.ends_with("done\n"), "the attack did not come to its end: {exit:?} {output}{errors}");
    output
}

#[tokio::test]
async fn no_task_reads_a_disk_of_the_host() {
    let host = host!();
    // Groups and user namespaces are disabled: only the device policy is left.
    let options = "allow_root = \"host\"\nallow_properties = [\"@confining\", \"Group\", \"SupplementaryGroups\", \"PrivateUsers\"]";
    let node = Node::configured(&host, options).await;
    for config in [
        "cap_add = [\"mknod\", \"dac_override\"]\nsandbox {\n preset = \"off\"\n private_users = \"no\"\n}",
        "supplementary_groups = [\"disk\"]\nsandbox { preset = \"off\" }",
        "supplementary_groups = [\"disk\"]\nsandbox { private_devices = false }",
        "group = \"disk\"\nproperties { PrivateDevices = \"no\" }",
    ] {
        let output = carried_out(&node, attack(&host, config)).await;
        assert!(!output.contains(": read"), "{config}: {output}");
        if config.contains("mknod") {
            assert!(
                output.contains("made: 1\n") || output.contains("by number: 1\n"),
                "EPERM: {config}: {output}"
            );
        } else {
            assert!(
                output.contains("by name: 1\n") || output.contains("by name: 2\n"),
                "EPERM: {config}: {output}"
            );
        }
    }
}

/// The control: the same attack succeeds if the operator gives up the policy.
#[tokio::test]
async fn the_operators_word_opens_the_disks() {
    let host = host!();
    let options = "allow_root = \"host\"\nallow_properties = [\"@confining\", \"SupplementaryGroups\", \"DevicePolicy\"]";
    let node = Node::configured(&host, options).await;
    let config =
        "supplementary_groups = [\"disk\"]\nsandbox {\n preset = \"off\"\n device_policy = \"auto\"\n}";
    let output = carried_out(&node, attack(&host, config)).await;
    assert!(output.contains("by name: read\n"), "{output}");
}
