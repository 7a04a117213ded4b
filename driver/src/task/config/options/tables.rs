//! The tables of options in driver/README.md.

use super::{Kind, Opt};

/// The table of a block in driver/README.md. The options of a nested block follow it, as `block.option`; a nested block
/// of systemd properties has a table of its own ([`table_of_properties`]).
pub fn table(options: &[Opt]) -> String {
    let head = "| option | type | default | what it does |\n|---|---|---|---|".to_owned();
    std::iter::once(head).chain(rows(options, "")).collect::<Vec<_>>().join("\n")
}

/// The table in driver/README.md of a block of systemd properties.
pub fn table_of_properties(options: &[Opt]) -> String {
    let head = "| option | type | property | what it does |\n|---|---|---|---|".to_owned();
    let row = |Opt { name, hcl_type, property, doc, .. }: &Opt| {
        let property = property.map(|property| format!("`{property}=`")).unwrap_or_default();
        format!("| `{name}` | `{hcl_type}` | {property} | {doc} |")
    };
    std::iter::once(head).chain(options.iter().map(row)).collect::<Vec<_>>().join("\n")
}

/// Does the block have options that are systemd properties?
pub fn has_properties(options: &[Opt]) -> bool {
    options.iter().any(|option| option.property.is_some())
}

fn rows(options: &[Opt], within: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for option in options {
        let default = match option.default {
            Some(literal) => format!("`{literal}`"),
            None if option.required => "required".to_owned(),
            None => String::new(),
        };
        let (name, hcl_type, doc) = (option.name, option.hcl_type, option.doc);
        lines.push(format!("| `{within}{name}` | `{hcl_type}` | {default} | {doc} |"));
        if let Some(Kind::Once(options) | Kind::Often(options)) = option.block
            && !has_properties(options)
        {
            lines.extend(rows(options, &format!("{within}{name}.")));
        }
    }
    lines
}
