//! One definition per option of a `config` block.
//!
//! `options!` turns a struct with documented fields into the decoder of that block and into a table of [`Opt`]. The
//! schema that Nomad gets and the table in driver/README.md are generated from the same table, so no option can exist
//! in only one of them.

mod define;
mod tables;

use std::collections::BTreeMap;

use rmpv::Value as MsgPack;
use serde::de::DeserializeOwned;

pub(crate) use self::define::{options, settings};
pub use self::tables::{has_properties, table, table_of_properties};

/// One option, for the schema and for driver/README.md.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Name of the option in its block.
    pub name: &'static str,
    /// HCL type expression, such as `list(string)`.
    pub hcl_type: &'static str,
    /// A job without this option is refused.
    pub required: bool,
    /// Default value, as an HCL literal.
    pub default: Option<&'static str>,
    /// Description, in Markdown.
    pub doc: &'static str,
    /// The kind of block, if the option is a block.
    pub block: Option<Kind>,
    /// The systemd property that the option sets, as its man page names it; most options of the blocks set one.
    pub property: Option<&'static str>,
}

/// A block in a block.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A block that may occur once, with these options.
    Once(&'static [Opt]),
    /// A block that may occur several times, with these options.
    Often(&'static [Opt]),
    /// A block that may occur once, with any names, whose values are all strings.
    Free,
}

/// Why a `config` block is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not MessagePack, or not a map.
    #[error("the configuration that Nomad sent cannot be read")]
    Unreadable,
    /// A required option is missing.
    #[error("option `{option}` is missing: {doc}")]
    Missing {
        /// Name of the option.
        option: &'static str,
        /// Description of the option.
        doc: &'static str,
    },
    /// An error in a nested block.
    #[error("in `{block}`")]
    Nested {
        /// Name of the block.
        block: &'static str,
        /// The error in the block.
        source: Box<Self>,
    },
    /// The value has the wrong type.
    #[error("option `{option}` must be a {hcl_type}: {reason}")]
    WrongType {
        /// Name of the option.
        option: &'static str,
        /// HCL type of the option.
        hcl_type: &'static str,
        /// What was found, and what was expected.
        reason: String,
    },
}

/// A Rust type that an option can have.
pub trait OptionType: Sized {
    /// The type in HCL.
    const HCL: &'static str;
    /// `None` is a value of the type, so the option may be left out.
    const OPTIONAL: bool = false;
    /// The kind of block, if the type is a block.
    const BLOCK: Option<Kind> = None;

    /// Decodes the value of `option`.
    fn given(option: &Opt, value: MsgPack) -> Result<Self, Error>;

    /// The value of an option that is not set, if the type has one.
    fn absent() -> Option<Self> {
        None
    }
}

/// Types that MessagePack also has.
macro_rules! plain {
    ($($type:ty => $hcl:literal),+) => { $(
        impl OptionType for $type {
            const HCL: &'static str = $hcl;

            fn given(option: &Opt, value: MsgPack) -> Result<Self, Error> {
                plain(option, value)
            }
        }
    )+ };
}

plain!(String => "string", Vec<String> => "list(string)", u32 => "number", u64 => "number", i64 => "number", bool => "bool");

/// A block whose names the job chooses.
impl OptionType for BTreeMap<String, String> {
    const HCL: &'static str = "block";
    const OPTIONAL: bool = true;
    const BLOCK: Option<Kind> = Some(Kind::Free);

