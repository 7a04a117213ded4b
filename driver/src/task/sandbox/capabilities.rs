//! The capabilities of a task: what its job adds, what it drops, and what the operator allows at all.

use crate::systemd::{self, Assignment, Meaning};
use crate::task::config::DriverConfig;
use crate::task::config::settings::option_of;
use crate::task::sandbox::policy;
use crate::task::spec::{Error, NodeSpec};

pub(super) const BOUNDING: &str = "CapabilityBoundingSet";
pub(super) const AMBIENT: &str = "AmbientCapabilities";

/// Takes from both sets of capabilities what the job drops, and adds what it adds.
pub(super) fn settle(
    settled: &mut Vec<Assignment>,
    driver: &DriverConfig,
    node: &NodeSpec,
) -> Result<(), Error> {
    let allowed = node.policy.all_capabilities();
    let added = node.policy.capabilities("cap_add", &driver.cap_add)?;
    let dropped = policy::capabilities(&driver.cap_drop).map_err(|value| Error::Option {
        option: "cap_drop",
        value,
        wanted: "a capability such as \"chown\"",
    })?;
    for name in [BOUNDING, AMBIENT] {
        let line = Assignment::last(settled, name).map(Assignment::meaning);
        let before = if let Some(Meaning::Number(set)) = line { set } else { 0 };
        if before & !allowed != 0 {
            return Err(Error::Refused {
                option: option_of(name).unwrap_or_else(|| name.to_owned()),
                reason: format!(
                    "the operator of this node does not allow {} (`allow_caps`); leave it out",
                    systemd::capability_names(before & !allowed)
                ),
            });
        }
        // As with Nomad's own drivers, `cap_drop = ["all"]` and `cap_add` leave what is added.
        let after = (before & !dropped) | added;
        if after != before {
            settled.retain(|line| line.name() != name);
            settled.extend(Assignment::of_capabilities(name, after));
        }
    }
    Ok(())
}
