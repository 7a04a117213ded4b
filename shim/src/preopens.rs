//! Opens the directories of a guest: each one once per process, by a path without symbolic links.
//!
//! A guest may rename the content of a writable directory, and put a symbolic link in its place. A granted directory in
//! there would be another one for whoever opens its path again: at the next start, or for the next instance of a
//! server. So no link on the way to a granted directory is followed, wherever the link is and whoever created it.
//! Instances share the descriptors that were opened at the start.

use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use shim_interface::Directory;
use std::path::{Component, Path, PathBuf};
use wasmtime::error::Context as _;
use wasmtime::{Error, Result, bail};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

/// Open directories, for any number of instances.
pub struct Preopens(WasiFilesystemCtx);

impl Preopens {
    /// Opens `dirs`.
    ///
    /// # Errors
    /// The errors of [`open`].
    pub fn open(dirs: &[Directory]) -> Result<Self> {
        let mut wasi = WasiCtx::builder();
        open(dirs, &mut wasi)?;
        Ok(Self(wasi.build().filesystem().clone()))
    }

    /// Gives these directories, and no others, to the instance of `wasi`.
    pub fn give_to(&self, wasi: &mut WasiCtx) {
        *wasi.filesystem() = self.0.clone();
    }
}

/// Opens `dirs` for the one instance of `wasi`.
///
/// # Errors
/// When one of them does not exist, is not a directory, is not readable, or its path contains a symbolic link; the
/// message names the option.
pub fn open(dirs: &[Directory], wasi: &mut WasiCtxBuilder) -> Result<()> {
    for dir in dirs {
        let permissions = if dir.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        let granted = || format!("--dir (in a job `wasm.dirs`): open directory `{}` for the guest", dir.host);
        let opened = open_without_links(Path::new(&dir.host)).with_context(granted)?;
        check_file_system(&opened).with_context(granted)?;
        // wasmtime only accepts paths. This path leads to `opened`, whatever has happened to the directory's path
        // since.
        let same = format!("/proc/self/fd/{}", opened.as_raw_fd());
        wasi.preopened_dir(same, &dir.guest, permissions).with_context(granted)?;
    }
    if let Some(name) = working_directory(dirs) {
        wasi.initial_cwd(name);
    }
    Ok(())
}

/// The absolute name of the directory that was granted as `.`, which is the base of relative paths.
fn working_directory(dirs: &[Directory]) -> Option<String> {
    let here = Path::new(&dirs.iter().find(|dir| dir.guest == ".")?.host);
    let named = dirs.iter().filter(|dir| dir.guest.starts_with('/')).filter_map(|dir| {
        let rest = here.strip_prefix(&dir.host).ok()?;
        Some((dir.host.len(), Path::new(&dir.guest).join(rest)))
    });
    let (_, name) = named.max_by_key(|(length, _)| *length)?;
    Some(name.to_str()?.trim_end_matches('/').to_owned()).filter(|name| !name.is_empty())
}

/// Rejects /proc: through it, a guest could change the memory of this process and read its environment.
fn check_file_system(directory: &OwnedFd) -> Result<()> {
    let file_system = rustix::fs::fstatfs(directory)?.f_type;
    if file_system == rustix::fs::PROC_SUPER_MAGIC {
        bail!("it is in /proc, where a guest could change the process that runs it; grant another directory");
    }
    Ok(())
}

fn open_without_links(path: &Path) -> Result<OwnedFd> {
    let mut parts = path.components().skip_while(|part| !matches!(part, Component::Normal(_)));
    // A parent directory changes when a guest moves the directory.
    if parts.any(|part| part == Component::ParentDir) {
        bail!("a path with `..` after a name is not accepted; write the path without `..`");
    }
    walk(path).map_err(|error| {
        // For the kernel, a link that is not followed is not a directory.
        match link_in(path).filter(|_| matches!(error, Errno::LOOP | Errno::NOTDIR)) {
            Some(link) => Error::msg(format!(
                "`{}` is a symbolic link, and links to granted directories are not followed; name the directory that \
                 it leads to, if it is to be granted",
                link.display()
            )),
            None => std::io::Error::from(error).into(),
        }
    })
}

/// Opens one part of the path after the other, each without following a link. A single openat2(2) could do this, but
/// systemd denies that call to units that may not create set-user-ID files, since no filter can inspect its flags.
fn walk(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = openat(CWD, if path.is_absolute() { "/" } else { "." }, flags, Mode::empty())?;
    for part in path.components() {
        if let Component::Normal(_) | Component::ParentDir = part {
            directory = openat(&directory, part.as_os_str(), flags, Mode::empty())?;
        }
    }
    Ok(directory)
}

/// The first symbolic link in `path`.
fn link_in(path: &Path) -> Option<PathBuf> {
    let mut prefix = PathBuf::new();
    path.components().find_map(|part| {
        prefix.push(part);
        prefix.is_symlink().then(|| prefix.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn refusal(path: &Path) -> String {
        format!("{:#}", open_without_links(path).unwrap_err())
    }

    #[test]
    fn a_link_anywhere_in_the_path_is_refused_and_named() {
        let root = tempfile::tempdir().unwrap();
        // The system's directory for temporary files may lie behind a link.
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("real/inner")).unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("/proc/self", root.join("real/process")).unwrap();
        symlink("absent", root.join("dangling")).unwrap();
        for (path, link) in [
            ("link", "link"),
            ("link/", "link"),
            ("link/.", "link"),
            ("link/inner", "link"),
            ("real/process", "real/process"),
            ("real/process/cwd", "real/process"),
            ("dangling", "dangling"),
        ] {
            let link = root.join(link);
            let refusal = refusal(&root.join(path));
            assert!(
                refusal.contains(&format!("`{}` is a symbolic link", link.display())),
                "{path}: {refusal}"
            );
        }
        assert!(refusal(Path::new("/proc/self/cwd")).contains("`/proc/self` is a symbolic link"));
        let magic = format!("/proc/{}/cwd", std::process::id());
        assert!(refusal(Path::new(&magic)).contains("is a symbolic link"), "also one of the kernel's");
        for path in ["real/inner", "real/inner/", "./real/./inner", "real//inner"] {
            assert!(open_without_links(&root.join(path)).is_ok(), "{path}");
        }
    }

    #[test]
    fn only_directories_by_paths_that_only_go_down_are_opened() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert!(refusal(&root.join("file")).contains("Not a directory"));
        assert!(refusal(&root.join("absent")).contains("No such file or directory"));
        assert!(refusal(&root.join("real/../real")).contains("write the path without `..`"));
        assert!(refusal(Path::new("a/..")).contains("write the path without `..`"));
        for path in [".", "..", "../..", "./..", "/", "/.."] {
            assert!(open_without_links(Path::new(path)).is_ok(), "{path}");
        }
    }
}
