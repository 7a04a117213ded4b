//! Decodes a configuration by the schema that a plugin publishes, into the MessagePack that Nomad would send.
//!
//! The procedure is Nomad's. The block is a tree of plain values whose strings may contain `${…}`. Each part of the
//! schema takes the keys that it knows, converts their values as go-cty does (`"2"` is a number where one is required,
//! a scalar is never a list), and sets nil where nothing was given. A key that no part knows is an error. Facts from
//! Nomad v2.0.5, helper/pluginutils/hclspecutils/dec.go and helper/pluginutils/hclutils/util.go.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use hcl::{Map, Value};
use proto::hclspec::spec::Block as Piece;
use proto::hclspec::{Block, BlockAttrs, BlockList, BlockMap, Spec};

use crate::jobspec::expression::{self, Scope};
use crate::jobspec::types::{Type, described, parse_expression};
use crate::unknown_options::{names, names_in_blocks, told};

/// Why a configuration does not fit its schema. The first two name the keys that the user wrote, the others the schema.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key that the schema does not have, almost always a typing error.
    #[error("unknown {}; known here: {known}", told(keys, known, elsewhere))]
    UnknownKey {
        /// The keys, such as `comand`.
        keys: Vec<String>,
        /// All keys at that place, such as `args, command`.
        known: String,
        /// The keys of the blocks at that place, each with its full path: `tasks_max` in `limits.tasks_max`.
        elsewhere: BTreeMap<String, String>,
    },
    /// A required key is missing.
    #[error("`{key}` is required")]
    Missing {
        /// The key, such as `command`.
        key: String,
    },
    /// A value of the wrong type, or a block too many.
    #[error("`{key}`: {reason}")]
    Value {
        /// The key, such as `args`.
        key: String,
        /// The reason, such as `a list is required, not a string`.
        reason: String,
    },
    /// A `${…}` that cannot be evaluated.
    #[error("`{key}`")]
    Expression {
        /// The key whose value it is.
        key: String,
        /// What was wrong with it.
        source: expression::Error,
    },
    /// The plugin's schema is wrong; a bug of the plugin.
    #[error("the plugin's schema is wrong: {reason}; report this to the driver's authors")]
    Schema {
        /// The reason, such as ``an attribute without a name``.
        reason: String,
    },
    /// MessagePack could not be written.
    #[error("encode the configuration as MessagePack")]
    Encode {
        /// The writer's reason.
        source: rmpv::encode::Error,
    },
}

impl Error {
    /// The key that this is about.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { keys, .. } => keys.first().map(String::as_str),
            Self::Missing { key } | Self::Value { key, .. } | Self::Expression { key, .. } => Some(key),
            Self::Schema { .. } | Self::Encode { .. } => None,
        }
    }
}

/// Decodes `config` by `spec` and encodes the result as MessagePack: a map with every key of the schema.
///
/// `config` is the result of [`Scope::body`] for a block; its strings are evaluated in `scope`.
pub fn decode(spec: &Spec, config: &Map<String, Value>, scope: &Scope) -> Result<Vec<u8>, Error> {
    let value = Decoder { scope }.body(spec, config)?;
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &message_pack(value)).map_err(|source| Error::Encode { source })?;
    Ok(bytes)
}

/// The key that marks a comment in JSON.
const COMMENT: &str = "//";

struct Decoder<'a> {
    scope: &'a Scope,
}

