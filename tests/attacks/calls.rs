//! System calls that no preset of the sandbox names. The unit denies groups of calls; whatever else is not in the preset is
//! denied by the init of the task.

use tests::{Exit, Job, Node};

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
