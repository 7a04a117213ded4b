//! The effective settings of a task's unit.
//!
//! ```text
//!  driver, view, preset ─┐
//!  grants of the guest   ├─► folded ─► capabilities ─► root confined ─► at least the operator's floor?
//!  requested by the job ─┘
//! ```

use std::path::{Path, PathBuf};

use crate::systemd::{Assignment, Features, Manager, Meaning, Role};
use crate::task::config::settings::option_of;
use crate::task::config::{MemoryMax, NetworkMode, TaskConfig};
use crate::task::host::view::{self, View};
use crate::task::refusal::Error;
use crate::task::sandbox::capabilities::{self, BOUNDING};
use crate::task::sandbox::new_privileges;
use crate::task::sandbox::policy::Policy;
use crate::task::sandbox::preset::Preset;
use crate::task::sandbox::privilege::{self, Facts};

/// The effective settings of the task's unit.
#[derive(Clone)]
pub(crate) struct EffectiveSettings {
    /// The properties, one after the other.
    pub(crate) lines: Vec<Assignment>,
    /// The task is root, or could act as root, and is confined for that.
    pub(crate) is_confined_root: bool,
}

/// Do these settings have their meaning in a view that is mounted piece by piece?
fn check_for_shared_view(effective: &[Assignment]) -> Result<(), Error> {
    // Every mount below it has flags of its own, which systemd would not change.
    let is_of_root = |line: &&Assignment| {
        let is_root = |word: &String| word.trim_start_matches(['-', '+']) == "/";
        ["InaccessiblePaths", "NoExecPaths"].contains(&line.name())
            && matches!(line.meaning(), Meaning::Words(words) if words.iter().any(is_root))
    };
    if let Some(line) = effective.iter().find(is_of_root) {
        return Err(Error::Refused {
            option: if line.name() == "NoExecPaths" { "files.no_exec_paths" } else { "files.inaccessible_paths" }
                .to_owned(),
            reason: "`/` is nothing but where the task's view is mounted; name the paths in it one by one, such as `/usr`, \
                     `/local`, `/alloc` and `/tmp`"
                .to_owned(),
        });
    }
    if privilege::text_of(effective, "PrivateTmp").as_deref() == Some("no") {
        return Err(Error::Refused {
            option: "sandbox.private_tmp".to_owned(),
            reason: "leave it out: a task has a `/tmp` and `/var/tmp` of its own or none that it can write to, and never the \
                     host's; files that tasks share belong in `/alloc/tmp`"
                .to_owned(),
        });
    }
    let is_strict = |line: &Assignment| line.name() == "ProtectSystem" && line.text() == "strict";
    if !effective.iter().any(is_strict) {
        return Err(Error::Refused {
            option: "sandbox.protect_system".to_owned(),
            reason: "leave it out: the view of the host is read-only as a whole, as with \"strict\", and cannot be less; \
                     `/local`, `/alloc/data` and `/alloc/tmp` are writable, and `files` adds what else shall be"
                .to_owned(),
        });
    }
    Ok(())
}

/// The effective settings of the task's unit. `granted` comes after the preset and before what the job sets.
pub(crate) fn effective(
    preset: Preset,
    granted: &[Assignment],
    requested: &[Assignment],
    config: &TaskConfig,
    facts: &Facts<'_>,
    policy: &Policy,
    features: &Features,
) -> Result<EffectiveSettings, Error> {
    let view = facts.view;
    // The device of an image with verity is waited for by a semaphore (libdevmapper), which udev finds only in the
    // host's own namespace: systemd would hang.
    let is_image = |line: &Assignment| line.role().is_some_and(Role::is_image) && !line.text().is_empty();
    let has_images = requested.iter().any(is_image);
    let of_view = view
        .assignments()
        .into_iter()
        .filter(|line| features.check(line).is_ok() && !(has_images && line.name() == "PrivateIPC"));
    // A user's systemd has a unit's credentials and its own message socket below what ProtectHome hides; and systemd
    // write-protects what a job mounts there, except for older ones where homes are empty (seen on 252, and not on
    // 257).
    let mounts_in_homes = view.has_no_home() && mounts_in_homes(requested, config, facts, features)?;
    let empties_homes = mounts_in_homes && facts.is_ephemeral && features.version < 257;
    let needs_no_home_hidden =
        view.has_no_home() && features.manager == Manager::User || mounts_in_homes && !empties_homes;
    // The lines of a preset that this node's systemd supports.
    let is_known = |line: &Assignment| {
        features.check(line).is_ok() && !(needs_no_home_hidden && line.name() == "ProtectHome")
    };
    // Homes are not hidden either where tasks see the host as it is.
    let of_preset = preset
        .assignments()
        .iter()
        .filter(|line| is_known(line) && (*view != View::Host || line.name() != "ProtectHome"));
    let emptied = Assignment::parse("ProtectHome", "tmpfs").ok().filter(|_| empties_homes);
    let of_preset = of_preset.map(|line| match &emptied {
        Some(emptied) if line.name() == "ProtectHome" => emptied,
        _ => line,
    });
    let later = granted.iter().chain(requested).cloned();
    let base = of_driver(requested, config, policy, features).into_iter().chain(of_view);
    let mut effective = Assignment::folded(base.chain(of_preset.cloned()).chain(later));
    if matches!(view, View::Private { .. }) {
        check_for_shared_view(&effective)?;
    }
    capabilities::apply(&mut effective, &config.driver, policy)?;
    let in_words_of_job = |error| in_words_of_job(error, requested, config);
    let is_confined_root =
        privilege::confine(&mut effective, facts, policy, features).map_err(in_words_of_job)?;
    policy.check_floor(&effective, is_known).map_err(in_words_of_job)?;
    privilege::check_ephemeral(&effective, facts)?;
    new_privileges::check(&effective, facts, features)?;
    privilege::keep_namespaces_few(&mut effective, facts, policy, features)?;
    Ok(EffectiveSettings { lines: effective, is_confined_root })
}

