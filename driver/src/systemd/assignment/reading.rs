//! What assignments say together, and what they name of the host.

use std::path::PathBuf;

use zbus::Variant;

use super::table::{Conv, Known};
use super::{Assignment, convert};

/// What a value says, as far as two of them can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A set of bits, or a number.
    Number(u64),
    /// A list of what is allowed, or of what is not.
    Filter {
        /// Which of both.
        allow: bool,
        /// The list.
        names: Vec<String>,
    },
    /// A list.
    Words(Vec<String>),
    /// Anything else, as one text; `yes` and `no` for what systemd takes for them.
    Text(String),
}

impl Known {
    /// Is a value a list of paths, each of which a job writes as one element, spaces included? Elements of other lists
    /// are read as in a unit file: `"~@chown @ipc"` denies both.
    pub fn takes_paths(&self) -> bool {
        self.conv == Conv::Words && (self.name.ends_with("Paths") || self.name == "ExtensionDirectories")
    }

    /// Is it a set, so that several values make one?
    pub fn is_set(&self) -> bool {
        matches!(
            self.conv,
            Conv::Capabilities | Conv::RestrictNamespaces | Conv::DelegateNamespaces | Conv::SecureBits
        )
    }
}

impl Assignment {
    /// What is left when all of them are said one after the other, as in a unit file and its drop-ins: a text replaces
    /// what was said before, a list adds to it, an empty list takes it back.
    pub fn folded(all: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut folded: Vec<Self> = Vec::new();
        for mut line in all {
            if line.property.is_set() {
                if let Some(at) = folded.iter().rposition(|earlier| earlier.name() == line.name()) {
                    line = folded.remove(at).with(line);
                }
            } else if !line.is_list() || line.resets() || line.allows_nothing() {
                folded.retain(|earlier| earlier.name() != line.name());
                if line.resets() {
                    continue;
                }
            }
            folded.push(line);
        }
        folded
    }

    /// Two values of a set, the second said after the first.
    fn with(self, later: Self) -> Self {
        let replaces = convert::is_blank(&later.text) || super::grammar::boolean(&later.text).is_some();
        let (Some(first), Some(second)) = (self.set(), later.set()) else { return later };
        if replaces {
            return later;
        }
        let takes_away = later.text.starts_with('~');
        let both = if takes_away { first & second } else { first | second };
        let text = match (self.text.trim(), later.text.trim()) {
            // The text of a set is for people; what counts goes over the bus.
            _ if self.property.conv == Conv::Capabilities => super::capability_names(both),
            ("", later) => later.to_owned(),
            (first, later) => format!("{first} {later}"),
        };
        let wire = later.wire.iter().map(|(name, value)| {
            let value = match value {
                Variant::I32(_) => Variant::I32(i32::try_from(both).unwrap_or(i32::MAX)),
                _ => Variant::U64(both),
            };
            (name.clone(), value)
        });
        Self { property: later.property, text, wire: wire.collect() }
    }

    fn set(&self) -> Option<u64> {
        match self.wire.first()?.1 {
            Variant::U64(set) => Some(set),
            Variant::I32(set) => u64::try_from(set).ok(),
            _ => None,
        }
    }

    /// What it says.
    pub fn meaning(&self) -> Meaning {
        match self.wire.first().map(|(_, value)| value) {
            Some(Variant::U64(number)) => Meaning::Number(*number),
            Some(Variant::U32(number)) => Meaning::Number((*number).into()),
            Some(Variant::Bool(on)) => Meaning::Text(if *on { "yes" } else { "no" }.to_owned()),
            Some(Variant::Array(_)) => Meaning::Words(self.texts()),
            Some(Variant::Structure(filter)) if self.property.conv == Conv::Filter => {
                let allow = matches!(filter.fields().first(), Some(Variant::Bool(true)));
                Meaning::Filter { allow, names: self.texts() }
            }
            _ => Meaning::Text(match super::grammar::boolean(&self.text) {
                Some(true) => "yes".to_owned(),
                Some(false) => "no".to_owned(),
                None => self.text.clone(),
            }),
        }
    }

    /// It is `~` and nothing else, which systemd takes for an empty list.
    pub(super) fn is_empty_filter(&self) -> bool {
        matches!(self.meaning(), Meaning::Filter { allow: false, names } if names.is_empty())
    }

    /// It is a list of what is allowed, with nothing in it.
    fn allows_nothing(&self) -> bool {
        matches!(self.meaning(), Meaning::Filter { allow: true, names } if names.is_empty())
    }

    /// All words of the value.
    fn texts(&self) -> Vec<String> {
        fn collect(value: &Variant<'_>, texts: &mut Vec<String>) {
            match value {
                Variant::Str(text) => texts.push(text.to_string()),
                Variant::Array(array) => array.iter().for_each(|element| collect(element, texts)),
                Variant::Structure(fields) => fields.fields().iter().for_each(|field| collect(field, texts)),
                _ => {}
            }
        }
        let mut texts = Vec::new();
        for (_, value) in &self.wire {
            collect(value, &mut texts);
        }
        texts
    }

