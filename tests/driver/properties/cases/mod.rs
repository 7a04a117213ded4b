//! Names and texts of properties that are compared.

mod kinds;
mod numbers;
mod resources;
mod words;

use kinds::KINDS;

/// Names and texts: several for each kind of value, and one for each name that shares a kind with others.
pub(crate) fn cases() -> Vec<(&'static str, &'static str)> {
    let many = [resources::CASES, words::CASES, numbers::CASES].into_iter().flatten();
    let many = many.flat_map(|(name, texts)| texts.iter().map(|text| (*name, *text)));
    let kinds = KINDS.iter().flat_map(|(names, texts)| {
        names.split(' ').flat_map(|name| texts.iter().map(move |text| (name, *text)))
    });
    many.chain(kinds).collect()
}
