//! The user that a task runs as, and how the task gets its secrets.

use tests::{Job, Node};

#[tokio::test]
async fn a_task_is_in_the_groups_that_its_job_names() {
    let host = host!();
    let node = Node::configured(
        &host,
        "allow_properties = [\"@confining\", \"Group\", \"SupplementaryGroups\", \"PrivateUsers\"]",
    )
    .await;
    let job = Job::shell("id -un; id -gn; id -Gn | tr ' ' '\\n' | sort | tr '\\n' ' '").user("nobody");
    let groups = "group = \"daemon\"\nsupplementary_groups = [\"adm\", \"tape\"]";
    let output = node.output_of(job.config(&format!("{groups}\nsandbox {{ private_users = \"no\" }}"))).await;
    assert_eq!(output, "nobody\ndaemon\nadm daemon tape ");
}

#[tokio::test]
async fn a_user_that_nomad_made_up_is_a_number() {
    let host = host!();
    let node = Node::configured(&host, "dynamic_workload_users = true").await;
    let started = node
        .try_run(Job::shell("id -u; id -g; touch /local/mine && stat -c %u /local/mine").user("nomad-80123"))
        .await;
    match started {
        Ok(task) => {
            let (_, output, errors) = node.finish(task).await;
            assert_eq!(output, "80123\n80123\n80123\n", "{errors}");
        }
        // Where the host does not know the user, it is rejected.
        Err(refusal) => {
            assert!(super::version(&host) < 249 && refusal.message.contains("systemd 249"), "{refusal}");
        }
    }
}

#[tokio::test]
async fn credentials_reach_the_task_and_nobody_else() {
    let host = host!();
    let node = Node::start(&host).await;
    let prepared = node.prepare(
        &Job::shell("cat $CREDENTIALS_DIRECTORY/token; exec sleep infinity")
            .config("credential {\n name = \"token\"\n path = \"db/token\"\n }"),
    );
    let secrets = prepared.alloc_dir().join("web/secrets/db");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("token"), "s3cr3t-w0rd\n").unwrap();
    let mut task = node.begin(prepared).await.unwrap();
    task.says("s3cr3t-w0rd").await;
    let unit = node.unit(&task).await;
    let shown = host.run("systemctl", &["show", "--all", &unit]);
    assert!(!shown.contains("s3cr3t"), "{shown}");
    let places = format!("/run/nomad-driver-systemd/tasks/{unit}");
    let found = host.run(
        "sh",
        &[
            "-c",
            &format!("grep -rl s3cr3t /run/systemd/transient /run/systemd/units {places} 2>/dev/null; true"),
        ],
    );
    assert_eq!(found, "", "neither in a unit file nor in what we have written");
    let read = host.run("sh", &["-c", &format!("setpriv --reuid 65534 --clear-groups cat /run/credentials/{unit}/token 2>/dev/null || echo refused")]);
    assert_eq!(read, "refused\n");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn an_encrypted_credential_is_decrypted_for_the_task() {
    let host = host!();
    let node =
        Node::configured(&host, "allow_properties = [\"@confining\", \"LoadCredentialEncrypted\"]").await;
    if host.run("sh", &["-c", "command -v systemd-creds || true"]).is_empty() {
        let job = Job::shell("true")
            .file("x", b"")
            .config("credential {\n name = \"x\"\n path = \"x\"\n encrypted = true\n }");
        let refusal = node.try_run(job).await.unwrap_err();
        assert!(refusal.message.contains("needs systemd 250"), "{refusal}");
        return;
    }
    let prepared = node.prepare(
        &Job::shell("cat $CREDENTIALS_DIRECTORY/token")
            .config("credential {\n name = \"token\"\n path = \"token.cred\"\n encrypted = true\n }"),
    );
    let file = prepared.alloc_dir().join("web/secrets/token.cred").display().to_string();
    host.run(
        "sh",
        &["-c", &format!("echo sealed | systemd-creds encrypt --with-key=host --name=token - {file}")],
    );
    let task = node.begin(prepared).await.unwrap();
    let (_, output, errors) = node.finish(task).await;
    assert_eq!(output, "sealed\n", "{errors}");
}
