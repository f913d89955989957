//! What a handler gives: read within bounds, and judged the same for all kinds.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::api::ErrorInfo;
use crate::protocol::tool::MAX_OUTPUT_BYTES;

/// A message is a sentence or the end of a log.
const MAX_MESSAGE_BYTES: usize = 4096;
const MAX_CODE_BYTES: usize = 128;

/// An error that the executor itself gives.
pub(super) fn error(code: impl Into<String>, message: impl Into<String>) -> ErrorInfo {
    ErrorInfo {
        message: message.into(),
        code: code.into(),
        details: None,
    }
}

/// Reads to the end, which has to come within the size of an output.
pub(super) async fn read(
    source: &mut (impl AsyncRead + Unpin),
    into: &mut Vec<u8>,
) -> Result<(), ErrorInfo> {
    let limit = u64::try_from(MAX_OUTPUT_BYTES + 1).unwrap_or(u64::MAX);
    // What cannot be read is not there.
    let _ = source.take(limit).read_to_end(into).await;
    match into.len() > MAX_OUTPUT_BYTES {
        true => Err(too_large()),
        false => Ok(()),
    }
}

/// The output that stands in `text`: a JSON object, or nothing, which is an empty one.
pub(super) fn parse(text: &[u8]) -> Result<Value, ErrorInfo> {
    if text.len() > MAX_OUTPUT_BYTES {
        return Err(too_large());
    }
    if text.trim_ascii().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_slice(text) {
        Ok(value) => check(value),
        Err(error) => Err(invalid(&format!("it is not JSON: {error}"), text)),
    }
}

/// An output that was read already.
pub(super) fn check(output: Value) -> Result<Value, ErrorInfo> {
    let text = output.to_string();
    if text.len() > MAX_OUTPUT_BYTES {
        Err(too_large())
    } else if !output.is_object() {
        Err(invalid("it is not a JSON object", text.as_bytes()))
    } else {
        Ok(output)
    }
}

/// The error that a handler told, within bounds.
pub(super) fn own_error(told: ErrorInfo) -> ErrorInfo {
    let details = told.details.filter(Value::is_object);
    if details
        .as_ref()
        .map_or(0, |details| details.to_string().len())
        > MAX_OUTPUT_BYTES
    {
        return too_large();
    }
    ErrorInfo {
        message: beginning(told.message.as_bytes(), MAX_MESSAGE_BYTES),
        code: beginning(told.code.as_bytes(), MAX_CODE_BYTES),
        details,
    }
}

pub(super) fn too_large() -> ErrorInfo {
    let limit = MAX_OUTPUT_BYTES / 1024;
    let message = format!(
        "the output is larger than {limit} KiB; put large data somewhere else and give where it is"
    );
    error("OUTPUTS_TOO_LARGE", message)
}

fn invalid(what: &str, text: &[u8]) -> ErrorInfo {
    let text = beginning(text, 200);
    error(
        "INVALID_OUTPUTS",
        format!("the output cannot be used: {what}; it begins {text:?}"),
    )
}

/// What somebody says of an error, within bounds.
pub(super) fn message(text: &[u8]) -> String {
    beginning(text.trim_ascii(), MAX_MESSAGE_BYTES)
}

/// So many bytes of it at most, as text.
pub(super) fn beginning(text: &[u8], bytes: usize) -> String {
    String::from_utf8_lossy(&text[..text.len().min(bytes)]).into_owned()
}

/// The last part of what a handler says of itself, which is also passed on to our own standard error.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        let surplus = self.0.len().saturating_sub(MAX_MESSAGE_BYTES);
        self.0.drain(..surplus);
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(self.0.trim_ascii()).into_owned()
    }
}

/// Passes on what a handler says, and keeps the end of it.
pub(super) async fn pass_on(source: &mut (impl AsyncRead + Unpin), tail: &mut Tail) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = source.read(&mut piece).await {
        tail.push(&piece[..length]);
        // Whoever reads our log may have gone; the call goes on.
        let _ = io::Write::write_all(&mut io::stderr(), &piece[..length]);
    }
}
