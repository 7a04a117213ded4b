//! The meaning of assignments, alone and together.

use zbus::Variant;

use super::definition::{Paths, PropertyDef, Role};
use super::kind::Kind;
use super::{Assignment, parse};

/// The meaning of a value, in a form in which two values can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A set of bits, or a number.
    Number(u64),
    /// A list of what is allowed, or of what is denied.
    Filter {
        /// Whether the list allows.
        allow: bool,
        /// The list.
        names: Vec<String>,
    },
    /// A list.
    Words(Vec<String>),
    /// Anything else, as one text; booleans as `yes` and `no`.
    Text(String),
}

impl PropertyDef {
    /// Is a value a list of paths, each of which a job writes as one element, including spaces? Elements of other lists
    /// are split as in a unit file: `"~@chown @ipc"` denies both.
    pub fn takes_paths(&self) -> bool {
        self.paths == Paths::View || self.role() == Some(Role::ExtensionDirectory)
    }

    /// Is the property a set, so that several values make one?
    pub fn is_set(&self) -> bool {
        matches!(
            self.kind,
            Kind::Capabilities | Kind::RestrictNamespaces | Kind::DelegateNamespaces | Kind::SecureBits
        )
    }
}

impl Assignment {
    /// The result of all assignments in order, as in a unit file and its drop-ins: a text replaces the earlier value, a
    /// list adds to it, an empty list resets it.
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

    /// The line of this name that counts if a later line replaces an earlier one: the last.
    pub fn last<'a>(all: &'a [Self], name: &str) -> Option<&'a Self> {
        all.iter().rfind(|line| line.name() == name)
    }

    /// Combines two values of a set; `later` comes second.
    fn with(self, later: Self) -> Self {
        let replaces = parse::is_blank(&later.text) || super::grammar::boolean(&later.text).is_some();
        let (Some(first), Some(second)) = (self.set(), later.set()) else { return later };
        if replaces {
            return later;
        }
        let takes_away = later.text.starts_with('~');
        let both = if takes_away { first & second } else { first | second };
        let text = match (self.text.trim(), later.text.trim()) {
            // The text of a set is for people; the value on the bus counts.
            _ if self.property.kind == Kind::Capabilities => super::capability_names(both),
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

    /// The meaning of the value.
    pub fn meaning(&self) -> Meaning {
        match self.wire.first().map(|(_, value)| value) {
            Some(Variant::U64(number)) => Meaning::Number(*number),
            Some(Variant::U32(number)) => Meaning::Number((*number).into()),
            Some(Variant::Bool(on)) => Meaning::Text(if *on { "yes" } else { "no" }.to_owned()),
            Some(Variant::Array(_)) => Meaning::Words(self.texts()),
            Some(Variant::Structure(filter)) if self.property.kind == Kind::Filter => {
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

    /// Whether the value is only `~`, which systemd reads as an empty list.
    pub(super) fn is_empty_filter(&self) -> bool {
        matches!(self.meaning(), Meaning::Filter { allow: false, names } if names.is_empty())
    }

    /// Whether the value is an empty allow list.
    fn allows_nothing(&self) -> bool {
        matches!(self.meaning(), Meaning::Filter { allow: true, names } if names.is_empty())
    }

    /// All words in the value.
    pub fn texts(&self) -> Vec<String> {
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
}
