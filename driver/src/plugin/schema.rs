//! Option tables as Nomad wants them: a tree of `hclspec`.

use proto::hclspec::spec::Block;
use proto::hclspec::{self, Attr, Default, Literal, Object, Spec};

use crate::task::options::Opt;

/// The schema of a block with these options.
pub(super) fn block(options: &[Opt]) -> Spec {
    let attributes = options.iter().map(|option| (option.name.to_owned(), attribute(option))).collect();
    spec(Block::Object(Object { attributes }))
}

fn attribute(option: &Opt) -> Spec {
    if let Some(nested) = option.nested {
        return spec(Block::BlockValue(Box::new(hclspec::Block {
            name: option.name.to_owned(),
            required: option.required,
            nested: Some(Box::new(block(nested))),
        })));
    }
    // A name is implied only directly below the object, not below a default: it is always given.
    let attr = spec(Block::Attr(Attr {
        name: option.name.to_owned(),
        r#type: option.hcl_type.to_owned(),
        required: option.required,
    }));
    match option.default {
        None => attr,
        Some(literal) => spec(Block::Default(Box::new(Default {
            primary: Some(Box::new(attr)),
            default: Some(Box::new(spec(Block::Literal(Literal { value: literal.to_owned() })))),
        }))),
    }
}

fn spec(block: Block) -> Spec {
    Spec { block: Some(block) }
}
