//! The functions that a job file may call: those of Nomad's list that jobs really use.
//!
//! Their meaning is that of go-cty's standard library, which Nomad hands to job files (jobspec2/functions.go) and, a
//! shorter list, to the strings of a `config` block (helper/pluginutils/hclutils/util.go). All others are refused by
//! name.

use hcl::eval::{Context, Func, FuncArgs, FuncDef, ParamType};
use hcl::expr::BinaryOperator;
use hcl::{Map, Value};

/// Every function's name, sorted.
pub(super) const NAMES: &[&str] = &[
    "abs",
    "coalesce",
    "compact",
    "concat",
    "contains",
    "distinct",
    "flatten",
    "format",
    "join",
    "jsondecode",
    "jsonencode",
    "keys",
    "length",
    "lookup",
    "lower",
    "max",
    "merge",
    "min",
    "replace",
    "reverse",
    "sort",
    "split",
    "strlen",
    "substr",
    "trimprefix",
    "trimspace",
    "trimsuffix",
    "upper",
    "values",
];

type Result = std::result::Result<Value, String>;

/// The function that computes what this operator of arithmetic does. A job file cannot call it.
pub(super) fn of_operator(operator: BinaryOperator) -> Option<&'static str> {
    Some(match operator {
        BinaryOperator::Plus => "plus",
        BinaryOperator::Minus => "minus",
        BinaryOperator::Mul => "times",
        BinaryOperator::Div => "divided_by",
        BinaryOperator::Mod => "modulo",
        _ => return None,
    })
}

/// Makes all of them callable.
pub(super) fn declare(context: &mut Context<'_>) {
    let functions: [(&str, Func); 34] = [
        ("abs", abs),
        ("coalesce", coalesce),
        ("compact", compact),
        ("concat", concat),
        ("contains", contains),
        ("distinct", distinct),
        ("divided_by", divided_by),
        ("flatten", flatten),
        ("format", format),
        ("join", join),
        ("jsondecode", jsondecode),
        ("jsonencode", jsonencode),
        ("keys", keys),
        ("length", length),
        ("lookup", lookup),
        ("lower", lower),
        ("max", max),
        ("merge", merge),
        ("min", min),
        ("minus", minus),
        ("modulo", modulo),
        ("plus", plus),
        ("replace", replace),
        ("reverse", reverse),
        ("sort", sort),
        ("split", split),
        ("strlen", strlen),
        ("substr", substr),
        ("times", times),
        ("trimprefix", trimprefix),
        ("trimspace", trimspace),
        ("trimsuffix", trimsuffix),
        ("upper", upper),
        ("values", values),
    ];
    for (name, function) in functions {
        let definition = FuncDef::builder().variadic_param(ParamType::Any).build(function);
        context.declare_func(hcl::Identifier::sanitized(name), definition);
    }
}

fn abs(args: FuncArgs) -> Result {
    let [number] = exactly(args)?;
    Ok(number_value(number_of(&number)?.abs()))
}

fn coalesce(args: FuncArgs) -> Result {
    let found = args.into_values().into_iter().find(|value| !value.is_null());
    found.ok_or_else(|| "every argument is null".to_owned())
}

fn compact(args: FuncArgs) -> Result {
    let [list] = exactly(args)?;
    Ok(list_of(list)?.into_iter().filter(|value| value.as_str() != Some("") && !value.is_null()).collect())
}

fn concat(args: FuncArgs) -> Result {
    let lists: std::result::Result<Vec<_>, _> = args.into_values().into_iter().map(list_of).collect();
    Ok(lists?.into_iter().flatten().collect())
}

fn contains(args: FuncArgs) -> Result {
    let [list, wanted] = exactly(args)?;
    Ok(Value::Bool(list_of(list)?.contains(&wanted)))
}