    /// Does it name paths of the host that systemd takes for the task?
    pub fn names_host_paths(&self) -> bool {
        path_field(self.name()).is_some()
    }

    /// The same with every path of the host replaced by what `find` makes of it, which is told whether the path may be
    /// missing: then nothing is an answer, and what names the path is left out. Nothing if nothing is left.
    pub fn with_host_paths<E>(
        mut self,
        mut find: impl FnMut(&str, bool) -> Result<Option<PathBuf>, E>,
    ) -> Result<Option<Self>, E> {
        let Some(field) = path_field(self.name()) else { return Ok(Some(self)) };
        let mut kept = Vec::with_capacity(self.wire.len());
        for (name, value) in self.wire {
            // A hash or signature itself, and not the file that holds it.
            if self.property.conv == Conv::RootHash && !name.ends_with("Path")
                || self.property.conv == Conv::RootHashSignature && !name.ends_with("Path")
            {
                kept.push((name, value));
                continue;
            }
            kept.extend(replace(value, field, &mut find)?.map(|value| (name, value)));
        }
        self.wire = kept;
        Ok((!self.wire.is_empty()).then_some(self))
    }

    /// Where systemd would make mount points, in the task's view, and the path of the host that it would mount on each.
    pub fn mount_points(&self) -> Vec<(Option<String>, String)> {
        let (source, target) = match self.name() {
            "BindPaths" | "BindReadOnlyPaths" | "MountImages" => (Some(0), 1),
            "TemporaryFileSystem" => (None, 0),
            name => {
                let parent = match name {
                    "StateDirectory" => "/var/lib",
                    "CacheDirectory" => "/var/cache",
                    "LogsDirectory" => "/var/log",
                    "RuntimeDirectory" => "/run",
                    _ => return Vec::new(),
                };
                return self.texts().iter().map(|name| (None, format!("{parent}/{name}"))).collect();
            }
        };
        let arrays = self
            .wire
            .iter()
            .filter_map(|(_, value)| if let Variant::Array(array) = value { Some(array) } else { None });
        let text = |element: &Variant<'_>, at: usize| match element {
            Variant::Structure(fields) => match fields.fields().get(at) {
                Some(Variant::Str(text)) => Some(text.to_string()),
                _ => None,
            },
            _ => None,
        };
        let mounts = arrays.flat_map(|array| array.iter()).filter_map(|element| {
            Some((source.and_then(|source| text(element, source)), text(element, target)?))
        });
        mounts.collect()
    }
}

/// Which field of the property's values is a path of the host.
fn path_field(property: &str) -> Option<usize> {
    Some(match property {
        "RootDirectory"
        | "RootImage"
        | "RootVerity"
        | "RootHash"
        | "RootHashSignature"
        | "BindPaths"
        | "BindReadOnlyPaths"
        | "MountImages"
        | "ExtensionImages"
        | "ExtensionDirectories"
        | "OpenFile" => 0,
        "LoadCredential" | "LoadCredentialEncrypted" => 1,
        _ => return None,
    })
}

/// The value with the paths in it replaced; nothing if all that it held is missing.
fn replace<E>(
    value: Variant<'static>,
    field: usize,
    find: &mut impl FnMut(&str, bool) -> Result<Option<PathBuf>, E>,
) -> Result<Option<Variant<'static>>, E> {
    let mut found = |text: &str, may_be_missing: bool| {
        // `-` before a path: it may be missing. Some properties have a field for it.
        let path = text.trim_start_matches('-');
        let real = find(path, may_be_missing || path.len() < text.len())?;
        Ok(real.map(|real| Variant::from(real.to_string_lossy().into_owned())))
    };
    match &value {
        Variant::Str(text) if !text.is_empty() => found(text, false),
        Variant::Array(array) if !array.inner().is_empty() => {
            let mut replaced = zbus::Array::new(array.element_signature());
            for element in array.iter() {
                let element = match element {
                    Variant::Str(text) => found(text, false)?,
                    Variant::Structure(fields) => with_path(fields, field, &mut found)?,
                    other => Some(other.clone()),
                };
                if let Some(element) = element {
                    // Of the same type as what it replaces.
                    let _ = replaced.append(element);
                }
            }
            // An empty list would take back what was said before.
            Ok((!replaced.inner().is_empty()).then_some(Variant::Array(replaced)))
        }
        _ => Ok(Some(value)),
    }
}

/// The structure with the path in this field replaced; nothing if the path is missing.
fn with_path<E>(
    fields: &zbus::wire::Structure<'static>,
    field: usize,
    found: &mut impl FnMut(&str, bool) -> Result<Option<Variant<'static>>, E>,
) -> Result<Option<Variant<'static>>, E> {
    let may_be_missing = fields.fields().contains(&Variant::Bool(true));
    let mut structure = zbus::wire::StructureBuilder::new();
    for (at, value) in fields.fields().iter().enumerate() {
        let value = match value {
            Variant::Str(text) if at == field && !text.is_empty() => match found(text, may_be_missing)? {
                Some(path) => path,
                None => return Ok(None),
            },
            other => other.clone(),
        };
        structure = structure.append_field(value);
    }
    Ok(structure.build().ok().map(Variant::Structure))
}
