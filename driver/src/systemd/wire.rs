//! Properties as they go over the bus.

use zbus::Variant;

/// Names and values, in the order in which systemd shall see them.
pub(super) type Wire = Vec<(String, Variant<'static>)>;

/// One property.
pub(super) fn one(name: impl Into<String>, value: impl Into<Variant<'static>>) -> Wire {
    vec![(name.into(), value.into())]
}
