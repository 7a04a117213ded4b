//! The capabilities of a task: those that its job adds, those that it drops, and those that the operator allows.

use crate::systemd::{self, Assignment, Meaning};
use crate::task::config::DriverConfig;
use crate::task::config::settings::option_of;
use crate::task::refusal::Error;
use crate::task::sandbox::policy::{self, Policy};

pub(super) const BOUNDING: &str = "CapabilityBoundingSet";
pub(super) const AMBIENT: &str = "AmbientCapabilities";

/// Removes from both sets of capabilities what the job drops, and adds what it adds.
pub(super) fn apply(
    effective: &mut Vec<Assignment>,
    driver: &DriverConfig,
    policy: &Policy,
) -> Result<(), Error> {
    let allowed = policy.all_capabilities();
    let added = policy.capabilities("cap_add", &driver.cap_add)?;
    let dropped = policy::capabilities(&driver.cap_drop).map_err(|value| Error::Option {
        option: "cap_drop",
        value,
        wanted: "a capability such as \"chown\"",
    })?;
    for name in [BOUNDING, AMBIENT] {
        let line = Assignment::last(effective, name).map(Assignment::meaning);
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
        // As with Nomad's own drivers, `cap_drop = ["all"]` with `cap_add` leaves the added capabilities.
        let after = (before & !dropped) | added;
        if after != before {
            effective.retain(|line| line.name() != name);
            effective.extend(Assignment::of_capabilities(name, after));
        }
    }
    Ok(())
}
