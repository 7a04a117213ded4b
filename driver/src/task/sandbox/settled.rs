//! Everything that a job says under systemd's names, checked, and what its unit has of it in the end.
//!
//! ```text
//!  options of the blocks ─┐
//!  ulimit, groups, …      ├─► assignments ─► may they be said? ─► what the driver, the view and the preset say,
//!  properties ────────────┘  (requested)      (policy, node)      then the job ─► the operator's floor    (settled)
//! ```

use std::path::{Path, PathBuf};

use crate::systemd::{self, Assignment, Features, Manager, Meaning, Paths, Role};
use crate::task::config::options::Setting;
use crate::task::config::settings::{Sandbox, option_of};
use crate::task::config::{DriverConfig, MemoryMax, NetworkMode, Notify, TaskConfig};
use crate::task::host::view::{self, View};
use crate::task::sandbox::capabilities::{self, BOUNDING};
use crate::task::sandbox::new_privileges;
use crate::task::sandbox::preset::Preset;
use crate::task::sandbox::privilege::{self, Facts};
use crate::task::spec::{Error, NodeSpec};

/// A line that a job says: the option, the property and the text.
type Said<'a> = (String, &'a str, String);

/// The property of a `ulimit`, such as `LimitNOFILE` for `nofile`.
fn limit_of(name: &str) -> Result<String, Error> {
    let property = format!("Limit{}", name.to_uppercase());
    if systemd::property(&property).is_some() {
        return Ok(property);
    }
    let known = systemd::properties().filter_map(|known| known.name.strip_prefix("Limit"));
    let known: Vec<String> = known.map(str::to_ascii_lowercase).collect();
    Err(Error::Refused {
        option: "ulimit".to_owned(),
        reason: format!("`{name}` is no limit of processes; they are {}", known.join(", ")),
    })
}

/// Everything that the job says under the names of systemd's, in the order in which it counts.
pub(crate) fn requested(
    driver: &DriverConfig,
    node: &NodeSpec,
    features: &Features,
) -> Result<Vec<(String, Assignment)>, Error> {
    check_blocks_of_their_own(driver, node)?;
    let limits: Vec<String> = driver.ulimit.keys().map(|name| limit_of(name)).collect::<Result<_, _>>()?;
    let mut said = of_blocks(driver, node);
    for ((name, value), property) in driver.ulimit.iter().zip(&limits) {
        said.push((format!("ulimit.{name}"), property, value.clone()));
    }
    said.extend(driver.group.iter().map(|group| ("group".to_owned(), "Group", group.clone())));
    let groups = driver.supplementary_groups.iter();
    said.extend(
        groups.map(|group| ("supplementary_groups".to_owned(), "SupplementaryGroups", group.clone())),
    );
    if let Some(name) = &driver.hostname {
        said.push(("hostname".to_owned(), "ProtectHostname", format!("private:{name}")));
    }
    said.extend(of_properties(driver)?);
    let parse = |(option, property, text): Said<'_>| {
        let parsed = Assignment::parse(property, &text);
        let assignment = parsed.map_err(|source| Error::Property { option: option.clone(), source })?;
        check_absolute(&option, &assignment)?;
        Ok((option, assignment))
    };
    let assignments = said.into_iter().map(parse).collect::<Result<Vec<_>, Error>>()?;
    // What the operator says comes before what the node has.
    for (option, assignment) in &assignments {
        // Groups have rules of their own (`identity::check_groups`).
        if !["Group", "SupplementaryGroups"].contains(&assignment.name()) {
            node.policy.check(option, assignment)?;
        }
    }
    for (option, assignment) in &assignments {
        features.check(assignment).map_err(|reason| Error::Node { option: option.clone(), reason })?;
        let known = features.check_names(assignment);
        known.map_err(|reason| Error::Refused { option: option.clone(), reason })?;
    }
    Ok(assignments)
}

