//! Fetches an `artifact` into a task's directory, as Nomad's fetcher (go-getter) does: download, check, unpack.
//!
//! Everything happens in a temporary directory next to the destination and is moved there last, so that a failure
//! leaves nothing behind. Sources are HTTP, HTTPS and, unlike under Nomad, files of this machine. Facts from Nomad
//! v2.0.5, client/allocrunner/taskrunner/getter/, and go-getter's client and decompressors.

mod progress;
mod source;
mod unpack;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use sha2::{Digest, Sha256, Sha512};

use self::progress::Progress;
use self::source::{Checksum, Location};
use self::unpack::{Format, MOST_BYTES, unpack};
use crate::jobspec::Artifact;
use crate::taskenv::TaskEnv;

/// Why an artifact could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("artifact {artifact}")]
pub struct Error {
    /// The source as the job sets it.
    pub artifact: String,
    /// What went wrong.
    pub source: Reason,
}

/// What went wrong with an artifact.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// A scheme such as `git::…` or `s3::…`.
    #[error("`{scheme}` sources are fetched by a Nomad agent only; use http, https or a path")]
    Scheme {
        /// The scheme, such as `s3`.
        scheme: String,
    },
    /// The source is neither a URL nor a path.
    #[error("the source is not a URL")]
    Url {
        /// The parser's reason.
        source: url::ParseError,
    },
    /// The destination leads out of the allocation.
    #[error("the destination `{destination}` leads out of the allocation's directory")]
    Destination {
        /// The destination as the job sets it.
        destination: String,
    },
    /// The server was not reachable.
    #[error("fetch it; see that the server runs, and that the address in `source` is right")]
    Http {
        /// The client's reason.
        source: Box<ureq::Error>,
    },
    /// The server answered with an error status.
    #[error("the server answers {status}; check the address and, in `headers`, the credentials")]
    Status {
        /// The status, such as `404 Not Found`.
        status: String,
    },
    /// A file of this machine that is missing or unreadable.
    #[error("read {path}; a `source` without a scheme is a path on this machine")]
    Read {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A path that is not a regular file.
    #[error("{path} is not a regular file; pack a directory into a tar first")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The content does not match the job's checksum.
    #[error("the checksum is wrong: expected {kind}:{expected}, got {kind}:{got}; nothing was unpacked")]
    Checksum {
        /// `sha256` or `sha512`.
        kind: &'static str,
        /// The digest that the job requires.
        expected: String,
        /// The digest of the content.
        got: String,
    },
    /// A `checksum` that this program cannot check.
    #[error("the checksum `{checksum}` cannot be checked: {reason}; write sha256:… or sha512:…")]
    ChecksumKind {
        /// The checksum as the job sets it.
        checksum: String,
        /// The reason, such as `md5 is broken`.
        reason: String,
    },
    /// An unknown `archive` format.
    #[error("the archive format `{format}` is not known; known are {}, and false for none", Format::names())]
    Archive {
        /// The format as the job sets it.
        format: String,
    },
    /// The mode does not fit the content.
    #[error("mode `{mode}` does not fit: {reason}")]
    Mode {
        /// `any`, `file` or `dir`.
        mode: String,
        /// Why, and what to write instead.
        reason: &'static str,
    },
    /// The archive could not be unpacked.
    #[error("unpack it")]
    Unpack {
        /// Why.
        source: unpack::Error,
    },
    /// The content could not be stored.
    #[error("store it at {path}")]
    Store {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The artifact is larger than Nomad's limit.
    #[error("it is larger than {most} bytes, which is the limit")]
    TooLarge {
        /// The limit.
        most: u64,
    },
    /// The fetching thread panicked; a bug of ours.
    #[error("the fetching thread ended early")]
    Thread {
        /// How the thread ended.
        source: tokio::task::JoinError,
    },
}

/// An artifact with everything interpolated.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// A URL or a path.
    pub source: String,
    /// An absolute path on the node.
    pub destination: PathBuf,
    /// The directory of the job file, to which relative sources refer.
    pub relative_to: PathBuf,
    /// `any`, `file` or `dir`.
    pub mode: String,
    /// Options such as `checksum` and `archive`; others go into the URL's query, as in Nomad.
    pub options: BTreeMap<String, String>,
    /// Headers of the request.
    pub headers: BTreeMap<String, String>,
    /// Maximum size, in bytes.
    pub most_bytes: u64,
}

