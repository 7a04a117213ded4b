//! What assignments name of the host, and where they mount it.

use std::path::PathBuf;

use zbus::Variant;

use super::Assignment;
use super::kind::Kind;

impl Assignment {
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
            if self.property.kind == Kind::RootHash && !name.ends_with("Path")
                || self.property.kind == Kind::RootHashSignature && !name.ends_with("Path")
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

/// Does the property name what is mounted as a root, or laid over it, such as `RootImage`?
pub fn names_image(property: &str) -> bool {
    property.ends_with("Image") || property.ends_with("Images") || property == "ExtensionDirectories"
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
