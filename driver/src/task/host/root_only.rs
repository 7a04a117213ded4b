//! What of the operating system root alone may read, such as `/etc/shadow`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is so on the usual systems, there or not.
const USUAL: &[&str] = &[
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/security/opasswd",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/pki/tls/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/krb5.keytab",
    "/etc/crypttab",
    "/etc/cryptsetup-keys.d",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/etc/NetworkManager",
    "/etc/wireguard",
    "/etc/ppp",
    // By which root speaks with the resolver about more than its own questions.
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
];
/// How deep the operating system's configuration is searched for more.
const DEPTH: usize = 8;
/// For how many paths.
const MOST: usize = 512;

/// What root alone may read below these paths of the host.
pub(super) fn of(host_paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = USUAL.iter().map(PathBuf::from).collect();
    // Programs and libraries are for all.
    let is_of_programs = |path: &Path| ["/usr", "/bin", "/sbin"].iter().any(|of| path.starts_with(of));
    for path in host_paths.iter().filter(|path| !is_of_programs(path) && !path.starts_with("/lib")) {
        search(path, DEPTH, &mut found);
    }
    found
}

fn search(path: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let path = entry.path();
        let needed = if metadata.is_dir() { 0o005 } else { 0o004 };
        if metadata.is_symlink() || found.len() >= MOST {
            continue;
        }
        if metadata.permissions().mode() & needed != needed {
            found.push(path);
        } else if metadata.is_dir() && depth > 0 {
            search(&path, depth - 1, found);
        }
    }
}
