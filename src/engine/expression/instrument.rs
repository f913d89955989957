//! Rewrites a syntax tree so that its work is counted, see [`super::meter`].

use super::meter::{ADDEND, BYTES_PER_STEP, DEEP, EACH, FLAT, KEY, MATCHES, SEARCH};
use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators};
use std::mem;

/// Instruments `expression`; returns how many nodes it has.
pub(super) fn instrument(expression: &mut IdedExpr) -> i64 {
    1 + match &mut expression.expr {
        Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) | Expr::Unspecified => 0,
        Expr::Select(select) => instrument(&mut select.operand),
        Expr::List(list) => list
            .elements
            .iter_mut()
            .map(|element| part(element, DEEP))
            .sum(),
        Expr::Map(map) => map
            .entries
            .iter_mut()
            .map(|entry| map_entry(&mut entry.expr))
            .sum(),
        Expr::Comprehension(comprehension) => {
            let range = instrument(&mut comprehension.iter_range);
            let body =
                instrument(&mut comprehension.loop_cond) + instrument(&mut comprehension.loop_step);
            let size = Expr::Literal(LiteralValue::Int(body.into()));
            wrap(
                &mut comprehension.iter_range,
                EACH,
                vec![IdedExpr { id: 0, expr: size }],
            );
            range + body
        }
        Expr::Call(call) => self::call(call),
    }
}

/// Instruments a part of an expression, and counts its value with the function `how`.
fn part(expression: &mut IdedExpr, how: &str) -> i64 {
    let nodes = instrument(expression);
    if !is_cheap(expression) {
        wrap(expression, how, Vec::new());
    }
    nodes
}

fn map_entry(entry: &mut EntryExpr) -> i64 {
    match entry {
        EntryExpr::MapEntry(entry) => part(&mut entry.key, DEEP) + part(&mut entry.value, DEEP),
        EntryExpr::StructField(field) => instrument(&mut field.value),
    }
}

fn call(call: &mut CallExpr) -> i64 {
    let arguments = call.args.as_mut_slice();
    match (call.func_name.as_str(), arguments) {
        (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => {
            // Equality looks no further than the smaller side.
            let literal = matches!(right.expr, Expr::Literal(_));
            let left = if literal {
                instrument(left)
            } else {
                part(left, DEEP)
            };
            left + instrument(right)
        }
        (operators::ADD, [left, right]) => {
            let nodes = part(left, DEEP) + part(right, ADDEND);
            if matches!(right.expr, Expr::Map(_)) {
                wrap(right, ADDEND, Vec::new());
            }
            nodes
        }
        (operators::IN, [needle, haystack]) => part(needle, DEEP) + part(haystack, SEARCH),
        (operators::INDEX, [operand, index]) => {
            let nodes = instrument(operand) + instrument(index);
            wrap(index, KEY, Vec::new());
            nodes
        }
        (
            operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::CONDITIONAL
            | operators::NOT_STRICTLY_FALSE
            | operators::NEGATE,
            arguments,
        ) => arguments.iter_mut().map(instrument).sum(),
        (
            operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS,
            arguments,
        ) => arguments
            .iter_mut()
            .map(|argument| part(argument, DEEP))
            .sum(),
        ("matches", _) => matches(call),
        (_, arguments) => {
            let target = call
                .target
                .as_deref_mut()
                .map_or(0, |target| part(target, FLAT));
            target
                + arguments
                    .iter_mut()
                    .map(|argument| part(argument, FLAT))
                    .sum::<i64>()
        }
    }
}

/// `text.matches(pattern)` and `matches(text, pattern)` both become `@matches(text, pattern)`.
fn matches(call: &mut CallExpr) -> i64 {
    if let Some(target) = call.target.take() {
        call.args.insert(0, *target);
    }
    call.func_name = MATCHES.to_owned();
    call.args.iter_mut().map(instrument).sum()
}

/// Whether the value costs nothing to speak of: a short literal, or a list or map whose elements
/// are counted already. The accumulator of a comprehension must stay what the interpreter knows it
/// by, or it copies it in each step.
fn is_cheap(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => text.inner().len() <= BYTES_PER_STEP,
        Expr::Literal(LiteralValue::Bytes(bytes)) => bytes.inner().len() <= BYTES_PER_STEP,
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => true,
        Expr::Ident(name) => name.starts_with('@'),
        _ => false,
    }
}

fn wrap(expression: &mut IdedExpr, function: &str, more: Vec<IdedExpr>) {
    let inner = mem::take(expression);
    expression.id = inner.id;
    let mut args = vec![inner];
    args.extend(more);
    expression.expr = Expr::Call(CallExpr {
        func_name: function.to_owned(),
        target: None,
        args,
    });
}