    fn given(option: &Opt, value: MsgPack) -> Result<Self, Error> {
        plain(option, value)
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// A block that may occur several times.
impl<T: Block> OptionType for Vec<T> {
    const HCL: &'static str = "blocks";
    const OPTIONAL: bool = true;
    const BLOCK: Option<Kind> = Some(Kind::Often(T::OPTIONS));

    fn given(option: &Opt, value: MsgPack) -> Result<Self, Error> {
        let MsgPack::Array(blocks) = value else { return Err(wrong_type(option, "a list of blocks")) };
        blocks.into_iter().map(|block| nested(option, block)).collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// A block, as `options!` and `settings!` define it.
pub trait Block: Sized {
    /// The options of the block.
    const OPTIONS: &'static [Opt];

    /// Decodes the block.
    fn of(block: &[(MsgPack, MsgPack)]) -> Result<Self, Error>;
}

/// Decodes a nested block.
pub fn nested<T: Block>(option: &Opt, value: MsgPack) -> Result<T, Error> {
    let MsgPack::Map(block) = value else { return Err(wrong_type(option, "a map of its options")) };
    T::of(&block).map_err(|source| Error::Nested { block: option.name, source: Box::new(source) })
}

impl<T: OptionType> OptionType for Option<T> {
    const HCL: &'static str = T::HCL;
    const OPTIONAL: bool = true;
    const BLOCK: Option<Kind> = T::BLOCK;

    fn given(option: &Opt, value: MsgPack) -> Result<Self, Error> {
        T::given(option, value).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

fn wrong_type(option: &Opt, expected: &str) -> Error {
    Error::WrongType {
        option: option.name,
        hcl_type: option.hcl_type,
        reason: format!("expected {expected}"),
    }
}

fn plain<T: DeserializeOwned>(option: &Opt, value: MsgPack) -> Result<T, Error> {
    rmpv::ext::from_value(value).map_err(|error| Error::WrongType {
        option: option.name,
        hcl_type: option.hcl_type,
        reason: in_words(&error.to_string()),
    })
}

/// The decoder's error message, without the names of Rust types.
fn in_words(text: &str) -> String {
    const TYPES: [(&str, &str); 5] = [
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number of at least 0"),
        ("expected i64", "expected a whole number"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected a map or a block"),
    ];
    let text = text.strip_prefix("error while decoding value: ").unwrap_or(text);
    let text = text.strip_prefix("invalid type: ").or(text.strip_prefix("invalid value: ")).unwrap_or(text);
    let known = TYPES.iter().find_map(|(rust, words)| Some(format!("{}{words}", text.strip_suffix(rust)?)));
    known.unwrap_or_else(|| text.to_owned())
}

/// Maximum nesting depth of values. A list of strings in a block of a block needs a dozen levels; the decoder's own
/// limit exceeds the stack of a thread.
const MAX_DEPTH: usize = 64;

/// The bytes of a block as a map. No bytes are an empty block (Nomad sends none after it has found the driver running).
pub fn block(bytes: &[u8]) -> Result<Vec<(MsgPack, MsgPack)>, Error> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    match rmpv::decode::read_value_with_max_depth(&mut &*bytes, MAX_DEPTH) {
        Ok(MsgPack::Map(map)) => Ok(map),
        Ok(MsgPack::Nil) => Ok(Vec::new()),
        _ => Err(Error::Unreadable),
    }
}

/// The paths of all options that a job sets, such as `notify.watchdog` or `properties.Nice`, each with its row in the
/// table if it has one. A value that equals the default does not count as set: Nomad repeats defaults.
pub fn given(bytes: &[u8], options: &'static [Opt]) -> Vec<(String, Option<&'static Opt>)> {
    let mut paths = Vec::new();
    if let Ok(block) = block(bytes) {
        collect_given(&block, options, "", &mut paths);
    }
    paths
}

fn collect_given(
    block: &[(MsgPack, MsgPack)],
    options: &'static [Opt],
    within: &str,
    paths: &mut Vec<(String, Option<&'static Opt>)>,
) {
    for option in options {
        let Some(value) = self::value_of(block, option) else { continue };
        let path = format!("{within}{}", option.name);
        let is_empty = match value {
            MsgPack::Array(elements) => elements.is_empty() && option.property.is_none(),
            MsgPack::Map(names) => names.is_empty() && matches!(option.block, Some(Kind::Free)),
            _ => false,
        };
        let default = option.default.and_then(|literal| serde_json::from_str::<MsgPack>(literal).ok());
        if is_empty || default.is_some_and(|default| default == *value) {
            continue;
        }
        paths.push((path.clone(), Some(option)));
        match (option.block, value) {
            (Some(Kind::Once(options)), MsgPack::Map(block)) => {
                collect_given(block, options, &format!("{path}."), paths);
            }
            (Some(Kind::Often(options)), MsgPack::Array(blocks)) => {
                let blocks = blocks.iter().filter_map(MsgPack::as_map);
                blocks.for_each(|block| collect_given(block, options, &format!("{path}."), paths));
            }
            (Some(Kind::Free), MsgPack::Map(block)) => {
                let names = block.iter().filter_map(|(name, _)| name.as_str());
                paths.extend(names.map(|name| (format!("{path}.{name}"), None)));
            }
            _ => {}
        }
    }
}

fn value_of<'a>(block: &'a [(MsgPack, MsgPack)], option: &Opt) -> Option<&'a MsgPack> {
    let named = |(name, value): &&(MsgPack, MsgPack)| name.as_str() == Some(option.name) && !value.is_nil();
    block.iter().find(named).map(|(_, value)| value)
}

/// Decodes one option of a block. Nomad sends every option of the schema; an option that is not set is nil.
pub fn take<T: OptionType>(block: &[(MsgPack, MsgPack)], option: &Opt) -> Result<T, Error> {
    if let Some(value) = value_of(block, option) {
        return T::given(option, value.clone());
    }
    // HCL literals of our types are JSON literals.
    let default = option.default.and_then(|literal| serde_json::from_str(literal).ok());
    let default = default.map(|literal: MsgPack| T::given(option, literal)).transpose()?;
    default.or_else(T::absent).ok_or(Error::Missing { option: option.name, doc: option.doc })
}

/// An option that is a systemd property, as the job sets it.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The option.
    pub option: &'static Opt,
    /// Value as text; one text for each element of a list. An empty list is one empty text, which resets the property
    /// in systemd.
    pub values: Vec<String>,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        (self.option.name, &self.values) == (other.option.name, &other.values)
    }
}

impl Eq for Setting {}

/// The values that a block sets for these options.
pub fn settings_of(block: &[(MsgPack, MsgPack)], options: &'static [Opt]) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for option in options {
        if let Some(value) = value_of(block, option) {
            settings.push(Setting { option, values: texts(option, value)? });
        }
    }
    Ok(settings)
}

fn texts(option: &Opt, value: &MsgPack) -> Result<Vec<String>, Error> {
    let value = value.clone();
    Ok(match option.hcl_type {
        "bool" => vec![if plain(option, value)? { "yes" } else { "no" }.to_owned()],
        "number" => vec![plain::<i64>(option, value)?.to_string()],
        "list(string)" => match plain::<Vec<String>>(option, value)? {
            empty if empty.is_empty() => vec![String::new()],
            texts => texts,
        },
        _ => vec![plain(option, value)?],
    })
}
