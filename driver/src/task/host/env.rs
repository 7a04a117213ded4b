//! Passes a task its environment so that nobody else can read it.
//!
//! A unit's `Environment=` can be read by every user of the machine, over D-Bus and in the unit file. So the
//! environment is written to a file that only root can read. systemd reads the file when it starts the task, and then
//! the file is removed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::NamedTempFile;

use crate::task::host::drivers;

/// Maximum length of an argument and of a `NAME=value`, in bytes: 32 pages including the zero byte at the end.
pub const STRING_MAX: usize = 32 * 4096 - 1;

/// Maximum number of variables. systemd merges them in a time that grows with the square of their number: 20,000 hold
/// PID 1 for three seconds, 60,000 for half a minute (seen on 252 and 257).
const VARIABLES_MAX: usize = 2048;

/// Maximum size of all variables, in bytes. The kernel takes a quarter of the stack's usual limit of 8 MiB, arguments
/// included (execve(2)); a larger environment costs systemd seconds and memory before the kernel refuses it.
const TOTAL_MAX: usize = 2 << 20;

/// Why an environment cannot be passed to a task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process can have a variable with this name.
    #[error("`env`: `{name}` cannot be the name of a variable: it is empty, or holds `=` or a NUL byte")]
    Name {
        /// The variable.
        name: String,
    },
    /// No process can have a variable with this value.
    #[error("`env`: the value of `{name}` holds a NUL byte")]
    Nul {
        /// The variable.
        name: String,
    },
    /// The variable exceeds the kernel's limit (execve(2), `MAX_ARG_STRLEN`).
    #[error(
        "`env`: `{name}` is longer than the {STRING_MAX} bytes that the kernel takes, name and value together"
    )]
    TooLong {
        /// The variable.
        name: String,
    },
    /// No program could be executed with this environment.
    #[error(
        "`env`: all variables together are {length} bytes long, with those of Nomad; the limit is {TOTAL_MAX}"
    )]
    TooMuch {
        /// Length of all names and values.
        length: usize,
    },
    /// systemd would take too long to merge the variables.
    #[error("`env`: there are {count} variables, with those of Nomad; the limit is {VARIABLES_MAX}")]
    TooMany {
        /// Number of variables.
        count: usize,
    },
    /// The file cannot be written.
    #[error("write the task's environment to {directory}")]
    Write {
        /// The directory.
        directory: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Can a process have a variable with this name?
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// Does systemd pass on a variable with this name? It drops others and logs that.
fn is_passed_on(name: &str) -> bool {
    let first_fits = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    first_fits && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Prefix of the names under which variables are carried that systemd does not pass on, such as
/// `NOMAD_ALLOC_PORT_http-admin`; `None` if there are none. wasm-shim restores their names (its carried.rs).
pub fn carrier(env: &BTreeMap<String, String>) -> Option<String> {
    if env.keys().all(|name| is_passed_on(name)) {
        return None;
    }
    let mut prefix = "NOMAD_DRIVER_CARRIED_".to_owned();
    while env.keys().any(|name| name.starts_with(&prefix)) {
        prefix.push('_');
    }
    Some(prefix)
}

/// The variables, all under names that systemd passes on.
pub fn carried(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let prefix = carrier(env).unwrap_or_default();
    let carry = |(index, (name, value)): (usize, (&String, &String))| {
        if is_passed_on(name) {
            return (name.clone(), value.clone());
        }
        (format!("{prefix}{index}"), format!("{name}={value}"))
    };
    env.iter().enumerate().map(carry).collect()
}

/// The variables of a task and of commands in it: those that Nomad has `sent`, without those that the operator denies.
///
/// An ephemeral user has its task's `local/` as home, unless the job sets another: systemd has none for it, and many
/// programs fail without.
pub fn of_task(
    sent: &BTreeMap<String, String>,
    is_denied: impl Fn(&str) -> bool,
    is_ephemeral: bool,
) -> BTreeMap<String, String> {
    let kept = sent.iter().filter(|(name, _)| !is_denied(name));
    let mut env: BTreeMap<_, _> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(local) = sent.get("NOMAD_TASK_DIR").filter(|_| is_ephemeral) {
        env.entry("HOME".to_owned()).or_insert_with(|| local.clone());
    }
    env
}

/// Can a task have these variables?
pub fn check(env: &BTreeMap<String, String>) -> Result<(), Error> {
    if env.len() > VARIABLES_MAX {
        return Err(Error::TooMany { count: env.len() });
    }
    for (name, value) in env {
        if !is_name(name) {
            return Err(Error::Name { name: name.clone() });
        }
        if value.contains('\0') {
            return Err(Error::Nul { name: name.clone() });
        }
    }
    // A variable that is carried under another name is longer by the prefix.
    let prefix = carrier(env).unwrap_or_default().len() + VARIABLES_MAX.to_string().len() + "=".len();
    let length = |name: &str, value: &str| {
        let carried = if is_passed_on(name) { 0 } else { prefix };
        carried + name.len() + "=".len() + value.len()
    };
    if let Some((name, _)) = env.iter().find(|(name, value)| length(name, value) > STRING_MAX) {
        return Err(Error::TooLong { name: name.clone() });
    }
    let length = env.iter().map(|(name, value)| length(name, value)).sum();
    if length > TOTAL_MAX { Err(Error::TooMuch { length }) } else { Ok(()) }
}

/// Writes the environment for systemd to read. The file is removed when the returned value is dropped.
pub fn write(env: &BTreeMap<String, String>, runtime_dir: &Path) -> Result<NamedTempFile, Error> {
    let directory = runtime_dir.join("env");
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        SWEPT.call_once(|| sweep(&directory));
        // Created with mode 0600. systemd reads the name as a pattern, so it contains no special characters.
        let prefix = format!("{}-", std::process::id());
        let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(&directory)?;
        file.write_all(content(&carried(env)).as_bytes())?;
        Ok(file)
    };
    write().map_err(|source| Error::Write { directory: directory.clone(), source })
}

static SWEPT: Once = Once::new();

/// Removes files left by drivers that were killed while they started a task: their processes no longer exist.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        if !drivers::is_alive(process) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// One quoted assignment per line; in quotes systemd takes a backslash before `"`, `\`, `` ` `` and `$`
/// (systemd.exec(5), "EnvironmentFile=").
fn content(env: &BTreeMap<String, String>) -> String {
    let mut content = String::new();
    for (name, value) in env {
        content.push_str(name);
        content.push_str("=\"");
        for letter in value.chars() {
            if matches!(letter, '"' | '\\' | '`' | '$') {
                content.push('\\');
            }
            content.push(letter);
        }
        content.push_str("\"\n");
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn what_has_a_meaning_in_quotes_is_escaped_and_nothing_else() {
        let content = content(&env("A", "a\"b\\c`d$e\n%f 'g' #h\té"));
        assert_eq!(content, "A=\"a\\\"b\\\\c\\`d\\$e\n%f 'g' #h\té\"\n");
    }

    #[test]
    fn what_no_program_could_be_executed_with_is_refused() {
        let many = |count: usize| (0..count).map(|n| (format!("A{n}"), "x".repeat(100_000))).collect();
        assert!(check(&many(20)).is_ok());
        assert!(matches!(check(&many(21)), Err(Error::TooMuch { .. })));
    }

    #[test]
    fn names_that_no_process_can_have_are_refused() {
        for name in ["", "A=B", "A\0"] {
            assert!(matches!(check(&env(name, "x")), Err(Error::Name { .. })), "{name}");
        }
        assert!(matches!(check(&env("A", "x\0")), Err(Error::Nul { .. })));
        assert!(check(&env("_a1", "")).is_ok());
    }

    #[test]
    fn variables_whose_names_systemd_drops_are_carried_under_others() {
        assert_eq!((carrier(&env("A", "x")), carried(&env("A", "x"))), (None, env("A", "x")));
        for name in ["A.B", "A-B", "1A", "A B", "É"] {
            let expected = env("NOMAD_DRIVER_CARRIED_0", &format!("{name}=x"));
            assert_eq!(carried(&env(name, "x")), expected);
        }
        let mut both = env("A-B", "x");
        both.insert("NOMAD_DRIVER_CARRIED_0".to_owned(), "a job's own".to_owned());
        assert_eq!(carrier(&both).as_deref(), Some("NOMAD_DRIVER_CARRIED__"));
        assert_eq!(carried(&both)["NOMAD_DRIVER_CARRIED_0"], "a job's own");
        assert_eq!(carried(&both)["NOMAD_DRIVER_CARRIED__0"], "A-B=x");
    }
}