/// The settings of every unit, whatever the view, the preset and the job set.
fn of_driver(
    requested: &[Assignment],
    config: &TaskConfig,
    policy: &Policy,
    features: &Features,
) -> Vec<Assignment> {
    let mut ours = vec![
        // The only difference from an ordinary process that systemd makes by default.
        ("IgnoreSIGPIPE", "no"),
        // A task that exceeds its memory limit is killed as a whole, and systemd reports it (`oom-kill`).
        ("OOMPolicy", "kill"),
        // Whatever the preset: a set-user-ID program of the host, or one that an `artifact` block brought, is root.
        ("NoNewPrivileges", "yes"),
    ];
    if config.resources.memory_max_mb != MemoryMax::Unlimited {
        // With swap the task would exceed the limit.
        ours.push(("MemorySwapMax", "0"));
    }
    if config.network == NetworkMode::None {
        ours.push(("PrivateNetwork", "yes"));
    }
    // systemd has no filter where an unprivileged program may gain privileges.
    let gains = privilege::text_of(requested, "NoNewPrivileges").as_deref() == Some("no");
    if features.manager == Manager::System && !gains {
        // Also without a preset: other users of the host who reach such a file would become the task's user. The files
        // of a user's tasks are that user's own.
        ours.push(("RestrictSUIDSGID", "yes"));
    }
    if features.manager == Manager::User {
        // Before 257 systemd would silently ignore everything that needs a namespace without it.
        ours.push(("PrivateUsers", "yes"));
    }
    let ours = ours.into_iter().filter_map(|(name, text)| Assignment::parse(name, text).ok());
    Assignment::of_capabilities(BOUNDING, policy.all_capabilities()).into_iter().chain(ours).collect()
}

/// The refusal of a property that another option of the job has set.
fn in_words_of_job(error: Error, requested: &[Assignment], config: &TaskConfig) -> Error {
    let Error::Refused { option, reason } = error else { return error };
    let is_set = requested.iter().any(|line| option_of(line.name()).as_ref() == Some(&option));
    let names_preset = config.driver.sandbox.as_ref().is_some_and(|sandbox| sandbox.preset().is_some());
    let option = match option.as_str() {
        "sandbox.capability_bounding_set" if !config.driver.cap_add.is_empty() => "cap_add".to_owned(),
        "sandbox.protect_hostname" if config.driver.hostname.is_some() => "hostname".to_owned(),
        // The preset set it.
        of_block if of_block.starts_with("sandbox.") && names_preset && !is_set => {
            "sandbox.preset".to_owned()
        }
        _ => option,
    };
    Error::Refused { option, reason }
}

/// Does the job mount something where homes of users are otherwise?
fn mounts_in_homes(
    requested: &[Assignment],
    config: &TaskConfig,
    facts: &Facts<'_>,
    features: &Features,
) -> Result<bool, Error> {
    let of_line = |line: &Assignment| {
        let option = option_of(line.name()).unwrap_or_else(|| line.name().to_owned());
        line.mount_points().into_iter().map(move |(_, target)| (option.clone(), PathBuf::from(target)))
    };
    let of_volume = config.mounts.iter().map(|mount| ("volume_mount".to_owned(), mount.target.clone()));
    let mut mounts_in_homes = false;
    for (option, target) in requested.iter().flat_map(of_line).chain(of_volume) {
        // An ephemeral user implies `ProtectHome=read-only` (systemd.exec(5), `DynamicUser=`).
        if facts.is_ephemeral
            && features.version >= 257
            && view::HOMES.iter().any(|home| target == Path::new(home))
        {
            let target = target.display();
            return Err(Error::Refused {
                option,
                reason: format!(
                    "systemd write-protects {target} itself for an ephemeral user; mount below it, such as on {target}/data, or \
                     give the task a `user`"
                ),
            });
        }
        mounts_in_homes |= view::HOMES.iter().any(|home| target.starts_with(home));
    }
    Ok(mounts_in_homes)
}
