//! Evaluates HCL, in the two stages of a Nomad job.
//!
//! First, whoever submits the job evaluates the job file: `var.x`, `local.x` and functions get their values. Every name
//! that is unknown at this stage (`${NOMAD_PORT_http}`, `${attr.kernel.name}`) stays in the text as it was written.
//! Later, before a task starts, Nomad's client evaluates the remaining expressions with the task's environment. There,
//! an unknown name is an error. Facts from Nomad v2.0.5: jobspec2/types.config.go, helper/pluginutils/hclutils/util.go.

use std::collections::BTreeSet;
use std::path::Path;

use hcl::eval::{Context, Evaluate};
use hcl::expr::{FuncCall, ObjectKey, Operation, TemplateExpr, Traversal, TraversalOperator, Variable};
use hcl::structure::Structure;
use hcl::template::{Directive, Element, Template};
use hcl::{Expression, Identifier, Map, Value};

use super::functions;
use diagnostics::nearest;

/// Why an expression has no value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not HCL.
    #[error("read the expression `{text}`")]
    Parse {
        /// The expression as written.
        text: String,
        /// The parser's error.
        source: Box<hcl::Error>,
    },
    /// An undefined name.
    #[error(
        "there is no variable named `{name}`; {}", advice_for_variable(name, nearest.as_deref())
    )]
    UnknownVariable {
        /// The name, such as `env.HOMEE`.
        name: String,
        /// A similar name, such as `env.HOME`.
        nearest: Option<String>,
    },
    /// A key that an object of the job does not have.
    #[error("{reason}")]
    NoKey {
        /// What is missing, and what is there, such as `` `var.ports` has no `htpp`; it has `http` ``.
        reason: String,
    },
    /// A function that only Nomad supports, or an unknown one.
    #[error(
        "{}(available: {known})",
        functions::advice(name),
        known = functions::names()
    )]
    UnknownFunction {
        /// The function, such as `bcrypt`.
        name: String,
    },
    /// Any other error, such as a wrong argument of a function.
    #[error("evaluate the expression: {reason}")]
    Evaluate {
        /// The evaluator's reason, on one line.
        reason: String,
    },
}

/// How a name that the scope does not define is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// The name stays in the text, for the next stage.
    StaysText,
    /// The name is an error.
    IsAnError,
}

/// The names that an expression may use.
#[derive(Debug, Clone)]
pub struct Scope {
    variables: Map<String, Value>,
    unknown: Unknown,
    /// The directory in which functions that read files look for relative paths; without it, these functions are not
    /// available.
    directory: Option<String>,
}

impl Scope {
    /// The scope of a job file: `var` and `local` (both objects). All other names stay for the runtime.
    pub fn of_job(variables: Map<String, Value>, locals: Map<String, Value>) -> Self {
        let roots = [("var", variables), ("local", locals)];
        Self {
            variables: roots.into_iter().map(|(name, map)| (name.to_owned(), Value::Object(map))).collect(),
            unknown: Unknown::StaysText,
            directory: None,
        }
    }

    /// Adds the functions that read files; relative paths refer to this directory.
    #[must_use]
    pub fn with_files(self, directory: &Path) -> Self {
        Self { directory: Some(directory.display().to_string()), ..self }
    }

    /// The scope of a task's `config` just before it starts: names such as `NOMAD_TASK_DIR` or `attr.kernel.name`, with
    /// dots as nested objects, as [`crate::taskenv::TaskEnv::scope`] builds it.
    pub fn of_task(variables: Map<String, Value>) -> Self {
        Self { variables, unknown: Unknown::IsAnError, directory: None }
    }

    /// The scope of a plugin's own configuration: functions, but no variables.
    pub fn of_plugin() -> Self {
        Self::of_task(Map::new())
    }

    /// The value of an expression.
    pub fn value(&self, expression: &Expression) -> Result<Value, Error> {
        let mut expression = expression.clone();
        let mut bound: BTreeSet<String> = self.variables.keys().cloned().collect();
        self.resolve(&mut expression, &mut bound)?;
        let mut context = Context::new();
        for (name, value) in &self.variables {
            // A name that is not an identifier, such as `a/b`, is reachable as `env["a/b"]` only.
            if let Ok(name) = Identifier::new(name.clone()) {
                context.declare_var(name, value.clone());
            }
        }
        functions::declare(&mut context);
        expression
            .evaluate(&context)
            .map_err(|error| Error::Evaluate { reason: self.as_written(&one_line(&error.to_string())) })
    }

