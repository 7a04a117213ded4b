//! File system images, with options by partition.

use zbus::Variant;

use super::super::grammar::{ESCAPED_FIELDS, Parsed, RAW_LIST, fields, raw_quote, words};
use super::{dash, leniently};

/// Source, target, whether the image may be missing, and options by partition.
pub(crate) type Image = (String, String, bool, Vec<(String, String)>);
/// Source, whether the image may be missing, and options by partition.
pub(crate) type Extension = (String, bool, Vec<(String, String)>);

/// `[PARTITION:]OPTIONS`.
pub(crate) fn root_options(text: &str) -> Parsed<Vec<(String, String)>> {
    let mut options = Vec::new();
    for word in words(text, RAW_LIST)? {
        options.extend(options_of(&fields(&word, ESCAPED_FIELDS, 2)?));
    }
    let is_name = |name: &str| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
    match options.iter().find(|(partition, _)| !is_name(partition)) {
        Some((partition, _)) => {
            Err(format!("`{partition}` is not the name of a partition such as `root` or `usr`"))
        }
        None => Ok(options),
    }
}

/// Pairs of a partition and its options; options without a partition are for the root.
fn options_of(fields: &[String]) -> Vec<(String, String)> {
    let pairs = fields.chunks(2).map(|pair| match pair {
        [partition, options] => (partition.clone(), options.clone()),
        alone => ("root".to_owned(), alone.concat()),
    });
    pairs.collect()
}

/// `IMAGE:PATH[:OPTIONS]…`.
pub(crate) fn mounted(text: &str) -> Parsed<Vec<Image>> {
    let mut images = Vec::new();
    for word in words(text, RAW_LIST)? {
        let fields = words(&word, ESCAPED_FIELDS)?;
        let [source, target, options @ ..] = fields.as_slice() else {
            return Err(format!("`{word}` does not say where to mount: `IMAGE:PATH`"));
        };
        let (source, optional) = leniently(source);
        images.push((source, target.clone(), optional, options_of(options)));
    }
    Ok(images)
}

/// `IMAGE[:OPTIONS]…`.
pub(crate) fn extensions(text: &str) -> Parsed<Vec<Extension>> {
    let mut images = Vec::new();
    for word in words(text, RAW_LIST)? {
        let fields = words(&word, ESCAPED_FIELDS)?;
        if let [source, options @ ..] = fields.as_slice() {
            let (source, optional) = leniently(source);
            images.push((source, optional, options_of(options)));
        }
    }
    Ok(images)
}

/// A mounted image in a unit file.
pub(crate) fn mounted_text(source: &str, target: &str, optional: bool, options: &[Variant<'_>]) -> String {
    quote_fields(&format!("{}{}:{}", dash(optional), colons(source), colons(target)), options)
}

/// An extension in a unit file.
pub(crate) fn extension_text(source: &str, optional: bool, options: &[Variant<'_>]) -> String {
    quote_fields(&format!("{}{}", dash(optional), colons(source)), options)
}

/// A field, with escaped colons.
fn colons(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

/// An image's fields, followed by pairs of a partition and its options, as one word.
pub(crate) fn quote_fields(begin: &str, options: &[Variant<'_>]) -> String {
    let mut text = begin.to_owned();
    let fields = options.iter().flat_map(|option| match option {
        Variant::Structure(pair) => pair.fields(),
        alone => std::slice::from_ref(alone),
    });
    for field in fields {
        if let Variant::Str(field) = field {
            text = text + ":" + &colons(field);
        }
    }
    raw_quote(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_a_blank_and_a_quote_is_read_as_it_was_written() {
        for (source, target) in [("/a b", "/c"), ("/a b\"", "/c:d"), ("/a", "/b'\t"), ("/a\"", "/b")] {
            let text = mounted_text(source, target, false, &[]);
            assert_eq!(
                mounted(&text).unwrap(),
                [(source.to_owned(), target.to_owned(), false, vec![])],
                "{text}"
            );
        }
    }
}
