//! What one run of a task needs on the host in addition to its allocation: a root of its own, files of its own in
//! `/etc`, copies of its credentials.
//!
//! ```text
//!  <runtime directory>/tasks/<unit>/root/…          mount points, when there are more than everybody's
//!                                   etc/hosts       and resolv.conf
//!                                   points/…        mount points that the host's directories lack
//!                                   credentials/…   until the task has started
//!                                   maker           the number of the driver's process
//! ```
//!
//! Created only for a task that needs one of them, and removed with its unit.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::systemd::UnitName;
use crate::task::host::{drivers, users};

/// Where nss-systemd(8) looks for users that exist until the next boot.
const USERS: &str = "/run/userdb";

/// Nomad's name for a dynamic user (Nomad v2.0.5, helper/users/dynamic).
pub(crate) fn user_name(number: u32) -> String {
    format!("nomad-{number}")
}

/// The directory of one run.
#[derive(Debug, Clone)]
pub(crate) struct TaskRuntimeDir(PathBuf);

impl TaskRuntimeDir {
    /// The directory for the run of this unit.
    pub(crate) fn of(runtime_dir: &Path, unit: &UnitName) -> Self {
        Self(all(runtime_dir).join(unit.as_str()))
    }

    /// The root of the task's view.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Path of a file of the task's own in `/etc`: on the host, and in the view.
    pub(crate) fn etc_path(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.0.join("etc").join(name), Path::new("/etc").join(name))
    }

    /// Path of the copy of a credential.
    pub(crate) fn credential_path(&self, name: &str) -> PathBuf {
        self.0.join("credentials").join(name)
    }

    /// Creates the directory.
    pub(crate) fn make(&self) -> io::Result<()> {
        self.directory("", 0o755)
    }

    /// Writes files of the task's own in `/etc`, and returns their paths.
    pub(crate) fn etc(&self, files: &BTreeMap<&'static str, String>) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        self.directory("etc", 0o755)?;
        let write = |(name, text): (&&'static str, &String)| {
            let (path, target) = self.etc_path(name);
            write(&path, text.as_bytes(), 0o644)?;
            Ok((path, target))
        };
        files.iter().map(write).collect()
    }

    /// Writes a credential to a file that only the driver and systemd can read.
    pub(crate) fn credential(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        self.directory("credentials", 0o700)?;
        let path = self.credential_path(name);
        write(&path, content, 0o600)?;
        Ok(path)
    }

    /// Creates mount points, each a directory or a file, in a directory that is laid over one of the host's; returns
    /// its path. A directory that also exists on the host must not be more accessible there than on the host.
    pub(crate) fn points(&self, host_path: &Path, points: &[(PathBuf, bool)]) -> io::Result<PathBuf> {
        let name = host_path.strip_prefix("/").unwrap_or(host_path);
        self.directory("points", 0o755)?;
        let above = self.0.join("points").join(name);
        let inside = |path: &Path| path.strip_prefix(host_path).map(|path| above.join(path));
        for (point, is_directory) in points {
            let mut way: Vec<&Path> =
                point.ancestors().take_while(|way| way.starts_with(host_path)).collect();
            // The mount point itself comes last, and is a file or a directory like its source.
            way.reverse();
            for part in way {
                let above_it = inside(part).map_err(io::Error::other)?;
                if part == point && !is_directory {
                    fs::OpenOptions::new().create(true).append(true).mode(0o644).open(&above_it)?;
                } else {
                    fs::DirBuilder::new().recursive(true).create(&above_it)?;
                }
                let (uid, gid, mode) = match fs::symlink_metadata(part) {
                    Ok(host) => (host.uid(), host.gid(), host.mode() & 0o7777),
                    Err(_) if part == point && !is_directory => (0, 0, 0o644),
                    Err(_) => (0, 0, 0o755),
                };
                chown(&above_it, Some(uid), Some(gid))?;
                fs::set_permissions(&above_it, fs::Permissions::from_mode(mode))?;
            }
        }
        Ok(above)
    }

    /// Registers a dynamic user of Nomad with the host, for as long as the task lives: systemd does not know a UID that
    /// belongs to nobody. (A user record, <https://systemd.io/USER_RECORD>, where nss-systemd(8) looks for it.)
    pub(crate) fn register_user(&self, number: u32) -> io::Result<()> {
        let taken = || {
            io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("UID {number} already belongs to another user"),
            )
        };
        if users::find(&number.to_string()).is_some_and(|user| user.name != user_name(number))
            || self.others_have(number)
        {
            return Err(taken());
        }
        self.make()?;
        let name = user_name(number);
        write(&self.0.join("user"), number.to_string().as_bytes(), 0o644)?;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(USERS)?;
        let user = format!(
            "{{\"userName\":\"{name}\",\"uid\":{number},\"gid\":{number},\"disposition\":\"dynamic\",\
             \"homeDirectory\":\"/nonexistent\",\"shell\":\"/usr/sbin/nologin\"}}\n"
        );
        let group = format!("{{\"groupName\":\"{name}\",\"gid\":{number},\"disposition\":\"dynamic\"}}\n");
        for (kind, text) in [("user", user), ("group", group)] {
            write(&Path::new(USERS).join(format!("{name}.{kind}")), text.as_bytes(), 0o644)?;
            let by_number = Path::new(USERS).join(format!("{number}.{kind}"));
            let _ = fs::remove_file(&by_number);
            symlink(format!("{name}.{kind}"), by_number)?;
        }
        Ok(())
    }

    /// Removes the copies of credentials, which systemd has read by now.
    pub(crate) fn remove_credentials(&self) {
        let _ = fs::remove_dir_all(self.0.join("credentials"));
    }

    /// Removes everything. The root contains nothing but mount points: what was mounted on them was mounted in the
    /// task's own namespace, which is gone.
    pub(crate) fn remove(&self) {
        let number = fs::read_to_string(self.0.join("user")).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number.filter(|number| !self.others_have(*number)) {
            for name in [user_name(number), number.to_string()] {
                for kind in ["user", "group"] {
                    let _ = fs::remove_file(Path::new(USERS).join(format!("{name}.{kind}")));
                }
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a task's directory could not be removed");
        }
    }

    fn directory(&self, name: &str, mode: u32) -> io::Result<()> {
        let builder = |mode| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(mode);
            builder
        };
        builder(0o755).create(&self.0)?;
        fs::write(self.0.join(MAKER), std::process::id().to_string())?;
        builder(mode).create(self.0.join(name))
    }

    /// Does another task of this machine run as the user with this UID?
    fn others_have(&self, number: u32) -> bool {
        let places = self.0.parent().map(fs::read_dir).and_then(Result::ok).into_iter().flatten().flatten();
        places.filter(|place| place.path() != self.0).any(|place| {
            let user = fs::read_to_string(place.path().join("user"));
            user.is_ok_and(|user| user == number.to_string())
        })
    }

    /// Was the directory created by another driver that is running? It may be about to start the unit.
    fn is_somebody_elses(&self) -> bool {
        let maker = fs::read_to_string(self.0.join(MAKER)).unwrap_or_default();
        let ours = std::process::id().to_string();
        maker != ours && drivers::is_alive(&maker)
    }
}