impl Fetch {
    /// Interpolates an artifact of a job with its task's environment.
    pub fn new(artifact: &Artifact, env: &TaskEnv, relative_to: &Path) -> Result<Self, Error> {
        let replaced = |map: &BTreeMap<String, String>| -> BTreeMap<String, String> {
            map.iter().map(|(key, value)| (key.clone(), env.replace(value))).collect()
        };
        let destination = env.node_path(&artifact.destination).ok_or_else(|| Error {
            artifact: artifact.source.clone(),
            source: Reason::Destination { destination: artifact.destination.clone() },
        })?;
        Ok(Self {
            source: env.replace(&artifact.source),
            destination,
            relative_to: relative_to.to_owned(),
            mode: artifact.mode.clone(),
            options: replaced(&artifact.options),
            headers: replaced(&artifact.headers),
            most_bytes: MOST_BYTES,
        })
    }

    /// Fetches, checks, unpacks and stores the artifact.
    pub async fn run(self) -> Result<(), Error> {
        let artifact = self.source.clone();
        // Dropped when the caller no longer waits; then the thread ends too.
        let wanted = Arc::new(());
        let still_wanted = Arc::downgrade(&wanted);
        let fetched = tokio::task::spawn_blocking(move || self.fetch(&still_wanted)).await;
        drop(wanted);
        let fetched = fetched.unwrap_or_else(|source| Err(Reason::Thread { source }));
        fetched.map_err(|source| Error { artifact, source })
    }

    fn fetch(&self, wanted: &Weak<()>) -> Result<(), Reason> {
        let mut options = self.options.clone();
        let location = Location::parse(&self.source, &self.relative_to, &mut options)?;
        let checksum = options.get("checksum").map(|text| Checksum::parse(text)).transpose()?;
        let format = match options.get("archive").map(String::as_str) {
            None => Format::of_file(location.path()),
            Some("false" | "0") => None,
            Some(name) => {
                Some(Format::named(name).ok_or_else(|| Reason::Archive { format: name.to_owned() })?)
            }
        };
        let beside = self.destination.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let store = |source| Reason::Store { path: self.destination.clone(), source };
        let workplace = tempfile::Builder::new().prefix(".artifact-").tempdir_in(beside).map_err(store)?;

        let download = workplace.path().join("download");
        let mut file =
            File::options().read(true).write(true).create_new(true).open(&download).map_err(store)?;
        let (mut reader, executable) = location.open(&self.headers)?;
        let mut progress = Progress::new(&self.source);
        let digest =
            copy(&mut reader, &mut file, checksum.as_ref(), (self.most_bytes, wanted), &mut progress)
                .map_err(|error| match error {
                    CopyError::Read(error) => Reason::Http { source: Box::new(ureq::Error::Io(error)) },
                    CopyError::Write(source) => store(source),
                    CopyError::TooLarge => Reason::TooLarge { most: self.most_bytes },
                })?;
        if let (Some(checksum), Some(got)) = (&checksum, digest)
            && checksum.expected != got
        {
            return Err(Reason::Checksum { kind: checksum.kind, expected: checksum.expected.clone(), got });
        }
        let whole = self.mode == "file";
        if whole && self.destination.is_dir() {
            return Err(self.wrong_mode("the destination is a directory; name the file in `destination`"));
        }
        let Some(format) = format else {
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&download, Permissions::from_mode(mode)).map_err(store)?;
            let name = options.get("filename").map_or_else(|| location.file_name(), String::as_str);
            return self.place_one(&download, name);
        };
        if matches!(format, Format::Single(_)) && !whole {
            return Err(self.wrong_mode(
                "the source is one compressed file; use \"file\" and name it in `destination`, or `archive = \"false\"`",
            ));
        }
        file.rewind().map_err(store)?;
        let unpacked = workplace.path().join("unpacked");
        fs::create_dir(&unpacked).map_err(store)?;
        fs::set_permissions(&unpacked, Permissions::from_mode(0o755)).map_err(store)?;
        let files = unpack(format, file, &unpacked).map_err(|source| Reason::Unpack { source })?;
        if whole {
            if files != 1 {
                return Err(self.wrong_mode("the archive holds several files; use \"any\""));
            }
            return place(&only_file(&unpacked).map_err(store)?, &self.destination);
        }
        merge(&unpacked, &self.destination)
    }

    /// Stores a source that is not an archive; `name` is the source's file name.
    fn place_one(&self, download: &Path, name: &str) -> Result<(), Reason> {
        match self.mode.as_str() {
            "file" => place(download, &self.destination),
            "any" => {
                let name = Path::new(name).file_name();
                let name =
                    name.ok_or_else(|| self.wrong_mode("the source has no file name; use mode \"file\""))?;
                place(download, &self.destination.join(name))
            }
            _ => Err(self.wrong_mode("the source is one file and no archive; use \"any\" or \"file\"")),
        }
    }

    fn wrong_mode(&self, reason: &'static str) -> Reason {
        Reason::Mode { mode: self.mode.clone(), reason }
    }
}

