//! The functions that a job file may call: the ones of Nomad's list that jobs really use.
//!
//! The functions behave as in go-cty's standard library, which Nomad provides to job files (jobspec2/functions.go) and,
//! as a shorter list, to the strings of a `config` block (helper/pluginutils/hclutils/util.go). All others are rejected
//! by name.

mod collections;
mod files;
mod numbers;
mod text;

use hcl::eval::{Context, Func, FuncArgs, FuncDef, ParamType};
use hcl::expr::BinaryOperator;
use hcl::{Identifier, Map, Value};

/// Every function by its name, sorted.
const FUNCTIONS: &[(&str, Func)] = &[
    ("abs", numbers::abs),
    ("base64decode", text::base64_decode),
    ("base64encode", text::base64_encode),
    ("basename", files::basename),
    ("ceil", numbers::ceil),
    ("chomp", text::chomp),
    ("coalesce", collections::coalesce),
    ("coalescelist", collections::coalesce_list),
    ("compact", collections::compact),
    ("concat", collections::concat),
    ("contains", collections::contains),
    ("dirname", files::dirname),
    ("distinct", collections::distinct),
    ("element", collections::element),
    ("file", files::file),
    ("filebase64", files::file_base64),
    ("fileexists", files::file_exists),
    ("flatten", collections::flatten),
    ("floor", numbers::floor),
    ("format", text::format),
    ("indent", text::indent),
    ("index", collections::index),
    ("join", text::join),
    ("jsondecode", text::jsondecode),
    ("jsonencode", text::jsonencode),
    ("keys", collections::keys),
    ("length", collections::length),
    ("lookup", collections::lookup),
    ("lower", text::lower),
    ("max", numbers::max),
    ("merge", collections::merge),
    ("min", numbers::min),
    ("range", collections::range),
    ("replace", text::replace),
    ("reverse", collections::reverse),
    ("sha256", text::sha256),
    ("slice", collections::slice),
    ("sort", collections::sort),
    ("split", text::split),
    ("strlen", text::strlen),
    ("strrev", collections::reverse),
    ("substr", text::substr),
    ("title", text::title),
    ("trim", text::trim),
    ("trimprefix", text::trimprefix),
    ("trimspace", text::trimspace),
    ("trimsuffix", text::trimsuffix),
    ("upper", text::upper),
    ("values", collections::values),
    ("zipmap", collections::zipmap),
];

/// The functions behind the arithmetic operators. A job file cannot call them.
const OPERATORS: &[(BinaryOperator, &str, Func)] = &[
    (BinaryOperator::Plus, "plus", numbers::plus),
    (BinaryOperator::Minus, "minus", numbers::minus),
    (BinaryOperator::Mul, "times", numbers::times),
    (BinaryOperator::Div, "divided_by", numbers::divided_by),
    (BinaryOperator::Mod, "modulo", numbers::modulo),
];

/// Functions that read files. Their first argument is the directory that relative paths refer to.
const OF_FILES: [&str; 3] = ["file", "filebase64", "fileexists"];

type Result = std::result::Result<Value, String>;

/// Whether this function exists.
pub(super) fn is_known(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, _)| *known == name)
}

/// The names of all functions, sorted, for an error.
pub(super) fn names() -> String {
    FUNCTIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Functions of Nomad that are not here (Nomad v2.0.5, jobspec2/functions.go).
const OF_NOMAD: [&str; 31] = [
    "abspath",
    "bcrypt",
    "can",
    "chunklist",
    "cidrhost",
    "cidrnetmask",
    "cidrsubnet",
    "cidrsubnets",
    "convert",
    "csvdecode",
    "fileset",
    "formatdate",
    "formatlist",
    "log",
    "parseint",
    "pathexpand",
    "pow",
    "regex_replace",
    "rsadecrypt",
    "setintersection",
    "setproduct",
    "setunion",
    "sha512",
    "signum",
    "timeadd",
    "try",
    "urlencode",
    "uuidv4",
    "uuidv5",
    "yamldecode",
    "yamlencode",
];

/// What to do about a function that is not here.
pub(super) fn advice(name: &str) -> String {
    if OF_NOMAD.contains(&name) {
        return format!(
            "the function `{name}` is not available without a Nomad agent; write its result instead, or submit the job to a Nomad \
             agent "
        );
    }
    if reads_files(name) {
        return format!(
            "the function `{name}` is not available here: files are read with the job file alone "
        );
    }
    let nearest = diagnostics::nearest(name, FUNCTIONS.iter().map(|(known, _)| *known));
    let meant = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
    format!("there is no function `{name}`{meant} ")
}

/// Whether the function reads files.
pub(super) fn reads_files(name: &str) -> bool {
    OF_FILES.contains(&name)
}

/// The function behind this arithmetic operator.
pub(super) fn of_operator(operator: BinaryOperator) -> Option<&'static str> {
    OPERATORS.iter().find(|(known, ..)| *known == operator).map(|(_, name, _)| *name)
}

