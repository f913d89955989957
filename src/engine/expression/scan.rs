//! Finds the expressions in a string, and measures one before the parser sees it.

use super::error::CompileError;
use super::{MAX_DEPTH, MAX_EXPRESSION_BYTES};

const OPEN: &str = "${{";

/// A piece of a template's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    /// Text that stands for itself.
    Literal(&'t str),
    /// What stands between `${{` and `}}`.
    Expression(&'t str),
}

/// Splits `text` into literals (none of them empty) and expressions.
pub(super) fn split(text: &str) -> Result<Vec<Piece<'_>>, CompileError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        if start > 0 {
            pieces.push(Piece::Literal(&rest[..start]));
        }
        let body = &rest[start + OPEN.len()..];
        let end = measure(body)?;
        pieces.push(Piece::Expression(&body[..end]));
        rest = &body[end + 2..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    Ok(pieces)
}

/// The length of the expression at the start of `body`, up to its closing `}}`.
///
/// Fails if it is never closed, or too long or too deep to be parsed safely.
fn measure(body: &str) -> Result<usize, CompileError> {
    let mut tokens = Tokens { text: body, at: 0 };
    let mut depth = Depth::default();
    let mut braces = 0usize;
    let mut hint = "";
    while let Some(token) = tokens.next() {
        match token {
            "{" => braces += 1,
            "}" if braces > 0 => braces -= 1,
            "}" if body[tokens.at..].starts_with('}') => {
                let end = tokens.at - 1;
                return check_size(&body[..end], depth.measure()).map(|()| end);
            }
            "}" => hint = ": a `}` of it closes a map, `} }}` closes both",
            _ => {}
        }
        depth.token(token);
    }
    if braces > 0 {
        hint = ": a `{` inside it is not closed either";
    }
    Err(CompileError::new(format!(
        "`${{{{` without a closing `}}}}`{hint} (write ${{{{ '${{{{' }}}} for the three characters \
         themselves)"
    ))
    .in_expression(body))
}

fn check_size(source: &str, depth: usize) -> Result<(), CompileError> {
    let fault = if source.trim().is_empty() {
        "an empty expression".to_owned()
    } else if source.len() > MAX_EXPRESSION_BYTES {
        format!(
            "an expression of {} bytes; at most {MAX_EXPRESSION_BYTES} are allowed",
            source.len()
        )
    } else if depth > MAX_DEPTH {
        format!(
            "an expression {depth} levels deep; at most {MAX_DEPTH} are allowed (an operator in a row \
             counts one, a bracket in a bracket four)"
        )
    } else {
        return Ok(());
    };
    Err(CompileError::new(fault).in_expression(source))
}

/// The tokens of CEL, as far as finding the end and the depth of an expression needs them: strings
/// are one token, comments and white space none.
struct Tokens<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Tokens<'t> {
    fn next(&mut self) -> Option<&'t str> {
        loop {
            let rest = &self.text[self.at..];
            let first = rest.chars().next()?;
            let length = if first.is_whitespace() {
                first.len_utf8()
            } else if rest.starts_with("//") {
                comment_length(rest)
            } else {
                let length = token_length(rest, first);
                self.at += length;
                return Some(&rest[..length]);
            };
            self.at += length;
        }
    }
}

fn token_length(rest: &str, first: char) -> usize {
    if matches!(first, '"' | '\'') {
        return string_length(rest, false);
    }
    if !(first.is_ascii_alphanumeric() || first == '_') {
        let two = ["==", "!=", "<=", ">=", "&&", "||"];
        let two = two.iter().any(|operator| rest.starts_with(operator));
        return if two { 2 } else { first.len_utf8() };
    }
    let word = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(rest.len());
    let quoted = rest[word..].starts_with(['"', '\'']);
    match rest[..word].to_ascii_lowercase().as_str() {
        "r" | "br" if quoted => word + string_length(&rest[word..], true),
        "b" if quoted => word + string_length(&rest[word..], false),
        _ => word,
    }
}

