//! Finds the intended name for a mistyped one.

/// The most similar one of the known names, such as `upper` for `uper`. None if more than a third of the letters
/// differ.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.len() / 3).max(2);
    let distances = known.into_iter().map(|known| (strsim::levenshtein(name, known), known));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
}
