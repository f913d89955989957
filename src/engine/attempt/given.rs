//! What a tool or a worker gives. It may say what it likes, so all of it is checked and has a bound.

use serde_json::{Map, Value};

use crate::{
    api::{ErrorCode, ErrorInfo},
    engine::outcome::{LONGEST_CODE, as_object, kind, normalise},
    protocol::tool::MAX_OUTPUT_BYTES,
};

/// The longest message that is kept, in characters.
pub(super) const LONGEST_MESSAGE: usize = 1024;

/// The largest details of an error that are kept: they stand in the status more than once.
const MAX_DETAILS_BYTES: usize = 4096;

/// What `who` gave as the outputs of a task.
///
/// # Errors
/// It is no object, or too large.
pub(super) fn outputs_of(who: &str, given: Value) -> Result<Value, ErrorInfo> {
    if !given.is_object() {
        let kind = kind(&given);
        return Err(ErrorInfo::new(
            ErrorCode::InvalidOutputs,
            format!(
                "the output of {who} is {kind}, and has to be one JSON object, like {{\"answer\": 42}}"
            ),
        ));
    }
    let size = given.to_string().len();
    if size > MAX_OUTPUT_BYTES {
        return Err(ErrorInfo::new(
            ErrorCode::OutputsTooLarge,
            format!(
                "the output of {who} has {size} bytes, the limit is {MAX_OUTPUT_BYTES}: let it put large data \
                 into an object store and output where it is"
            ),
        ));
    }
    Ok(normalise(given))
}

/// Somebody's own error, fit for a status.
pub(super) fn bounded(error: ErrorInfo) -> ErrorInfo {
    let details = error.details.filter(|details| !details.is_null());
    ErrorInfo {
        message: cut(&error.message, LONGEST_MESSAGE),
        code: cut(&error.code, LONGEST_CODE),
        details: details.map(|details| Value::Object(bounded_details(details))),
    }
}

fn bounded_details(details: Value) -> Map<String, Value> {
    let size = details.to_string().len();
    if size > MAX_DETAILS_BYTES {
        let note = format!("{size} bytes, the limit is {MAX_DETAILS_BYTES}");
        return Map::from_iter([("left_out".to_owned(), note.into())]);
    }
    as_object(normalise(details))
}

/// The beginning of `text`.
pub(super) fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
