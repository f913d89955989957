//! The interpreter's errors, in words that say what to do, and without the data.

use super::error::shorten;
use super::pattern::TOO_LARGE;
use cel::common::ast::{EntryExpr, Expr};
use cel::{ExecutionError, IdedExpr, Value};

/// Text taken from an error of the interpreter is cut after so many characters.
const SHOWN: usize = 200;

/// What `error`, met in `tree`, means.
pub(super) fn explain(error: &ExecutionError, tree: &IdedExpr) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => {
            let field = holder(tree, key)
                .map_or_else(|| format!("….{key}"), |holder| format!("{holder}.{key}"));
            let field = shorten(&field, SHOWN);
            format!(
                "no such key: `{}`; has({field}) tells whether there is one",
                shorten(key, SHOWN)
            )
        }
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            binary(operator, left, right)
        }
        ExecutionError::NoSuchOverload(overload) => format!(
            "`{}` cannot be used with {}",
            plain(overload.function()),
            overload.argument_types().join(" and ")
        ),
        ExecutionError::ValuesNotComparable(left, right) => {
            format!(
                "{} and {} cannot be compared",
                type_name(left),
                type_name(right)
            )
        }
        ExecutionError::UnexpectedType { got, want } => {
            format!(
                "{} is needed, not {}",
                shorten(want, SHOWN),
                shorten(got, SHOWN)
            )
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "division by zero".to_owned()
        }
        ExecutionError::Overflow(operator, ..) => {
            format!("the result of `{}` is out of range", symbol(operator))
        }
        ExecutionError::IndexOutOfBounds(index) => match index {
            Value::Int(index) => {
                format!("the list has no element {index}; size(list) tells how many it has")
            }
            _ => "the list has no such element; size(list) tells how many it has".to_owned(),
        },
        ExecutionError::DuplicateKey(_) => "a map that has a key twice".to_owned(),
        ExecutionError::UnsupportedKeyType(key) => format!("{} cannot be a key", type_name(key)),
        ExecutionError::FunctionError { function, message } => function_error(function, message),
        ExecutionError::InvalidArgumentCount { expected, actual } => {
            format!("{actual} arguments where {expected} are needed")
        }
        ExecutionError::UndeclaredReference(name) => {
            format!("unknown name `{}`", shorten(name, SHOWN))
        }
        // The compiler lets nothing through that ends here, and the interpreter's own words would
        // show the data.
        _ => "it cannot be evaluated".to_owned(),
    }
}

/// The interpreter quotes what it could not read; that is data.
fn function_error(function: &str, message: &str) -> String {
    let message = match function {
        "duration" => "not a duration; one is written '1h30m' or '90s', and has at most 292 years",
        "timestamp" => {
            "not a timestamp; one is written '2026-01-02T03:04:05Z', from year 1 to 9999"
        }
        "timezone" => "not a time zone; one is written 'Europe/Paris' or '+01:00'",
        "matches" if message != TOO_LARGE => "not a regular expression",
        _ => message,
    };
    format!("{function}: {}", shorten(message, SHOWN))
}

fn binary(operator: &str, left: &Value, right: &Value) -> String {
    let symbol = symbol(operator);
    let (a, b) = (type_name(left), type_name(right));
    let hint = match (left, right) {
        (Value::Int(_) | Value::UInt(_), Value::Float(_))
        | (Value::Float(_), Value::Int(_) | Value::UInt(_)) => {
            "; make both the same with double(…)"
        }
        (Value::Int(_), Value::UInt(_)) | (Value::UInt(_), Value::Int(_)) => {
            "; make both the same with int(…)"
        }
        (Value::String(_), _) | (_, Value::String(_)) if symbol == "+" => {
            "; string(…) makes text of a value"
        }
        _ => "",
    };
    format!("`{symbol}` cannot be used with {a} and {b}{hint}")
}

fn type_name(value: &Value) -> String {
    match value {
        Value::Float(_) => "double".to_owned(),
        other => other.type_of().to_string(),
    }
}

fn symbol(operator: &str) -> &str {
    match operator {
        "add" => "+",
        "sub" | "negate" => "-",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        other => other,
    }
}

/// The name of an operator as it is written: `_<_` is `<`, `@in` is `in`.
fn plain(function: &str) -> &str {
    match function {
        "_[_]" => "[…]",
        "_._" => ".",
        "_?_:_" => "?:",
        other => other.trim_matches(['_', '@']),
    }
}

/// Where in `tree` the field `key` is taken from, if that is a plain name such as `inputs.a`.
fn holder(tree: &IdedExpr, key: &str) -> Option<String> {
    match &tree.expr {
        Expr::Select(select) if select.field == key && !select.test => qualified(&select.operand),
        Expr::Select(select) => holder(&select.operand, key),
        Expr::Call(call) => {
            let target = call
                .target
                .as_deref()
                .and_then(|target| holder(target, key));
            target.or_else(|| call.args.iter().find_map(|argument| holder(argument, key)))
        }
        Expr::List(list) => list
            .elements
            .iter()
            .find_map(|element| holder(element, key)),
        Expr::Map(map) => map.entries.iter().find_map(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                holder(&entry.key, key).or_else(|| holder(&entry.value, key))
            }
            EntryExpr::StructField(field) => holder(&field.value, key),
        }),
        Expr::Comprehension(comprehension) => {
            holder(&comprehension.iter_range, key).or_else(|| holder(&comprehension.loop_step, key))
        }
        _ => None,
    }
}

fn qualified(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", qualified(&select.operand)?, select.field))
        }
        _ => None,
    }
}
