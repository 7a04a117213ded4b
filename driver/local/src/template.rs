//! Renders the `template` blocks that need no server: text with the functions `env` and `file` (consul-template's
//! language, as far as most jobs use it). A template with anything else is an error that names it; it needs a Nomad
//! agent.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::jobspec::Template;
use crate::taskenv::TaskEnv;
use crate::within;

/// Why a template cannot be rendered here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An action that only Nomad supports.
    #[error(
        "`template` ({destination}): `{action}` is not available without a Nomad agent (available: env, file); submit the job \
         to a Nomad agent"
    )]
    Action {
        /// The template's destination.
        destination: String,
        /// The unsupported action.
        action: String,
    },
    /// A function without its argument.
    #[error(
        "`template` ({destination}): `{action}` needs one name in quotes, such as `env \"HOME\"` or `file \"local/x\"`"
    )]
    Argument {
        /// The template's destination.
        destination: String,
        /// The action.
        action: String,
    },
    /// An action is not closed.
    #[error("`template` ({destination}): an action that begins with `{left}` has no end")]
    Open {
        /// The template's destination.
        destination: String,
        /// The left delimiter.
        left: String,
    },
    /// The result is not a list of variables.
    #[error(
        "`template` ({destination}): with `env = true` each line is `NAME=VALUE`, with a name of letters, digits, `_`, `.` and `/` that \
         begins with a letter or `_`; correct the line `{line}`"
    )]
    Environment {
        /// The template's destination.
        destination: String,
        /// The line.
        line: String,
    },
    /// A path leads out of the task's directories.
    #[error("`template`: {path} is not in the task's or the allocation's directory")]
    Outside {
        /// The path as the job sets it.
        path: String,
    },
    /// A file cannot be read.
    #[error(
        "`template` ({destination}): {path} cannot be read, which its `source` or a `file` in it names; a relative path begins in the \
         task directory, where an `artifact` or an earlier `template` puts a file, such as `local/x`"
    )]
    Read {
        /// The template's destination.
        destination: String,
        /// The path on this machine.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("`template`: {path}")]
    File {
        /// The path on this machine.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Template {
    /// Writes the result to its destination, and returns its variables if the template is for the environment.
    pub fn write(&self, env: &TaskEnv) -> Result<BTreeMap<String, String>, Error> {
        let path = |path: &str| env.node_path(path).ok_or_else(|| Error::Outside { path: path.to_owned() });
        let read = |path: PathBuf| {
            within::read(env.base(), &path).map_err(|source| {
                let destination = self.destination.clone();
                Error::Read { destination, path, source }
            })
        };
        let text = match (&self.data, &self.source) {
            (Some(data), _) => data.clone(),
            (None, source) => read(path(source.as_deref().unwrap_or_default())?)?,
        };
        let result =
            self.render(&text, &|name| env.variables().get(name).cloned(), &|file| read(path(file)?))?;
        let destination = path(&self.destination)?;
        within::write(env.base(), &destination, &result, self.mode, self.owner)
            .map_err(|source| Error::File { path: destination, source })?;
        if !self.env {
            return Ok(BTreeMap::new());
        }
        variables(&result).map_err(|line| Error::Environment { destination: self.destination.clone(), line })
    }

    fn render(
        &self,
        text: &str,
        variable: &dyn Fn(&str) -> Option<String>,
        file: &dyn Fn(&str) -> Result<String, Error>,
    ) -> Result<String, Error> {
        let (left, right) = (self.delimiters.0.as_str(), self.delimiters.1.as_str());
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once(left) {
            let open = || Error::Open { destination: self.destination.clone(), left: left.to_owned() };
            let (action, after) = behind.split_once(right).ok_or_else(open)?;
            // A dash next to a delimiter trims the white space on its other side.
            let (action, trims_before) =
                action.strip_prefix('-').map_or((action, false), |rest| (rest, true));
            let (action, trims_after) = action.strip_suffix('-').map_or((action, false), |rest| (rest, true));
            result.push_str(if trims_before { before.trim_end() } else { before });
            result.push_str(&self.action(action.trim(), variable, file)?);
            rest = if trims_after { after.trim_start() } else { after };
        }
        Ok(result + rest)
    }

    fn action(
        &self,
        action: &str,
        variable: &dyn Fn(&str) -> Option<String>,
        file: &dyn Fn(&str) -> Result<String, Error>,
    ) -> Result<String, Error> {
        if action.starts_with("/*") && action.ends_with("*/") {
            return Ok(String::new());
        }
        let argument = |function: &str| {
            let text = action.strip_prefix(function)?.trim();
            let quoted = |quote: char| {
                text.strip_prefix(quote)?.strip_suffix(quote).filter(|text| !text.contains(quote))
            };
            quoted('"').or_else(|| quoted('`'))
        };
        match (argument("env "), argument("file ")) {
            (Some(name), _) => Ok(variable(name).unwrap_or_default()),
            (_, Some(path)) => file(path),
            _ => {
                let (destination, action) = (self.destination.clone(), action.to_owned());
                let name = action.split_whitespace().next().unwrap_or_default();
                let is_known = ["env", "file"].contains(&name) && !action.contains('|');
                Err(if is_known {
                    Error::Argument { destination, action }
                } else {
                    Error::Action { destination, action }
                })
            }
        }
    }
}

/// The variables in a text, one `NAME=VALUE` per line; quotes around a value are not part of it. The error is a line that is
/// none, which Nomad does not accept either (go-envparse).
fn variables(text: &str) -> Result<BTreeMap<String, String>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_./".contains(c))
    };
    let unquoted = |value: &str| {
        let value = value.trim();
        let inner = |quote| value.strip_prefix(quote).and_then(|value: &str| value.strip_suffix(quote));
        match (inner('"'), inner('\'')) {
            (Some(value), _) => value.replace("\\n", "\n").replace("\\\"", "\""),
            (_, Some(value)) => value.to_owned(),
            _ => value.to_owned(),
        }
    };
    let pair = |line: &str| {
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        Some((name.trim().to_owned(), unquoted(value))).filter(|(name, _)| is_name(name))
    };
    lines.map(|line| pair(line).ok_or_else(|| line.chars().take(80).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, String> {
        let template = Template {
            destination: "local/x".to_owned(),
            delimiters: ("{{".to_owned(), "}}".to_owned()),
            ..Template::default()
        };
        let variable = |name: &str| (name == "NAME").then(|| "web".to_owned());
        let file = |path: &str| Ok(format!("<{path}>"));
        template.render(text, &variable, &file).map_err(|error| error.to_string())
    }

    #[test]
    fn text_variables_and_files_are_rendered() {
        assert_eq!(render("plain } {"), Ok("plain } {".to_owned()));
        assert_eq!(render("a {{ env \"NAME\" }} b{{env `NONE`}}c"), Ok("a web bc".to_owned()));
        assert_eq!(render("{{ file \"local/y\" }}"), Ok("<local/y>".to_owned()));
        assert_eq!(render("a \n {{- /* a remark */ -}} \n b"), Ok("ab".to_owned()));
    }

    #[test]
    fn what_needs_a_server_is_named() {
        for action in
            ["key \"x\"", "with secret \"db\"", "range service \"web\"", "env NAME", "env \"A\" | toUpper"]
        {
            let error = render(&format!("{{{{ {action} }}}}")).unwrap_err();
            assert!(error.contains(action) && error.contains("local/x"), "{error}");
        }
        assert!(render("{{ env").unwrap_err().contains("no end"));
    }

    #[test]
    fn lines_of_a_result_are_variables() {
        let found = variables("# a remark\nA=b\nexport C = \"d e\"\nF='g=h'\n\n").unwrap();
        let expected = [("A", "b"), ("C", "d e"), ("F", "g=h")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        for line in ["nothing", "A B=c", "=c", "1=c"] {
            assert_eq!(variables(&format!("A=b\n{line}\n")), Err(line.to_owned()));
        }
    }
}
