//! Properties as they go over the bus.

use zbus::Variant;

/// Names and values, in the order in which they are sent to systemd.
pub(super) type Wire = Vec<(String, Variant<'static>)>;

/// A list of one property.
pub(super) fn one(name: impl Into<String>, value: impl Into<Variant<'static>>) -> Wire {
    vec![(name.into(), value.into())]
}
