//! Unpacks archives with untrusted content: nothing is ever written outside the destination.
//!
//! Every entry's name may only go down. Every directory on its way must be a real one, so that no link can lead an
//! entry astray. A link may only point to a place inside. Set-user-id bits are dropped, as Nomad does
//! (client/allocrunner/taskrunner/getter/params.go); the bounds are Nomad's defaults
//! (nomad/structs/config/artifact.go).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// The maximum number of entries of one archive.
const MOST_ENTRIES: usize = 4096;
/// The maximum size of one archive, unpacked: 100 GB.
pub(super) const MOST_BYTES: u64 = 100_000_000_000;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content does not match the format of the name, or the disk is full.
    #[error("read the archive or write its content")]
    Io {
        /// The reason.
        source: io::Error,
    },
    /// The zip directory is damaged or uses an unknown feature.
    #[error("read the zip archive")]
    Zip {
        /// The reason.
        source: zip::result::ZipError,
    },
    /// An entry's name or link leads out of the destination.
    #[error("the archive's entry `{entry}` leads out of its destination; this archive is not to be trusted")]
    Escapes {
        /// The entry's name.
        entry: String,
    },
    /// The entry is a device, a pipe or similar.
    #[error("the archive's entry `{entry}` is neither file, directory nor link")]
    Kind {
        /// The entry's name.
        entry: String,
    },
    /// The archive has too many entries.
    #[error("the archive has more than {MOST_ENTRIES} entries, which is Nomad's limit")]
    TooMany,
    /// The archive is too large.
    #[error("the archive unpacks to more than {MOST_BYTES} bytes, which is Nomad's limit")]
    TooLarge,
}

fn io(source: io::Error) -> Error {
    Error::Io { source }
}

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A tar, perhaps compressed.
    Tar(Option<Codec>),
    /// A zip.
    Zip,
    /// One compressed file.
    Single(Codec),
}

/// Names as go-getter knows them; the longer ones first.
const FORMATS: &[(&str, Format)] = &[
    ("tar.bz2", Format::Tar(Some(Codec::Bzip2))),
    ("tar.zst", Format::Tar(Some(Codec::Zstd))),
    ("tar.gz", Format::Tar(Some(Codec::Gzip))),
    ("tar.xz", Format::Tar(Some(Codec::Xz))),
    ("tbz2", Format::Tar(Some(Codec::Bzip2))),
    ("tzst", Format::Tar(Some(Codec::Zstd))),
    ("tgz", Format::Tar(Some(Codec::Gzip))),
    ("txz", Format::Tar(Some(Codec::Xz))),
    ("tar", Format::Tar(None)),
    ("zip", Format::Zip),
    ("bz2", Format::Single(Codec::Bzip2)),
    ("zst", Format::Single(Codec::Zstd)),
    ("gz", Format::Single(Codec::Gzip)),
    ("xz", Format::Single(Codec::Xz)),
];

impl Format {
    /// The format by the end of a file's name, such as `x.tar.gz`.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        let ends = |ending: &str| name.strip_suffix(ending).is_some_and(|rest| rest.ends_with('.'));
        FORMATS.iter().find(|(ending, _)| ends(ending)).map(|(_, format)| *format)
    }

    /// The format by its own name, such as `tar.gz`.
    pub(super) fn named(name: &str) -> Option<Self> {
        FORMATS.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// All names, for an error message.
    pub(super) fn names() -> String {
        FORMATS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// Unpacks an archive into an existing empty directory; returns the number of files.
pub(super) fn unpack(format: Format, archive: File, destination: &Path) -> Result<usize, Error> {
    let mut writer = Writer { destination, entries: 0, files: 0, bytes: 0 };
    match format {
        Format::Tar(codec) => untar(decoded(codec, archive)?, &mut writer)?,
        Format::Zip => unzip(archive, &mut writer)?,
        Format::Single(codec) => {
            writer.entry()?;
            writer.file(Path::new("file"), 0o644, &mut decoded(Some(codec), archive)?)?;
        }
    }
    Ok(writer.files)
}

fn decoded(codec: Option<Codec>, file: File) -> Result<Box<dyn Read>, Error> {
    let file = BufReader::new(file);
    Ok(match codec {
        None => Box::new(file),
        Some(Codec::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Some(Codec::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Some(Codec::Xz) => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file)),
        Some(Codec::Zstd) => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(io)?),
    })
}

fn untar(reader: Box<dyn Read>, writer: &mut Writer<'_>) -> Result<(), Error> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        writer.entry()?;
        let path = entry.path().map_err(io)?.into_owned();
        let path = inside(&path).ok_or_else(|| Error::Escapes { entry: name.clone() })?;
        let mode = entry.header().mode().map_err(io)?;
        let link = entry.link_name().map_err(io)?.map(std::borrow::Cow::into_owned).unwrap_or_default();
        if kind.is_dir() {
            writer.directory(&path)?;
        } else if kind.is_symlink() {
            writer.link(&path, &link)?;
        } else if kind.is_hard_link() {
            writer.same(&path, &link, &name)?;
        } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            writer.file(&path, mode, &mut entry)?;
        } else {
            return Err(Error::Kind { entry: name });
        }
    }
    Ok(())
}

