//! The operator's policy: what no job may do on this node, whatever it configures.

use std::path::{Path, PathBuf};

use crate::systemd::{Assignment, Reach, Role, capability_mask};
use crate::task::config::PluginConfig;
use crate::task::config::options::Opt;
use crate::task::config::settings::option_of;
use crate::task::host::view::is_plain;
use crate::task::refusal::Error;
use crate::task::sandbox::option_properties;
use crate::task::sandbox::preset::{self, Looser, Preset};

/// The pattern for all properties that can only restrict a task.
const CONFINING: &str = "@confining";
/// The task's own directories, as a host path.
const LOCAL: &str = "local";

/// A host path that jobs may name, with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    /// The path.
    pub path: PathBuf,
    /// Allowed only for reading.
    pub read_only: bool,
}

impl HostPath {
    fn parse(text: &str) -> Self {
        let (path, read_only) = text.strip_suffix(":ro").map_or((text, false), |path| (path, true));
        Self { path: path.into(), read_only }
    }
}

/// The treatment of a task that is root, or could act as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// The task is refused.
    No,
    /// The task is confined to namespaces of its own, under the preset "standard".
    Confined,
    /// The task has the rights of the host's root, within its capabilities and view.
    Host,
}

impl Root {
    fn parse(word: &str) -> Result<Self, &'static str> {
        match word {
            "no" => Ok(Self::No),
            "confined" => Ok(Self::Confined),
            "host" => Ok(Self::Host),
            _ => Err("one of \"no\", \"confined\" and \"host\""),
        }
    }
}

/// What jobs may do.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Capabilities, one bit each.
    capabilities: u64,
    host_paths: Vec<HostPath>,
    images_of_tasks: bool,
    allowed: Vec<String>,
    denied: Vec<String>,
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
    /// Patterns of variables that are removed from every task.
    denied_env: Vec<String>,
    floor: Preset,
    /// The treatment of tasks that are root.
    pub root: Root,
}

fn within(ranges: &[(u32, u32)], id: u32) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&id))
}

/// Does each pattern match a property? A misspelt word would allow, or worse deny, nothing.
fn check_patterns(option: &'static str, patterns: &[String]) -> Result<(), Error> {
    let is_known = |pattern: &&String| {
        (*pattern == CONFINING && option == "allow_properties")
            || option_properties::all().any(|name| matches(pattern, name))
    };
    let wanted = "the name of a systemd property such as \"LogNamespace\", or a pattern such as \"Log*\"";
    let unknown = patterns.iter().find(|pattern| !is_known(pattern));
    unknown.map_or(Ok(()), |pattern| Err(Error::Plugin { option, value: pattern.clone(), wanted }))
}

/// What a job's author can do about an option that the operator must allow by the property's name, as the continuation
/// of a sentence after "or" or a semicolon.
pub(crate) fn how_to_allow(property: &str) -> String {
    format!(
        "have the operator of this node add \"{property}\", beside \"{CONFINING}\", to `allow_properties` in the plugin's \
         configuration"
    )
}

impl Policy {
    /// Checks the operator's values.
    pub fn resolve(config: &PluginConfig) -> Result<Self, Error> {
        let PluginConfig {
            allow_caps,
            allow_host_paths,
            allow_properties,
            allow_root,
            deny_properties,
            denied_host_gids,
            denied_host_uids,
            denied_envvars,
            sandbox_floor,
            default_user: _, // these are the node's
            dynamic_workload_users: _,
            ephemeral_user: _,
            fs_isolation: _,
            host_paths: _,
            log_driver: _,
            lost_after: _,
            manager: _,
            metrics_address: _,
            sandbox: _,
            shim_dir: _,
            state_dir: _,
            wasm_cache_size: _,
        } = config;
        let wrong = |option, value: &str| {
            let value = value.to_owned();
            move |wanted| Error::Plugin { option, value, wanted }
        };
        let (local, host): (Vec<_>, Vec<_>) = allow_host_paths.iter().partition(|path| *path == LOCAL);
        let host = allowed_paths(host)?;
        if let Some(name) = denied_envvars.iter().find(|name| name.contains('=')) {
            return Err(wrong("denied_envvars", name)("the name of a variable, without a value"));
        }
        let floor = Preset::parse(sandbox_floor).map_err(wrong("sandbox_floor", sandbox_floor))?;
        let root = Root::parse(allow_root).map_err(wrong("allow_root", allow_root))?;
        check_patterns("allow_properties", allow_properties)?;
        check_patterns("deny_properties", deny_properties)?;
        Ok(Self {
            capabilities: capabilities(allow_caps)
                .map_err(|name| wrong("allow_caps", &name)("a capability"))?,
            host_paths: host,
            images_of_tasks: !local.is_empty(),
            allowed: allow_properties.clone(),
            denied: deny_properties.clone(),
            uids: ranges(denied_host_uids)
                .ok_or(RANGES)
                .map_err(wrong("denied_host_uids", denied_host_uids))?,
            gids: ranges(denied_host_gids)
                .ok_or(RANGES)
                .map_err(wrong("denied_host_gids", denied_host_gids))?,
            denied_env: denied_envvars.clone(),
            // Another task that may change the kernel's settings could pass confined root their directory.
            floor: if root == Root::Confined { floor.max(Preset::Standard) } else { floor },
            root,
        })
    }