fn distinct(args: FuncArgs) -> Result {
    let [list] = exactly(args)?;
    let mut seen = Vec::new();
    for value in list_of(list)? {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    Ok(Value::Array(seen))
}

fn flatten(args: FuncArgs) -> Result {
    fn into(flat: &mut Vec<Value>, list: Vec<Value>) {
        for value in list {
            match value {
                Value::Array(inner) => into(flat, inner),
                other => flat.push(other),
            }
        }
    }
    let [list] = exactly(args)?;
    let mut flat = Vec::new();
    into(&mut flat, list_of(list)?);
    Ok(Value::Array(flat))
}

fn divided_by(args: FuncArgs) -> Result {
    let [left, right] = numbers(args)?;
    if right == 0.0 { Err("division by zero".to_owned()) } else { finite(left / right) }
}

/// Of the verbs those without flags: `%s`, `%v`, `%d`, `%q`, `%t` and `%%`.
fn format(args: FuncArgs) -> Result {
    let mut values = args.into_values().into_iter();
    let pattern = string_of(&values.next().ok_or("a format is required")?)?;
    let mut result = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            result.push(character);
            continue;
        }
        let verb = characters.next().ok_or("the format ends with `%`")?;
        if verb == '%' {
            result.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| format!("no argument for `%{verb}`"))?;
        match verb {
            's' | 'd' | 't' => result.push_str(&string_of(&value)?),
            'v' => result.push_str(&string_of(&value).or_else(|_| json(&value))?),
            'q' => result.push_str(&json(&Value::String(string_of(&value)?))?),
            other => {
                return Err(format!("the verb `%{other}` is not known here; %s %v %d %q %t are"));
            }
        }
    }
    match values.next() {
        None => Ok(Value::String(result)),
        Some(_) => Err("more arguments than verbs".to_owned()),
    }
}

fn join(args: FuncArgs) -> Result {
    let mut values = args.into_values().into_iter();
    let separator = string_of(&values.next().ok_or("a separator is required")?)?;
    let mut parts = Vec::new();
    for list in values {
        for value in list_of(list)? {
            parts.push(string_of(&value)?);
        }
    }
    Ok(Value::String(parts.join(&separator)))
}

fn jsondecode(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    serde_json::from_str(&string_of(&text)?).map_err(|error| error.to_string())
}

fn jsonencode(args: FuncArgs) -> Result {
    let [value] = exactly(args)?;
    json(&value).map(Value::String)
}

fn keys(args: FuncArgs) -> Result {
    let [map] = exactly(args)?;
    let mut keys: Vec<_> = map_of(map)?.into_iter().map(|(key, _)| key).collect();
    keys.sort();
    Ok(keys.into_iter().collect())
}

fn length(args: FuncArgs) -> Result {
    let [value] = exactly(args)?;
    match value {
        Value::Array(list) => Ok(Value::from(list.len())),
        Value::Object(map) => Ok(Value::from(map.len())),
        _ => Err("a list or map is required; `strlen` counts characters".to_owned()),
    }
}

fn lookup(args: FuncArgs) -> Result {
    let [map, key, default] = exactly(args)?;
    Ok(map_of(map)?.swap_remove(&string_of(&key)?).unwrap_or(default))
}

fn lower(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::String(string_of(&text)?.to_lowercase()))
}

fn max(args: FuncArgs) -> Result {
    let numbers: std::result::Result<Vec<_>, _> = args.into_values().iter().map(number_of).collect();
    numbers?.into_iter().reduce(f64::max).map(number_value).ok_or_else(|| "a number is required".to_owned())
}

fn merge(args: FuncArgs) -> Result {
    let mut merged = Map::new();
    for map in args.into_values().into_iter().filter(|value| !value.is_null()) {
        merged.extend(map_of(map)?);
    }
    Ok(Value::Object(merged))
}

fn min(args: FuncArgs) -> Result {
    let numbers: std::result::Result<Vec<_>, _> = args.into_values().iter().map(number_of).collect();
    numbers?.into_iter().reduce(f64::min).map(number_value).ok_or_else(|| "a number is required".to_owned())
}

fn minus(args: FuncArgs) -> Result {
    arithmetic(args, i64::checked_sub, |left, right| left - right)
}

fn modulo(args: FuncArgs) -> Result {
    // Of two whole numbers only a division by zero, and the least one by -1, have no result of theirs.
    arithmetic(args, i64::checked_rem, |left, right| left % right)
}

fn plus(args: FuncArgs) -> Result {
    arithmetic(args, i64::checked_add, |left, right| left + right)
}

