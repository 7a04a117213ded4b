//! Where an artifact comes from, and the checksum that its content should have.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::Reason;

/// Nomad's limit for one download (`http_read_timeout`).
const DEADLINE: Duration = Duration::from_mins(30);

/// Where an artifact is.
#[derive(Debug)]
pub(super) enum Location {
    Web(Url),
    File(PathBuf),
}

impl Location {
    /// Takes `archive`, `checksum` and `filename` out of the query; adds the other options to it.
    pub(super) fn parse(
        source: &str,
        relative_to: &Path,
        options: &mut BTreeMap<String, String>,
    ) -> Result<Self, Reason> {
        const OURS: [&str; 3] = ["archive", "checksum", "filename"];
        if let Some((scheme, _)) = source.split_once("::") {
            return Err(Reason::Scheme { scheme: scheme.to_owned() });
        }
        let mut url = match Url::parse(source) {
            Err(url::ParseError::RelativeUrlWithoutBase) => {
                let directory = std::path::absolute(relative_to).unwrap_or_default();
                let base =
                    Url::from_directory_path(directory).or(Err(url::ParseError::RelativeUrlWithoutBase));
                base.and_then(|base| base.join(source))
            }
            other => other,
        }
        .map_err(|source| Reason::Url { source })?;
        let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let (ours, mut others): (Vec<_>, Vec<_>) =
            query.into_iter().partition(|(key, _)| OURS.contains(&key.as_str()));
        for (key, value) in ours {
            options.entry(key).or_insert(value);
        }
        others.extend(
            options
                .iter()
                .filter(|(key, _)| !OURS.contains(&key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        url.set_query(None);
        if !others.is_empty() {
            url.query_pairs_mut().extend_pairs(others);
        }
        match url.scheme() {
            "http" | "https" => Ok(Self::Web(url)),
            "file" => url
                .to_file_path()
                .map(Self::File)
                .map_err(|()| Reason::Scheme { scheme: "file with a host".to_owned() }),
            other => Err(Reason::Scheme { scheme: other.to_owned() }),
        }
    }

    pub(super) fn path(&self) -> &str {
        match self {
            Self::Web(url) => url.path(),
            Self::File(path) => path.to_str().unwrap_or_default(),
        }
    }

    pub(super) fn file_name(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    /// The content, and whether the file is executable at its source.
    pub(super) fn open(&self, headers: &BTreeMap<String, String>) -> Result<(Box<dyn Read>, bool), Reason> {
        match self {
            Self::File(path) => {
                let read = |source| Reason::Read { path: path.clone(), source };
                let metadata = fs::metadata(path).map_err(read)?;
                if !metadata.is_file() {
                    return Err(Reason::NotAFile { path: path.clone() });
                }
                let executable = metadata.permissions().mode() & 0o111 != 0;
                Ok((Box::new(File::open(path).map_err(read)?), executable))
            }
            Self::Web(url) => {
                let config =
                    ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).http_status_as_error(false);
                let mut request = config.build().new_agent().get(url.as_str());
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let answer = request.call().map_err(|source| Reason::Http { source: Box::new(source) })?;
                if !answer.status().is_success() {
                    return Err(Reason::Status { status: answer.status().to_string() });
                }
                Ok((Box::new(answer.into_body().into_reader()), false))
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) kind: &'static str,
    pub(super) expected: String,
}

impl Checksum {
    /// `sha256:<hex>`, or the digits alone, whose count determines the kind.
    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let wrong =
            |reason: &str| Reason::ChecksumKind { checksum: text.to_owned(), reason: reason.to_owned() };
        let (kind, digits) = match text.split_once(':') {
            Some((kind, digits)) => (kind, digits),
            None => match text.len() {
                32 => ("md5", text),
                40 => ("sha1", text),
                64 => ("sha256", text),
                128 => ("sha512", text),
                _ => return Err(wrong("its number of digits tells no kind")),
            },
        };
        let (kind, length) = match kind {
            "sha256" => ("sha256", 64),
            "sha512" => ("sha512", 128),
            "md5" | "sha1" => return Err(wrong(&format!("{kind} can be forged"))),
            "file" => return Err(wrong("a file of checksums is not fetched by `run`")),
            _ => return Err(wrong("its kind is not known")),
        };
        if digits.len() != length || hex::decode(digits).is_err() {
            return Err(wrong(&format!("{length} hexadecimal digits are required")));
        }
        Ok(Self { kind, expected: digits.to_lowercase() })
    }
}