    /// Does the operator deny this property to jobs, whatever the value? Returns the matching pattern.
    pub fn denies(&self, name: &str) -> Option<&String> {
        self.denied.iter().find(|pattern| matches(pattern, name))
    }

    /// Does the operator remove this variable from tasks?
    pub fn denies_variable(&self, name: &str) -> bool {
        self.denied_env.iter().any(|pattern| matches(pattern, name))
    }

    /// Does the operator allow this property by its name, and not only with `@confining`?
    pub fn allows_by_name(&self, name: &str) -> bool {
        self.allowed.iter().any(|pattern| matches(pattern, name))
    }

    /// May a job use these options? No property that they set may be denied.
    pub fn check_given(&self, given: &[(String, Option<&'static Opt>)]) -> Result<(), Error> {
        for (path, option) in given {
            for property in option_properties::properties_of(path, *option).unwrap_or_default() {
                self.check_denied(path, &property)?;
            }
        }
        Ok(())
    }

    /// May a job use an option that sets this property? Its value is checked separately ([`Policy::check`]).
    pub fn check_denied(&self, option: &str, name: &str) -> Result<(), Error> {
        match self.denies(name) {
            Some(pattern) => Err(Error::Refused {
                option: option.to_owned(),
                reason: format!(
                    "the operator of this node denies {name} (`deny_properties` has `{pattern}` in the plugin's configuration)"
                ),
            }),
            None => Ok(()),
        }
    }

    /// May a job set this property? `option` is the option that sets it.
    pub fn check(&self, option: &str, assignment: &Assignment) -> Result<(), Error> {
        let name = assignment.name();
        let refused = |reason: String| Error::refused(option, reason);
        self.check_denied(option, name)?;
        match assignment.reach() {
            // Reserved properties cannot even be set.
            Reach::Reserved(reason) => Err(refused(reason.to_owned())),
            Reach::Confining(_) if self.allowed.iter().any(|pattern| pattern == CONFINING) => Ok(()),
            // The paths are checked one by one: the task's own directories may be mounted at other paths, too.
            Reach::BeyondTask(_)
                if let Some(role) = assignment.role().filter(|role| !role.is_opened_by_root()) =>
            {
                let is_image = role.brings_files();
                if self.host_paths.is_empty() && !role.is_bind() && !(is_image && self.images_of_tasks) {
                    let own = match role {
                        Role::RootDirectory => {
                            ", and a directory that the task can change cannot be its root (a disk image can)"
                        }
                        _ if is_image => " (\"local\" for images and extensions that jobs bring)",
                        _ => "",
                    };
                    return Err(refused(format!(
                        "{name}={} needs a path of the host that the operator of this node allows with `allow_host_paths` in \
                         the plugin's configuration{own}",
                        assignment.text()
                    )));
                }
                Ok(())
            }
            _ if self.allows_by_name(name) => Ok(()),
            Reach::Confining(why) => Err(refused(format!(
                "the operator of this node does not allow {name} (`allow_properties` in the plugin's configuration has neither \
                 {name} nor `{CONFINING}`), although {why}"
            ))),
            Reach::BeyondTask(why) => Err(refused(format!(
                "{name}={} reaches beyond the task: {why}; leave it out, or {}",
                assignment.text(),
                how_to_allow(name)
            ))),
        }
    }

    /// The operator's path that allows a job to name this host path: the nearest one.
    pub fn allowed_root(&self, path: &Path) -> Option<&HostPath> {
        let allowed = self.host_paths.iter().filter(|allowed| path.starts_with(&allowed.path));
        allowed.max_by_key(|allowed| allowed.path.components().count())
    }

    /// Is no task allowed to be root?
    pub(crate) fn has_no_root(&self) -> bool {
        self.root == Root::No
    }

    /// May tasks be root if they are confined for that?
    pub(crate) fn confines_root(&self) -> bool {
        self.root == Root::Confined
    }

    /// May a job have the kernel mount an image that lies in the task's own directories?
    pub fn allows_images_of_tasks(&self) -> bool {
        self.images_of_tasks
    }

    /// The capabilities of `names`, if a job may have all of them.
    pub fn capabilities(&self, option: &'static str, names: &[String]) -> Result<u64, Error> {
        let wanted = "a capability such as \"net_bind_service\"";
        let set = capabilities(names).map_err(|value| Error::Option { option, value, wanted })?;
        let is_beyond =
            |name: &&String| capability_mask([name.as_str()]).is_ok_and(|bit| bit & !self.capabilities != 0);
        match names.iter().find(is_beyond) {
            Some(name) => Err(Error::Refused {
                option: option.to_owned(),
                reason: format!(
                    "the operator of this node does not allow {name}; leave it out, or have the operator add it to `allow_caps` in the \
                     plugin's configuration"
                ),
            }),
            None => Ok(set & self.capabilities),
        }
    }

    /// All capabilities that a task may have.
    pub fn all_capabilities(&self) -> u64 {
        self.capabilities
    }

    /// Are these settings as tight as every task's must be, as far as this node supports it?
    /// Does the operator keep all tasks from something?
    pub fn has_floor(&self) -> bool {
        self.floor != Preset::Off
    }

    pub fn check_floor(
        &self,
        effective: &[Assignment],
        is_known: impl Fn(&Assignment) -> bool,
    ) -> Result<(), Error> {
        let floor = self.floor.assignments().iter().filter(|line| is_known(line));
        let floor: Vec<Assignment> = floor.cloned().collect();
        preset::as_tight(&floor, effective).map_err(|Looser { property, floor: least }| Error::Refused {
            option: option_of(property).unwrap_or_else(|| property.to_owned()),
            reason: format!(
                "the operator of this node allows nothing looser than {least} (`sandbox_floor = \"{}\"`{}); give the task at \
                 least this preset (`sandbox.preset`), and leave out what loosens {property}",
                self.floor,
                if self.confines_root() { ", which `allow_root = \"confined\"` brings with it" } else { "" }
            ),
        })
    }

    /// This preset, or the floor if it is tighter.
    pub fn at_least(&self, preset: Preset) -> Preset {
        preset.max(self.floor)
    }

    /// May a task be this user?
    pub fn check_user(&self, option: &str, user: &str, uid: u32) -> Result<(), Error> {
        if !within(&self.uids, uid) {
            return Ok(());
        }
        Err(Error::Refused {
            option: option.to_owned(),
            reason: format!(
                "the operator of this node lets no task run as {user}, UID {uid} (`denied_host_uids`); name another user"
            ),
        })
    }

    /// May a task be in this group, by this option? `name` is the name of the group, or of the user whose group it is.
    pub fn check_group(&self, option: &str, name: &str, gid: u32) -> Result<(), Error> {
        if !within(&self.gids, gid) {
            return Ok(());
        }
        Err(Error::Refused {
            option: option.to_owned(),
            reason: format!(
                "by {name} the task would be in group {gid}, in which the operator of this node lets no task run \
                 (`denied_host_gids`); name another"
            ),
        })
    }
}

/// The paths of `allow_host_paths`, without `"local"`.
fn allowed_paths(texts: Vec<&String>) -> Result<Vec<HostPath>, Error> {
    let paths: Vec<HostPath> = texts.into_iter().map(|text| HostPath::parse(text)).collect();
    for HostPath { path, read_only } in &paths {
        let bytes = path.as_os_str().as_encoded_bytes();
        let wanted = if !is_plain(path) || bytes.ends_with(b":rw") {
            "an absolute path without `..`, which may have `:ro` at its end, or \"local\" alone"
        } else if bytes.iter().any(|byte| b"*?[".contains(byte)) {
            "a path: there are no patterns here, and a path includes all below it"
        } else {
            continue;
        };
        return Err(Error::Plugin {
            option: "allow_host_paths",
            value: format!("{}{}", path.display(), if *read_only { ":ro" } else { "" }),
            wanted,
        });
    }
    Ok(paths)
}

const RANGES: &str = "a list of numbers and ranges such as \"0,100-199\"";

/// Parses `0,100-199` to the first and last number of each range.
fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let pieces = text.split(',').map(str::trim).filter(|piece| !piece.is_empty());
    pieces
        .map(|piece| {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (range.0 <= range.1).then_some(range)
        })
        .collect()
}

/// The set of these capabilities; `all` is all of them. The error is the name that is not a capability.
pub(crate) fn capabilities(names: &[String]) -> Result<u64, String> {
    names.iter().try_fold(0, |set, name| match name.as_str() {
        name if name.eq_ignore_ascii_case("all") => Ok(u64::MAX),
        name => capability_mask([name]).map(|bit| set | bit).map_err(|_| name.to_owned()),
    })
}

/// Does a name match a pattern, in which `*` stands for anything?
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(change: impl FnOnce(&mut PluginConfig)) -> Policy {
        let mut config = PluginConfig::decode(&[]).unwrap();
        change(&mut config);
        Policy::resolve(&config).unwrap()
    }

