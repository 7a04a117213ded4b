//! What assignments say, alone and together.

use zbus::Variant;

use super::definition::{Paths, PropertyDef, Role};
use super::kind::Kind;
use super::{Assignment, parse};

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

impl PropertyDef {
    /// Is a value a list of paths, each of which a job writes as one element, spaces included? Elements of other lists
    /// are read as in a unit file: `"~@chown @ipc"` denies both.
    pub fn takes_paths(&self) -> bool {
        self.paths == Paths::View || self.role() == Some(Role::ExtensionDirectory)
    }

    /// Is it a set, so that several values make one?
    pub fn is_set(&self) -> bool {
        matches!(
            self.kind,
            Kind::Capabilities | Kind::RestrictNamespaces | Kind::DelegateNamespaces | Kind::SecureBits
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

    /// The line of this name that counts where a later one replaces an earlier one: the last.
    pub fn last<'a>(all: &'a [Self], name: &str) -> Option<&'a Self> {
        all.iter().rfind(|line| line.name() == name)
    }

    /// Two values of a set, the second said after the first.
    fn with(self, later: Self) -> Self {
        let replaces = parse::is_blank(&later.text) || super::grammar::boolean(&later.text).is_some();
        let (Some(first), Some(second)) = (self.set(), later.set()) else { return later };
        if replaces {
            return later;
        }
        let takes_away = later.text.starts_with('~');
        let both = if takes_away { first & second } else { first | second };
        let text = match (self.text.trim(), later.text.trim()) {
            // The text of a set is for people; what counts goes over the bus.
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

    /// What it says.
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

    /// It is `~` and nothing else, which systemd takes for an empty list.
    pub(super) fn is_empty_filter(&self) -> bool {
        matches!(self.meaning(), Meaning::Filter { allow: false, names } if names.is_empty())
    }

    /// It is a list of what is allowed, with nothing in it.
    fn allows_nothing(&self) -> bool {
        matches!(self.meaning(), Meaning::Filter { allow: true, names } if names.is_empty())
    }

    /// All words of the value.
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
