//! Effects on the host that systemd would have for a task, by a mount or an address filter, and that a job may not
//! cause. Only systemd knows them, so it is queried when a task starts.

use super::Shared;
use super::error::Error;
use super::live::slices::Slices;
use super::sandbox::policy::{Policy, how_to_allow};
use super::spec::{self, TaskSpec};
use crate::systemd::{Assignment, Manager};

impl Shared {
    /// systemd mounts what is missing at a unit's working directory, looking the path up on the host (systemd.exec(5),
    /// `WorkingDirectory=`): a job may not cause that.
    pub(super) async fn refuse_automount(&self, task: &TaskSpec) -> Result<(), Error> {
        let path = &task.working_directory;
        if *path == task.view.working_directory(&task.dirs) || self.systemd.manager() == Manager::User {
            return Ok(());
        }
        match self.systemd.unmounted(path).await? {
            Some(mount) => Err(Error::Spec(spec::Error::Refused {
                option: "work_dir".to_owned(),
                reason: format!(
                    "systemd would mount the host's file system at {} for it, which is not mounted; choose a directory below \
                     `/local`, or have the operator mount the file system",
                    mount.display()
                ),
            })),
            None => Ok(()),
        }
    }

    /// A task whose unit allows addresses reaches them even if the operator denies them in the slices above it: a job
    /// may not do that. A guest is filtered by its runner alone.
    pub(super) async fn drop_or_refuse_addresses(
        &self,
        task: &TaskSpec,
        policy: &Policy,
        settings: &mut Vec<Assignment>,
    ) -> Result<(), Error> {
        if !settings.iter().any(|line| line.name() == "IPAddressAllow")
            || policy.allows_by_name("IPAddressAllow")
        {
            return Ok(());
        }
        let denying = Slices::that_denies_addresses(&self.systemd, task).await?;
        match denying {
            Some(slice) if task.allows_addresses => Err(Error::Spec(spec::Error::Refused {
                option: "network.ip_address_allow".to_owned(),
                reason: format!(
                    "it would override `IPAddressDeny=` of {slice}, by which the operator of this node denies addresses to all \
                     tasks; leave it out, or {}",
                    how_to_allow("IPAddressAllow")
                ),
            })),
            Some(_) => {
                settings.retain(|line| !["IPAddressAllow", "IPAddressDeny"].contains(&line.name()));
                Ok(())
            }
            None => Ok(()),
        }
    }
}
