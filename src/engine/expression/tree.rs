//! JSON whose strings hold expressions.

use super::error::{CompileError, EvaluationError};
use super::references::References;
use super::scope::{Scope, Session};
use super::stack::with_room;
use super::template::Template;
use serde_json::{Map, Value};

/// A JSON value whose strings may hold expressions (keys may not), compiled.
#[derive(Debug)]
pub struct ValueTemplate {
    root: Node,
    references: References,
}

#[derive(Debug)]
enum Node {
    /// A value without any expression.
    Literal(Value),
    Template {
        path: String,
        template: Template,
    },
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl ValueTemplate {
    /// Compiles the strings in `value`. Errors name the place, starting from `path`:
    /// `spec.tasks[2].with.text`.
    pub fn compile(value: &Value, path: &str) -> Result<Self, CompileError> {
        let mut references = References::default();
        let root = Node::compile(value, path, &mut references)?;
        Ok(Self { root, references })
    }

    /// Whether there is no expression in it.
    pub fn is_literal(&self) -> bool {
        matches!(self.root, Node::Literal(_))
    }

    /// What all its expressions refer to.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Whether it is a string that is one expression and nothing beside it.
    pub fn is_one_expression(&self) -> bool {
        matches!(&self.root, Node::Template { template, .. } if template.is_one_expression())
    }

    /// What each of its expressions refers to, with the place of it.
    pub fn uses(&self) -> impl Iterator<Item = (&str, &References)> {
        let mut templates = Vec::new();
        self.root.collect_templates(&mut templates);
        let templates = templates.into_iter();
        templates.map(|(path, template)| (path, template.references()))
    }

    /// The value with every expression replaced by its result. Errors name the place, as those of
    /// [`Self::compile`] do.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, EvaluationError> {
        if let Node::Literal(value) = &self.root {
            return Ok(value.clone());
        }
        with_room(|| {
            self.root
                .evaluate(&mut Session::new(scope, &self.references)?, 0)
        })
    }
}

impl Node {
    fn compile(
        value: &Value,
        path: &str,
        references: &mut References,
    ) -> Result<Self, CompileError> {
        let node = match value {
            Value::String(source) => {
                let template = Template::compile(source).map_err(|error| error.at(path))?;
                references.merge(template.references());
                if template.is_literal() {
                    return Ok(Self::Literal(value.clone()));
                }
                return Ok(Self::Template {
                    path: path.to_owned(),
                    template,
                });
            }
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let items = items.map(|(index, item)| {
                    Self::compile(item, &format!("{path}[{index}]"), references)
                });
                Self::Array(items.collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let fields = fields.iter().map(|(key, field)| {
                    let node = Self::compile(field, &join(path, key), references)?;
                    Ok((key.clone(), node))
                });
                Self::Object(fields.collect::<Result<_, _>>()?)
            }
            other => Self::Literal(other.clone()),
        };
        Ok(if node.has_expressions() {
            node
        } else {
            Self::Literal(value.clone())
        })
    }

    fn has_expressions(&self) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Template { .. } => true,
            // What is below is folded already: a literal has no expressions, and anything else has.
            Self::Array(items) => items.iter().any(|item| !matches!(item, Self::Literal(_))),
            Self::Object(fields) => fields
                .iter()
                .any(|(_, field)| !matches!(field, Self::Literal(_))),
        }
    }

    fn collect_templates<'a>(&'a self, found: &mut Vec<(&'a str, &'a Template)>) {
        match self {
            Self::Literal(_) => {}
            Self::Template { path, template } => found.push((path, template)),
            Self::Array(items) => items.iter().for_each(|item| item.collect_templates(found)),
            Self::Object(fields) => fields
                .iter()
                .for_each(|(_, field)| field.collect_templates(found)),
        }
    }

    fn evaluate(&self, session: &mut Session<'_>, depth: usize) -> Result<Value, EvaluationError> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Template { path, template } => template
                .evaluate_in(session, depth)
                .map_err(|error| error.at(path)),
            Self::Array(items) => {
                let items = items.iter().map(|item| item.evaluate(session, depth + 1));
                items.collect::<Result<_, _>>().map(Value::Array)
            }
            Self::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(key, field)| Ok((key.clone(), field.evaluate(session, depth + 1)?)));
                fields.collect::<Result<Map<_, _>, _>>().map(Value::Object)
            }
        }
    }
}

/// `path.key`, or `path["key"]` if the key is not a plain name.
fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if key.is_empty() || !key.chars().all(plain) {
        return format!("{path}[{key:?}]");
    }
    if path.is_empty() {
        return key.to_owned();
    }
    format!("{path}.{key}")
}
