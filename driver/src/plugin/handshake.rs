//! How a go-plugin host and its plugin recognise each other: two environment variables and one line on stdout.
//!
//! Facts from go-plugin v1.8.0 (`client.go`, `server.go`) and Nomad v2.0.5 (`plugins/base/plugin.go`).

use std::env;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The variable and the value that tell a process that Nomad started it.
pub const COOKIE: (&str, &str) =
    ("NOMAD_PLUGIN_MAGIC_COOKIE", "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255");
/// The version of go-plugin's own protocol, and that of Nomad's plugins on top of it.
const CORE_VERSION: u32 = 1;
const APP_VERSION: &str = "2";

/// Why this process cannot serve as a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A person started this process.
    #[error(
        "this is a Nomad task driver: put it into the agent's `plugin_dir` and name it in a `plugin` block of the \
         agent's configuration, and Nomad starts it; to try a job without Nomad use `nomad-driver-systemd run JOB`"
    )]
    NotStartedByNomad,
    /// Nomad speaks another version of the plugin protocol.
    #[error(
        "Nomad speaks the plugin protocols {offered}, this driver speaks {APP_VERSION}; update the older of the two"
    )]
    Version {
        /// The versions that the host offers.
        offered: String,
    },
    /// The host wants an encrypted connection.
    #[error(
        "the host asks for mutual TLS (PLUGIN_CLIENT_CERT), which Nomad never does and this driver cannot"
    )]
    Tls,
    /// The answer cannot be written.
    #[error("write the handshake to stdout")]
    Write {
        /// The kernel's error.
        source: io::Error,
    },
}

/// What the host requests.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The directory for the socket, if the host names one.
    pub socket_dir: Option<PathBuf>,
    /// Whether the host understands a seventh field in the answer.
    multiplex: bool,
}

impl Terms {
    /// Reads the host's requests from the environment.
    pub fn from_env() -> Result<Self, Error> {
        let (name, value) = COOKIE;
        if env::var(name).as_deref() != Ok(value) {
            return Err(Error::NotStartedByNomad);
        }
        if let Ok(offered) = env::var("PLUGIN_PROTOCOL_VERSIONS")
            && !offered.split(',').any(|version| version.trim() == APP_VERSION)
        {
            return Err(Error::Version { offered });
        }
        if env::var_os("PLUGIN_CLIENT_CERT").is_some_and(|certificate| !certificate.is_empty()) {
            return Err(Error::Tls);
        }
        Ok(Self {
            socket_dir: env::var_os("PLUGIN_UNIX_SOCKET_DIR")
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from),
            multiplex: env::var_os("PLUGIN_MULTIPLEX_GRPC").is_some(),
        })
    }

    /// Tells the host where the driver listens, and then gives up stdout. After this line the host stops reading stdout
    /// at the first mistake, and a process that then writes to it hangs.
    pub fn answer(&self, socket: &Path) -> Result<(), Error> {
        let line = self.line(socket);
        let write = || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(line.as_bytes())?;
            stdout.flush()?;
            let null = OwnedFd::from(std::fs::OpenOptions::new().write(true).open("/dev/null")?);
            rustix::stdio::dup2_stdout(null)?;
            Ok(())
        };
        write().map_err(|source| Error::Write { source })
    }

    fn line(&self, socket: &Path) -> String {
        // The empty sixth field is the server's certificate.
        let multiplex = if self.multiplex { "|false" } else { "" };
        format!("{CORE_VERSION}|{APP_VERSION}|unix|{}|grpc|{multiplex}\n", socket.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_fields_that_the_host_takes_apart() {
        let terms = Terms { socket_dir: None, multiplex: false };
        assert_eq!(terms.line(Path::new("/tmp/x/sock")), "1|2|unix|/tmp/x/sock|grpc|\n");
        let terms = Terms { multiplex: true, ..terms };
        assert_eq!(terms.line(Path::new("/tmp/x/sock")), "1|2|unix|/tmp/x/sock|grpc||false\n");
    }
}
