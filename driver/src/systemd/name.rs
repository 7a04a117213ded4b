//! The name of a unit.

use std::fmt;
use std::path::Path;

/// The longest name that the driver gives a unit, including the suffix. systemd accepts 255 bytes, but derives the
/// names of a unit's private directories from it (`systemd-private-<boot>-<unit>-<random>`), which may not be longer
/// either.
const NAME_MAX: usize = 190;

/// The full name of a service unit, such as `nomad-ab12cd34-web-1f2e3d4c.service`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnitName(String);

impl UnitName {
    /// Joins `words` and `unique` by dashes into the name of a service.
    ///
    /// Bytes that systemd does not accept in a name are written as `\xNN`, as `systemd-escape` does. A name that would
    /// be too long loses the end of its last word. So two different inputs may give the same words: `unique` (hex
    /// digits or similar, never cut) keeps the names apart.
    pub fn service(words: &[&str], unique: &str) -> Self {
        let tail = format!("-{unique}.service");
        let mut name = String::new();
        for piece in words.join("-").bytes().map(escaped) {
            if name.len() + piece.len() + tail.len() > NAME_MAX {
                break;
            }
            name.push_str(&piece);
        }
        Self(name + &tail)
    }

    /// The mount unit of a path of the host that is not the root, as `systemd-escape --path` writes it.
    pub fn mount(path: &Path) -> Self {
        let text = path.to_string_lossy();
        let mut name = String::new();
        for (at, byte) in text.trim_matches('/').bytes().enumerate() {
            match byte {
                b'/' => name.push('-'),
                b'-' => name.push_str(r"\x2d"),
                b'.' if at == 0 => name.push_str(r"\x2e"),
                other => name.push_str(&escaped(other)),
            }
        }
        Self(name + ".mount")
    }

    /// Whether certainly nothing of the words was cut off.
    pub fn is_whole(&self) -> bool {
        // The longest piece that may have been left out is an escape, four bytes.
        self.0.len() + 4 <= NAME_MAX
    }

    /// A name from systemd or from a saved state.
    pub fn known(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name of the socket unit that systemd associates with this service.
    pub fn socket(&self) -> String {
        format!("{}.socket", self.0.strip_suffix(".service").unwrap_or(&self.0))
    }

    /// The name as systemd writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object path of the unit on the bus, `/org/freedesktop/systemd1/unit/…`.
    ///
    /// Every byte except ASCII letters and digits is written as `_` and two hex digits, and so is a leading digit
    /// (systemd, `bus_label_escape`).
    pub(super) fn object_path(&self) -> String {
        use fmt::Write;
        let mut path = String::from("/org/freedesktop/systemd1/unit/");
        for (at, byte) in self.0.bytes().enumerate() {
            if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
                path.push(byte.into());
            } else {
                let _ = write!(path, "_{byte:02x}");
            }
        }
        path
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn escaped(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' | b'-' => char::from(byte).into(),
        other => format!("\\x{other:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_what_systemd_takes_and_escapes_the_rest() {
        let name = UnitName::service(&["nomad", "ab-12", "my task%/é"], "0f");
        assert_eq!(name.as_str(), r"nomad-ab-12-my\x20task\x25\x2f\xc3\xa9-0f.service");
    }

    #[test]
    fn a_long_name_is_cut_between_escapes_and_keeps_its_unique_end() {
        let name = UnitName::service(&["nomad", &"%".repeat(300)], "cafe");
        assert!(name.as_str().len() <= NAME_MAX);
        assert!(name.as_str().ends_with(r"\x25-cafe.service"), "{name}");
    }

    #[test]
    fn a_path_has_the_mount_unit_that_systemd_escape_names() {
        for (path, name) in [
            ("/mnt/backup", "mnt-backup.mount"),
            ("/proc/sys/fs/binfmt_misc", "proc-sys-fs-binfmt_misc.mount"),
            ("/a-b/c d", r"a\x2db-c\x20d.mount"),
            ("/.hidden/.x", r"\x2ehidden-.x.mount"),
        ] {
            assert_eq!(UnitName::mount(Path::new(path)).as_str(), name);
        }
    }

    #[test]
    fn an_object_path_escapes_all_but_letters_and_digits() {
        let path = UnitName::known("a-1.service").object_path();
        assert_eq!(path, "/org/freedesktop/systemd1/unit/a_2d1_2eservice");
    }
}
