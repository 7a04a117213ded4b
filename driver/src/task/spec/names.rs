//! The names of units, and the texts in them.

use std::path::Path;

use crate::systemd::UnitName;
use crate::task::config::TaskId;

/// Prefix of the name of every task's unit.
pub const UNIT_PREFIX: &str = "nomad-";

/// The unit of one run of a task. [`unit_of`] finds it again from the id alone.
pub(super) fn unit_name(alloc_id: &str, task: &str, id: &TaskId) -> UnitName {
    UnitName::service(&["nomad", alloc_id, task], &digest(&id.0, RUN_DIGITS))
}

/// Number of hex digits that distinguish the runs of a task.
pub(super) const RUN_DIGITS: usize = 8;

/// Is this the unit of any run of that task?
///
/// Unknown, and so answered with no, for a task whose name is too long to be in the unit's name as a whole.
pub fn is_run_of(unit: &UnitName, alloc_id: &str, task: &str) -> bool {
    let some_run = unit_name(alloc_id, task, &TaskId(String::new()));
    let same = some_run.as_str().len() - RUN_DIGITS - ".service".len();
    let (ours, theirs) = (some_run.as_str().as_bytes(), unit.as_str().as_bytes());
    some_run.is_whole() && ours.len() == theirs.len() && ours[..same] == theirs[..same]
}

/// The unit that copies a stream of a task into the journal and into Nomad's pipe; `stream` is `stdout` or `stderr`.
pub fn copier_of(id: &TaskId, stream: &str) -> UnitName {
    UnitName::service(&["nomad_log", &digest(&id.0, 32)], stream)
}

/// The unit of a task of which only the id is known.
pub fn unit_of(id: &TaskId) -> UnitName {
    let mut parts = id.0.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(alloc_id), Some(task), Some(_)) => unit_name(alloc_id, task, id),
        _ => unit_name(&id.0, "", id),
    }
}

/// The first hex digits of a hash of the text.
pub(crate) fn digest(text: &str, digits: usize) -> String {
    use sha2::{Digest, Sha256};
    let mut hex = hex::encode(Sha256::digest(text));
    hex.truncate(digits);
    hex
}

pub(super) fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(|c: char| c == '/' || c.is_control())
        && Path::new(name).file_name().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_again_from_the_id_alone_and_never_shared() {
        let id = |suffix: &str| TaskId(format!("5a5b5c5d-0000-1111-2222-333344445555/my task/{suffix}"));
        let name = unit_name("5a5b5c5d-0000-1111-2222-333344445555", "my task", &id("0a1b2c3d"));
        assert_eq!(unit_of(&id("0a1b2c3d")), name);
        assert_ne!(unit_of(&id("0a1b2c3e")), name);
        let alloc = "5a5b5c5d-0000-1111-2222-333344445555";
        assert!(is_run_of(&name, alloc, "my task"));
        let other = unit_name(alloc, "my task-2", &id("0a1b2c3d"));
        assert!(!is_run_of(&other, alloc, "my task") && !is_run_of(&name, alloc, "my task-2"));
        let long = "x".repeat(200);
        assert!(!is_run_of(&unit_name(alloc, &long, &id("0a1b2c3d")), alloc, &long), "it cannot be told");
        let odd = TaskId("no slashes at all".into());
        assert_eq!(unit_of(&odd), unit_of(&odd));
    }
}
