//! The names of system calls and file systems that this node's systemd knows.
//!
//! systemd drops a name that it does not know from a filter, and only logs it: a filter with a misspelt name is open,
//! and nobody is told. Which names exist depends on systemd, on libseccomp and on the kernel. So the node's own
//! `systemd-analyze` is asked, once per connection.

use std::collections::BTreeSet;
use std::time::Duration;

use diagnostics::nearest;

use super::property::{Assignment, Meaning};
use super::tool;

/// systemd-analyze(1) answers in about 20 ms.
const ANALYZE_DEADLINE: Duration = Duration::from_secs(10);

/// The names that a filter may contain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Vocabulary {
    /// System calls and their groups, such as `mkdir` and `@mount`; empty if the node did not list them.
    system_calls: BTreeSet<String>,
    /// File systems and their groups, such as `ext4` and `@basic-api`.
    file_systems: BTreeSet<String>,
    /// Every name is accepted: for a preview, which asks no node.
    takes_all: bool,
}

impl Vocabulary {
    /// Accepts every name.
    pub(super) fn everything() -> Self {
        Self { takes_all: true, ..Self::default() }
    }

    /// The vocabulary of this node.
    pub(super) async fn ask() -> Self {
        let (system_calls, file_systems) = tokio::join!(listed("syscall-filter"), listed("filesystems"));
        Self { system_calls, file_systems, takes_all: false }
    }

    /// Are all names in a filter known? The error states what is wrong.
    pub(super) fn check(&self, assignment: &Assignment) -> Result<(), String> {
        let (known, kind, list) = match assignment.name() {
            "SystemCallFilter" | "SystemCallLog" => (&self.system_calls, "system call", "syscall-filter"),
            "RestrictFileSystems" => (&self.file_systems, "file system", "filesystems"),
            _ => return Ok(()),
        };
        let Meaning::Filter { names, .. } = assignment.meaning() else { return Ok(()) };
        if self.takes_all || names.is_empty() {
            return Ok(());
        }
        let name = assignment.name();
        if known.is_empty() {
            return Err(format!(
                "{name}: its names cannot be checked, since `systemd-analyze {list}` gives no list on this node; install it, \
                 or leave the option out"
            ));
        }
        // `mkdir:ENOSPC` is a system call and the error that it returns.
        let unknown = names.iter().find(|name| !known.contains(name.split(':').next().unwrap_or(name)));
        unknown.map_or(Ok(()), |unknown| {
            let is_group = unknown.starts_with('@');
            let what = if is_group { format!("group of {kind}s") } else { kind.to_owned() };
            let alike = known.iter().filter(|known| known.starts_with('@') == is_group);
            let nearest = nearest(unknown, alike.map(String::as_str));
            let nearest = nearest.map(|known| format!("; did you mean `{known}`?"));
            Err(format!(
                "{name}: `{unknown}` is not a {what} that this node knows (`systemd-analyze {list}` lists them), and systemd \
                 would ignore it{}",
                nearest.unwrap_or_default()
            ))
        })
    }
}

/// The names in a list of systemd-analyze, including those in its comments.
async fn listed(list: &str) -> BTreeSet<String> {
    let output = tool::output("systemd-analyze", &["--no-pager", list], ANALYZE_DEADLINE).await;
    output.map(|text| names_in(&text)).unwrap_or_default()
}

fn names_in(text: &str) -> BTreeSet<String> {
    let is_name = |line: &&str| {
        !line.is_empty()
            && line.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '@' | '_' | '-' | '.'))
    };
    text.lines().map(|line| line.trim_matches(['#', ' ', '\t'])).filter(is_name).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_node_does_not_know_is_refused_and_one_that_it_knows_is_not() {
        let text = "@chown\n    # Change ownership\n    chown\n    fchown\n\n# Ungrouped System Calls:\n#   arc_gettls\n";
        let vocabulary = Vocabulary { system_calls: names_in(text), ..Vocabulary::default() };
        let check = |name: &str, text: &str| vocabulary.check(&Assignment::parse(name, text).unwrap());
        for text in ["~@chown fchown", "chown:ENOSPC", "arc_gettls", "", "~"] {
            assert_eq!(check("SystemCallFilter", text), Ok(()), "{text}");
        }
        for (text, unknown) in
            [("~chmodd", "`chmodd`"), ("@netwrok", "`@netwrok`"), ("fchown x:EPERM", "`x:EPERM`")]
        {
            assert!(check("SystemCallFilter", text).unwrap_err().contains(unknown), "{text}");
        }
        assert_eq!(check("MemoryHigh", "1M"), Ok(()));
        assert!(check("RestrictFileSystems", "ext4").unwrap_err().contains("cannot be checked"));
        assert_eq!(
            Vocabulary::everything().check(&Assignment::parse("SystemCallFilter", "x").unwrap()),
            Ok(())
        );
    }
}
