//! The termination message: outputs, an error that the task reports, or the log's tail.

use serde_json::{Map, Number, Value};

use crate::api::ErrorCode;

/// How much of a log's tail goes into an error message, in bytes.
const TAIL: usize = 1024;

/// The longest error code that the API takes, in characters.
pub(in crate::engine) const CODE: usize = 128;

/// Integers up to here have the same value as a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An error as a task reports it: `{"error": {"message", "code", "details"}}`.
#[derive(Debug, PartialEq)]
pub(super) struct ReportedError {
    pub(super) message: Option<String>,
    pub(super) code: Option<String>,
    pub(super) details: Map<String, Value>,
}

/// A task's outputs: nothing, or one JSON object, numbers normalised.
pub(super) fn outputs(message: &str, limit: usize) -> Result<Value, (ErrorCode, String)> {
    let size = message.len();
    if size >= limit {
        let text = format!(
            "the outputs are too large: {size} bytes or more, and a pod's status carries less than {limit}; \
             put large data on a volume or in an object store and output where it is"
        );
        return Err((ErrorCode::OutputsTooLarge, text));
    }
    if message.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let problem = match serde_json::from_str(message) {
        Ok(Value::Object(outputs)) => return Ok(normalise(Value::Object(outputs))),
        Ok(other) => format!("they are {}", kind(&other)),
        Err(error) => error.to_string(),
    };
    let text = format!(
        "the outputs are not one JSON object: {problem}; write one, like {{\"answer\": 42}}, to the file \
         that $COMPOZY_OUTPUTS names. They begin: {}",
        head(message)
    );
    Err((ErrorCode::InvalidOutputs, text))
}

/// The error in a termination message, if the task reported one there.
pub(super) fn reported_error(message: &str) -> Option<ReportedError> {
    let Ok(Value::Object(mut outputs)) = serde_json::from_str(message) else {
        return None;
    };
    let Some(Value::Object(mut error)) = outputs.remove("error") else {
        return None;
    };
    let details = match error.remove("details").map(normalise) {
        None | Some(Value::Null) => Map::new(),
        Some(details) => as_object(details),
    };
    Some(ReportedError {
        message: error.remove("message").and_then(as_text),
        code: error
            .remove("code")
            .and_then(as_text)
            .map(|code| code.chars().take(CODE).collect()),
        details,
    })
}

/// Details of an error are an object in the API; what is none keeps its place under the same name.
pub(in crate::engine) fn as_object(details: Value) -> Map<String, Value> {
    match details {
        Value::Object(details) => details,
        other => Map::from_iter([("details".to_owned(), other)]),
    }
}

/// The end of `text`, cut to about a KiB between characters.
pub(super) fn tail(text: &str) -> String {
    let text = text.trim();
    if text.len() <= TAIL {
        return text.to_owned();
    }
    let start = text.ceil_char_boundary(text.len() - TAIL);
    format!("…{}", &text[start..])
}

/// The beginning of `text` on one line.
fn head(text: &str) -> String {
    text.trim()
        .chars()
        .take(80)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

/// Numbers as the expressions see them: integral ones within ±2^53 are integers, others doubles.
/// (The API server turns 3.0 into 3 anyway; here it happens before anyone has read it.)
pub(in crate::engine) fn normalise(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(normalise_number(number)),
        Value::Array(items) => items.into_iter().map(normalise).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, normalise(value)))
            .collect(),
        other => other,
    }
}

fn normalise_number(number: Number) -> Number {
    let Some(double) = number.as_f64() else {
        return number;
    };
    if double.fract() == 0.0 && double.abs() <= EXACT {
        // In range, so the conversion is exact.
        return Number::from(double as i64);
    }
    Number::from_f64(double).unwrap_or(number)
}

fn as_text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// What a value is, in words.
pub(in crate::engine) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