/// What the blocks say whose options each stand for a property.
fn of_blocks<'a>(driver: &'a DriverConfig, node: &NodeSpec) -> Vec<Said<'a>> {
    let blocks: [(&str, &[Setting]); 4] = [
        ("sandbox", driver.sandbox.as_ref().map_or(&[], |block| &block.0)),
        ("limits", driver.limits.as_ref().map_or(&[], |block| &block.0)),
        ("files", driver.files.as_ref().map_or(&[], |block| &block.0)),
        ("network", driver.network.as_ref().map_or(&[], |block| &block.0)),
    ];
    let mut said = Vec::new();
    for (block, settings) in blocks {
        for setting in settings {
            let Some(property) = setting.option.property else { continue };
            let option = format!("{block}.{}", setting.option.name);
            let texts = texts(property, setting, &node.view);
            said.extend(texts.into_iter().map(|text| (option.clone(), property, text)));
        }
    }
    said
}

/// What the block of properties says. Each line is an assignment; no line at all is one of nothing.
fn of_properties(driver: &DriverConfig) -> Result<Vec<Said<'_>>, Error> {
    let mut said = Vec::new();
    for (name, value) in &driver.properties {
        if name == "WatchdogSec" {
            // systemd listens to a task with a watchdog (`NotifyAccess=main`), whoever else is to decide that.
            return Err(Error::Refused {
                option: format!("properties.{name}"),
                reason: "systemd would take messages from the task: write a `notify` block with a `watchdog`"
                    .to_owned(),
            });
        }
        let lines =
            value.split('\n').map(str::trim).filter(|line| !line.is_empty() || value.trim().is_empty());
        said.extend(lines.map(|line| (format!("properties.{name}"), name.as_str(), line.to_owned())));
    }
    Ok(said)
}

/// May the job say what its blocks of logging and notifications say? Their properties are made elsewhere (`Output`).
fn check_blocks_of_their_own(driver: &DriverConfig, node: &NodeSpec) -> Result<(), Error> {
    let mut said: Vec<(&str, &str, String)> = Vec::new();
    if let Some(logging) = &driver.logging {
        let burst = logging.rate_limit_burst.map(|burst| burst.to_string());
        said.extend(burst.map(|text| ("logging.rate_limit_burst", "LogRateLimitBurst", text)));
        let interval = logging.rate_limit_interval.clone();
        said.extend(interval.map(|text| ("logging.rate_limit_interval", "LogRateLimitIntervalSec", text)));
        said.extend(logging.namespace.clone().map(|text| ("logging.namespace", "LogNamespace", text)));
    }
    if let Some(Notify { watchdog: Some(time), .. }) = &driver.notify {
        said.push(("notify.watchdog", "WatchdogSec", time.clone()));
    }
    for (option, property, text) in said {
        // Text that is no value has an error of its own, where the property is made.
        if let Ok(assignment) = Assignment::parse(property, &text) {
            node.policy.check(option, &assignment)?;
        }
    }
    Ok(())
}

/// systemd would refuse a relative path, and not say of which option.
fn check_absolute(option: &str, assignment: &Assignment) -> Result<(), Error> {
    let paths = assignment.paths_in_view();
    match paths.iter().find(|path| !path.is_empty() && !path.starts_with('/')) {
        Some(path) => Err(Error::Refused {
            option: option.to_owned(),
            reason: format!(
                "`{path}` is not an absolute path; write the path as the task sees it, such as `/{path}`"
            ),
        }),
        None => Ok(()),
    }
}

/// An option's values as systemd reads them, one for each assignment.
fn texts(property: &'static str, setting: &Setting, view: &View) -> Vec<String> {
    let Some(known) = systemd::property(property) else { return setting.values.clone() };
    // What is a path of the host for systemd is one of the view for a job.
    let in_view = matches!(view, View::Private { .. }) && known.paths == Paths::View;
    // As in a unit file an element may be several words, and each of them is a path.
    let path = |word: String| {
        let path = match word.strip_prefix('-') {
            // It says itself whose path it is.
            optional if !in_view || optional.unwrap_or(&word).starts_with('+') => word,
            Some(optional) => format!("-+{optional}"),
            None => format!("+{word}"),
        };
        systemd::quoted(&path).into_owned()
    };
    let text = |value: &String| match systemd::words(value) {
        Ok(words) if known.takes_paths() && !value.is_empty() && systemd::check_text(value).is_ok() => {
            words.into_iter().map(path).collect::<Vec<_>>().join(" ")
        }
        // What cannot be read is refused with the reason.
        _ => value.clone(),
    };
    let texts: Vec<String> = setting.values.iter().map(text).collect();
    if !known.is_set() {
        return texts;
    }
    // A set is one value, beside the nothing that takes back what was said before.
    let pieces = texts.split_inclusive(String::is_empty);
    pieces
        .flat_map(|piece| {
            let words = piece.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(" ");
            let nothing = piece.last().filter(|word| word.is_empty()).cloned();
            Some(words).filter(|words| !words.is_empty()).into_iter().chain(nothing)
        })
        .collect()
}

