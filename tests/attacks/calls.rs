//! System calls that no preset of the sandbox names. The unit denies groups of calls; whatever else is not in the preset is
//! denied by the init of the task.

use tests::{Exit, Job, MAY_NOTIFY, Node, eventually};

use super::{USER, perl};

/// Numbers of x86-64 that no preset has, and no group that a unit denies: mincore, pkey_alloc, memfd_secret,
/// process_mrelease, map_shadow_stack.
const UNNAMED: [u32; 5] = [27, 330, 447, 448, 453];

/// Makes each call with arguments that are wrong, and prints how it fails.
fn tries(numbers: &[u32]) -> String {
    let numbers: Vec<_> = numbers.iter().map(u32::to_string).collect();
    format!(
        "for my $call ({}) {{ syscall($call, -1, -1, -1, -1, -1, -1); print $! + 0, qq(\\n) }}",
        numbers.join(", ")
    )
}

#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the numbers are those of x86-64")]
async fn a_program_makes_no_call_that_its_preset_does_not_name() {
    let host = host!();
    let node = Node::start(&host).await;
    let refused = "1\n".repeat(UNNAMED.len());
    // The control: without a preset the kernel answers, with another error.
    let off = node.output_of(perl(&tries(&UNNAMED), &[]).config("sandbox { preset = \"off\" }")).await;
    assert!(!off.lines().any(|line| line == "1"), "{off}");
    for (user, config) in [("", ""), (USER, ""), ("", "sandbox { preset = \"strict\" }")] {
        let job = || perl(&tries(&UNNAMED), &[]).user(user).config(config);
        assert_eq!(node.output_of(job()).await, refused, "{user} {config}");
        // Unknown to the driver: a program takes another way, as on a kernel that does not have it. And a call of the
        // strict preset alone: setpriority.
        let strict = config.contains("strict");
        let job = perl(&tries(&[473, 2000, 141]), &[]).user(user).config(config);
        let expected = if strict { "38\n38\n1\n" } else { "38\n38\n22\n" };
        assert_eq!(node.output_of(job).await, expected, "{user} {config}");
    }

    // A command beside the program has the same filters.
    let task = node.run(Job::command("/bin/sleep").args(&["infinity"])).await;
    let script = format!("exec perl -e '{}'", tries(&UNNAMED));
    let (exit, output, errors) = node.exec(&task, &script).await.finish().await;
    assert_eq!((exit, output.as_str()), (Exit::status(0), refused.as_str()), "{errors}");
    node.destroy(&task, true).await.unwrap();
}

/// A list that the job has changed is systemd's again, and holds as well.
#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the numbers are those of x86-64")]
async fn a_list_of_the_jobs_own_replaces_that_of_the_preset() {
    let host = host!();
    let node = Node::start(&host).await;
    let config = "sandbox { system_call_filter = [\"~setpriority\"] }";
    let output = node.output_of(perl(&tries(&[141, 27, 330]), &[]).config(config)).await;
    assert_eq!(output, "1\n1\n1\n");
}

/// The filters of the oldest systemd that we support do not see these calls: clone3, which makes namespaces, openat2, and
/// fchmodat2, which makes a file set-user-ID.
#[tokio::test]
async fn calls_that_are_newer_than_the_filters_of_systemd_make_no_namespace_and_no_set_user_id_file() {
    let host = host!();
    let node = Node::start(&host).await;
    // struct clone_args: CLONE_NEWUSER, and SIGCHLD as the signal at the end.
    let script = "
        open my $file, q(>), q(/local/program); close $file;
        my $arguments = pack q(Q11), 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0;
        my $made = syscall 435, $arguments, 88;
        exit 0 if $made == 0;
        print $! + 0, qq(\\n);
        my $how = pack q(Q3), 0101, 04755, 0;
        my $path = qq(/local/other\\0);
        syscall 437, -100, $path, $how, 24; print $! + 0, qq(\\n);
        $path = qq(/local/program\\0);
        syscall 452, -100, $path, 04755, 0; print $! + 0, qq(\\n);
        printf qq(%o\\n), (stat q(/local/program))[2] & 06000;";
    for config in [
        "",
        "sandbox { preset = \"strict\" }",
        "sandbox { preset = \"off\" }",
        "sandbox { system_call_filter = [\"~sync\"] }",
    ] {
        let output = node.output_of(perl(script, &[]).config(config)).await;
        assert_eq!(output, "38\n38\n1\n0\n", "{config}");
    }
    // A command beside the program, too.
    let task =
        node.run(Job::command("/bin/sleep").args(&["infinity"]).config("sandbox { preset = \"off\" }")).await;
    let (exit, output, errors) = node.exec(&task, &format!("exec perl -e '{script}'")).await.finish().await;
    // systemd 247 has an answer of its own to openat2.
    let output = output.replacen("38\n1\n1\n", "38\n38\n1\n", 1);
    assert_eq!((exit, output.as_str()), (Exit::status(0), "38\n38\n1\n0\n"), "{errors}");
    node.destroy(&task, true).await.unwrap();
}

/// The helper of a command is not filtered. With it as the main process, the next command would take over its filters.
#[tokio::test]
async fn a_command_never_takes_over_the_filters_of_the_helper_that_a_task_calls_its_main_process() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    let script = "
        use IO::Socket::UNIX;
        sub report { IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $ENV{NOTIFY_SOCKET})->send($_[0]) }
        report(q(READY=1));
        my $helper; do { select undef, undef, undef, 0.05; open my $file, q(<), q(/local/helper); $helper = <$file> } until $helper;
        report(qq(MAINPID=$helper)); $| = 1; print q(told); sleep 600;";
    for (access, is_heard) in [("main", false), ("all", true)] {
        let config = format!("notify {{ access = \"{access}\" }}");
        let mut task = node.run(perl(script, &[]).config(&config)).await;
        let helper = node
            .exec(&task, "echo $PPID > /local/helper.new; mv /local/helper.new /local/helper; sleep 600")
            .await;
        task.says("told").await;
        let unit = node.unit(&task).await;
        let main = || host.run("systemctl", &["show", "--value", "--property=MainPID", &unit]);
        let named = std::fs::read_to_string(task.alloc_dir().join("web/local/helper")).unwrap();
        if is_heard {
            eventually("systemd follows the helper", async || (main().trim() == named.trim()).then_some(()))
                .await;
        } else {
            assert_ne!(main().trim(), named.trim());
        }
        let next = node.exec_command(&task, &["/usr/bin/perl", "-e", &tries(&UNNAMED)], false).await;
        let output = match next {
            Ok(session) => session.finish().await.1,
            Err(refusal) => refusal.message,
        };
        if is_heard {
            assert!(output.is_empty() || output.contains("has ended"), "{output}");
        } else {
            assert_eq!(output, "1\n".repeat(UNNAMED.len()));
        }
        drop(helper);
        node.destroy(&task, true).await.unwrap();
    }
}