/// Makes all functions callable.
pub(super) fn declare(context: &mut Context<'_>) {
    let of_operators = OPERATORS.iter().map(|(_, name, function)| (*name, *function));
    for (name, function) in FUNCTIONS.iter().copied().chain(of_operators) {
        let definition = FuncDef::builder().variadic_param(ParamType::Any).build(function);
        context.declare_func(Identifier::sanitized(name), definition);
    }
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

/// Compact JSON with sorted keys, as go-cty writes it.
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
        assert!(FUNCTIONS.is_sorted_by_key(|(name, _)| *name));
        for (name, _) in FUNCTIONS.iter().filter(|(name, _)| !reads_files(name)) {
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
            (r#"base64decode("aMOkbGxv")"#, "hällo".into()),
            (r#"base64encode("hällo")"#, "aMOkbGxv".into()),
            (r#"basename("/a/b.txt")"#, "b.txt".into()),
            ("ceil(1.2)", Value::from(2)),
            (r#"chomp("a\r\n\n")"#, "a".into()),
            (r#"coalesce(null, "a")"#, "a".into()),
            ("coalescelist([], [1])", hcl::value!([1])),
            (r#"compact(["a", "", "b"])"#, hcl::value!(["a", "b"])),
            ("concat([1], [2, 3])", hcl::value!([1, 2, 3])),
            (r#"contains(["a"], "a")"#, true.into()),
            (r#"dirname("/a/b.txt")"#, "/a".into()),
            (r#"dirname("b.txt")"#, ".".into()),
            ("distinct([1, 1, 2])", hcl::value!([1, 2])),
            ("element([1, 2, 3], 4)", Value::from(2)),
            ("flatten([[1], [[2], 3]])", hcl::value!([1, 2, 3])),
            ("floor(-1.2)", Value::from(-2)),
            (r#"format("%s-%d%%", "a", 7)"#, "a-7%".into()),
            (r#"indent(2, "a\nb")"#, "a\n  b".into()),
            (r#"index(["a", "b"], 1)"#, "b".into()),
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
            ("range(3)", hcl::value!([0, 1, 2])),
            ("range(4, 1)", hcl::value!([4, 3, 2])),
            ("range(1, 6, 2)", hcl::value!([1, 3, 5])),
            (r#"replace("a.b", ".", "-")"#, "a-b".into()),
            (r#"reverse("abc")"#, "cba".into()),
            (r#"sha256("hello")"#, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".into()),
            ("slice([1, 2, 3], 1, 3)", hcl::value!([2, 3])),
            (r#"sort(["b", "a"])"#, hcl::value!(["a", "b"])),
            (r#"split(",", "a,b")"#, hcl::value!(["a", "b"])),
            (r#"strlen("äb")"#, Value::from(2)),
            (r#"substr("hello", 1, 3)"#, "ell".into()),
            (r#"substr("hello", -2, -1)"#, "lo".into()),
            (r#"substr("hello", 1, 9223372036854775807)"#, "ello".into()),
            (r#"title("hello big world")"#, "Hello Big World".into()),
            (r#"trim("?!a?!", "!?")"#, "a".into()),
            (r#"trimprefix("v1", "v")"#, "1".into()),
            (r#"trimspace(" a ")"#, "a".into()),
            (r#"trimsuffix("a.hcl", ".hcl")"#, "a".into()),
            (r#"upper("a")"#, "A".into()),
            ("values({ b = 1, a = 2 })", hcl::value!([2, 1])),
            (r#"zipmap(["a", "b"], [1, 2])"#, hcl::value!({ a = 1, b = 2 })),
        ];
        for (text, expected) in cases {
            assert_eq!(&call(text), expected, "{text}");
        }
    }
}
