//! One expression, parsed and checked.

use super::check::check;
use super::error::{CompileError, shorten};
use super::instrument::instrument;
use super::references::References;
use super::stack::with_room;
use cel::IdedExpr;
use cel::parser::Parser;

/// An expression that can be evaluated.
#[derive(Debug)]
pub(super) struct Compiled {
    source: String,
    tree: IdedExpr,
    references: References,
}

impl Compiled {
    /// Compiles what stands between `${{` and `}}`. Its size and depth must have been checked.
    pub(super) fn new(source: &str) -> Result<Self, CompileError> {
        let (tree, references) = with_room(|| {
            let mut tree = parse(source)?;
            let references = check(&tree)?;
            instrument(&mut tree);
            Ok((tree, references))
        })
        .map_err(|message: String| CompileError::new(message).in_expression(source))?;
        Ok(Self {
            source: source.to_owned(),
            tree,
            references,
        })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn tree(&self) -> &IdedExpr {
        &self.tree
    }

    pub(super) fn references(&self) -> &References {
        &self.references
    }
}

/// Parses `source`. The parser gives up at the first fault: what it makes of the rest is of no use
/// to anybody, and not always well formed.
fn parse(source: &str) -> Result<IdedExpr, String> {
    Parser::new()
        .error_recovery_limit(0)
        .parse(source)
        .map_err(|errors| {
            let first = errors
                .errors
                .iter()
                .find(|error| error.pos.0 > 0)
                .or(errors.errors.first());
            first.map_or_else(
                || "not an expression".to_owned(),
                |error| describe(&error.msg, error.pos),
            )
        })
}

/// The parser's message, without the list of all tokens that it would have liked better.
fn describe(message: &str, (line, column): (isize, isize)) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let message = message.split(" expecting {").next().unwrap_or(message);
    let message = shorten(message, 200).replace("'<EOF>'", "the end");
    match line {
        1 => format!("syntax error at column {column}: {message}"),
        _ => format!("syntax error at line {line}, column {column}: {message}"),
    }
}