/// The length of the string literal at the start of `rest`. A literal that is not closed on its
/// line ends there: the parser will refuse it.
fn string_length(rest: &str, raw: bool) -> usize {
    let quote = &rest[..1];
    let triple = quote.repeat(3);
    let (close, multiline) = if rest.starts_with(&triple) {
        (triple.as_str(), true)
    } else {
        (quote, false)
    };
    let mut at = close.len();
    while let Some(next) = rest[at..].chars().next() {
        if rest[at..].starts_with(close) {
            return at + close.len();
        }
        if !multiline && matches!(next, '\n' | '\r') {
            return at;
        }
        at += next.len_utf8();
        if next == '\\' && !raw {
            at += rest[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    at
}

/// A comment ends with its line, or with the expression.
fn comment_length(rest: &str) -> usize {
    [rest.find('\n'), rest.find("}}")]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(rest.len())
}

/// An upper bound of how deep the syntax tree of an expression is, from its tokens.
struct Depth {
    groups: Vec<Group>,
}

/// What a bracket weighs against an operator on the parser's stack.
const BRACKET: usize = 4;

/// What `?:` weighs: little on the stack, but the parser takes 96 in one another and no more.
const CONDITION: usize = 2;

/// What stands between two brackets (or all of the expression).
#[derive(Default)]
struct Group {
    /// Selections, indexes and calls in a row, with the depth of what stands in their brackets.
    postfix: usize,
    /// The deepest operand of the current term.
    operand: usize,
    /// The operators of the current term: each is a level of its own.
    operators: usize,
    /// The deepest term of the current element; terms are what `&&`, `||`, `?` and `:` stand
    /// between.
    term: usize,
    /// How many `&&` and `||` there are in the current element. The parser balances them.
    logical: usize,
    /// What the `?` in the current element weigh: each stands in the one before.
    conditions: usize,
    /// The deepest element so far; elements are what commas stand between.
    element: usize,
}

impl Group {
    fn end_operand(&mut self) {
        self.operand = self.operand.max(self.postfix);
        self.postfix = 0;
    }

    fn end_term(&mut self) {
        self.end_operand();
        self.term = self.term.max(self.operators + self.operand);
        self.operators = 0;
        self.operand = 0;
    }

    fn end_element(&mut self) {
        self.end_term();
        // Twice the logarithm, for the `&&` that stand inside `||`.
        let balanced = 2 * (usize::BITS - self.logical.leading_zeros()) as usize;
        self.element = self.element.max(self.term + balanced + self.conditions);
        self.term = 0;
        self.logical = 0;
        self.conditions = 0;
    }
}

impl Default for Depth {
    fn default() -> Self {
        Self {
            groups: vec![Group::default()],
        }
    }
}

impl Depth {
    fn token(&mut self, token: &str) {
        let Some(group) = self.groups.last_mut() else {
            return;
        };
        match token {
            "(" | "[" | "{" => self.groups.push(Group::default()),
            ")" | "]" | "}" => self.close(),
            "." => group.postfix += 1,
            "," => group.end_element(),
            "&&" | "||" => {
                group.logical += 1;
                group.end_term();
            }
            "?" | ":" => {
                group.conditions += if token == "?" { CONDITION } else { 0 };
                group.end_term();
            }
            "in" | "+" | "-" | "*" | "/" | "%" | "<" | ">" | "!" | "==" | "!=" | "<=" | ">=" => {
                group.operators += 1;
                group.end_operand();
            }
            _ => {}
        }
    }

    /// Folds the innermost group into the operand it belongs to. Too many closing brackets are the
    /// parser's to report.
    fn close(&mut self) {
        if self.groups.len() < 2 {
            return;
        }
        let Some(mut inner) = self.groups.pop() else {
            return;
        };
        inner.end_element();
        if let Some(outer) = self.groups.last_mut() {
            outer.postfix = (outer.postfix + 1).max(BRACKET + inner.element);
        }
    }

    fn measure(mut self) -> usize {
        while self.groups.len() > 1 {
            self.close();
        }
        self.groups.pop().map_or(0, |mut group| {
            group.end_element();
            group.element
        })
    }
}
