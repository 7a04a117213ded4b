//! The `variable` and `locals` blocks of a job file.

use std::collections::BTreeMap;
use std::path::Path;

use hcl::{Map, Value};

use super::Notes;
use super::block::{Block, Error};
use super::expression::Scope;
use super::types::Type;

/// The value that is given for a variable of a job.
#[derive(Debug, Clone)]
pub enum Given {
    /// The text of a variable of the environment, which jobs that declare no such variable ignore.
    Environment(String),
    /// The text of a `--var`.
    Text(String),
    /// The value in a file of variables.
    Value(hcl::Expression),
}

/// What a `variable` block may have besides its type and its default.
const OF_VARIABLES: [&str; 3] = ["description", "validation", "sensitive"];

/// The values of the `variable` blocks: the given value, converted, else the default; and the values of the `variables`
/// block, which contains only names and defaults.
pub(super) fn declared(
    file: &mut Block<'_>,
    given: &BTreeMap<String, Given>,
) -> Result<Map<String, Value>, Error> {
    let scope = Scope::of_plugin();
    let mut values = Map::new();
    for mut block in file.blocks("variable") {
        let name = block.label()?.to_owned();
        let kind = match block.expression("type") {
            Some(expression) => Some(Type::of(&expression).map_err(|reason| block.wrong("type", &reason))?),
            None => None,
        };
        let default = block.expression("default");
        let value = match (given.get(&name), default) {
            (Some(Given::Value(value)), _) => {
                scope.value(value).map_err(|source| block.expression_error(&name, source))?
            }
            // A string is the text itself; every other type is an expression, such as `["a", "b"]`.
            (Some(Given::Text(text) | Given::Environment(text)), _)
                if matches!(kind, None | Some(Type::String)) =>
            {
                Value::String(text.clone())
            }
            (Some(Given::Text(text) | Given::Environment(text)), _) => {
                of_text(text, kind.as_ref(), &name, &block, &scope)?
            }
            (None, Some(default)) => {
                scope.value(&default).map_err(|source| block.expression_error("default", source))?
            }
            (None, None) => {
                let reason = format!("has no default; give it with `--var {name}=VALUE`");
                return Err(block.misspelt(&OF_VARIABLES).unwrap_or_else(|| block.wrong(&name, &reason)));
            }
        };
        let value = match kind {
            Some(kind) => kind.convert(value).map_err(|reason| block.wrong(&name, &reason))?,
            None => value,
        };
        values.insert(name, value);
        block.finish(&OF_VARIABLES, &[], &mut Notes::default())?;
    }
    for mut block in file.blocks("variables") {
        for (name, default) in block.expressions() {
            let value = match given.get(&name) {
                Some(Given::Text(text) | Given::Environment(text)) => Value::String(text.clone()),
                Some(Given::Value(value)) => {
                    scope.value(value).map_err(|source| block.expression_error(&name, source))?
                }
                None => scope.value(&default).map_err(|source| block.expression_error(&name, source))?,
            };
            values.insert(name, value);
        }
        block.finish(&[], &[], &mut Notes::default())?;
    }
    let is_meant = |given: &Given| !matches!(given, Given::Environment(_));
    if let Some((name, _)) = given.iter().find(|(name, given)| !values.contains_key(*name) && is_meant(given))
    {
        let reason = "is given with `--var` or `--var-file`, but the job declares no such variable";
        return Err(file.wrong(name, reason));
    }
    Ok(values)
}

/// The value of the expression that is given for a variable of this type.
fn of_text(
    text: &str,
    kind: Option<&Type>,
    name: &str,
    block: &Block<'_>,
    scope: &Scope,
) -> Result<Value, Error> {
    let parsed = hcl::edit::parser::parse_expr(text).map_err(|error| block.wrong(name, error.message()))?;
    let value = scope.value(&parsed.into());
    // A word alone is most probably a text.
    let is_word = text.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    if let (Err(_), true, Some(kind)) = (&value, is_word, kind)
        && let Err(reason) = kind.convert(Value::String(text.to_owned()))
    {
        return Err(block.wrong(name, &reason));
    }
    value.map_err(|source| block.expression_error(name, source))
}

/// The values of the `locals` blocks, which may use each other in any order.
pub(super) fn locals(
    file: &mut Block<'_>,
    variables: &Map<String, Value>,
    directory: &Path,
) -> Result<Map<String, Value>, Error> {
    let mut waiting = Vec::new();
    for mut block in file.blocks("locals") {
        waiting.extend(block.expressions());
        block.finish(&[], &[], &mut Notes::default())?;
    }
    let mut values = Map::new();
    while !waiting.is_empty() {
        let scope = Scope::of_job(variables.clone(), values.clone()).with_files(directory);
        let (before, mut failure) = (waiting.len(), None);
        waiting.retain(|(name, expression)| match scope.value(expression) {
            Ok(value) => {
                values.insert(name.clone(), value);
                false
            }
            Err(error) => {
                failure = Some((name.clone(), error));
                true
            }
        });
        if let (Some((name, source)), true) = (failure, before == waiting.len()) {
            return Err(file.expression_error(&name, source));
        }
    }
    Ok(values)
}
