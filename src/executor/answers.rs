//! Answers on their way to the caller.

use std::time::Duration;

use bytes::Bytes;
use tracing::warn;

use crate::api::{ErrorInfo, Time};
use crate::ports::{Clock, NatsCalls, PublishError, SystemClock};
use crate::protocol::tool::{ToolExecutionResult, ToolResult};

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// Without a stream of answers nobody acknowledges one, and whoever listens has it all the same.
const UNACKNOWLEDGED: u32 = 2;

/// An answer as it is sent.
pub(super) fn payload(tool_exec_id: &str, result: ToolResult) -> Bytes {
    let result = ToolExecutionResult {
        tool_exec_id: tool_exec_id.to_owned(),
        result,
    };
    // Only maps with keys that are no text cannot be written.
    serde_json::to_vec(&result).unwrap_or_default().into()
}

/// Says that a call has begun. Nobody depends on it.
pub(super) async fn started(calls: &NatsCalls, reply: &str, tool_exec_id: &str) {
    let started = payload(tool_exec_id, ToolResult::Started);
    if let Err(error) = calls.say(reply, started).await {
        warn!(tool_exec_id, %error, "STARTED is not said");
    }
}

/// Brings an answer to the caller: until the stream of answers has it, or nobody waits for it any more.
pub(super) async fn deliver(
    calls: &NatsCalls,
    reply: &str,
    tool_exec_id: &str,
    answer: Bytes,
    deadline: Time,
) {
    let mut pause = PAUSE_FIRST;
    let mut unacknowledged = 0;
    let mut answer = answer;
    loop {
        let error = match calls.answer(reply, answer.clone()).await {
            Ok(()) => return,
            Err(error) => error,
        };
        match &error {
            PublishError::Timeout if unacknowledged >= UNACKNOWLEDGED => {
                return warn!(
                    tool_exec_id,
                    "no stream keeps the answer: who listens now has it, nobody else will"
                );
            }
            PublishError::Timeout => unacknowledged += 1,
            PublishError::TooLarge(text) => {
                warn!(tool_exec_id, text, "the answer is larger than NATS takes");
                answer = payload(tool_exec_id, too_large(text));
            }
            _ => {}
        }
        if Time(SystemClock.now()) > deadline {
            return warn!(tool_exec_id, %error, "the answer did not get through by the call's deadline");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

fn too_large(text: &str) -> ToolResult {
    ToolResult::ToolError {
        error: ErrorInfo {
            message: format!("the answer is larger than NATS takes: {text}"),
            code: "OUTPUTS_TOO_LARGE".to_owned(),
            details: None,
        },
    }
}
