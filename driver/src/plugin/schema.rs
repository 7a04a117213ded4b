//! Option tables in the form that Nomad expects: a tree of `hclspec`.

use proto::hclspec::spec::Block;
use proto::hclspec::{self, Attr, BlockAttrs, BlockList, Default, Literal, Object, Spec};

use crate::task::config::options::{Kind, Opt};

/// The schema of a block with these options.
pub(super) fn block(options: &[Opt]) -> Spec {
    let attributes = options.iter().map(|option| (option.name.to_owned(), attribute(option))).collect();
    spec(Block::Object(Object { attributes }))
}

fn attribute(option: &Opt) -> Spec {
    let name = option.name.to_owned();
    match option.block {
        Some(Kind::Once(options)) => {
            let nested = Some(Box::new(block(options)));
            let required = option.required;
            return spec(Block::BlockValue(Box::new(hclspec::Block { name, required, nested })));
        }
        Some(Kind::Often(options)) => {
            let nested = Some(Box::new(block(options)));
            let (min_items, max_items) = (0, 0);
            return spec(Block::BlockList(Box::new(BlockList { name, min_items, max_items, nested })));
        }
        Some(Kind::Free) => {
            let (r#type, required) = ("string".to_owned(), false);
            return spec(Block::BlockAttrs(BlockAttrs { name, r#type, required }));
        }
        None => {}
    }
    // A name is implied only directly below the object, not below a default, so it is always given.
    let attr =
        spec(Block::Attr(Attr { name, r#type: option.hcl_type.to_owned(), required: option.required }));
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