/// What the task's unit has of everything that has a name of systemd's.
#[derive(Clone)]
pub(crate) struct Settled {
    /// One property after the other.
    pub(crate) lines: Vec<Assignment>,
    /// The task is root, or could act as root, and is confined for that.
    pub(crate) is_confined_root: bool,
}

/// Do these settings mean in a view that is mounted piece by piece what they say?
fn check_for_shared_view(settled: &[Assignment]) -> Result<(), Error> {
    // Every mount below it has flags of its own, which systemd would leave as they are.
    let is_of_root = |line: &&Assignment| {
        let is_root = |word: &String| word.trim_start_matches(['-', '+']) == "/";
        ["InaccessiblePaths", "NoExecPaths"].contains(&line.name())
            && matches!(line.meaning(), Meaning::Words(words) if words.iter().any(is_root))
    };
    if let Some(line) = settled.iter().find(is_of_root) {
        return Err(Error::Refused {
            option: if line.name() == "NoExecPaths" { "files.no_exec_paths" } else { "files.inaccessible_paths" }
                .to_owned(),
            reason: "`/` is nothing but where the task's view is mounted; name the paths in it one by one, such as `/usr`, \
                     `/local`, `/alloc` and `/tmp`"
                .to_owned(),
        });
    }
    if privilege::text_of(settled, "PrivateTmp").as_deref() == Some("no") {
        return Err(Error::Refused {
            option: "sandbox.private_tmp".to_owned(),
            reason: "leave it out: a task has a `/tmp` and `/var/tmp` of its own or none that it can write to, and never the \
                     host's; files that tasks share belong in `/alloc/tmp`"
                .to_owned(),
        });
    }
    let is_strict = |line: &Assignment| line.name() == "ProtectSystem" && line.text() == "strict";
    if !settled.iter().any(is_strict) {
        return Err(Error::Refused {
            option: "sandbox.protect_system".to_owned(),
            reason: "leave it out: the view of the host is read-only as a whole, as with \"strict\", and cannot be less; \
                     `/local`, `/alloc/data` and `/alloc/tmp` are writable, and `files` adds what else shall be"
                .to_owned(),
        });
    }
    Ok(())
}