    /// The evaluator's message without the argument that this module adds to functions that read files.
    fn as_written(&self, reason: &str) -> String {
        let Some(directory) = &self.directory else { return reason.to_owned() };
        let added = Value::String(directory.clone()).to_string();
        reason.replace(&format!("{added}, "), "").replace(&added, "")
    }

    /// The value of a string that may contain `${…}`, as in HCL's JSON syntax. A single interpolation with nothing
    /// around it keeps the type of its value.
    pub fn text(&self, text: &str) -> Result<Value, Error> {
        if !text.contains("${") && !text.contains("%{") {
            return Ok(Value::String(text.to_owned()));
        }
        self.value(&Expression::from(TemplateExpr::from(text)))
    }

    /// A block's content as Nomad stores it: attributes with their values, blocks as lists of maps, and a label as one
    /// more map around its block. `x = { … }` written out is a block too. Only a map that an expression yields
    /// (`x = local.map`) is a map. Facts from Nomad v2.0.5, jobspec2/parse_map.go and its results for job files.
    pub fn body(&self, body: &hcl::Body) -> Result<Map<String, Value>, Error> {
        let mut map = Map::new();
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => {
                    let value = self.value(attribute.expr())?;
                    let as_block = matches!(attribute.expr(), Expression::Object(_));
                    let value = if as_block { Value::Array(vec![value]) } else { value };
                    map.insert(attribute.key().to_owned(), value);
                }
                Structure::Block(block) => {
                    let mut value = Value::Object(self.body(block.body())?);
                    for label in block.labels().iter().rev() {
                        let labelled = Value::Array(vec![value]);
                        value = Value::Object(Map::from_iter([(label.as_str().to_owned(), labelled)]));
                    }
                    let blocks =
                        map.entry(block.identifier().to_owned()).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(blocks) = blocks {
                        blocks.push(value);
                    }
                }
            }
        }
        Ok(map)
    }

    /// Replaces what the evaluator does not know: names of a later stage become text, functions are checked by name.
    #[allow(clippy::too_many_lines, reason = "one arm per kind of expression")]
    fn resolve(&self, expression: &mut Expression, bound: &mut BTreeSet<String>) -> Result<(), Error> {
        match expression {
            Expression::Variable(variable) if !bound.contains(variable.as_str()) => {
                *expression = self.unknown(variable.to_string())?;
            }
            Expression::Traversal(traversal) => {
                if let Expression::Variable(root) = &traversal.expr
                    && !bound.contains(root.as_str())
                {
                    let name = written(traversal, root);
                    *expression = self.unknown(name)?;
                } else if let Some(name) = self.missing(traversal) {
                    return Err(self.no_variable(name));
                } else {
                    self.resolve(&mut traversal.expr, bound)?;
                    for operator in &mut traversal.operators {
                        if let TraversalOperator::Index(index) = operator {
                            self.resolve(index, bound)?;
                        }
                    }
                }
            }
            Expression::Array(values) => {
                for value in values {
                    self.resolve(value, bound)?;
                }
            }
            Expression::Object(object) => {
                for (key, value) in std::mem::take(object) {
                    let (mut key, mut value) = (key, value);
                    if let ObjectKey::Expression(key) = &mut key {
                        self.resolve_key(key, bound)?;
                    }
                    self.resolve(&mut value, bound)?;
                    object.insert(key, value);
                }
            }
            Expression::TemplateExpr(template) => {
                let text = template.to_string();
                let mut parsed = Template::from_expr(template)
                    .map_err(|error| Error::Parse { text, source: Box::new(error) })?;
                self.resolve_template(&mut parsed, bound)?;
                **template = TemplateExpr::QuotedString(parsed.to_string());
            }
            Expression::FuncCall(call) => self.resolve_call(call, bound)?,
            Expression::Parenthesis(inner) => self.resolve(inner, bound)?,
            Expression::Conditional(conditional) => {
                self.resolve(&mut conditional.cond_expr, bound)?;
                self.resolve(&mut conditional.true_expr, bound)?;
                self.resolve(&mut conditional.false_expr, bound)?;
            }
            Expression::Operation(operation) => match &mut **operation {
                Operation::Unary(unary) => self.resolve(&mut unary.expr, bound)?,
                Operation::Binary(binary) => {
                    self.resolve(&mut binary.lhs_expr, bound)?;
                    self.resolve(&mut binary.rhs_expr, bound)?;
                    // The evaluator panics if a result is too large or does not exist.
                    if let Some(function) = functions::of_operator(binary.operator) {
                        let call = FuncCall::builder(Identifier::sanitized(function));
                        let call = call.arg(binary.lhs_expr.clone()).arg(binary.rhs_expr.clone());
                        *expression = Expression::from(call.build());
                    }
                }
            },
            Expression::ForExpr(each) => {
                self.resolve(&mut each.collection_expr, bound)?;
                let mut inner = bound.clone();
                inner.extend(each.key_var.iter().chain([&each.value_var]).map(ToString::to_string));
                let parts = [each.key_expr.as_mut(), Some(&mut each.value_expr), each.cond_expr.as_mut()];
                for part in parts.into_iter().flatten() {
                    self.resolve(part, &mut inner)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds the directory of the job file to the arguments of a function that reads files.
    fn resolve_call(&self, call: &mut FuncCall, bound: &mut BTreeSet<String>) -> Result<(), Error> {
        let name = call.name.name.as_str();
        let reads_files = functions::reads_files(name);
        let is_known = functions::is_known(name) && (!reads_files || self.directory.is_some());
        if call.name.is_namespaced() || !is_known {
            return Err(Error::UnknownFunction { name: name.to_owned() });
        }
        for argument in &mut call.args {
            self.resolve(argument, bound)?;
        }
        if let Some(directory) = self.directory.as_ref().filter(|_| reads_files) {
            call.args.insert(0, Expression::String(directory.clone()));
        }
        Ok(())
    }

    /// A bare name as the key of an object is this name, never a variable.
    fn resolve_key(&self, key: &mut Expression, bound: &mut BTreeSet<String>) -> Result<(), Error> {
        if let Expression::Variable(name) = key {
            *key = Expression::String(name.to_string());
            return Ok(());
        }
        self.resolve(key, bound)
    }

    fn resolve_template(&self, template: &mut Template, bound: &mut BTreeSet<String>) -> Result<(), Error> {
        for element in template.elements_mut() {
            match element {
                Element::Literal(_) => {}
                Element::Interpolation(interpolation) => self.resolve(&mut interpolation.expr, bound)?,
                Element::Directive(directive) => match &mut **directive {
                    Directive::If(choice) => {
                        self.resolve(&mut choice.cond_expr, bound)?;
                        self.resolve_template(&mut choice.true_template, bound)?;
                        if let Some(otherwise) = &mut choice.false_template {
                            self.resolve_template(otherwise, bound)?;
                        }
                    }
                    Directive::For(each) => {
                        self.resolve(&mut each.collection_expr, bound)?;
                        let mut inner = bound.clone();
                        inner.extend(each.key_var.iter().chain([&each.value_var]).map(ToString::to_string));
                        self.resolve_template(&mut each.template, &mut inner)?;
                    }
                },
            }
        }
        Ok(())
    }

    fn unknown(&self, name: String) -> Result<Expression, Error> {
        match self.unknown {
            Unknown::StaysText => Ok(Expression::String(format!("${{{name}}}"))),
            Unknown::IsAnError => Err(self.no_variable(name)),
        }
    }

    fn no_variable(&self, name: String) -> Error {
        // Nomad writes an underscore for each character that is not valid in an HCL name, such as the hyphen of a
        // label.
        let plain: String = name.chars().map(|c| if c == '-' { '_' } else { c }).collect();
        if let Some(reason) = self.missing_key(&name) {
            return Error::NoKey { reason };
        }
        let others = self.variables.keys().filter(|known| *known != &name);
        let nearest = nearest(&plain, others.map(String::as_str)).map(ToOwned::to_owned);
        Error::UnknownVariable { nearest, name }
    }

    /// For a name such as `var.a.c`, where `var.a` is an object without `c`: what is missing, and what is there.
    fn missing_key(&self, name: &str) -> Option<String> {
        let (root, rest) = name.split_once('.').filter(|(root, _)| ["var", "local"].contains(root))?;
        let mut object = root.to_owned();
        let mut value = self.variables.get(root)?;
        for key in rest.split('.') {
            let Value::Object(map) = value else { return None };
            match map.get(key) {
                Some(inner) => value = inner,
                // A variable that is not declared.
                None if object == root => return None,
                None => {
                    let keys: Vec<_> = map.keys().map(|key| format!("`{key}`")).collect();
                    let keys = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
                    return Some(format!("`{object}` has no `{key}`; it has {keys}"));
                }
            }
            object = format!("{object}.{key}");
        }
        None
    }

    /// The name of a key that its object does not have, such as `var.prot`; the evaluator's error names only the key.
    fn missing(&self, traversal: &Traversal) -> Option<String> {
        let Expression::Variable(root) = &traversal.expr else {
            return None;
        };
        let mut value = self.variables.get(root.as_str())?;
        for operator in &traversal.operators {
            let key = match operator {
                TraversalOperator::GetAttr(key) => key.as_str(),
                TraversalOperator::Index(Expression::String(key)) => key,
                _ => return None,
            };
            let Value::Object(object) = value else { return None };
            match object.get(key) {
                Some(inner) => value = inner,
                None => return Some(written(traversal, root)),
            }
        }
        None
    }
}

/// A traversal as it was written, such as `attr.kernel.name` or `env["PATH"]`.
fn written(traversal: &Traversal, root: &Variable) -> String {
    hcl::format::to_string(traversal).map_or_else(|_| root.to_string(), |text| text.trim_end().to_owned())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Prefixes of the variables of a port.
const PORTS: [&str; 5] = ["NOMAD_PORT_", "NOMAD_ADDR_", "NOMAD_IP_", "NOMAD_HOST_PORT_", "NOMAD_ALLOC_PORT_"];

/// What to do about an undefined name.
fn advice_for_variable(name: &str, nearest: Option<&str>) -> String {
    // With a dot it is a name in another one, and no misspelt one.
    let nearest = nearest.filter(|nearest| nearest.contains('.') == name.contains('.') && name.len() > 4);
    match (nearest, name.strip_prefix("var.")) {
        (Some(nearest), _) => format!("did you mean `{nearest}`?"),
        (None, Some(name)) => format!("declare it in the job file: `variable \"{name}\" {{}}`"),
        (None, None) if PORTS.iter().any(|prefix| name.starts_with(prefix)) => {
            "the `network` of the group has no port of this label".to_owned()
        }
        (None, None) if name.contains('.') => {
            "only a Nomad agent knows the attributes, the meta and the environment of its node".to_owned()
        }
        (None, None) if !name.starts_with("NOMAD_") && name.chars().all(|c| c.is_ascii_lowercase()) => {
            format!(
                "write \"{name}\" in quotes if it is a text, or `$$${{{name}}}` for a shell in the task to read it"
            )
        }
        (None, None) => format!(
            "a Nomad agent may know it, from a `template` with `env = true`, the meta of a dispatch or of the node; for a shell in \
             the task to read it write `$$${{{name}}}`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Scope {
        let variables =
            Map::from_iter([("port".to_owned(), Value::from(8080)), ("name".to_owned(), "web".into())]);
        Scope::of_job(variables, Map::new())
    }

    fn value(scope: &Scope, text: &str) -> Result<Value, Error> {
        let body = hcl::parse(&format!("x = {text}\n")).unwrap();
        scope.body(&body).map(|mut map| map.swap_remove("x").unwrap())
    }

    #[test]
    fn variables_of_the_job_get_their_values() {
        assert_eq!(value(&job(), "var.port + 1").unwrap(), Value::from(8081));
        assert_eq!(value(&job(), r#""${var.name}:${var.port}""#).unwrap(), Value::from("web:8080"));
        assert_eq!(value(&job(), r#""${var.port}""#).unwrap(), Value::from(8080));
    }

    #[test]
    fn names_of_the_runtime_stay_text() {
        for text in
            ["${NOMAD_PORT_http}", "${attr.kernel.name}", "a ${env[\"PATH\"]} b", "${meta.x}-${NOMAD_DC}"]
        {
            let quoted = format!("\"{text}\"");
            assert_eq!(value(&job(), &quoted).unwrap(), Value::from(text), "{text}");
        }
        assert_eq!(value(&job(), "NOMAD_DC").unwrap(), Value::from("${NOMAD_DC}"));
        assert_eq!(value(&job(), r#""${var.name} ${NOMAD_DC}""#).unwrap(), Value::from("web ${NOMAD_DC}"));
    }

    #[test]
    fn an_escaped_interpolation_loses_its_escape_once() {
        assert_eq!(value(&job(), r#""a $${HOME} b""#).unwrap(), Value::from("a ${HOME} b"));
        assert_eq!(value(&job(), r#""$${HOME} ${var.name}""#).unwrap(), Value::from("${HOME} web"));
        assert_eq!(Scope::of_plugin().text("a $${HOME}").unwrap(), Value::from("a ${HOME}"));
    }

    #[test]
    fn arithmetic_has_a_result_or_an_error() {
        for (text, result) in [
            ("1 + 2 * 3", Value::from(7)),
            ("7 % 4 - 5", Value::from(-2)),
            ("7 / 2", Value::from(3.5)),
            ("6 / 2", Value::from(3)),
            ("0.5 + 0.5", Value::from(1)),
            (r#""1" + 1"#, Value::from(2)),
            ("\"${1 + 1} of ${[for x in [1] : x * 3][0]}\"", Value::from("2 of 3")),
        ] {
            assert_eq!(value(&job(), text).unwrap(), result, "{text}");
        }
        for text in ["1 / 0", "1 % 0", "0 / 0", "1e308 * 10", "1 + true"] {
            assert!(value(&job(), text).is_err(), "{text}");
        }
        let most = "18446744073709551615";
        assert!(value(&job(), &format!("{most} + {most}")).is_ok());
    }

    #[test]
    fn quotes_and_line_ends_survive() {
        assert_eq!(
            value(&job(), r#""say \"hi\"\n\t${var.name} \\ ${NOMAD_DC}""#).unwrap(),
            Value::from("say \"hi\"\n\tweb \\ ${NOMAD_DC}")
        );
        let heredoc = "<<EOF\necho \"$HOME\" ${var.name}\n  done\nEOF";
        assert_eq!(value(&job(), heredoc).unwrap(), Value::from("echo \"$HOME\" web\n  done\n"));
        let indented = "<<-EOF\n    echo ${NOMAD_DC}\n      done\n    EOF";
        assert_eq!(value(&job(), indented).unwrap(), Value::from("echo ${NOMAD_DC}\n  done\n"));
    }

    #[test]
    fn loops_bind_their_variables() {
        let text = r#"[for p in [1, 2] : "${p}-${var.name}-${NOMAD_DC}"]"#;
        let expected = vec!["1-web-${NOMAD_DC}", "2-web-${NOMAD_DC}"];
        assert_eq!(value(&job(), text).unwrap(), Value::from_iter(expected));
        assert_eq!(
            value(&job(), r#""%{ for p in ["a", "b"] }${p};%{ endfor }""#).unwrap(),
            Value::from("a;b;")
        );
        assert_eq!(value(&job(), r#"({ a = 1, "b" = 2 })"#).unwrap(), hcl::value!({ a = 1, b = 2 }));
    }

    #[test]
    fn an_unknown_variable_of_the_job_is_named() {
        let error = value(&job(), "var.prot").unwrap_err().to_string();
        assert!(error.contains("`var.prot`"), "{error}");
    }

    #[test]
    fn an_unknown_function_is_refused_by_name() {
        let error = value(&job(), r#"bcrypt("x")"#).unwrap_err().to_string();
        assert!(error.contains("`bcrypt`") && error.contains("jsonencode"), "{error}");
        let error = value(&job(), r#"uper("x")"#).unwrap_err().to_string();
        assert!(error.contains("did you mean `upper`?"), "{error}");
    }

    #[test]
    fn a_task_knows_its_environment_and_nothing_else() {
        let scope = Scope::of_task(Map::from_iter([
            ("PORT".to_owned(), Value::from("80")),
            ("attr".to_owned(), hcl::value!({ kernel = { name = "linux" } })),
            ("env".to_owned(), hcl::value!({ "a.b" = "c" })),
        ]));
        assert_eq!(scope.text("p=${PORT}").unwrap(), Value::from("p=80"));
        assert_eq!(scope.text("${attr.kernel.name} ${env[\"a.b\"]}").unwrap(), Value::from("linux c"));
        let error = scope.text("${PORTT}").unwrap_err().to_string();
        assert!(error.contains("`PORTT`; did you mean `PORT`?"), "{error}");
        let ports = Scope::of_task(Map::from_iter([("NOMAD_PORT_a_b".to_owned(), Value::from("80"))]));
        let error = ports.text("${NOMAD_PORT_a-b}").unwrap_err().to_string();
        assert!(error.contains("did you mean `NOMAD_PORT_a_b`?"), "{error}");
        assert!(
            matches!(scope.text("${HOME}").unwrap_err(), Error::UnknownVariable { name, nearest: None } if name == "HOME")
        );
    }

    #[test]
    fn blocks_become_lists_of_maps_and_labels_maps_around_them() {
        let body = hcl::parse("a = 1\nlabels {\n x = \"y\"\n}\nvolume \"v\" {\n path = \"/p\"\n}\n").unwrap();
        let expected = hcl::value!({ a = 1, labels = [{ x = "y" }], volume = [{ v = [{ path = "/p" }] }] });
        assert_eq!(Value::Object(job().body(&body).unwrap()), expected);
    }

    #[test]
    fn a_map_that_is_written_out_is_a_block_and_one_of_an_expression_is_not() {
        let body = hcl::parse("a = { x = { y = 1 } }\nb = merge({ x = 1 }, { y = 2 })\n").unwrap();
        let expected = hcl::value!({ a = [{ x = { y = 1 } }], b = { x = 1, y = 2 } });
        assert_eq!(Value::Object(job().body(&body).unwrap()), expected);
    }
}