    fn check(policy: &Policy, line: &str) -> Result<(), String> {
        let (name, text) = line.split_once('=').unwrap();
        let assignment = Assignment::parse(name, text).unwrap();
        policy.check("properties", &assignment).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pattern_fits_what_its_star_stands_for() {
        for (pattern, name) in
            [("*", "MemoryMax"), ("Log*", "LogLevelMax"), ("*Max", "TasksMax"), ("A*C*E", "ABCDE")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "x"), ("Log", "LogLevelMax"), ("Log*", "XLog"), ("A*A", "A"), ("*b*", "aca")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn numbers_and_ranges_are_read_and_anything_else_is_not() {
        assert_eq!(ranges("0, 100-199"), Some(vec![(0, 0), (100, 199)]));
        assert_eq!(ranges(""), Some(vec![]));
        for wrong in ["x", "5-3", "-1", "1-2-3"] {
            assert_eq!(ranges(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_job_may_take_from_its_task_and_reach_beyond_it_only_where_the_operator_says_so() {
        let usual = policy(|_| {});
        assert_eq!(check(&usual, "MemoryHigh=10M"), Ok(()));
        assert!(check(&usual, "Nice=-5").unwrap_err().contains("`allow_properties`"));
        assert!(check(&usual, "RootDirectory=/etc").unwrap_err().contains("`allow_host_paths`"));
        assert_eq!(
            check(&usual, "BindPaths=/local/x:/etc/x"),
            Ok(()),
            "where the paths lead to is another matter"
        );
        let open = policy(|config| config.allow_properties.push("Nice".into()));
        assert_eq!(check(&open, "Nice=-5"), Ok(()));
        let closed = policy(|config| config.deny_properties = vec!["Memory*".into()]);
        assert!(check(&closed, "MemoryHigh=10M").unwrap_err().contains("`Memory*`"));
        let shut = policy(|config| config.allow_properties = vec!["CPUQuota".into()]);
        assert!(check(&shut, "MemoryHigh=10M").is_err());
        assert_eq!(check(&shut, "CPUQuota=10%"), Ok(()));
        let paths = policy(|config| config.allow_host_paths = vec!["/srv".into(), "/srv/x/y:ro".into()]);
        assert_eq!(check(&paths, "BindPaths=/srv/x"), Ok(()));
        let root =
            |path: &str| paths.allowed_root(Path::new(path)).map(|root| (root.path.to_str(), root.read_only));
        assert_eq!(root("/srv/x"), Some((Some("/srv"), false)));
        assert_eq!(root("/srv/x/y"), Some((Some("/srv/x/y"), true)), "the nearest one");
        assert_eq!(root("/srvx"), None);
    }

    #[test]
    fn a_property_that_does_not_exist_is_neither_allowed_nor_denied() {
        let resolve = |change: &dyn Fn(&mut PluginConfig)| {
            let mut config = PluginConfig::decode(&[]).unwrap();
            change(&mut config);
            Policy::resolve(&config).map(drop).map_err(|error| error.to_string())
        };
        for wrong in ["Usr", "@confinig", "Nixe", "Log?", "", "user"] {
            for option in ["allow_properties", "deny_properties"] {
                let refusal = resolve(&|config| {
                    let list = if option.starts_with('a') {
                        &mut config.allow_properties
                    } else {
                        &mut config.deny_properties
                    };
                    list.push(wrong.into());
                });
                let refusal = refusal.unwrap_err();
                assert!(refusal.contains(option) && refusal.contains(&format!("`{wrong}`")), "{refusal}");
            }
        }
        assert!(resolve(&|config| config.deny_properties = vec!["@confining".into()]).is_err());
        for right in
            ["User", "*", "Log*", "Listen*", "ListenStream", "NotifyAccess", "SocketMode", "PrivatePIDs"]
        {
            assert_eq!(resolve(&|config| config.deny_properties = vec![right.into()]), Ok(()), "{right}");
        }
    }

    #[test]
    fn capabilities_and_users_have_bounds() {
        let usual = policy(|config| config.denied_host_uids = "0,1000-1999".into());
        assert!(usual.capabilities("cap_add", &["net_bind_service".into()]).is_ok());
        assert!(
            usual
                .capabilities("cap_add", &["CAP_SYS_ADMIN".into()])
                .unwrap_err()
                .to_string()
                .contains("`allow_caps`")
        );
        assert!(
            usual.capabilities("cap_add", &["flying".into()]).unwrap_err().to_string().contains("flying")
        );
        assert!(usual.check_user("user", "root", 0).is_err() && usual.check_user("user", "web", 33).is_ok());
        assert!(usual.check_group("user", "web", 0).is_ok());
        let groups = policy(|config| config.denied_host_gids = "0".into());
        assert!(
            groups.check_group("user", "web", 0).is_err() && groups.check_group("user", "web", 33).is_ok()
        );
    }
}
