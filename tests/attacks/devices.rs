//! Devices of the host. What the kernel denies is tested where there are disks (`tests/limits/devices.rs`). These tests
//! check which devices the unit allows.

use tests::{Job, Node};

use super::{USER, allow_root, refusal};

#[tokio::test]
async fn no_word_of_a_job_opens_the_devices_of_the_host() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    for config in [
        "",
        "cap_add = [\"mknod\"]\nsandbox { preset = \"off\" }",
        "sandbox { preset = \"off\" }",
        "sandbox { private_devices = false }",
        "sandbox { preset = \"strict\" }",
        "properties { PrivateDevices = \"no\" }",
    ] {
        for user in [USER, ""] {
            let task = node.run(Job::shell("exec sleep infinity").user(user).config(config)).await;
            let unit = node.unit(&task).await;
            let policy = host.property(&unit, "DevicePolicy");
            assert!(policy == "closed" || policy == "strict", "{config} as {user:?}: {policy}");
            let allowed = host.property(&unit, "DeviceAllow");
            for device in ["block-", "/dev/nvme", "/dev/sd", "/dev/mem", "/dev/loop", "char-*", "block-*"] {
                assert!(!allowed.contains(device), "{config} as {user:?}: {allowed}");
            }
            node.destroy(&task, true).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_job_loosens_the_policy_for_devices_only_with_the_operators_word() {
    let host = host!();
    let node = Node::start(&host).await;
    for (config, property) in [
        ("sandbox { device_policy = \"auto\" }", "DevicePolicy"),
        ("sandbox {\n preset = \"off\"\n device_policy = \"auto\"\n}", "DevicePolicy"),
        ("properties { DevicePolicy = \"auto\" }", "DevicePolicy"),
        ("properties { DevicePolicy = \"\" }", "DevicePolicy"),
        ("properties { DevicePolicy = \"closed\\nauto\" }", "DevicePolicy"),
        ("sandbox { device_allow = [\"block-* rwm\"] }", "DeviceAllow"),
        ("sandbox { device_allow = [\"/dev/mem r\"] }", "DeviceAllow"),
        ("properties { DeviceAllow = \"/dev/mem r\" }", "DeviceAllow"),
    ] {
        let message = refusal(&host, &node, Job::shell("true").config(config)).await;
        assert!(message.contains(property), "{config}: {message}");
        assert!(message.contains("`allow_properties`") || config.contains("\"\""), "{config}: {message}");
    }
    // The control: the option is sufficient.
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"DevicePolicy\"]").await;
    let job = Job::shell("exec sleep infinity")
        .config("sandbox {\n preset = \"off\"\n device_policy = \"auto\"\n}");
    let task = node.run(job).await;
    assert_eq!(host.property(&node.unit(&task).await, "DevicePolicy"), "auto");
    node.destroy(&task, true).await.unwrap();
}

/// A device that Nomad allocates gives access to no other device.
#[tokio::test]
async fn a_device_of_a_plugin_opens_no_other() {
    let host = host!();
    let node = Node::start(&host).await;
    let device = proto::driver::Device {
        task_path: "/dev/gpu0".into(),
        host_path: "/dev/full".into(),
        cgroup_permissions: "rw".into(),
    };
    let job = Job::shell("exec sleep infinity").config("sandbox { preset = \"off\" }");
    let task = node.run(job.with(|request| request.devices = vec![device])).await;
    let unit = node.unit(&task).await;
    assert_ne!(host.property(&unit, "DevicePolicy"), "auto");
    assert!(host.property(&unit, "DeviceAllow").contains("/dev/full rw"));
    node.destroy(&task, true).await.unwrap();
}
