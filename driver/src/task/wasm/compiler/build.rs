//! The installed compiler, and its engine key.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::sync::Mutex;

use super::report::on_one_line;
use super::{Error, REMEMBERED};
use crate::task::wasm::cache::Stamp;

/// A program that compiles with certain flags.
#[derive(Debug)]
pub(super) struct CompilerBuild<'a> {
    pub(super) program: PathBuf,
    /// The stamp of the program when it reported its key.
    pub(super) stamp: Stamp,
    pub(super) flags: &'a [String],
    pub(super) key: String,
}

/// The keys that compilers have reported.
#[derive(Debug, Default)]
pub(super) struct Keys(Mutex<KeysByProgram>);

/// By program and flags: its engine key, and the stamp of the program when it reported the key.
type KeysByProgram = HashMap<(PathBuf, Vec<String>), (Stamp, String)>;

impl Keys {
    /// Asks a compiler for its key, once for each set of flags; and again when another program has the same name, as
    /// after an upgrade.
    pub(super) async fn ask<'a>(
        &self,
        program: PathBuf,
        flags: &'a [String],
    ) -> Result<CompilerBuild<'a>, Error> {
        let error =
            |source: io::Error| Error::EngineKey { program: program.clone(), report: source.to_string() };
        let stamp = Stamp::of(&program).map_err(error)?;
        let mut keys = self.0.lock().await;
        let asked = (program.clone(), flags.to_owned());
        let key = match keys.get(&asked) {
            Some((then, key)) if *then == stamp => key.clone(),
            _ => {
                let key = engine_key(&program, flags).await?;
                if keys.len() >= REMEMBERED {
                    keys.clear();
                }
                keys.insert(asked, (stamp, key.clone()));
                key
            }
        };
        Ok(CompilerBuild { program, stamp, flags, key })
    }
}

async fn engine_key(program: &Path, flags: &[String]) -> Result<String, Error> {
    let error = |report: String| Error::EngineKey { program: program.to_owned(), report };
    let output = tokio::process::Command::new(program)
        .arg("--engine-key")
        .args(flags)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), output)
        .await
        .map_err(|_| error("it did not answer within 30 s".to_owned()))?
        .map_err(|source| error(source.to_string()))?;
    let report = on_one_line(&output.stderr);
    let key = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) if !key.is_empty() && key.chars().all(|digit| digit.is_ascii_hexdigit()) => Ok(key),
        Some(1..) if !flags.is_empty() => Err(Error::Settings { flags: flags.join(" "), report }),
        _ if report.is_empty() => Err(error(format!(
            "it ended without an answer ({}); install the three programs of one release anew",
            output.status
        ))),
        _ => Err(error(report)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A compiler whose key is determined by its text and its flags; each call adds a line to `asked`.
    fn install(directory: &Path, text: &str) {
        let script = format!(
            "#!/bin/sh\n# {text}\ncd {0:?}\necho \"$*\" >>asked\n\
             case $* in *refuse*) echo 'no  such\nproposal' >&2; exit 2;; esac\n\
             {{ cat wasm-shim-compile; echo \"$*\"; }} | sha256sum | head -c 16\n",
            directory.display().to_string()
        );
        // By another process: a file that ours has open for writing cannot be executed.
        let to = directory.join("new");
        let mut writer = std::process::Command::new("/bin/sh")
            .args(["-c", "cat >\"$0\" && chmod 755 \"$0\" && mv \"$0\" \"${0%new}wasm-shim-compile\""])
            .arg(to)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    }

    #[tokio::test]
    async fn the_engine_key_is_asked_once_for_each_way_of_compiling_and_again_after_an_upgrade() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("wasm-shim-compile");
        let keys = Keys::default();
        let flags = |flags: &[&str]| flags.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (plain, epochs) = (flags(&[]), flags(&["-W", "epoch-interruption"]));
        let key = async |flags: &[String]| keys.ask(program.clone(), flags).await.map(|build| build.key);
        let asked = || std::fs::read_to_string(directory.path().join("asked")).unwrap();

        install(directory.path(), "one");
        let (first, second) = (key(&plain).await.unwrap(), key(&epochs).await.unwrap());
        assert!(first.len() == 16 && first != second, "{first} {second}");
        assert_eq!(key(&plain).await.unwrap(), first);
        assert_eq!(key(&epochs).await.unwrap(), second);
        assert_eq!(asked(), "--engine-key\n--engine-key -W epoch-interruption\n");

        install(directory.path(), "two");
        let upgraded = key(&plain).await.unwrap();
        assert_ne!(upgraded, first);
        assert_eq!(key(&plain).await.unwrap(), upgraded);
        assert_eq!(asked().lines().count(), 3);

        let refused = key(&flags(&["-W", "refuse=y"])).await.unwrap_err();
        assert!(!refused.may_pass(), "{refused}");
        let said = refused.to_string();
        assert!(said.contains("`-W refuse=y`") && said.ends_with("no such proposal"), "{said}");
    }
}