impl Decoder<'_> {
    /// Decodes the content of one block: rejects unknown keys, then decodes.
    fn body(&self, spec: &Spec, config: &Map<String, Value>) -> Result<Value, Error> {
        let mut known = BTreeSet::new();
        names(spec, "", &mut known);
        let unknown = config.keys().filter(|key| !known.contains(key.as_str()) && *key != COMMENT);
        let keys: Vec<String> = unknown.cloned().collect();
        if !keys.is_empty() {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            let mut elsewhere = BTreeMap::new();
            names_in_blocks(spec, &mut elsewhere);
            return Err(Error::UnknownKey { keys, known, elsewhere });
        }
        self.piece(spec, "", config)
    }

    fn piece(&self, spec: &Spec, implied: &str, config: &Map<String, Value>) -> Result<Value, Error> {
        match piece(spec)? {
            Piece::Object(object) => {
                let mut result = Map::new();
                let mut attributes: Vec<_> = object.attributes.iter().collect();
                attributes.sort_by_key(|(key, _)| key.as_str());
                for (key, child) in attributes {
                    result.insert(key.clone(), self.piece(child, key, config)?);
                }
                Ok(Value::Object(result))
            }
            Piece::Array(array) => array.values.iter().map(|child| self.piece(child, "", config)).collect(),
            Piece::Attr(attr) => {
                let name = name_of(&attr.name, implied)?;
                let kind = Type::parse(&attr.r#type).map_err(|reason| Error::Schema { reason })?;
                match config.get(name) {
                    None if attr.required => Err(Error::Missing { key: name.to_owned() }),
                    None => Ok(Value::Null),
                    Some(given) => {
                        let value = self.evaluated(name, given)?;
                        kind.convert(value).map_err(|reason| Error::Value { key: name.to_owned(), reason })
                    }
                }
            }
            Piece::BlockValue(block) => self.block(block, implied, config),
            Piece::BlockAttrs(attrs) => self.block_attrs(attrs, implied, config),
            Piece::BlockList(list) => self.block_list(list, implied, config),
            Piece::BlockSet(set) => {
                let list = BlockList {
                    name: set.name.clone(),
                    min_items: set.min_items,
                    max_items: set.max_items,
                    nested: set.nested.clone(),
                };
                self.block_list(&list, implied, config)
            }
            Piece::BlockMap(map) => self.block_map(map, implied, config),
            Piece::Default(default) => match self.piece(nested(default.primary.as_deref())?, "", config)? {
                Value::Null => self.piece(nested(default.default.as_deref())?, "", config),
                given => Ok(given),
            },
            Piece::Literal(literal) => {
                let expression =
                    parse_expression(&literal.value).map_err(|reason| Error::Schema { reason })?;
                Scope::of_plugin().value(&expression).map_err(|error| schema(&error.to_string()))
            }
        }
    }

    fn block(&self, block: &Block, implied: &str, config: &Map<String, Value>) -> Result<Value, Error> {
        let name = name_of(&block.name, implied)?;
        match blocks(name, config)?.as_slice() {
            [] if block.required => Err(Error::Missing { key: name.to_owned() }),
            [] => Ok(Value::Null),
            [one] => self.within(name, nested(block.nested.as_deref())?, content(name, one)?.as_ref()),
            _ => Err(Error::Value {
                key: name.to_owned(),
                reason: "only one such block is allowed".to_owned(),
            }),
        }
    }

    fn block_attrs(
        &self,
        attrs: &BlockAttrs,
        implied: &str,
        config: &Map<String, Value>,
    ) -> Result<Value, Error> {
        let name = name_of(&attrs.name, implied)?;
        let kind = Type::parse(&attrs.r#type).map_err(|reason| Error::Schema { reason })?;
        match blocks(name, config)?.as_slice() {
            [] if attrs.required => Err(Error::Missing { key: name.to_owned() }),
            [] => Ok(Value::Null),
            [one] => {
                let Value::Object(one) = one else {
                    return Err(not_a_block(name, one));
                };
                let mut result = Map::new();
                for (key, given) in one.iter().filter(|(key, _)| *key != COMMENT) {
                    let value = self.evaluated(key, given)?;
                    let value = kind
                        .convert(value)
                        .map_err(|reason| Error::Value { key: format!("{name}.{key}"), reason })?;
                    result.insert(key.clone(), value);
                }
                Ok(Value::Object(result))
            }
            _ => Err(Error::Value {
                key: name.to_owned(),
                reason: "only one such block is allowed".to_owned(),
            }),
        }
    }

    fn block_list(
        &self,
        list: &BlockList,
        implied: &str,
        config: &Map<String, Value>,
    ) -> Result<Value, Error> {
        let name = name_of(&list.name, implied)?;
        let given = blocks(name, config)?;
        let count = given.len() as u64;
        let bounds = |reason: String| Err(Error::Value { key: name.to_owned(), reason });
        if count < list.min_items {
            return bounds(format!("at least {} such blocks are required", list.min_items));
        }
        if list.max_items != 0 && count > list.max_items {
            return bounds(format!("no more than {} such blocks are allowed", list.max_items));
        }
        let spec = nested(list.nested.as_deref())?;
        given.into_iter().map(|block| self.within(name, spec, &*content(name, block)?)).collect()
    }

    fn block_map(&self, map: &BlockMap, implied: &str, config: &Map<String, Value>) -> Result<Value, Error> {
        let name = name_of(&map.name, implied)?;
        if map.labels.is_empty() {
            return Err(schema("a block map without labels"));
        }
        let spec = nested(map.nested.as_deref())?;
        let mut result = Map::new();
        for block in blocks(name, config)? {
            self.labelled(name, map.labels.len(), spec, &*content(name, block)?, &mut result)?;
        }
        Ok(Value::Object(result))
    }

    /// Decodes one level of labels; the innermost contains the block itself.
    fn labelled(
        &self,
        name: &str,
        levels: usize,
        spec: &Spec,
        block: &Map<String, Value>,
        result: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        for label in block.keys() {
            for inner in blocks(label, block)? {
                let inner = &*content(label, inner)?;
                if levels > 1 {
                    let entry = result.entry(label.clone()).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(entry) = entry {
                        self.labelled(name, levels - 1, spec, inner, entry)?;
                    }
                } else if result.insert(label.clone(), self.within(name, spec, inner)?).is_some() {
                    let reason = format!("the label `{label}` is used twice");
                    return Err(Error::Value { key: name.to_owned(), reason });
                }
            }
        }
        Ok(())
    }

    /// Decodes a nested block; an error inside names the block.
    fn within(&self, name: &str, spec: &Spec, block: &Map<String, Value>) -> Result<Value, Error> {
        let inside = |key: String| format!("{name}.{key}");
        self.body(spec, block).map_err(|error| match error {
            Error::UnknownKey { keys, known, elsewhere } => {
                Error::UnknownKey { keys: keys.into_iter().map(inside).collect(), known, elsewhere }
            }
            Error::Missing { key } => Error::Missing { key: inside(key) },
            Error::Value { key, reason } => Error::Value { key: inside(key), reason },
            Error::Expression { key, source } => Error::Expression { key: inside(key), source },
            other => other,
        })
    }

    /// Evaluates every string in the value, keys included.
    fn evaluated(&self, key: &str, value: &Value) -> Result<Value, Error> {
        let text = |text: &str| {
            self.scope.text(text).map_err(|source| Error::Expression { key: key.to_owned(), source })
        };
        match value {
            Value::String(string) => text(string),
            Value::Array(list) => list.iter().map(|value| self.evaluated(key, value)).collect(),
            Value::Object(map) => {
                let mut result = Map::new();
                for (name, value) in map {
                    let name = match text(name)? {
                        Value::String(name) => name,
                        other => other.to_string(),
                    };
                    result.insert(name, self.evaluated(key, value)?);
                }
                Ok(Value::Object(result))
            }
            other => Ok(other.clone()),
        }
    }
}

fn piece(spec: &Spec) -> Result<&Piece, Error> {
    spec.block.as_ref().ok_or_else(|| schema("an empty piece"))
}

fn nested(spec: Option<&Spec>) -> Result<&Spec, Error> {
    spec.ok_or_else(|| schema("a block or default without its content"))
}

fn name_of<'a>(given: &'a str, implied: &'a str) -> Result<&'a str, Error> {
    match if given.is_empty() { implied } else { given } {
        "" => Err(schema("a piece without a name")),
        name => Ok(name),
    }
}

fn schema(reason: &str) -> Error {
    Error::Schema { reason: reason.to_owned() }
}

/// The blocks of one name: an object is one block, a list is several; [`content`] interprets the elements of the list.
fn blocks<'a>(name: &str, config: &'a Map<String, Value>) -> Result<Vec<&'a Value>, Error> {
    match config.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(one @ Value::Object(_)) => Ok(vec![one]),
        Some(Value::Array(list)) => Ok(list.iter().collect()),
        Some(other) => Err(not_a_block(name, other)),
    }
}

