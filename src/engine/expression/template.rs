//! A string with expressions in it.

use super::compiled::Compiled;
use super::convert::text;
use super::error::{CompileError, EvaluationError};
use super::kubelet;
use super::references::References;
use super::scan::{Piece, split};
use super::scope::{Scope, Session};
use super::stack::with_room;
use serde_json::Value;

/// A string with any number of `${{ … }}` in it, compiled.
#[derive(Debug)]
pub struct Template {
    parts: Vec<Part>,
    references: References,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Expression(Compiled),
}

impl Template {
    /// Compiles `source`: every fault that can be seen without data is found here.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        let mut parts = Vec::new();
        let mut references = References::default();
        for piece in split(source)? {
            parts.push(match piece {
                Piece::Literal(text) => Part::Literal(text.to_owned()),
                Piece::Expression(source) => {
                    let compiled = Compiled::new(source)?;
                    references.merge(compiled.references());
                    Part::Expression(compiled)
                }
            });
        }
        Ok(Self { parts, references })
    }

    /// Compiles a string that the kubelet will read: `command`, `args` and the values of `env`.
    /// Refuses an expression inside a literal `$( … )` too.
    pub fn compile_for_kubelet(source: &str) -> Result<Self, CompileError> {
        let template = Self::compile(source)?;
        match template.inside_reference() {
            Some(expression) => {
                Err(CompileError::new(kubelet::INSIDE_REFERENCE).in_expression(expression))
            }
            None => Ok(template),
        }
    }

    /// Whether there is no expression in it.
    pub fn is_literal(&self) -> bool {
        !self
            .parts
            .iter()
            .any(|part| matches!(part, Part::Expression(_)))
    }

    /// Whether it is one expression and nothing beside it.
    pub fn is_one_expression(&self) -> bool {
        matches!(self.parts.as_slice(), [Part::Expression(_)])
    }

    /// What its expressions refer to.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// The result. A string that is one whole expression keeps the type of that; otherwise the
    /// results are joined as text with what stands between them: strings as they are, everything
    /// else as compact JSON.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, EvaluationError> {
        if self.is_literal() {
            return Ok(Value::String(self.literal_text()));
        }
        with_room(|| self.evaluate_in(&mut Session::new(scope, &self.references)?, 0))
    }

    /// The result as text, for the kubelet: it arrives in the container byte by byte, while
    /// `$(NAME)` in what the user wrote keeps its meaning. For `command`, `args` and the values of
    /// `env`.
    pub fn evaluate_for_kubelet(&self, scope: &Scope<'_>) -> Result<String, EvaluationError> {
        if self.is_literal() {
            return Ok(self.literal_text());
        }
        if let Some(expression) = self.inside_reference() {
            return Err(EvaluationError::new(kubelet::INSIDE_REFERENCE).in_expression(expression));
        }
        with_room(|| self.join_for_kubelet(&mut Session::new(scope, &self.references)?))
    }

    /// The result, which will stand `depth` levels deep in something larger.
    pub(super) fn evaluate_in(
        &self,
        session: &mut Session<'_>,
        depth: usize,
    ) -> Result<Value, EvaluationError> {
        if let [Part::Expression(compiled)] = self.parts.as_slice() {
            return session.evaluate(compiled, depth);
        }
        let mut joined = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => {
                    session.count(literal.len())?;
                    joined.push_str(literal);
                }
                Part::Expression(compiled) => {
                    joined.push_str(&text(session.evaluate(compiled, 0)?))
                }
            }
        }
        Ok(Value::String(joined))
    }

    fn join_for_kubelet(&self, session: &mut Session<'_>) -> Result<String, EvaluationError> {
        let mut joined = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => joined.push_str(&kubelet::before_result(literal)),
                Part::Expression(compiled) => {
                    let result = text(session.evaluate(compiled, 0)?);
                    if result.contains('\0') {
                        let message = "the result has a NUL character, which no argument and no \
                                       variable can hold";
                        return Err(EvaluationError::new(message).in_expression(compiled.source()));
                    }
                    joined.push_str(&kubelet::escape(&result));
                }
            }
        }
        Ok(joined)
    }

    fn literal_text(&self) -> String {
        let literals = self.parts.iter().map(|part| match part {
            Part::Literal(literal) => literal.as_str(),
            Part::Expression(_) => "",
        });
        literals.collect()
    }

    /// The first expression that stands inside a literal `$(`.
    fn inside_reference(&self) -> Option<&str> {
        self.parts.windows(2).find_map(|parts| match parts {
            [Part::Literal(literal), Part::Expression(compiled)]
                if kubelet::opens_reference(literal) =>
            {
                Some(compiled.source())
            }
            _ => None,
        })
    }
}