/// What the task's unit has of everything that has a name of systemd's. `granted` stands after the preset and before what
/// the job says.
pub(crate) fn settled(
    preset: Preset,
    granted: &[Assignment],
    said: &[Assignment],
    config: &TaskConfig,
    facts: &Facts<'_>,
    node: &NodeSpec,
    features: &Features,
) -> Result<Settled, Error> {
    let view = facts.view;
    // The device of an image with verity is waited for by a semaphore (libdevmapper), which udev finds in the host's own
    // namespace alone: systemd would hang.
    let is_image = |line: &Assignment| line.role().is_some_and(Role::is_image) && !line.text().is_empty();
    let has_images = said.iter().any(is_image);
    let of_view = view
        .assignments()
        .into_iter()
        .filter(|line| features.check(line).is_ok() && !(has_images && line.name() == "PrivateIPC"));
    // A user's systemd has the credentials of a unit, and its own ear for it, among what ProtectHome hides; and systemd
    // write-protects what a job mounts there, but for older ones where homes are empty (seen on 252, and not on 257).
    let mounts_in_homes = view.has_no_home() && mounts_in_homes(said, config, facts, features)?;
    let empties_homes = mounts_in_homes && facts.is_ephemeral && features.version < 257;
    let needs_no_home_hidden =
        view.has_no_home() && features.manager == Manager::User || mounts_in_homes && !empties_homes;
    // What this node's systemd knows of a preset.
    let is_known = |line: &Assignment| {
        features.check(line).is_ok() && !(needs_no_home_hidden && line.name() == "ProtectHome")
    };
    // No home is hidden either where tasks see the host as it is.
    let of_preset = preset
        .assignments()
        .iter()
        .filter(|line| is_known(line) && (*view != View::Host || line.name() != "ProtectHome"));
    let emptied = Assignment::parse("ProtectHome", "tmpfs").ok().filter(|_| empties_homes);
    let of_preset = of_preset.map(|line| match &emptied {
        Some(emptied) if line.name() == "ProtectHome" => emptied,
        _ => line,
    });
    let later = granted.iter().chain(said).cloned();
    let base = of_driver(said, config, node, features).into_iter().chain(of_view);
    let mut settled = Assignment::folded(base.chain(of_preset.cloned()).chain(later));
    if matches!(view, View::Private { .. }) {
        check_for_shared_view(&settled)?;
    }
    capabilities::settle(&mut settled, &config.driver, node)?;
    let is_confined_root = privilege::confine(&mut settled, facts, &node.policy, features)?;
    node.policy.check_floor(&settled, is_known).map_err(|error| in_words_of_job(error, config))?;
    privilege::check_ephemeral(&settled, facts)?;
    new_privileges::check(&settled, facts, features)?;
    privilege::keep_namespaces_few(&mut settled, facts, &node.policy, features)?;
    Ok(Settled { lines: settled, is_confined_root })
}

/// What a unit has whatever the view, the preset and the job say.
fn of_driver(
    said: &[Assignment],
    config: &TaskConfig,
    node: &NodeSpec,
    features: &Features,
) -> Vec<Assignment> {
    let mut ours = vec![
        // The only difference to an ordinary process that systemd makes by default.
        ("IgnoreSIGPIPE", "no"),
        // A task that needs more than its ceiling is ended as a whole, and systemd says so (`oom-kill`).
        ("OOMPolicy", "kill"),
        // Whatever the preset: a set-user-ID program of the host, or one that an `artifact` block brought, is root.
        ("NoNewPrivileges", "yes"),
    ];
    if config.resources.memory_max_mb != MemoryMax::Unlimited {
        // Swap would let it pass the ceiling.
        ours.push(("MemorySwapMax", "0"));
    }
    if config.network == NetworkMode::None {
        ours.push(("PrivateNetwork", "yes"));
    }
    // systemd has no filter where a program without rights may gain some.
    let gains = privilege::text_of(said, "NoNewPrivileges").as_deref() == Some("no");
    if features.manager == Manager::System && !gains {
        // Also without a preset: others of the host who reach such a file would become the task's user. The files of a user's
        // tasks are that user's own.
        ours.push(("RestrictSUIDSGID", "yes"));
    }
    if features.manager == Manager::User {
        // Before 257 everything that needs a namespace would be passed over in silence without it.
        ours.push(("PrivateUsers", "yes"));
    }
    let ours = ours.into_iter().filter_map(|(name, text)| Assignment::parse(name, text).ok());
    Assignment::of_capabilities(BOUNDING, node.policy.all_capabilities()).into_iter().chain(ours).collect()
}

/// The refusal of a property that another option of the job has set.
fn in_words_of_job(error: Error, config: &TaskConfig) -> Error {
    match error {
        Error::Refused { option, reason } if option == "sandbox.capability_bounding_set" => {
            let is_added = !config.driver.cap_add.is_empty();
            Error::Refused { option: if is_added { "cap_add".to_owned() } else { option }, reason }
        }
        Error::Refused { reason, .. }
            if config.driver.sandbox.as_ref().and_then(Sandbox::preset) == Some("off") =>
        {
            Error::Refused { option: "sandbox.preset".to_owned(), reason }
        }
        other => other,
    }
}

/// Does the job mount something where homes of users are elsewhere?
fn mounts_in_homes(
    said: &[Assignment],
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
    for (option, target) in said.iter().flat_map(of_line).chain(of_volume) {
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