/// The content of a block. Null is an empty block, and a list in the list of blocks is one block in pieces.
fn content<'a>(name: &str, block: &'a Value) -> Result<Cow<'a, Map<String, Value>>, Error> {
    match block {
        Value::Null => Ok(Cow::Owned(Map::new())),
        Value::Object(map) => Ok(Cow::Borrowed(map)),
        Value::Array(pieces) => {
            let mut whole = Map::new();
            for piece in pieces {
                let Value::Object(piece) = piece else {
                    return Err(not_a_block(name, piece));
                };
                for (key, value) in piece {
                    if whole.insert(key.clone(), value.clone()).is_some() {
                        let reason = "is given twice in one block".to_owned();
                        return Err(Error::Value { key: format!("{name}.{key}"), reason });
                    }
                }
            }
            Ok(Cow::Owned(whole))
        }
        other => Err(not_a_block(name, other)),
    }
}

fn not_a_block(name: &str, value: &Value) -> Error {
    let of_podman = match (name, value) {
        ("socket", Value::String(_)) => "; what podman calls so has no counterpart here, leave it out",
        _ => "",
    };
    let reason = format!("a block is required, not {}{of_podman}", described(value));
    Error::Value { key: name.to_owned(), reason }
}

fn message_pack(value: Value) -> rmpv::Value {
    match value {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(bool) => rmpv::Value::from(bool),
        Value::String(text) => rmpv::Value::from(text),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => rmpv::Value::from(whole),
            (_, Some(whole), _) => rmpv::Value::from(whole),
            (_, _, Some(fraction)) => decimal(fraction),
            _ => rmpv::Value::Nil,
        },
        Value::Array(list) => rmpv::Value::Array(list.into_iter().map(message_pack).collect()),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            let entries =
                entries.into_iter().map(|(key, value)| (rmpv::Value::from(key), message_pack(value)));
            rmpv::Value::Map(entries.collect())
        }
    }
}

