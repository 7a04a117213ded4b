//! Values as they go over the bus.

use zbus::Variant;

/// Properties of the bus, in order.
pub(super) type Wire = Vec<(String, Variant<'static>)>;

/// A property of the bus.
pub(super) fn one(name: impl Into<String>, value: impl Into<Variant<'static>>) -> Wire {
    vec![(name.into(), value.into())]
}