fn replace(args: FuncArgs) -> Result {
    let [text, from, to] = exactly(args)?;
    Ok(Value::String(string_of(&text)?.replace(&string_of(&from)?, &string_of(&to)?)))
}

fn reverse(args: FuncArgs) -> Result {
    let [value] = exactly(args)?;
    match value {
        Value::Array(list) => Ok(list.into_iter().rev().collect()),
        other => Ok(Value::String(string_of(&other)?.chars().rev().collect())),
    }
}

fn sort(args: FuncArgs) -> Result {
    let [list] = exactly(args)?;
    let texts: std::result::Result<Vec<_>, _> = list_of(list)?.iter().map(string_of).collect();
    let mut texts = texts?;
    texts.sort();
    Ok(texts.into_iter().collect())
}

fn split(args: FuncArgs) -> Result {
    let [separator, text] = exactly(args)?;
    let (separator, text) = (string_of(&separator)?, string_of(&text)?);
    Ok(text.split(separator.as_str()).map(Value::from).collect())
}

fn strlen(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::from(string_of(&text)?.chars().count()))
}

fn substr(args: FuncArgs) -> Result {
    let [text, offset, length] = exactly(args)?;
    let text: Vec<char> = string_of(&text)?.chars().collect();
    let (offset, length) = (integer_of(&offset)?, integer_of(&length)?);
    let count = i64::try_from(text.len()).map_err(|error| error.to_string())?;
    // A negative offset counts from the end, a negative length means "the rest".
    let start = if offset < 0 { (count + offset).max(0) } else { offset.min(count) };
    let end = if length < 0 { count } else { start.saturating_add(length).min(count) };
    let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
    Ok(Value::String(text[range].iter().collect()))
}

fn times(args: FuncArgs) -> Result {
    arithmetic(args, i64::checked_mul, |left, right| left * right)
}

fn trimprefix(args: FuncArgs) -> Result {
    let [text, prefix] = exactly(args)?;
    let (text, prefix) = (string_of(&text)?, string_of(&prefix)?);
    Ok(Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(&text)))
}

fn trimspace(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::from(string_of(&text)?.trim()))
}

fn trimsuffix(args: FuncArgs) -> Result {
    let [text, suffix] = exactly(args)?;
    let (text, suffix) = (string_of(&text)?, string_of(&suffix)?);
    Ok(Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(&text)))
}

fn upper(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::String(string_of(&text)?.to_uppercase()))
}

fn values(args: FuncArgs) -> Result {
    let [map] = exactly(args)?;
    let mut entries: Vec<_> = map_of(map)?.into_iter().collect();
    entries.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(entries.into_iter().map(|(_, value)| value).collect())
}

fn exactly<const N: usize>(args: FuncArgs) -> std::result::Result<[Value; N], String> {
    let values = args.into_values();
    let given = values.len();
    values.try_into().map_err(|_| format!("{N} arguments are required, {given} are given"))
}

fn string_of(value: &Value) -> std::result::Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        _ => Err("a string is required".to_owned()),
    }
}

fn number_of(value: &Value) -> std::result::Result<f64, String> {
    let parsed = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| "a number is required".to_owned())
}

fn numbers(args: FuncArgs) -> std::result::Result<[f64; 2], String> {
    let [left, right] = exactly(args)?;
    Ok([number_of(&left)?, number_of(&right)?])
}

/// Exact for whole numbers whose result fits.
fn arithmetic(
    args: FuncArgs,
    of_integers: fn(i64, i64) -> Option<i64>,
    of_others: fn(f64, f64) -> f64,
) -> Result {
    let values: [Value; 2] = exactly(args)?;
    let whole = values[0].as_i64().zip(values[1].as_i64());
    match whole.and_then(|(left, right)| of_integers(left, right)) {
        Some(result) => Ok(Value::from(result)),
        None => finite(of_others(number_of(&values[0])?, number_of(&values[1])?)),
    }
}

fn finite(number: f64) -> Result {
    if number.is_finite() {
        Ok(number_value(number))
    } else {
        Err("the result is too large, or there is none".to_owned())
    }
}

