//! Everything that a job sets under systemd's names, checked.
//!
//! ```text
//!  options of the blocks ─┐
//!  ulimit, groups, …      ├─► assignments ─► are they allowed? ─► `effective.rs`
//!  properties ────────────┘                  (policy, node)
//! ```

use crate::systemd::{self, Assignment, Features, Paths};
use crate::task::config::options::Setting;
use crate::task::config::{DriverConfig, Notify};
use crate::task::host::view::View;
use crate::task::refusal::Error;
use crate::task::sandbox::policy::Policy;

/// An assignment of a job: the option, the property and the text.
type OptionLine<'a> = (String, &'a str, String);

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
        reason: format!("`{name}` is not a resource limit; the resource limits are {}", known.join(", ")),
    })
}

/// Everything that the job sets under systemd's names, in the order in which it is applied.
pub(crate) fn requested(
    driver: &DriverConfig,
    view: &View,
    policy: &Policy,
    features: &Features,
) -> Result<Vec<(String, Assignment)>, Error> {
    check_blocks_of_their_own(driver, policy)?;
    let limits: Vec<String> = driver.ulimit.keys().map(|name| limit_of(name)).collect::<Result<_, _>>()?;
    let mut lines = of_blocks(driver, view);
    for ((name, value), property) in driver.ulimit.iter().zip(&limits) {
        lines.push((format!("ulimit.{name}"), property, value.clone()));
    }
    lines.extend(driver.group.iter().map(|group| ("group".to_owned(), "Group", group.clone())));
    let groups = driver.supplementary_groups.iter();
    lines.extend(
        groups.map(|group| ("supplementary_groups".to_owned(), "SupplementaryGroups", group.clone())),
    );
    if let Some(name) = &driver.hostname {
        lines.push(("hostname".to_owned(), "ProtectHostname", format!("private:{name}")));
    }
    lines.extend(of_properties(driver)?);
    let parse = |(option, property, text): OptionLine<'_>| {
        let parsed = Assignment::parse(property, &text);
        let assignment = parsed.map_err(|source| Error::Property { option: option.clone(), source })?;
        check_absolute(&option, &assignment)?;
        Ok((option, assignment))
    };
    let assignments = lines.into_iter().map(parse).collect::<Result<Vec<_>, Error>>()?;
    // The operator's policy is checked before the features of the node.
    for (option, assignment) in &assignments {
        // Groups have rules of their own (`identity::check_groups`).
        if !["Group", "SupplementaryGroups"].contains(&assignment.name()) {
            policy.check(option, assignment)?;
        }
    }
    for (option, assignment) in &assignments {
        features.check(assignment).map_err(|reason| Error::Node { option: option.clone(), reason })?;
        let known = features.check_names(assignment);
        known.map_err(|reason| Error::Refused { option: option.clone(), reason })?;
    }
    Ok(assignments)
}

/// The assignments of the blocks whose options each stand for a property.
fn of_blocks<'a>(driver: &'a DriverConfig, view: &View) -> Vec<OptionLine<'a>> {
    let blocks: [(&str, &[Setting]); 4] = [
        ("sandbox", driver.sandbox.as_ref().map_or(&[], |block| &block.0)),
        ("limits", driver.limits.as_ref().map_or(&[], |block| &block.0)),
        ("files", driver.files.as_ref().map_or(&[], |block| &block.0)),
        ("network", driver.network.as_ref().map_or(&[], |block| &block.0)),
    ];
    let mut lines = Vec::new();
    for (block, settings) in blocks {
        for setting in settings {
            let Some(property) = setting.option.property else { continue };
            let option = format!("{block}.{}", setting.option.name);
            let texts = texts(property, setting, view);
            lines.extend(texts.into_iter().map(|text| (option.clone(), property, text)));
        }
    }
    lines
}

/// The assignments of the `properties` block. Each line is an assignment; a value without lines is an empty one.
fn of_properties(driver: &DriverConfig) -> Result<Vec<OptionLine<'_>>, Error> {
    let mut given = Vec::new();
    for (name, value) in &driver.properties {
        if name == "WatchdogSec" {
            // systemd accepts messages of a task with a watchdog (`NotifyAccess=main`), whoever else is to decide that.
            return Err(Error::Refused {
                option: format!("properties.{name}"),
                reason: "systemd would take messages from the task: write a `notify` block with a `watchdog`"
                    .to_owned(),
            });
        }
        let lines =
            value.split('\n').map(str::trim).filter(|line| !line.is_empty() || value.trim().is_empty());
        given.extend(lines.map(|line| (format!("properties.{name}"), name.as_str(), line.to_owned())));
    }
    Ok(given)
}

/// May the job set what its `logging` and `notify` blocks set? Their properties are built elsewhere (`Output`).
fn check_blocks_of_their_own(driver: &DriverConfig, policy: &Policy) -> Result<(), Error> {
    let mut lines: Vec<(&str, &str, String)> = Vec::new();
    if let Some(logging) = &driver.logging {
        let burst = logging.rate_limit_burst.map(|burst| burst.to_string());
        lines.extend(burst.map(|text| ("logging.rate_limit_burst", "LogRateLimitBurst", text)));
        let interval = logging.rate_limit_interval.clone();
        lines.extend(interval.map(|text| ("logging.rate_limit_interval", "LogRateLimitIntervalSec", text)));
        lines.extend(logging.namespace.clone().map(|text| ("logging.namespace", "LogNamespace", text)));
    }
    if let Some(Notify { watchdog: Some(time), .. }) = &driver.notify {
        lines.push(("notify.watchdog", "WatchdogSec", time.clone()));
    }
    for (option, property, text) in lines {
        // A text that is not a valid value has an error of its own, where the property is built.
        if let Ok(assignment) = Assignment::parse(property, &text) {
            policy.check(option, &assignment)?;
        }
    }
    Ok(())
}

/// systemd would refuse a relative path without naming the option.
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

/// The values of an option as systemd reads them, one for each assignment.
fn texts(property: &'static str, setting: &Setting, view: &View) -> Vec<String> {
    let Some(known) = systemd::property(property) else { return setting.values.clone() };
    // A path that is a host path to systemd is a path of the view to a job.
    let in_view = matches!(view, View::Private { .. }) && known.paths == Paths::View;
    // As in a unit file an element may consist of several words, each of which is a path.
    let path = |word: String| {
        let path = match word.strip_prefix('-') {
            // The path itself states whose it is.
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
        // A value that cannot be parsed is refused with the reason.
        _ => value.clone(),
    };
    let texts: Vec<String> = setting.values.iter().map(text).collect();
    if !known.is_set() {
        return texts;
    }
    // A set is one value, apart from the empty text that resets earlier values.
    let pieces = texts.split_inclusive(String::is_empty);
    pieces
        .flat_map(|piece| {
            let words = piece.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(" ");
            let nothing = piece.last().filter(|word| word.is_empty()).cloned();
            Some(words).filter(|words| !words.is_empty()).into_iter().chain(nothing)
        })
        .collect()
}
