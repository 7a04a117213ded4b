//! The two ways to define a block: by fields, and by systemd properties.

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

        impl $crate::task::config::options::Block for $block {
            const OPTIONS: &'static [$crate::task::config::options::Opt] = &[
                $( $crate::task::config::options::Opt {
                    name: stringify!($field),
                    hcl_type: <$type as $crate::task::config::options::OptionType>::HCL,
                    required: !<$type as $crate::task::config::options::OptionType>::OPTIONAL
                        && options!(@default $($default)?).is_none(),
                    default: options!(@default $($default)?),
                    doc: concat!($($doc),+).trim_ascii(),
                    block: <$type as $crate::task::config::options::OptionType>::BLOCK,
                    property: None,
                }, )+
            ];

            fn of(block: &[(rmpv::Value, rmpv::Value)]) -> Result<Self, $crate::task::config::options::Error> {
                let mut options = Self::OPTIONS.iter();
                // The table has one row per field, in the same order.
                Ok(Self { $( $field: {
                    let Some(option) = options.next() else { return Err($crate::task::config::options::Error::Unreadable) };
                    $crate::task::config::options::take(block, option)?
                }, )+ })
            }
        }

        impl $block {
            /// Decodes the block from MessagePack, as Nomad encodes it.
            #[allow(dead_code, reason = "blocks in blocks are read with what they are in")]
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::task::config::options::Error> {
                $crate::task::config::options::Block::of(&$crate::task::config::options::block(bytes)?)
            }
        }

        options!(@in_a_block $block);
    };
    (@in_a_block $block:ident) => {
        impl $crate::task::config::options::OptionType for $block {
            const HCL: &'static str = "block";
            const BLOCK: Option<$crate::task::config::options::Kind> =
                Some($crate::task::config::options::Kind::Once(<Self as $crate::task::config::options::Block>::OPTIONS));

            fn given(
                option: &$crate::task::config::options::Opt,
                value: rmpv::Value,
            ) -> Result<Self, $crate::task::config::options::Error> {
                $crate::task::config::options::nested(option, value)
            }
        }
    };
    (@default $default:literal) => { Some($default) };
    (@default) => { None::<&'static str> };
}

/// Defines a block whose options are systemd properties: `name: type => "Property"`. The options that the job sets
/// become a list of `Setting`s, in the order of the table.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        pub struct $block:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty $(=> $property:literal)?, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $block(pub Vec<$crate::task::config::options::Setting>);

        impl $crate::task::config::options::Block for $block {
            const OPTIONS: &'static [$crate::task::config::options::Opt] = &[
                $( $crate::task::config::options::Opt {
                    name: stringify!($field),
                    hcl_type: <$type as $crate::task::config::options::OptionType>::HCL,
                    required: false,
                    default: None,
                    doc: concat!($($doc),+).trim_ascii(),
                    block: None,
                    property: settings!(@property $($property)?),
                }, )+
            ];

            fn of(block: &[(rmpv::Value, rmpv::Value)]) -> Result<Self, $crate::task::config::options::Error> {
                $crate::task::config::options::settings_of(block, Self::OPTIONS).map(Self)
            }
        }

        $crate::task::config::options::options!(@in_a_block $block);
    };
    (@property $property:literal) => { Some($property) };
    (@property) => { None };
}

pub(crate) use {options, settings};
