//! The values of a job's variables, from the places where the `nomad` command looks for them: the environment
//! (`NOMAD_VAR_NAME`), files (`--var-file`), and the command line (`--var`); a later place wins.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::error::Error;
use crate::jobspec::Given;

/// What precedes the name of a variable in the environment.
const PREFIX: &str = "NOMAD_VAR_";

/// The variables by name. `pairs` are `NAME=VALUE`.
pub(crate) fn given(
    env: impl Iterator<Item = (String, String)>,
    files: &[PathBuf],
    pairs: &[String],
) -> Result<BTreeMap<String, Given>, Error> {
    let named = env.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value)));
    let mut variables: BTreeMap<_, _> =
        named.map(|(name, value)| (name, Given::Environment(value))).collect();
    for path in files {
        let text =
            fs::read_to_string(path).map_err(|source| Error::ReadVariables { path: path.clone(), source })?;
        // A file of that name holds JSON, for the `nomad` command too.
        if path.extension().is_some_and(|extension| extension == "json") {
            let values: BTreeMap<String, hcl::Value> = serde_json::from_str(&text)
                .map_err(|source| Error::VariableJson { path: path.clone(), source })?;
            variables.extend(values.into_iter().map(|(name, value)| (name, Given::Value(value.into()))));
            continue;
        }
        let body = hcl::parse(&text)
            .map_err(|source| Error::VariableFile { path: path.clone(), source: Box::new(source) })?;
        if let Some(block) = body.blocks().next() {
            return Err(Error::NoVariable { path: path.clone(), block: block.identifier().to_owned() });
        }
        let values = body.attributes().map(|line| (line.key().to_owned(), Given::Value(line.expr().clone())));
        variables.extend(values);
    }
    for text in pairs {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = pair.ok_or_else(|| Error::Variable { text: text.clone() })?;
        variables.insert(name.to_owned(), Given::Text(value.to_owned()));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use hcl::Expression;

    use super::*;

    #[test]
    fn the_command_line_wins_over_files_and_files_over_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "b = [\"file\"]\nc = \"file\"\n").unwrap();
        let env = ["NOMAD_VAR_a", "NOMAD_VAR_b", "OTHER"].map(|name| (name.to_owned(), "env".to_owned()));
        let read = given(env.into_iter(), &[file.path().to_owned()], &["c=line=x".to_owned()]).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(matches!(&read["a"], Given::Environment(text) if text == "env"));
        assert!(matches!(&read["b"], Given::Value(_)));
        assert!(matches!(&read["c"], Given::Text(text) if text == "line=x"));
    }

    #[test]
    fn a_file_of_values_may_be_json() {
        let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
        fs::write(file.path(), r#"{"a": "x", "b": [1, 2]}"#).unwrap();
        let read = given(std::iter::empty(), &[file.path().to_owned()], &[]).unwrap();
        assert!(matches!(&read["a"], Given::Value(Expression::String(text)) if text == "x"));
        assert!(matches!(&read["b"], Given::Value(Expression::Array(values)) if values.len() == 2));
        fs::write(file.path(), "a = 1").unwrap();
        let error = given(std::iter::empty(), &[file.path().to_owned()], &[]).unwrap_err().to_string();
        assert!(error.contains("JSON"), "{error}");
    }

    #[test]
    fn a_variable_has_a_name() {
        for wrong in ["x", "=x"] {
            let error = given(std::iter::empty(), &[], &[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("write `--var NAME=VALUE`"), "{error}");
        }
    }

    #[test]
    fn a_file_that_holds_no_variables_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in [&b"variable \"x\" {}\n"[..], b"x = = 1\n", b"x = \"\xff\"\n"] {
            fs::write(file.path(), text).unwrap();
            let error = given(std::iter::empty(), &[file.path().to_owned()], &[]).unwrap_err().to_string();
            assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        }
    }
}
