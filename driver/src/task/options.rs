//! One definition per option of a `config` block.
//!
//! [`options!`] turns a struct with documented fields into the decoder of that block and into a table of [`Opt`].
//! The schema that Nomad gets and the table in the README are made from the same table, so no option can exist in one
//! of them alone.

use rmpv::Value as MsgPack;
use serde::de::DeserializeOwned;

/// One option, as the schema and the README know it.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Its name in the block.
    pub name: &'static str,
    /// Its HCL type expression, such as `list(string)`.
    pub hcl_type: &'static str,
    /// A job without it is refused.
    pub required: bool,
    /// The value it has when it is not given, as an HCL literal.
    pub default: Option<&'static str>,
    /// What it does, in Markdown.
    pub doc: &'static str,
}

/// Why a `config` block is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not MessagePack, or not a map.
    #[error("the configuration that Nomad sent cannot be read")]
    Unreadable,
    /// A required option is not there.
    #[error("option `{option}` is missing: {doc}")]
    Missing {
        /// Its name.
        option: &'static str,
        /// What it is for.
        doc: &'static str,
    },
    /// The value does not fit.
    #[error("option `{option}` must be a {hcl_type}")]
    WrongType {
        /// Its name.
        option: &'static str,
        /// What it must be.
        hcl_type: &'static str,
        /// What the decoder said.
        source: Box<rmpv::ext::Error>,
    },
}

/// A Rust type that an option can have.
pub trait OptionType: DeserializeOwned {
    /// How HCL writes the type.
    const HCL: &'static str;
    /// `None` is a value of the type, so the option may be left out.
    const OPTIONAL: bool = false;

    /// The value of an option that was left out, if the type has one.
    fn absent() -> Option<Self> {
        None
    }
}

impl OptionType for String {
    const HCL: &'static str = "string";
}

impl OptionType for Vec<String> {
    const HCL: &'static str = "list(string)";
}

impl<T: OptionType> OptionType for Option<T> {
    const HCL: &'static str = T::HCL;
    const OPTIONAL: bool = true;

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// The bytes of a block as a map; no bytes at all are an empty block (Nomad sends none after it found us running).
pub fn block(bytes: &[u8]) -> Result<Vec<(MsgPack, MsgPack)>, Error> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    match rmpv::decode::read_value(&mut &*bytes) {
        Ok(MsgPack::Map(map)) => Ok(map),
        Ok(MsgPack::Nil) => Ok(Vec::new()),
        _ => Err(Error::Unreadable),
    }
}

/// One option out of a block. Nomad sends every option of the schema: one that was not given is nil.
pub fn take<T: OptionType>(block: &[(MsgPack, MsgPack)], option: &Opt) -> Result<T, Error> {
    let given = block.iter().find(|(name, value)| name.as_str() == Some(option.name) && !value.is_nil());
    if let Some((_, value)) = given {
        return rmpv::ext::from_value(value.clone()).map_err(|source| Error::WrongType {
            option: option.name,
            hcl_type: option.hcl_type,
            source: Box::new(source),
        });
    }
    // HCL's literals of our types are JSON's.
    let default = option.default.and_then(|literal| serde_json::from_str(literal).ok());
    default.or_else(T::absent).ok_or(Error::Missing { option: option.name, doc: option.doc })
}

/// The README's table of a block.
pub fn table(options: &[Opt]) -> String {
    let mut lines =
        vec!["| option | type | default | what it does |".to_owned(), "|---|---|---|---|".to_owned()];
    for option in options {
        let default = match option.default {
            Some(literal) => format!("`{literal}`"),
            None if option.required => "required".to_owned(),
            None => String::new(),
        };
        lines.push(format!("| `{}` | `{}` | {default} | {} |", option.name, option.hcl_type, option.doc));
    }
    lines.join("\n")
}

/// Defines a `config` block: a struct, its decoder `decode`, and its table `OPTIONS`.
///
/// A field may be followed by `= "literal"`, its default as an HCL literal.
macro_rules! options {
    (
        $(#[doc = $about:literal])+
        pub struct $block:ident {
            $( $(#[doc = $doc:literal])+ pub $field:ident: $type:ty $(= $default:literal)?, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $block {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        impl $block {
            /// What the block may hold.
            pub const OPTIONS: &'static [$crate::task::options::Opt] = &[
                $( $crate::task::options::Opt {
                    name: stringify!($field),
                    hcl_type: <$type as $crate::task::options::OptionType>::HCL,
                    required: !<$type as $crate::task::options::OptionType>::OPTIONAL
                        && options!(@default $($default)?).is_none(),
                    default: options!(@default $($default)?),
                    doc: concat!($($doc),+).trim_ascii(),
                }, )+
            ];

            /// Reads the block from the MessagePack that Nomad made of it.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::task::options::Error> {
                let block = $crate::task::options::block(bytes)?;
                let mut options = Self::OPTIONS.iter();
                // The table has one row per field, in the same order.
                Ok(Self { $( $field: {
                    let Some(option) = options.next() else { return Err($crate::task::options::Error::Unreadable) };
                    $crate::task::options::take(&block, option)?
                }, )+ })
            }
        }
    };
    (@default $default:literal) => { Some($default) };
    (@default) => { None::<&'static str> };
}

pub(crate) use options;
