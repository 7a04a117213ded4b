//! Files of the operating system that only root may read, such as `/etc/shadow`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Such paths on the usual systems, whether they exist or not.
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
    // By which root monitors all queries to the resolver, and not only its own.
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
];
/// Maximum depth to which the operating system's configuration is searched for more.
const DEPTH: usize = 8;
/// Maximum number of paths.
const MOST: usize = 512;

/// Files below these host paths that only root may read.
pub(super) fn of(host_paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = USUAL.iter().map(PathBuf::from).collect();
    // Programs and libraries are readable by all.
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