/// Copies the content and computes its checksum.
fn copy(
    reader: &mut dyn Read,
    file: &mut File,
    checksum: Option<&Checksum>,
    (most_bytes, wanted): (u64, &Weak<()>),
    progress: &mut Progress<'_>,
) -> Result<Option<String>, CopyError> {
    let (mut small, mut large) = (Sha256::new(), Sha512::new());
    let mut buffer = vec![0; 64 * 1024];
    let mut total: u64 = 0;
    while wanted.strong_count() > 0 {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        total += count as u64;
        progress.reached(total);
        if total > most_bytes {
            return Err(CopyError::TooLarge);
        }
        let chunk = buffer.get(..count).unwrap_or_default();
        match checksum.map(|checksum| checksum.kind) {
            Some("sha256") => small.update(chunk),
            Some(_) => large.update(chunk),
            None => {}
        }
        file.write_all(chunk).map_err(CopyError::Write)?;
    }
    Ok(checksum.map(|checksum| match checksum.kind {
        "sha256" => hex::encode(small.finalize()),
        _ => hex::encode(large.finalize()),
    }))
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
    TooLarge,
}

/// Moves a file to its place.
fn place(from: &Path, to: &Path) -> Result<(), Reason> {
    let store = |source| Reason::Store { path: to.to_owned(), source };
    directories(to.parent().unwrap_or(Path::new("/"))).map_err(store)?;
    fs::rename(from, to).map_err(store)
}

/// Moves a directory's content into another, which may already contain files; later files win.
fn merge(from: &Path, to: &Path) -> Result<(), Reason> {
    let store = |source| Reason::Store { path: to.to_owned(), source };
    directories(to).map_err(store)?;
    for entry in fs::read_dir(from).map_err(store)? {
        let entry = entry.map_err(store)?;
        let target = to.join(entry.file_name());
        let both_directories = entry.file_type().map_err(store)?.is_dir()
            && fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.is_dir());
        if both_directories {
            merge(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), &target).map_err(store)?;
        }
    }
    Ok(())
}

