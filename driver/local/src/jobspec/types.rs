//! The types of HCL and the conversion of values, as in go-cty: `"2"` is a number where one is required, 5 is a string,
//! and a scalar is never a list. Facts from Nomad v2.0.5, helper/pluginutils/hclspecutils/type_expr.go, and go-cty's
//! convert package.

use hcl::expr::ObjectKey;
use hcl::{Expression, Map, Value};

/// The type of an attribute, as HCL's type expressions write it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    String,
    Number,
    Bool,
    Any,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Object(Vec<(String, Type)>),
    Tuple(Vec<Type>),
}

impl Type {
    /// Parses text such as `list(map(string))`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::of(&parse_expression(text)?)
    }

    /// Reads an expression such as `list(map(string))`.
    pub(crate) fn of(expression: &Expression) -> Result<Self, String> {
        let unknown = || format!("`{expression}` is not a type");
        match expression {
            Expression::Variable(name) => match name.as_str() {
                "string" => Ok(Self::String),
                "number" => Ok(Self::Number),
                "bool" => Ok(Self::Bool),
                "any" => Ok(Self::Any),
                _ => Err(unknown()),
            },
            Expression::FuncCall(call) => match (call.name.name.as_str(), call.args.as_slice()) {
                ("list", [element]) => Ok(Self::List(Box::new(Self::of(element)?))),
                ("set", [element]) => Ok(Self::Set(Box::new(Self::of(element)?))),
                ("map", [element]) => Ok(Self::Map(Box::new(Self::of(element)?))),
                ("tuple", [Expression::Array(elements)]) => {
                    elements.iter().map(Self::of).collect::<Result<_, _>>().map(Self::Tuple)
                }
                ("object", [Expression::Object(attributes)]) => {
                    let mut kinds = Vec::new();
                    for (key, kind) in attributes {
                        let key = match key {
                            ObjectKey::Identifier(name) => name.to_string(),
                            ObjectKey::Expression(Expression::Variable(name)) => name.to_string(),
                            ObjectKey::Expression(Expression::String(name)) => name.clone(),
                            _ => return Err(unknown()),
                        };
                        kinds.push((key, Self::of(kind)?));
                    }
                    Ok(Self::Object(kinds))
                }
                _ => Err(unknown()),
            },
            _ => Err(unknown()),
        }
    }

    /// Converts as go-cty does; null is a value of every type.
    #[allow(clippy::too_many_lines, reason = "one arm per type, and per value that is of another")]
    pub(crate) fn convert(&self, value: Value) -> Result<Value, String> {
        let wrong =
            |wanted: &str, value: &Value| Err(format!("{wanted} is required, not {}", described(value)));
        match (self, value) {
            (_, Value::Null) => Ok(Value::Null),
            (Self::Any, value) => Ok(value),
            (Self::String, Value::String(text)) => Ok(Value::String(text)),
            (Self::String, Value::Number(number)) => Ok(Value::String(digits(&number))),
            (Self::String, Value::Bool(bool)) => Ok(Value::String(bool.to_string())),
            (Self::String, other) => wrong("a string", &other),
            (Self::Number, Value::Number(number)) => Ok(Value::Number(number)),
            (Self::Number, Value::String(text)) => {
                let whole = text.parse::<i64>().map(Value::from);
                let number = whole.or_else(|_| text.parse::<f64>().map(Value::from));
                number.or_else(|_| wrong("a number", &Value::String(text)))
            }
            (Self::Number, other) => wrong("a number", &other),
            (Self::Bool, Value::Bool(bool)) => Ok(Value::Bool(bool)),
            (Self::Bool, Value::String(text)) => match text.as_str() {
                "true" | "1" => Ok(Value::Bool(true)),
                "false" | "0" => Ok(Value::Bool(false)),
                _ => wrong("true or false", &Value::String(text)),
            },
            (Self::Bool, other) => wrong("true or false", &other),
            // The form in which HCL parses `key = { … }`, which may be intended as a block.
            (Self::List(kind), Value::Array(list))
                if **kind == Self::String && matches!(list.as_slice(), [Value::Object(_)]) =>
            {
                Err("a list of strings is required, such as `[\"A\", \"B\"]`, not a map or block".to_owned())
            }
            (Self::List(kind), Value::Array(list)) => {
                let numbered = list.into_iter().zip(1..);
                let convert = |(value, number)| {
                    kind.convert(value).map_err(|reason| format!("in its element {number} {reason}"))
                };
                numbered.map(convert).collect()
            }
            (Self::Set(kind), Value::Array(list)) => {
                let mut distinct = Vec::new();
                for value in list {
                    let value = kind.convert(value)?;
                    if !distinct.contains(&value) {
                        distinct.push(value);
                    }
                }
                Ok(Value::Array(distinct))
            }
            (Self::List(_) | Self::Set(_), other) => wrong("a list", &other),
            (Self::Map(kind), Value::Object(map)) => {
                let mut result = Map::new();
                for (key, value) in map {
                    let value = kind.convert(value).map_err(|reason| format!("{key}: {reason}"))?;
                    result.insert(key, value);
                }
                Ok(Value::Object(result))
            }
            (Self::Map(_), other) => wrong("a map", &other),
            (Self::Object(kinds), Value::Object(mut map)) => {
                let mut result = Map::new();
                for (key, kind) in kinds {
                    let value = map.swap_remove(key).ok_or_else(|| format!("{key} is required"))?;
                    let value = kind.convert(value).map_err(|reason| format!("{key}: {reason}"))?;
                    result.insert(key.clone(), value);
                }
                Ok(Value::Object(result))
            }
            (Self::Object(_), other) => wrong("an object", &other),
            (Self::Tuple(kinds), Value::Array(list)) if kinds.len() == list.len() => {
                kinds.iter().zip(list).map(|(kind, value)| kind.convert(value)).collect()
            }
            (Self::Tuple(kinds), other) => wrong(&format!("a list of {}", kinds.len()), &other),
        }
    }
}

/// A number as text: its digits, never an exponent.
fn digits(number: &hcl::Number) -> String {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(whole), _, _) => whole.to_string(),
        (_, Some(whole), _) => whole.to_string(),
        // There is only one zero: -0 becomes 0.
        (_, _, Some(fraction)) => (fraction + 0.0).to_string(),
        _ => number.to_string(),
    }
}

/// Reads an expression such as `list(string)` or `"nomad"`.
pub(crate) fn parse_expression(text: &str) -> Result<Expression, String> {
    let parsed = hcl::edit::parser::parse_expr(text);
    parsed
        .map(Expression::from)
        .map_err(|error| format!("`{text}` is not an expression: {}", error.message()))
}

/// A short description of a value, for an error.
pub(crate) fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(bool) => format!("{bool}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map or block".to_owned(),
    }
}
