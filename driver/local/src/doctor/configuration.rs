//! The text of the agent's configuration: which files it is in, and how the agent reads them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hcl::{Body, Expression};

/// The content of a file, in HCL or JSON. The error is for people.
pub(super) fn read(file: &Path) -> Result<Body, String> {
    let text = crate::within::regular_file(file).and_then(io::read_to_string);
    let text = text.map_err(|error| error.to_string())?;
    if file.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str::<hcl::Value>(&text).map(from_json).map_err(|error| error.to_string());
    }
    if let Ok(value @ hcl::Value::Object(_)) = serde_json::from_str(&text) {
        return Ok(from_json(value));
    }
    // The agent's own reader also accepts blocks of one line (HCL 1).
    hcl::parse(&text).or_else(|error| hcl::parse(&on_lines(&text)).map_err(|_| error.to_string()))
}

/// The file itself, or the files that an agent reads in this directory, in the agent's order.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let read = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_read = |path: &PathBuf| {
        path.is_file() && path.extension().is_some_and(|extension| extension == "hcl" || extension == "json")
    };
    let mut files: Vec<PathBuf> = read.filter(is_read).collect();
    files.sort();
    files
}

/// The text with each block and object on lines of its own.
fn on_lines(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() * 2);
    let (mut in_string, mut escaped, mut in_comment) = (false, false, false);
    for letter in text.chars() {
        match letter {
            '\n' => (in_comment, in_string) = (false, false),
            '"' if !escaped && !in_comment => in_string = !in_string,
            '#' if !in_string => in_comment = true,
            '{' if !in_string && !in_comment => {
                lines.push_str("{\n");
                continue;
            }
            '}' if !in_string && !in_comment => {
                lines.push_str("\n}");
                continue;
            }
            _ => {}
        }
        escaped = in_string && letter == '\\' && !escaped;
        lines.push(letter);
    }
    with_quoted_names(&lines)
}

/// Makes each block whose first line sets a name in quotes an object, which may have such names: `meta { "rack" = "r1" }`.
fn with_quoted_names(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let is_quoted = |line: &str| {
        let rest = line.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
        rest.is_some_and(|(_, rest)| rest.trim_start().starts_with('='))
    };
    let mut changed = String::with_capacity(text.len());
    for (number, line) in lines.iter().enumerate() {
        let opens = line.trim_end().strip_suffix('{').filter(|name| !name.contains(['=', '"']));
        match opens.filter(|_| lines.get(number + 1).is_some_and(|next| is_quoted(next))) {
            Some(name) => changed.extend([name, "= {"]),
            None => changed.push_str(line),
        }
        changed.push('\n');
    }
    changed
}

/// The value of this attribute as the body of a block: `config = { … }`.
pub(super) fn object(body: &Body, name: &str) -> Option<Body> {
    let attribute = body.attributes().find(|attribute| attribute.key() == name)?;
    let Expression::Object(object) = attribute.expr() else { return None };
    let attributes = object.iter().map(|(key, value)| {
        let key = key.to_string();
        hcl::Attribute::new(key.trim_matches('"').to_owned(), value.clone())
    });
    Some(attributes.collect())
}

/// The configuration in JSON, as far as it is used here: blocks are objects, or lists of objects.
fn from_json(value: hcl::Value) -> Body {
    let hcl::Value::Object(map) = value else { return Body::default() };
    let mut builder = Body::builder();
    for (key, value) in map {
        if key == "client" {
            let attributes = objects(value).into_iter().map(|(key, value)| hcl::Attribute::new(key, value));
            builder = builder.add_block(hcl::Block::builder("client").add_attributes(attributes).build());
            continue;
        }
        if key != "plugin" {
            builder = builder.add_attribute(hcl::Attribute::new(key, value));
            continue;
        }
        for (label, plugin) in objects(value) {
            let config = objects(plugin).into_iter().filter(|(key, _)| key == "config");
            let mut block = hcl::Block::builder("plugin").add_label(label);
            for (_, config) in config {
                let attributes =
                    objects(config).into_iter().map(|(key, value)| hcl::Attribute::new(key, value));
                block = block.add_block(hcl::Block::builder("config").add_attributes(attributes).build());
            }
            builder = builder.add_block(block.build());
        }
    }
    builder.build()
}

/// The keys and values of an object, or of all objects in a list.
fn objects(value: hcl::Value) -> Vec<(String, hcl::Value)> {
    match value {
        hcl::Value::Object(map) => map.into_iter().collect(),
        hcl::Value::Array(list) => list.into_iter().flat_map(objects).collect(),
        _ => Vec::new(),
    }
}