/// Creates missing directories with mode 0755, regardless of the umask.
fn directories(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    for path in missing.into_iter().rev() {
        fs::create_dir(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The only file of an unpacked archive, at any depth.
fn only_file(directory: &Path) -> io::Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            return Ok(entry.path());
        }
        if let Ok(found) = only_file(&entry.path()) {
            return Ok(found);
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Serves the same answer until the test ends; the requests' heads are dropped.
    fn server(status: &'static str, body: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head);
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        format!("http://{address}")
    }

    fn gzipped_tar() -> Vec<u8> {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(encoder);
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o755);
        builder.append_data(&mut header, "bin/run", &b"hi"[..]).unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    }

    struct Desk {
        directory: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("local")).unwrap();
            Self { directory }
        }

        fn fetch(&self, source: &str) -> Fetch {
            Fetch {
                source: source.to_owned(),
                destination: self.directory.path().join("local"),
                relative_to: self.directory.path().to_owned(),
                mode: "any".to_owned(),
                options: BTreeMap::new(),
                headers: BTreeMap::new(),
                most_bytes: MOST_BYTES,
            }
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.directory.path().join(path)).unwrap()
        }

        fn mode(&self, path: &str) -> u32 {
            fs::metadata(self.directory.path().join(path)).unwrap().permissions().mode() & 0o7777
        }

        /// The names in `local`, hidden files included.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.directory.path().join("local")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    fn option(fetch: Fetch, key: &str, value: &str) -> Fetch {
        let mut fetch = fetch;
        fetch.options.insert(key.to_owned(), value.to_owned());
        fetch
    }

    #[tokio::test]
    async fn a_file_lands_in_the_destination_by_its_name() {
        let desk = Desk::new();
        let url = server("200 OK", b"wasm".to_vec());
        desk.fetch(&format!("{url}/a/x.wasm?v=1")).run().await.unwrap();
        assert_eq!(desk.read("local/x.wasm"), "wasm");
        assert_eq!(desk.mode("local/x.wasm"), 0o644);
        assert_eq!(desk.names(), ["x.wasm"]);
    }

    #[tokio::test]
    async fn in_mode_file_the_destination_is_the_file() {
        let desk = Desk::new();
        let url = server("200 OK", b"wasm".to_vec());
        let mut fetch = desk.fetch(&format!("{url}/x.wasm"));
        fetch.mode = "file".to_owned();
        assert!(matches!(fetch.clone().run().await.unwrap_err().source, Reason::Mode { .. }));
        fetch.destination.push("deep/y.wasm");
        fetch.run().await.unwrap();
        assert_eq!(desk.read("local/deep/y.wasm"), "wasm");
    }

    #[tokio::test]
    async fn an_archive_is_unpacked_beside_what_is_there() {
        let desk = Desk::new();
        fs::create_dir(desk.directory.path().join("local/bin")).unwrap();
        fs::write(desk.directory.path().join("local/bin/other"), "x").unwrap();
        let url = server("200 OK", gzipped_tar());
        desk.fetch(&format!("{url}/x.tar.gz")).run().await.unwrap();
        assert_eq!(desk.read("local/bin/run"), "hi");
        assert_eq!(desk.mode("local/bin/run"), 0o755);
        assert_eq!(desk.read("local/bin/other"), "x");
        assert_eq!(desk.names(), ["bin"]);
    }

    #[tokio::test]
    async fn archive_may_be_named_or_switched_off() {
        let desk = Desk::new();
        let url = server("200 OK", gzipped_tar());
        desk.fetch(&format!("{url}/download?archive=tgz")).run().await.unwrap();
        assert_eq!(desk.read("local/bin/run"), "hi");
        option(desk.fetch(&format!("{url}/x.tar.gz")), "archive", "false").run().await.unwrap();
        assert!(desk.names().contains(&"x.tar.gz".to_owned()));
        let error = option(desk.fetch(&url), "archive", "rar").run().await.unwrap_err();
        assert!(error.source.to_string().contains("`rar`"));
    }

    #[tokio::test]
    async fn one_compressed_file_needs_mode_file() {
        let desk = Desk::new();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"hi").unwrap();
        let url = server("200 OK", encoder.finish().unwrap());
        let mut fetch = desk.fetch(&format!("{url}/run.gz"));
        assert!(fetch.clone().run().await.unwrap_err().source.to_string().contains("use \"file\""));
        fetch.mode = "file".to_owned();
        fetch.destination.push("run");
        fetch.run().await.unwrap();
        assert_eq!(desk.read("local/run"), "hi");
    }

    #[tokio::test]
    async fn a_wrong_checksum_leaves_nothing() {
        let desk = Desk::new();
        let url = server("200 OK", gzipped_tar());
        let wrong = format!("sha256:{}", "0".repeat(64));
        let error =
            option(desk.fetch(&format!("{url}/x.tar.gz")), "checksum", &wrong).run().await.unwrap_err();
        assert!(error.to_string().contains("/x.tar.gz"), "{error}");
        assert!(error.source.to_string().contains("expected sha256:000"), "{}", error.source);
        assert!(desk.names().is_empty());
        let right = format!("sha512:{}", hex::encode(Sha512::digest(gzipped_tar())));
        option(desk.fetch(&format!("{url}/x.tar.gz")), "checksum", &right).run().await.unwrap();
    }

    #[tokio::test]
    async fn weak_checksums_are_refused_by_name() {
        let desk = Desk::new();
        for checksum in
            ["md5:d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e", "crc:1", "sha256:12"]
        {
            let error =
                option(desk.fetch("http://127.0.0.1:1/x"), "checksum", checksum).run().await.unwrap_err();
            assert!(matches!(error.source, Reason::ChecksumKind { .. }), "{checksum}");
        }
    }

    #[tokio::test]
    async fn the_servers_refusal_is_told() {
        let desk = Desk::new();
        let url = server("404 Not Found", Vec::new());
        let error = desk.fetch(&format!("{url}/x")).run().await.unwrap_err();
        assert!(error.source.to_string().contains("404 Not Found"), "{}", error.source);
        assert!(desk.names().is_empty());
    }

    #[tokio::test]
    async fn a_path_of_this_machine_is_a_source_too() {
        let desk = Desk::new();
        let file = desk.directory.path().join("run.sh");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        for source in ["run.sh".to_owned(), format!("file://{}", file.display()), file.display().to_string()]
        {
            desk.fetch(&source).run().await.unwrap();
            assert_eq!(desk.mode("local/run.sh"), 0o755);
            fs::remove_file(desk.directory.path().join("local/run.sh")).unwrap();
        }
        let error = desk.fetch("local").run().await.unwrap_err();
        assert!(matches!(error.source, Reason::NotAFile { .. }));
    }

    #[tokio::test]
    async fn other_sources_are_refused_by_name() {
        let desk = Desk::new();
        for (source, scheme) in
            [("git::https://example.org/x", "git"), ("s3://bucket/x", "s3"), ("ftp://x/y", "ftp")]
        {
            let error = desk.fetch(source).run().await.unwrap_err();
            assert!(
                matches!(error.source, Reason::Scheme { scheme: ref found } if found == scheme),
                "{source}"
            );
        }
    }
}
