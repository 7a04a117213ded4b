//! Suggestions for mistyped names.

/// The known name that is most similar to `name`, ignoring case, for example `MemoryMax` for `MemoryMaximum`. `None` if
/// more than a third of the letters differ.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No known name is longer, and comparing long names takes time.
    let name: String = name.chars().take(64).collect::<String>().to_ascii_lowercase();
    let most = (name.len() / 3).max(2);
    let distances =
        known.into_iter().map(|known| (strsim::levenshtein(&name, &known.to_ascii_lowercase()), known));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_near_if_two_of_its_letters_or_a_third_of_them_differ() {
        let known = ["MemoryMax", "MemoryMin", "size"];
        assert_eq!(nearest("memory_max", known), Some("MemoryMax"));
        assert_eq!(nearest("MemoryMaximum", known), Some("MemoryMax"));
        assert_eq!(nearest("siez", known), Some("size"));
        assert_eq!(nearest("Frobnicate", known), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
    }
}
