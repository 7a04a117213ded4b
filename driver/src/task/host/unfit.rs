//! Why no task could start here, whatever its job: something that the operator's configuration names is missing. The
//! node reports it at once, before the first task.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::task::host::users::Accounts;
use crate::task::spec::NodeSpec;
use crate::task::spec::identity::Identity;

/// The first setting of the configuration that cannot work here, with its option, for example ``plugin option
/// `shim_dir`: /opt/shim has no wasm-shim``. May take long: user databases may be on other machines.
pub(crate) fn reason(node: &NodeSpec, accounts: &dyn Accounts) -> Option<String> {
    of_default_user(node, accounts).or_else(|| of_directories(node))
}

fn of_directories(node: &NodeSpec) -> Option<String> {
    if let Some(directory) = &node.installation.shim_dir {
        let programs = ["wasm-shim", "wasm-shim-compile"];
        if let Some(name) = programs.into_iter().find(|name| !directory.join(name).is_file()) {
            return Some(format!(
                "plugin option `shim_dir`: {} has no {name}; install both programs there, or leave the option out",
                directory.display()
            ));
        }
        let mut paths = programs.into_iter().map(|name| directory.join(name));
        if let Some(program) = paths.find(|program| access(program, Access::EXEC_OK).is_err()) {
            return Some(format!(
                "plugin option `shim_dir`: {program} cannot be executed; run `chmod a+x {program}`, and see that the file system is \
                 not mounted with `noexec`",
                program = program.display()
            ));
        }
    }
    if let Err(error) = node.installation.shim() {
        return Some(format!(
            "{}; no task starts without wasm-shim, which is the init of native programs and runs WebAssembly",
            crate::chain(&error)
        ));
    }
    let directory = Some(&node.installation.state_dir).filter(|_| node.sets_state_dir)?;
    let why = usable(directory).err()?;
    Some(format!(
        "plugin option `state_dir`: {} cannot be used: {}; name a directory that root can create and write to",
        directory.display(),
        crate::chain(&why)
    ))
}

/// Why no task could run as the `default_user`.
fn of_default_user(node: &NodeSpec, accounts: &dyn Accounts) -> Option<String> {
    let Identity::User(name) = &node.default_identity else { return None };
    if accounts.user(name).is_none() && accounts.is_complete() {
        return Some(format!(
            "plugin option `default_user`: this node has no user `{name}`; create the user, or leave the option out for \
             ephemeral users"
        ));
    }
    if node.policy.has_no_root() && accounts.user(name).is_some_and(|user| user.uid == 0) {
        return Some(format!(
            "plugin option `default_user`: `{name}` is root, and no task may be root here; set `allow_root`, name another user, \
             or leave the option out for ephemeral users"
        ));
    }
    if node.dynamic_workload_users {
        return Some(format!(
            "plugin option `default_user`: no task would run as `{name}`, since with `dynamic_workload_users` Nomad gives each task \
             its user; leave one of the two out"
        ));
    }
    if let Some(user) = accounts.user(name)
        && node.policy.check_user("default_user", name, user.uid).is_err()
    {
        return Some(format!(
            "plugin option `default_user`: `denied_host_uids` denies `{name}`, UID {}, to every task; name another user, or leave \
             the option out for ephemeral users",
            user.uid
        ));
    }
    None
}

/// Creates the directory if it is missing, and checks that it can be written to.
fn usable(directory: &Path) -> std::io::Result<()> {
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
    }
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::config::PluginConfig;
    use crate::task::host::users::AssumedAccounts;
    use std::os::unix::fs::PermissionsExt;

    struct OnlyRoot;

    impl Accounts for OnlyRoot {
        fn user(&self, name: &str) -> Option<crate::task::host::users::HostUser> {
            AssumedAccounts.user(name).filter(|_| name == "root")
        }

        fn group(&self, name: &str) -> Option<u32> {
            AssumedAccounts.group(name)
        }
    }

    #[test]
    fn what_is_named_and_not_there_is_told() {
        let place = tempfile::tempdir().unwrap();
        let (whole, half) = (place.path().join("whole"), place.path().join("half"));
        for (directory, programs) in
            [(&whole, &["wasm-shim", "wasm-shim-compile"][..]), (&half, &["wasm-shim"])]
        {
            std::fs::create_dir(directory).unwrap();
            for name in programs {
                std::fs::write(directory.join(name), "").unwrap();
                std::fs::set_permissions(directory.join(name), PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
        let node = || {
            let mut node = NodeSpec::resolve(PluginConfig::decode(&[]).unwrap()).unwrap();
            node.installation.state_dir = place.path().join("new/state");
            node.sets_state_dir = true;
            node.installation.shim_dir = Some(whole.clone());
            node
        };
        assert_eq!(reason(&node(), &OnlyRoot), None);
        assert!(place.path().join("new/state").is_dir());

        let mut other = node();
        other.default_identity = Identity::User("nobody-here".to_owned());
        assert!(
            reason(&other, &OnlyRoot)
                .unwrap()
                .starts_with("plugin option `default_user`: this node has no user")
        );

        let mut other = node();
        other.installation.shim_dir = Some(half.clone());
        assert!(reason(&other, &OnlyRoot).unwrap().contains("has no wasm-shim-compile; "));

        let mut other = node();
        other.installation.state_dir = half.join("wasm-shim/below-a-file");
        assert!(reason(&other, &OnlyRoot).unwrap().starts_with("plugin option `state_dir`: "));
    }
}