/// In the directory of a run, the file with the PID of the driver that created it.
const MAKER: &str = "maker";

/// Removes what killed drivers left: the directories of units that no longer exist.
pub(crate) fn sweep(runtime_dir: &Path, units: &HashSet<&str>) {
    for entry in fs::read_dir(all(runtime_dir)).into_iter().flatten().flatten() {
        let place = TaskRuntimeDir(entry.path());
        if entry.file_name().to_str().is_none_or(|unit| !units.contains(unit)) && !place.is_somebody_elses() {
            place.remove();
        }
    }
}

fn all(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("tasks")
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // An interrupted start of this same run may have left it.
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_what_it_is_given_and_goes_as_a_whole() {
        let runtime_dir = tempfile::tempdir().unwrap();
        let unit = UnitName::known("nomad-a-web-0.service");
        let place = TaskRuntimeDir::of(runtime_dir.path(), &unit);
        place.remove();
        let secret = place.credential("token", b"s3cret").unwrap();
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        let files = place.etc(&BTreeMap::from([("hosts", "127.0.0.1 localhost\n".to_owned())])).unwrap();
        assert_eq!(files[0].1, Path::new("/etc/hosts"));
        place.etc(&BTreeMap::from([("hosts", "again".to_owned())])).unwrap();
        assert_eq!(fs::read_to_string(&files[0].0).unwrap(), "again");
        place.remove_credentials();
        assert!(!secret.exists() && files[0].0.exists());
        sweep(runtime_dir.path(), &HashSet::from([unit.as_str()]));
        assert!(files[0].0.exists());
        // Another driver of this runtime directory is about to start the unit.
        fs::write(place.0.join(MAKER), "1").unwrap();
        sweep(runtime_dir.path(), &HashSet::new());
        assert!(files[0].0.exists());
        fs::write(place.0.join(MAKER), "4194305").unwrap();
        sweep(runtime_dir.path(), &HashSet::new());
        assert!(!files[0].0.exists());
    }
}
