//! What went wrong, as users and programs read it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Every error code that the operator itself gives. A task may report codes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The workflow's spec cannot be run; the message names the field.
    InvalidSpec,
    /// A task ended with a non-zero exit code.
    TaskFailed,
    /// An attempt or a workflow ran longer than its `timeout`.
    Timeout,
    /// A task execution as a whole took longer than its `deadline`.
    DeadlineExceeded,
    /// An expression met data that it cannot work on.
    ExpressionError,
    /// A task's `forEach` has more items than the installation allows.
    TooManyItems,
    /// A task's inputs are too large once resolved.
    InputsTooLarge,
    /// A task's outputs are larger than the kubelet carries.
    OutputsTooLarge,
    /// A task's outputs are not one JSON object.
    InvalidOutputs,
    /// The image could not be pulled within `imagePullTimeout`.
    ImagePull,
    /// The image must run as root, and the installation forbids that.
    ImageRunsAsRoot,
    /// The container could not be created or started as specified.
    StartError,
    /// The API server refused the pod for good, or its node did.
    PodRefused,
    /// The container used more memory than its limit.
    OomKilled,
    /// The pod was evicted, preempted or drained.
    Evicted,
    /// The pod's node was lost or shut down.
    NodeLost,
    /// The pod was deleted by somebody else.
    PodDeleted,
    /// The container was killed from outside, without a reason.
    Killed,
    /// A tool answered with an error.
    ToolError,
    /// A tool did not answer, or nobody serves it.
    ToolUnavailable,
    /// The worker of a pool that had the task was lost, or had to end before the task did.
    WorkerLost,
    /// The run was cancelled.
    Cancelled,
    /// A task execution was deleted by somebody else.
    Deleted,
}

impl ErrorCode {
    /// The code as it stands in status, events and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidSpec => "INVALID_SPEC",
            ErrorCode::TaskFailed => "TASK_FAILED",
            ErrorCode::Timeout => "TIMEOUT",
            ErrorCode::DeadlineExceeded => "DEADLINE_EXCEEDED",
            ErrorCode::ExpressionError => "EXPRESSION_ERROR",
            ErrorCode::TooManyItems => "TOO_MANY_ITEMS",
            ErrorCode::InputsTooLarge => "INPUTS_TOO_LARGE",
            ErrorCode::OutputsTooLarge => "OUTPUTS_TOO_LARGE",
            ErrorCode::InvalidOutputs => "INVALID_OUTPUTS",
            ErrorCode::ImagePull => "IMAGE_PULL",
            ErrorCode::ImageRunsAsRoot => "IMAGE_RUNS_AS_ROOT",
            ErrorCode::StartError => "START_ERROR",
            ErrorCode::PodRefused => "POD_REFUSED",
            ErrorCode::OomKilled => "OOM_KILLED",
            ErrorCode::Evicted => "EVICTED",
            ErrorCode::NodeLost => "NODE_LOST",
            ErrorCode::PodDeleted => "POD_DELETED",
            ErrorCode::Killed => "KILLED",
            ErrorCode::ToolError => "TOOL_ERROR",
            ErrorCode::ToolUnavailable => "TOOL_UNAVAILABLE",
            ErrorCode::WorkerLost => "WORKER_LOST",
            ErrorCode::Cancelled => "CANCELLED",
            ErrorCode::Deleted => "DELETED",
        }
    }
}

/// An error: what happened and, where there is one, the way out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorInfo {
    /// What happened, for a person.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// What happened, for a program: upper snake case.
    #[schemars(length(max = 128))]
    pub code: String,
    /// More, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub details: Option<Value>,
}

impl ErrorInfo {
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ErrorInfo {
            message: message.into(),
            code: code.as_str().to_owned(),
            details: None,
        }
    }

    /// The same error with details.
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}
