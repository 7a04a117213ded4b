//! The paths of the host in assignments, and where systemd mounts them.

use std::path::PathBuf;

use zbus::Variant;

use super::Assignment;
use super::definition::{Paths, Role};
use super::kind::Kind;

impl Assignment {
    /// Does the assignment name paths of the host that systemd uses for the task?
    pub fn names_host_paths(&self) -> bool {
        self.role().is_some()
    }

    /// What systemd does with the files of the host that the assignment names, if it names any.
    pub fn role(&self) -> Option<Role> {
        self.property.role()
    }

    /// The paths of the host in the assignment, without the marks before them.
    pub fn host_paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let note = |path: &str, _| -> Result<_, std::convert::Infallible> {
            paths.push(PathBuf::from(path));
            Ok(Some(PathBuf::from(path)))
        };
        let Ok(_) = self.clone().with_host_paths(note);
        paths
    }

    /// The paths in the assignment as the task sees them, without the marks before them (`-`, `+`: systemd.exec(5)).
    pub fn paths_in_view(&self) -> Vec<String> {
        let texts = if self.property.paths == Paths::View { self.texts() } else { Vec::new() };
        texts.iter().map(|path| path.trim_start_matches(['-', '+']).to_owned()).collect()
    }

    /// Does the assignment name directories that systemd creates and keeps for the task?
    pub fn names_kept_directories(&self) -> bool {
        matches!(self.property.paths, Paths::Kept(_))
    }

    /// The assignment with every path of the host replaced by the result of `find`, which receives whether the path may
    /// be missing. If `find` then returns `None`, the element that names the path is left out. `None` if nothing is
    /// left.
    pub fn with_host_paths<E>(
        mut self,
        mut find: impl FnMut(&str, bool) -> Result<Option<PathBuf>, E>,
    ) -> Result<Option<Self>, E> {
        let Paths::Host { field, role } = self.property.paths else { return Ok(Some(self)) };
        let mut kept = Vec::with_capacity(self.wire.len());
        for (name, value) in self.wire {
            // This is a hash or signature itself, and not the file that contains it.
            if self.property.kind == Kind::RootHash && !name.ends_with("Path")
                || self.property.kind == Kind::RootHashSignature && !name.ends_with("Path")
            {
                kept.push((name, value));
                continue;
            }
            kept.extend(replace(value, (field, role), &mut find)?.map(|value| (name, value)));
        }
        self.wire = kept;
        Ok((!self.wire.is_empty()).then_some(self))
    }

    /// Where systemd would create mount points, in the task's view, and the path of the host that it would mount on
    /// each.
    pub fn mount_points(&self) -> Vec<(Option<String>, String)> {
        let (source, target) = match (self.property.paths, self.property.kind) {
            (Paths::Host { role: Role::Bind | Role::BindReadOnly | Role::MountImage, .. }, _) => (Some(0), 1),
            (_, Kind::TemporaryFileSystem) => (None, 0),
            // systemd creates the configuration directory, and mounts the others.
            (Paths::Kept(parent), _) if parent != "/etc" => {
                return self.texts().iter().map(|name| (None, format!("{parent}/{name}"))).collect();
            }
            _ => return Vec::new(),
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

/// The value with the paths in it replaced; `None` if everything in it is missing.
fn replace<E>(
    value: Variant<'static>,
    path: (usize, Role),
    find: &mut impl FnMut(&str, bool) -> Result<Option<PathBuf>, E>,
) -> Result<Option<Variant<'static>>, E> {
    let mut found = |text: &str, may_be_missing: bool| {
        // A `-` before a path: the path may be missing. Some properties have a field for this.
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
                    Variant::Structure(fields) => with_path(fields, path, &mut found)?,
                    other => Some(other.clone()),
                };
                if let Some(element) = element {
                    // The element has the type of the one that it replaces.
                    let _ = replaced.append(element);
                }
            }
            // An empty list would reset earlier assignments.
            Ok((!replaced.inner().is_empty()).then_some(Variant::Array(replaced)))
        }
        _ => Ok(Some(value)),
    }
}

/// The structure with the path in this field replaced; `None` if the path is missing.
fn with_path<E>(
    fields: &zbus::wire::Structure<'static>,
    (path, role): (usize, Role),
    found: &mut impl FnMut(&str, bool) -> Result<Option<Variant<'static>>, E>,
) -> Result<Option<Variant<'static>>, E> {
    let flag = role.may_be_missing_field().and_then(|field| fields.fields().get(field));
    let may_be_missing = flag == Some(&Variant::Bool(true));
    let mut structure = zbus::wire::StructureBuilder::new();
    for (at, value) in fields.fields().iter().enumerate() {
        let value = match value {
            Variant::Str(text) if at == path && !text.is_empty() => match found(text, may_be_missing)? {
                Some(path) => path,
                None => return Ok(None),
            },
            other => other.clone(),
        };
        structure = structure.append_field(value);
    }
    Ok(structure.build().ok().map(Variant::Structure))
}
