//! What a mistyped name was meant to be.

/// The name among those known that this one almost is, such as `upper` for `uper`. Nothing if more than a third of the
/// letters differ.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.len() / 3).max(2);
    let distances = known.into_iter().map(|known| (strsim::levenshtein(name, known), known));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
}