fn integer_of(value: &Value) -> std::result::Result<i64, String> {
    value.as_i64().ok_or_else(|| "a whole number is required".to_owned())
}

/// Whole numbers stay whole numbers.
fn number_value(number: f64) -> Value {
    match format!("{number}").parse::<i64>() {
        Ok(whole) => Value::from(whole),
        Err(_) => Value::from(number),
    }
}

fn list_of(value: Value) -> std::result::Result<Vec<Value>, String> {
    match value {
        Value::Array(list) => Ok(list),
        _ => Err("a list is required".to_owned()),
    }
}

fn map_of(value: Value) -> std::result::Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err("a map is required".to_owned()),
    }
}

/// Compact, keys sorted, as go-cty writes it.
fn json(value: &Value) -> std::result::Result<String, String> {
    let sorted = serde_json::to_value(value).map_err(|error| error.to_string())?;
    serde_json::to_string(&sorted).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::expression::Scope;
    use super::*;

    fn call(text: &str) -> Value {
        let body = hcl::parse(&format!("x = {text}\n")).unwrap();
        Scope::of_plugin().body(&body).unwrap().swap_remove("x").unwrap()
    }

    #[test]
    fn the_list_of_names_is_sorted_and_complete() {
        assert!(NAMES.is_sorted());
        for name in NAMES {
            let body = hcl::parse(&format!("x = {name}()\n")).unwrap();
            let error =
                Scope::of_plugin().body(&body).map_or_else(|error| error.to_string(), |_| String::new());
            assert!(!error.contains("undefined"), "{name}: {error}");
        }
    }

    #[test]
    fn each_function_gives_what_go_cty_gives() {
        let cases: &[(&str, Value)] = &[
            ("abs(-3)", Value::from(3)),
            (r#"coalesce(null, "a")"#, "a".into()),
            (r#"compact(["a", "", "b"])"#, hcl::value!(["a", "b"])),
            ("concat([1], [2, 3])", hcl::value!([1, 2, 3])),
            (r#"contains(["a"], "a")"#, true.into()),
            ("distinct([1, 1, 2])", hcl::value!([1, 2])),
            ("flatten([[1], [[2], 3]])", hcl::value!([1, 2, 3])),
            (r#"format("%s-%d%%", "a", 7)"#, "a-7%".into()),
            (r#"join(",", ["a", 1])"#, "a,1".into()),
            (r#"jsondecode("{\"a\":[1]}")"#, hcl::value!({ a = [1] })),
            ("jsonencode({ b = 1, a = [true, null] })", r#"{"a":[true,null],"b":1}"#.into()),
            ("keys({ b = 1, a = 2 })", hcl::value!(["a", "b"])),
            ("length([1, 2])", Value::from(2)),
            (r#"lookup({ a = 1 }, "b", 9)"#, Value::from(9)),
            (r#"lower("AbC")"#, "abc".into()),
            ("max(1, 5, 2)", Value::from(5)),
            ("merge({ a = 1 }, { a = 2, b = 3 })", hcl::value!({ a = 2, b = 3 })),
            ("min(1, 0.5)", Value::from(0.5)),
            (r#"replace("a.b", ".", "-")"#, "a-b".into()),
            (r#"reverse("abc")"#, "cba".into()),
            (r#"sort(["b", "a"])"#, hcl::value!(["a", "b"])),
            (r#"split(",", "a,b")"#, hcl::value!(["a", "b"])),
            (r#"strlen("äb")"#, Value::from(2)),
            (r#"substr("hello", 1, 3)"#, "ell".into()),
            (r#"substr("hello", -2, -1)"#, "lo".into()),
            (r#"substr("hello", 1, 9223372036854775807)"#, "ello".into()),
            (r#"trimprefix("v1", "v")"#, "1".into()),
            (r#"trimspace(" a ")"#, "a".into()),
            (r#"trimsuffix("a.hcl", ".hcl")"#, "a".into()),
            (r#"upper("a")"#, "A".into()),
            ("values({ b = 1, a = 2 })", hcl::value!([2, 1])),
        ];
        for (text, expected) in cases {
            assert_eq!(&call(text), expected, "{text}");
        }
    }
}