fn unzip(file: File, writer: &mut Writer<'_>) -> Result<(), Error> {
    let wrong = |source| Error::Zip { source };
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(wrong)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(wrong)?;
        writer.entry()?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let path = inside(Path::new(&name)).ok_or_else(|| Error::Escapes { entry: name.clone() })?;
        if entry.is_dir() {
            writer.directory(&path)?;
        } else if entry.is_symlink() {
            let mut target = String::new();
            // The kernel's limit for a path.
            (&mut entry).take(4096).read_to_string(&mut target).map_err(io)?;
            writer.link(&path, Path::new(&target))?;
        } else {
            let mode = entry.unix_mode().unwrap_or(0o644);
            writer.file(&path, mode, &mut entry)?;
        }
    }
    Ok(())
}

/// The name without `.`; none if the name is absolute or goes up.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Writes below one directory. All its paths have been checked by [`inside`].
struct Writer<'a> {
    destination: &'a Path,
    entries: usize,
    files: usize,
    bytes: u64,
}

impl Writer<'_> {
    fn entry(&mut self) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES { Err(Error::TooMany) } else { Ok(()) }
    }

    /// Creates a directory and its parents; each must be, or become, a real directory.
    fn directory(&self, path: &Path) -> Result<PathBuf, Error> {
        let mut full = self.destination.to_owned();
        for part in path {
            full.push(part);
            match fs::symlink_metadata(&full) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => {
                    return Err(Error::Escapes { entry: path.display().to_string() });
                }
                Err(_) => {
                    fs::create_dir(&full).map_err(io)?;
                    fs::set_permissions(&full, Permissions::from_mode(0o755)).map_err(io)?;
                }
            }
        }
        Ok(full)
    }

    /// The full path of a new entry. An older entry of the same name is removed, as later entries win in a tar.
    fn place(&self, path: &Path) -> Result<PathBuf, Error> {
        let wrong = || Error::Escapes { entry: path.display().to_string() };
        let name = path.file_name().ok_or_else(wrong)?;
        let full = self.directory(path.parent().unwrap_or(Path::new("")))?.join(name);
        if fs::symlink_metadata(&full).is_ok() {
            fs::remove_file(&full).map_err(io)?;
        }
        Ok(full)
    }

    fn file(&mut self, path: &Path, mode: u32, content: &mut dyn Read) -> Result<(), Error> {
        let full = self.place(path)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&full).map_err(io)?;
        let left = MOST_BYTES.saturating_sub(self.bytes);
        let written = io::copy(&mut content.take(left.saturating_add(1)), &mut file).map_err(io)?;
        if written > left {
            return Err(Error::TooLarge);
        }
        self.bytes += written;
        self.files += 1;
        file.set_permissions(Permissions::from_mode(mode & 0o777)).map_err(io)
    }

    /// A symbolic link whose target, followed from its own directory, stays inside. The directories above it are real
    /// ones, so that the text of the target determines where it leads. A link behind a link was checked when it was
    /// created.
    fn link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let wrong = || Error::Escapes { entry: path.display().to_string() };
        let mut depth = path.parent().map_or(0, |parent| parent.components().count());
        for part in target.components() {
            match part {
                Component::Normal(_) => depth += 1,
                Component::CurDir => {}
                // A name before `..` might itself be a link; then the text would not determine the target.
                Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(wrong)?,
                Component::RootDir | Component::Prefix(_) => return Err(wrong()),
            }
        }
        let goes_up_late = target.components().skip_while(|part| !matches!(part, Component::Normal(_)));
        if goes_up_late.into_iter().any(|part| part == Component::ParentDir) {
            return Err(wrong());
        }
        let full = self.place(path)?;
        std::os::unix::fs::symlink(target, full).map_err(io)
    }

    /// A hard link to an earlier file.
    fn same(&mut self, path: &Path, target: &Path, name: &str) -> Result<(), Error> {
        let wrong = || Error::Escapes { entry: name.to_owned() };
        let target = inside(target).ok_or_else(wrong)?;
        let parent = self.directory(target.parent().unwrap_or(Path::new("")))?;
        let existing = parent.join(target.file_name().ok_or_else(wrong)?);
        if !fs::symlink_metadata(&existing).map_err(io)?.is_file() {
            return Err(wrong());
        }
        let full = self.place(path)?;
        self.files += 1;
        fs::hard_link(existing, full).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    enum Entry<'a> {
        File(&'a str, u32, &'a str),
        Link(&'a str, &'a str),
        Hard(&'a str, &'a str),
        Directory(&'a str),
    }

    /// A tar whose names are written verbatim, bad ones too.
    fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in entries {
            let mut header = tar::Header::new_gnu();
            let (name, kind, link, content) = match entry {
                Entry::File(name, mode, content) => {
                    header.set_mode(*mode);
                    (*name, tar::EntryType::Regular, "", *content)
                }
                Entry::Link(name, target) => (*name, tar::EntryType::Symlink, *target, ""),
                Entry::Hard(name, target) => (*name, tar::EntryType::Link, *target, ""),
                Entry::Directory(name) => (*name, tar::EntryType::Directory, "", ""),
            };
            if !matches!(entry, Entry::File(..)) {
                header.set_mode(0o755);
            }
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(format: Format, bytes: &[u8]) -> (tempfile::TempDir, Result<usize, Error>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let result = unpack(format, file, &inner);
        (directory, result)
    }

    #[test]
    fn formats_are_told_by_name() {
        assert_eq!(Format::of_file("x.tar.gz"), Some(Format::Tar(Some(Codec::Gzip))));
        assert_eq!(Format::of_file("x.gz"), Some(Format::Single(Codec::Gzip)));
        assert_eq!(Format::of_file("x.zip"), Some(Format::Zip));
        assert_eq!(Format::of_file("zip"), None);
        assert_eq!(Format::of_file("x.wasm"), None);
        assert_eq!(Format::named("tgz"), Some(Format::Tar(Some(Codec::Gzip))));
    }

    #[test]
    fn every_compression_is_understood() {
        let plain = tar(&[Entry::File("bin/run", 0o4755, "hi")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let cases = [
            (None, plain.clone()),
            (Some(Codec::Gzip), gzip.finish().unwrap()),
            (Some(Codec::Bzip2), bzip2.finish().unwrap()),
            (Some(Codec::Xz), xz.finish().unwrap()),
            (Some(Codec::Zstd), zstd::encode_all(plain.as_slice(), 1).unwrap()),
        ];
        for (codec, bytes) in cases {
            let (directory, result) = unpacked(Format::Tar(codec), &bytes);
            assert_eq!(result.unwrap(), 1, "{codec:?}");
            let file = directory.path().join("inner/bin/run");
            assert_eq!(fs::read_to_string(&file).unwrap(), "hi");
            // Executable, but without the set-user-id bit.
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o755);
        }
    }

    #[test]
    fn a_zip_keeps_executable_bits() {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
        writer.start_file("a/run", options).unwrap();
        writer.write_all(b"hi").unwrap();
        let bytes = writer.finish().unwrap().into_inner();
        let (directory, result) = unpacked(Format::Zip, &bytes);
        assert_eq!(result.unwrap(), 1);
        let mode = fs::metadata(directory.path().join("inner/a/run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn entries_that_lead_out_are_refused() {
        let cases: &[&[Entry<'_>]] = &[
            &[Entry::File("../x", 0o644, "")],
            &[Entry::File("/x", 0o644, "")],
            &[Entry::File("a/../../x", 0o644, "")],
            &[Entry::Link("l", "/etc")],
            &[Entry::Link("l", "..")],
            &[Entry::Link("a/l", "../../x")],
            &[Entry::Link("l", "a/../../x")],
            &[Entry::Link("here", "."), Entry::File("here/x", 0o644, "")],
            &[Entry::Directory("a"), Entry::Link("l", "a"), Entry::Link("l/m", "..")],
            &[Entry::Hard("h", "../x")],
            &[Entry::Link("l", "x"), Entry::Hard("h", "l")],
        ];
        for (number, entries) in cases.iter().enumerate() {
            let (directory, result) = unpacked(Format::Tar(None), &tar(entries));
            assert!(matches!(result, Err(Error::Escapes { .. })), "{number}: {result:?}");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "{number}");
        }
    }

    #[test]
    fn links_that_stay_inside_are_kept() {
        let entries = [
            Entry::File("lib/x.so.1", 0o644, "x"),
            Entry::Link("lib/x.so", "x.so.1"),
            Entry::Link("bin/x", "../lib/x.so"),
            Entry::Hard("y", "lib/x.so.1"),
        ];
        let (directory, result) = unpacked(Format::Tar(None), &tar(&entries));
        result.unwrap();
        for name in ["bin/x", "y"] {
            assert_eq!(fs::read_to_string(directory.path().join("inner").join(name)).unwrap(), "x");
        }
    }

    #[test]
    fn too_many_entries_are_refused() {
        let entries: Vec<_> = (0..=MOST_ENTRIES).map(|_| Entry::Directory("d")).collect();
        let (_, result) = unpacked(Format::Tar(None), &tar(&entries));
        assert!(matches!(result, Err(Error::TooMany)));
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        for format in [
            Format::Tar(Some(Codec::Gzip)),
            Format::Zip,
            Format::Single(Codec::Xz),
            Format::Tar(Some(Codec::Zstd)),
        ] {
            let (_, result) = unpacked(format, b"this is no archive");
            assert!(result.is_err(), "{format:?}");
        }
    }
}
