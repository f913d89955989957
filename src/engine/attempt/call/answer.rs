//! What came of a call: its answer or the lack of one, as it is told of the tool and as it ends the
//! attempt. A tool may answer as it likes, so all of it has a bound.

use serde_json::{Value, json};

use crate::{
    api::{Duration, ErrorCode, ErrorInfo, FailureClass, TaskEvent},
    engine::{
        attempt::given::{LONGEST_MESSAGE, bounded, cut, outputs_of},
        outcome::Outcome,
    },
    protocol::tool::{ToolExecutionResult, ToolResult},
};

/// An answer that ends a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The tool ended well and gave this.
    Success(Value),
    /// The tool ended with an error of its own.
    ToolError(ErrorInfo),
    /// It is no answer that could be read, and why.
    Unreadable(String),
}

/// What a message on a call's reply subject says.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// The tool has begun.
    Started,
    /// The call is over.
    Ended(Answer),
}

/// Reads a message on the reply subject of the call with this id.
pub fn hear(payload: &[u8], tool_exec_id: &str) -> Heard {
    Heard::Ended(match ToolExecutionResult::read(payload, tool_exec_id) {
        Ok(ToolResult::Started) => return Heard::Started,
        Ok(ToolResult::Success { output }) => Answer::Success(output),
        Ok(ToolResult::ToolError { error }) => Answer::ToolError(error),
        Err(why) => Answer::Unreadable(cut(&why, LONGEST_MESSAGE)),
    })
}

/// What came of a call.
pub(super) struct Verdict {
    /// `ToolCompleted` if the tool answered, else `ToolFailed`.
    pub(super) event: TaskEvent,
    /// What went wrong with the tool, if something did.
    pub(super) told: Option<ErrorInfo>,
    /// What it means for the attempt.
    pub(super) outcome: Outcome,
}

/// Why there is no answer, as far as is known.
#[derive(Clone, Copy)]
pub(super) enum Silence {
    /// This process sent the call and listened all the time.
    Unbroken,
    /// Another process recorded the call.
    Restarted,
    /// This process never sent it.
    Unsent,
}

/// The tool that was called, and the call's id.
#[derive(Clone, Copy)]
pub(super) struct Tool<'a> {
    pub(super) name: &'a str,
    pub(super) call: &'a str,
}

impl Tool<'_> {
    pub(super) fn meant_by(self, answer: &Answer) -> Verdict {
        match answer {
            Answer::Success(output) => self.gave(output.clone()),
            Answer::ToolError(error) => self.erred(bounded(error.clone())),
            Answer::Unreadable(why) => self.unavailable(
                "INVALID_RESULT",
                format!(
                    "the answer of the tool {:?} cannot be read: {why}",
                    self.name
                ),
                "It has to be as `executor tool serve` sends it: docs/tools.md shows the messages",
            ),
        }
    }

    pub(super) fn not_served(self) -> Verdict {
        self.unavailable(
            "NO_RESPONDERS",
            format!("nobody serves the tool {:?}", self.name),
            "Start `executor tool serve` for it, or whatever else is to serve it",
        )
    }

    /// There was no answer in time.
    pub(super) fn silent(self, patience: Duration, why: Silence) -> Verdict {
        let name = self.name;
        let (message, way_out) = match why {
            Silence::Unbroken => (
                format!("the tool {name:?} did not answer within {patience}"),
                "See whether what serves it still works on it, or raise the tool's timeout",
            ),
            Silence::Restarted => (
                format!(
                    "no answer of the tool {name:?} was found within {patience}; the operator restarted \
                     meanwhile, and the call may or may not have run"
                ),
                "See what serves it, or give the task more tries with retry",
            ),
            Silence::Unsent => (
                format!(
                    "the tool {name:?} could not be called within {patience}, because NATS could not be \
                     reached; it has not run"
                ),
                "See the operator's log for why, or give the task more tries with retry",
            ),
        };
        self.unavailable("TIMEOUT", message, way_out)
    }

    /// An object ends the task; anything else is a fault of the tool.
    fn gave(self, output: Value) -> Verdict {
        match outputs_of(&format!("the tool {:?}", self.name), output) {
            Ok(outputs) => Verdict {
                event: TaskEvent::ToolCompleted,
                told: None,
                outcome: Outcome::Succeeded { outputs },
            },
            Err(error) => self.failed(TaskEvent::ToolCompleted, error.clone(), error),
        }
    }

    fn erred(self, told: ErrorInfo) -> Verdict {
        let message = format!(
            "the tool {:?} failed with {}: {}",
            self.name, told.code, told.message
        );
        let error = ErrorInfo::new(ErrorCode::ToolError, message);
        self.failed(TaskEvent::ToolCompleted, told, error)
    }

    fn unavailable(self, code: &str, message: String, way_out: &str) -> Verdict {
        let error = ErrorInfo::new(ErrorCode::ToolUnavailable, format!("{message}. {way_out}"));
        let told = ErrorInfo {
            message,
            code: code.to_owned(),
            details: None,
        };
        self.failed(TaskEvent::ToolFailed, told, error)
    }

    fn failed(self, event: TaskEvent, told: ErrorInfo, error: ErrorInfo) -> Verdict {
        let details = json!({"tool_id": self.name, "tool_exec_id": self.call, "tool_error": told});
        Verdict {
            event,
            told: Some(told),
            outcome: Outcome::Failed {
                class: FailureClass::Application,
                error: error.with_details(details),
                retryable: true,
            },
        }
    }
}
