//! Hands a task its environment without anybody else reading it.
//!
//! What is given as a unit's `Environment=` can be read by every user of the machine, over the bus and in the unit's
//! file. So it goes into a file that only root can read, which systemd takes in when it starts the task and which is
//! gone as soon as it has.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::NamedTempFile;

/// The longest argument, and the longest `NAME=value`, in bytes: 32 pages with the zero byte at the end.
pub const STRING_MAX: usize = 32 * 4096 - 1;

/// The most variables. systemd merges them in a time that grows with the square of their number: 20,000 hold PID 1 for
/// three seconds, 60,000 for half a minute (seen on 252 and 257).
const VARIABLES_MAX: usize = 2048;

/// Why an environment cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// systemd would drop such a variable without a word.
    #[error(
        "`env`: the variable name `{name}` has characters other than letters, digits and `_`, or begins with a digit"
    )]
    Name {
        /// The variable.
        name: String,
    },
    /// No process can have such a variable.
    #[error("`env`: the value of `{name}` holds a NUL byte")]
    Nul {
        /// The variable.
        name: String,
    },
    /// The kernel takes no single variable that long (execve(2), `MAX_ARG_STRLEN`).
    #[error(
        "`env`: `{name}` is longer than the {STRING_MAX} bytes that the kernel takes, name and value together"
    )]
    TooLong {
        /// The variable.
        name: String,
    },
    /// systemd would be busy with them alone.
    #[error("`env`: there are {count} variables, with those of Nomad; the limit is {VARIABLES_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The file cannot be written.
    #[error("write the task's environment to {directory}")]
    Write {
        /// Where.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Is this a name that systemd gives to a process?
pub fn is_name(name: &str) -> bool {
    let first_fits = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    first_fits && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Gives an ephemeral user its task's `local/` as home, unless the job names another: systemd knows of none, and many
/// programs fail without.
pub fn give_home(env: &mut BTreeMap<String, String>) {
    if let Some(local) = env.get("NOMAD_TASK_DIR").cloned() {
        env.entry("HOME".to_owned()).or_insert(local);
    }
}

/// Are these variables that a task can have?
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
        if name.len() + "=".len() + value.len() > STRING_MAX {
            return Err(Error::TooLong { name: name.clone() });
        }
    }
    Ok(())
}

/// Writes the environment for systemd to read; the file goes away with the value returned.
pub fn write(env: &BTreeMap<String, String>, runtime_dir: &Path) -> Result<NamedTempFile, Error> {
    let directory = runtime_dir.join("env");
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        SWEPT.call_once(|| sweep(&directory));
        // Made with mode 0600. systemd reads the name as a pattern, so it holds nothing that means something there.
        let prefix = format!("{}-", std::process::id());
        let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(&directory)?;
        file.write_all(content(env).as_bytes())?;
        Ok(file)
    };
    write().map_err(|source| Error::Write { directory: directory.clone(), source })
}

static SWEPT: Once = Once::new();

/// Removes what drivers left that were killed while they started a task: files of processes that are no more.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        if !Path::new("/proc").join(process).join("stat").exists() {
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
    fn names_that_systemd_would_drop_are_refused() {
        for name in ["", "A.B", "A-B", "1A", "A B", "É"] {
            assert!(matches!(check(&env(name, "x")), Err(Error::Name { .. })), "{name}");
        }
        assert!(matches!(check(&env("A", "x\0")), Err(Error::Nul { .. })));
        assert!(check(&env("_a1", "")).is_ok());
    }
}
