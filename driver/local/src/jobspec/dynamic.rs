//! Expands `dynamic` blocks: one block for each element of a list or map, as HCL does before Nomad reads a job.

use hcl::edit::expr::{Expression, Parenthesis};
use hcl::edit::structure::{Block as Written, BlockLabel, Body, Structure};
use hcl::edit::visit_mut::{VisitMut, visit_expr_mut};
use hcl::edit::{Decorated, Ident};
use hcl::{Map, Value};

use super::block::{Block, Error};
use super::expression::Scope;

/// The maximum number of expanded blocks. Nested blocks multiply.
const MOST: usize = 10_000;

/// The body without `dynamic` blocks, which may be nested. `text` is the text of the whole file.
pub(super) fn expand(text: &str, body: &Body, scope: &Scope) -> Result<Body, Error> {
    expand_within(&mut MOST.clone(), text, body, scope)
}

fn expand_within(left: &mut usize, text: &str, body: &Body, scope: &Scope) -> Result<Body, Error> {
    let mut expanded = Body::new();
    for structure in body {
        match structure {
            Structure::Attribute(_) => expanded.push(structure.clone()),
            Structure::Block(block) if block.has_ident("dynamic") => {
                for block in generate(left, text, block, scope)? {
                    expanded.push(block);
                }
            }
            Structure::Block(block) => {
                let mut block = block.clone();
                block.body = expand_within(left, text, &block.body, scope)?;
                expanded.push(block);
            }
        }
    }
    Ok(expanded)
}

/// The blocks that one `dynamic` block expands to.
fn generate(left: &mut usize, text: &str, written: &Written, scope: &Scope) -> Result<Vec<Written>, Error> {
    let mut block = Block::of(text, written);
    let kind = block.label()?.to_owned();
    let ident = Ident::try_new(&kind).map_err(|_| block.wrong("label", "the name of a block is required"))?;
    let each = block.value("for_each", scope)?.ok_or_else(|| block.missing("for_each"))?;
    let elements = elements(each).ok_or_else(|| block.wrong("for_each", "a list or a map is required"))?;
    let iterator = match block.expression("iterator") {
        None => kind,
        Some(hcl::Expression::Variable(name)) => name.to_string(),
        Some(_) => return Err(block.wrong("iterator", "a bare name is required, such as `port`")),
    };
    let labels = written.body.get_attribute("labels").map(|labels| &labels.value);
    let content = written.body.get_blocks("content").next().ok_or_else(|| block.missing("content"))?;

    let mut generated = Vec::new();
    for element in elements {
        *left = left.checked_sub(1).ok_or_else(|| {
            block.wrong("for_each", &format!("the job would have more than {MOST} such blocks"))
        })?;
        let mut bind = Bind { name: &iterator, element: hcl::Expression::from(element).into() };
        let labels = labels.map(|labels| {
            let mut labels = labels.clone();
            bind.visit_expr_mut(&mut labels);
            let value = scope.value(&labels.into());
            let value = value.map_err(|source| block.expression_error("labels", source))?;
            let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
            texts
                .map(|texts: Vec<_>| {
                    texts.into_iter().map(|text| BlockLabel::from(text.to_owned())).collect()
                })
                .ok_or_else(|| block.wrong("labels", "a list of strings is required"))
        });
        let mut body = content.body.clone();
        bind.visit_body_mut(&mut body);
        // The block keeps the line of the `dynamic` block.
        let mut block = written.clone();
        block.ident = Decorated::new(ident.clone());
        block.labels = labels.transpose()?.unwrap_or_default();
        block.body = expand_within(left, text, &body, scope)?;
        generated.push(block);
    }
    Ok(generated)
}

/// Each element as an object with `key` and `value`.
fn elements(each: Value) -> Option<Vec<Value>> {
    let element = |(key, value): (Value, Value)| {
        Value::Object(Map::from_iter([("key".to_owned(), key), ("value".to_owned(), value)]))
    };
    match each {
        Value::Array(list) => Some((0_u64..).map(Value::from).zip(list).map(element).collect()),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            Some(entries.into_iter().map(|(key, value)| element((Value::from(key), value))).collect())
        }
        _ => None,
    }
}

/// Replaces the iterator's name by an element.
struct Bind<'a> {
    name: &'a str,
    element: Expression,
}

impl VisitMut for Bind<'_> {
    fn visit_expr_mut(&mut self, expression: &mut Expression) {
        match expression {
            Expression::Variable(name) if name.as_str() == self.name => {
                *expression = Parenthesis::new(self.element.clone()).into();
            }
            _ => visit_expr_mut(self, expression),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::Place;
    use super::*;

    fn expanded(text: &str) -> Result<String, Error> {
        let body = hcl::edit::parser::parse_body(text).unwrap();
        let variables = Map::from_iter([("ports".to_owned(), hcl::value!({ b = 2, a = 1 }))]);
        let scope = Scope::of_job(variables, Map::new());
        let body = expand(text, &body, &scope)?;
        let map = scope.body(&hcl::Body::from(body)).map_err(|source| Error::Expression {
            place: Place { block: "here".to_owned(), span: None },
            key: "x".to_owned(),
            source,
        });
        Ok(serde_json::to_string(&Value::Object(map?)).unwrap())
    }

    #[test]
    fn a_dynamic_block_becomes_one_block_for_each_element() {
        let text = r#"
            dynamic "port" {
              for_each = var.ports
              labels   = [port.key]
              content {
                to   = port.value
                text = "${port.key}=${port.value} ${NOMAD_DC}"
              }
            }"#;
        assert_eq!(
            expanded(text).unwrap(),
            r#"{"port":[{"a":[{"to":1,"text":"a=1 ${NOMAD_DC}"}]},{"b":[{"to":2,"text":"b=2 ${NOMAD_DC}"}]}]}"#
        );
        let text = r#"
            group "g" {
              dynamic "task" {
                for_each = [{ name = "x", files = ["y", "z"] }]
                iterator = each
                labels   = [each.value.name]
                content {
                  dynamic "template" {
                    for_each = each.value.files
                    content {
                      destination = "${each.value.name}/${template.key}-${upper(template.value)}"
                    }
                  }
                }
              }
            }"#;
        assert_eq!(
            expanded(text).unwrap(),
            r#"{"group":[{"g":[{"task":[{"x":[{"template":[{"destination":"x/0-Y"},{"destination":"x/1-Z"}]}]}]}]}]}"#
        );
        assert_eq!(expanded("dynamic \"x\" {\n for_each = []\n content {}\n}").unwrap(), "{}");
    }

    #[test]
    fn what_a_dynamic_block_lacks_is_named_with_its_line() {
        for (text, wrong) in [
            ("\ndynamic \"x\" {\n content {}\n}", "dynamic \"x\" (line 2): `for_each` is required"),
            ("dynamic \"x\" {\n for_each = [1]\n}", "dynamic \"x\" (line 1): `content` is required"),
            ("dynamic \"x\" {\n for_each = 1\n content {}\n}", "`for_each`: a list or a map is required"),
            ("dynamic {\n}", "exactly one name"),
            (
                "dynamic \"x\" {\n for_each = range(1000)\n content {\n dynamic \"y\" {\n for_each = range(1000)\n content \
                 {}\n }\n }\n}",
                "more than 10000 such blocks",
            ),
        ] {
            let error = expanded(text).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