/// go-cty calculates with decimals: a number that binary floating point cannot represent exactly is sent as its digits.
fn decimal(number: f64) -> rmpv::Value {
    let digits = format!("{number}");
    // The maximum number of decimals of a double.
    let exact = format!("{number:.1074}");
    if exact.trim_end_matches('0').trim_end_matches('.') != digits {
        return rmpv::Value::from(digits);
    }
    digits.parse::<i64>().map_or_else(|_| rmpv::Value::from(number), rmpv::Value::from)
}

#[cfg(test)]
mod tests {
    use proto::hclspec::{Attr, BlockSet, Default, Literal, Object};

    use super::*;

    fn spec(piece: Piece) -> Spec {
        Spec { block: Some(piece) }
    }

    fn attr(kind: &str) -> Spec {
        spec(Piece::Attr(Attr { name: String::new(), r#type: kind.to_owned(), required: false }))
    }

    fn object<const N: usize>(attributes: [(&str, Spec); N]) -> Spec {
        let attributes = attributes.into_iter().map(|(key, spec)| (key.to_owned(), spec)).collect();
        spec(Piece::Object(Object { attributes }))
    }

    fn decoded(spec: &Spec, text: &str) -> Result<rmpv::Value, Error> {
        decoded_map(spec, &Scope::of_plugin().body(&hcl::parse(text).unwrap()).unwrap())
    }

    fn decoded_map(spec: &Spec, config: &Map<String, Value>) -> Result<rmpv::Value, Error> {
        let bytes = decode(spec, config, &Scope::of_plugin())?;
        Ok(rmpv::decode::read_value(&mut bytes.as_slice()).unwrap())
    }

    fn json(spec: &Spec, text: &str) -> String {
        decoded(spec, text).unwrap().to_string()
    }

    #[test]
    fn every_key_of_the_schema_is_present() {
        let spec = object([("command", attr("string")), ("args", attr("list(string)"))]);
        assert_eq!(json(&spec, ""), r#"{"args": nil, "command": nil}"#);
        assert_eq!(json(&spec, "args = [\"a\", 2]\n"), r#"{"args": ["a", "2"], "command": nil}"#);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_known_ones() {
        let spec = object([("command", attr("string")), ("args", attr("list(string)"))]);
        let error = decoded(&spec, "comand = \"x\"\n").unwrap_err().to_string();
        assert_eq!(error, "unknown key `comand` (did you mean `command`?); known here: args, command");
    }

    #[test]
    fn a_required_key_is_named() {
        let required = Attr { name: "command".to_owned(), r#type: "string".to_owned(), required: true };
        let spec = object([("command", spec(Piece::Attr(required)))]);
        assert_eq!(decoded(&spec, "").unwrap_err().to_string(), "`command` is required");
    }

    #[test]
    fn values_convert_as_in_go_cty() {
        let cases = [
            ("number", "\"2\"", "2"),
            ("number", "0.5", "0.5"),
            ("number", "0.1", "\"0.1\""),
            ("number", "2.0", "2"),
            ("string", "5", "\"5\""),
            ("string", "true", "\"true\""),
            ("bool", "\"true\"", "true"),
            ("any", "[1, \"a\"]", "[1, \"a\"]"),
            ("set(string)", "[\"a\", \"a\"]", "[\"a\"]"),
            ("string", "2.0", "\"2\""),
            ("string", "-0.0", "\"0\""),
            ("string", "0.1", "\"0.1\""),
            ("string", "1e21", "\"1000000000000000000000\""),
            ("string", "1e-7", "\"0.0000001\""),
            ("map(number)", "({ b = \"1\", a = 2 })", "{\"a\": 2, \"b\": 1}"),
            ("object({ a = string, b = number })", "({ a = 1, b = 2, c = 3 })", "{\"a\": \"1\", \"b\": 2}"),
            ("tuple([string, number])", "[1, 2]", "[\"1\", 2]"),
            ("list(map(string))", "[{ a = 1 }]", "[{\"a\": \"1\"}]"),
            ("string", "null", "nil"),
        ];
        for (kind, given, expected) in cases {
            let spec = object([("x", attr(kind))]);
            assert_eq!(
                json(&spec, &format!("x = {given}\n")),
                format!("{{\"x\": {expected}}}"),
                "{kind} {given}"
            );
        }
    }

    #[test]
    fn a_scalar_is_never_a_list() {
        let spec = object([("args", attr("list(string)"))]);
        let error = decoded(&spec, "args = \"x\"\n").unwrap_err().to_string();
        assert_eq!(error, "`args`: a list is required, not the string \"x\"");
    }

    #[test]
    fn a_block_may_stand_for_a_list_of_maps() {
        let spec = object([("labels", attr("list(map(string))"))]);
        assert_eq!(json(&spec, "labels {\n a = 1\n}\n"), r#"{"labels": [{"a": "1"}]}"#);
        assert_eq!(
            json(&spec, "labels {\n a = 1\n}\nlabels {\n b = 2\n}\n"),
            r#"{"labels": [{"a": "1"}, {"b": "2"}]}"#
        );
    }

    #[test]
    fn blocks_follow_their_schema() {
        let inner = || Some(Box::new(object([("path", attr("string"))])));
        let spec = object([
            ("one", spec(Piece::BlockValue(Box::new(Block { nested: inner(), ..Block::default() })))),
            (
                "many",
                spec(Piece::BlockList(Box::new(BlockList {
                    nested: inner(),
                    max_items: 2,
                    ..BlockList::default()
                }))),
            ),
            ("set", spec(Piece::BlockSet(Box::new(BlockSet { nested: inner(), ..BlockSet::default() })))),
            (
                "free",
                spec(Piece::BlockAttrs(BlockAttrs { r#type: "string".to_owned(), ..BlockAttrs::default() })),
            ),
            (
                "named",
                spec(Piece::BlockMap(Box::new(BlockMap {
                    labels: vec!["name".to_owned()],
                    nested: inner(),
                    ..BlockMap::default()
                }))),
            ),
        ]);
        assert_eq!(json(&spec, ""), r#"{"free": nil, "many": [], "named": {}, "one": nil, "set": []}"#);
        let text = "one {\n path = \"/a\"\n}\nmany {}\nmany {\n path = \"/b\"\n}\nfree {\n k = 1\n}\nnamed \"n\" {}\n";
        assert_eq!(
            json(&spec, text),
            r#"{"free": {"k": "1"}, "many": [{"path": nil}, {"path": "/b"}], "named": {"n": {"path": nil}}, "one": {"path": "/a"}, "set": []}"#
        );
        let error = decoded(&spec, "many {\n pth = 1\n}\n").unwrap_err().to_string();
        assert_eq!(error, "unknown key `many.pth` (did you mean `path`?); known here: path");
        let error = decoded(&spec, "Path = \"/a\"\n").unwrap_err().to_string();
        assert!(error.starts_with("unknown key `Path` (here: `"), "{error}");
        assert!(decoded(&spec, "many {}\nmany {}\nmany {}\n").is_err());
        assert!(decoded(&spec, "one {}\none {}\n").is_err());
    }

    /// One option of each kind; the blocks have a path, a number and a map of their own.
    fn all_kinds() -> Spec {
        let attrs = |kind: &str| {
            let r#type = kind.to_owned();
            spec(Piece::BlockAttrs(BlockAttrs { r#type, ..BlockAttrs::default() }))
        };
        let inner = || {
            let inner = [("path", attr("string")), ("n", attr("number")), ("deep", attrs("string"))];
            Some(Box::new(object(inner)))
        };
        object([
            ("listmap", attr("list(map(string))")),
            ("map", attr("map(string)")),
            ("free", attrs("string")),
            ("nums", attrs("number")),
            ("many", spec(Piece::BlockList(Box::new(BlockList { nested: inner(), ..BlockList::default() })))),
            ("one", spec(Piece::BlockValue(Box::new(Block { nested: inner(), ..Block::default() })))),
        ])
    }

    /// The one option that is given, decoded.
    fn kind(decoded: Result<rmpv::Value, Error>, name: &str) -> Result<String, String> {
        let decoded = decoded.map_err(|error| error.to_string())?;
        let map = decoded.as_map().unwrap();
        Ok(map.iter().find(|(key, _)| key.as_str() == Some(name)).unwrap().1.to_string())
    }

    /// The result of Nomad v2.0.5 itself (jobspec2, hclutils.ParseHclInterface) for these lines of a job file.
    #[allow(clippy::too_many_lines, reason = "one job with every kind of option")]
    #[test]
    fn a_job_file_means_what_it_means_to_nomad() {
        let path = r#"{"deep": nil, "n": nil, "path": "/a"}"#;
        let empty = r#"{"deep": nil, "n": nil, "path": nil}"#;
        let cases = [
            ("listmap { k = \"v\" }", Some(r#"[{"k": "v"}]"#.to_owned())),
            ("listmap {\n k = 1\n}\nlistmap {\n k = true\n}", Some(r#"[{"k": "1"}, {"k": "true"}]"#.to_owned())),
            ("listmap = { k = \"v\" }", Some(r#"[{"k": "v"}]"#.to_owned())),
            ("listmap = [{ k = \"v\" }]", Some(r#"[{"k": "v"}]"#.to_owned())),
            ("listmap = [null]", Some("[nil]".to_owned())),
            ("listmap = merge({ k = 1 }, {})", None),
            ("map = merge({ k = 1 }, {})", Some(r#"{"k": "1"}"#.to_owned())),
            ("map = { k = \"v\" }", None),
            ("map { k = \"v\" }", None),
            ("free { k = \"v\" }", Some(r#"{"k": "v"}"#.to_owned())),
            ("free = { k = \"v\" }", Some(r#"{"k": "v"}"#.to_owned())),
            ("free = [{ k = \"v\" }]", Some(r#"{"k": "v"}"#.to_owned())),
            ("free = merge({ k = 1 }, {})", Some(r#"{"k": "1"}"#.to_owned())),
            (
                "free {\n a = 1\n b = true\n c = 0.1\n d = 2.0\n e = 1e21\n f = -5\n g = null\n}",
                Some(
                    r#"{"a": "1", "b": "true", "c": "0.1", "d": "2", "e": "1000000000000000000000", "f": "-5", "g": nil}"#
                        .to_owned(),
                ),
            ),
            ("free = { \"a b\" = 1, \"//\" = 2 }", Some(r#"{"a b": "1"}"#.to_owned())),
            ("free {}", Some("{}".to_owned())),
            ("free = null", Some("nil".to_owned())),
            ("free = []", Some("nil".to_owned())),
            ("free {\n k = \"v\"\n}\nfree {\n l = \"v\"\n}", None),
            ("free = [null]", None),
            ("free = \"x\"", None),
            ("free { k = [1] }", None),
            ("free {\n k {\n a = 1\n }\n}", None),
            ("free \"label\" {\n k = 1\n}", None),
            ("nums {\n k = \"1\"\n l = 2.5\n}", Some(r#"{"k": 1, "l": 2.5}"#.to_owned())),
            ("nums { k = \"x\" }", None),
            ("many { path = \"/a\" }", Some(format!("[{path}]"))),
            ("many { path = \"/a\" }\nmany {}", Some(format!("[{path}, {empty}]"))),
            ("many = { path = \"/a\" }", Some(format!("[{path}]"))),
            ("many = [{ path = \"/a\" }, {}]", Some(format!("[{path}, {empty}]"))),
            ("many = [null]", Some(format!("[{empty}]"))),
            ("many = null", Some("[]".to_owned())),
            ("many = [[{ path = \"/a\" }, { n = null }]]", Some(format!("[{path}]"))),
            ("many = [[{ path = \"/a\" }, { path = \"/b\" }]]", None),
            ("many = [{ deep = [{ x = 1 }] }]", Some(r#"[{"deep": {"x": "1"}, "n": nil, "path": nil}]"#.to_owned())),
            ("many {\n deep {\n x = 1\n }\n}", Some(r#"[{"deep": {"x": "1"}, "n": nil, "path": nil}]"#.to_owned())),
            ("many {\n deep {\n x = 1\n }\n deep {\n y = 1\n }\n}", None),
            ("many = [\"x\"]", None),
            ("many \"label\" {\n path = \"/a\"\n}", None),
            ("many { path = [\"/a\"] }", None),
            ("one { path = \"/a\" }", Some(path.to_owned())),
            ("one = { path = \"/a\" }", Some(path.to_owned())),
            ("one = [{ path = \"/a\" }]", Some(path.to_owned())),
            ("one = [null]", Some(empty.to_owned())),
            ("one = []", Some("nil".to_owned())),
            ("one {}\none {}", None),
        ];
        for (text, expected) in cases {
            let name = text.split(' ').next().unwrap();
            let got = kind(decoded(&all_kinds(), &format!("{text}\n")), name);
            assert_eq!(got.clone().ok(), expected, "{text}: {got:?}");
        }
    }

    /// A job in JSON keeps its maps as maps: protocol notes, section 3.5.
    #[test]
    fn a_map_that_came_as_json_stays_one() {
        let map = || hcl::value!({ path = "/a" });
        let block = r#"{"deep": nil, "n": nil, "path": "/a"}"#;
        let plain = r#"{"path": "/a"}"#;
        let cases = [
            ("listmap", map(), None),
            ("listmap", Value::Array(vec![map()]), Some(format!("[{plain}]"))),
            ("map", map(), Some(plain.to_owned())),
            ("map", Value::Array(vec![map()]), None),
            ("free", map(), Some(plain.to_owned())),
            ("free", Value::Array(vec![map()]), Some(plain.to_owned())),
            ("free", Value::Array(vec![map(), map()]), None),
            ("many", map(), Some(format!("[{block}]"))),
            ("many", Value::Array(vec![map(), map()]), Some(format!("[{block}, {block}]"))),
            ("one", map(), Some(block.to_owned())),
            ("one", Value::Array(vec![map()]), Some(block.to_owned())),
            ("one", Value::Array(vec![map(), map()]), None),
        ];
        for (name, value, expected) in cases {
            let config = Map::from_iter([(name.to_owned(), value.clone())]);
            let got = kind(decoded_map(&all_kinds(), &config), name);
            assert_eq!(got.clone().ok(), expected, "{name} = {value}: {got:?}");
        }
    }

    #[test]
    fn a_default_stands_in_for_null() {
        let primary = spec(Piece::Attr(Attr {
            name: "driver".to_owned(),
            r#type: "string".to_owned(),
            required: false,
        }));
        let literal = spec(Piece::Literal(Literal { value: "\"nomad\"".to_owned() }));
        let default = Default { primary: Some(Box::new(primary)), default: Some(Box::new(literal)) };
        let spec = object([("driver", spec(Piece::Default(Box::new(default))))]);
        assert_eq!(json(&spec, ""), r#"{"driver": "nomad"}"#);
        assert_eq!(json(&spec, "driver = \"journald\"\n"), r#"{"driver": "journald"}"#);
    }

    #[test]
    fn strings_are_evaluated_with_the_tasks_environment() {
        let spec = object([("args", attr("list(string)"))]);
        let config =
            Map::from_iter([("args".to_owned(), hcl::value!(["-p", "${NOMAD_PORT_http}", "$${X}"]))]);
        let scope = Scope::of_task(Map::from_iter([("NOMAD_PORT_http".to_owned(), Value::from("80"))]));
        let bytes = decode(&spec, &config, &scope).unwrap();
        let value = rmpv::decode::read_value(&mut bytes.as_slice()).unwrap();
        assert_eq!(value.to_string(), r#"{"args": ["-p", "80", "${X}"]}"#);
    }
}
