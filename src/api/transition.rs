//! The outbox: changes of state that wait in status until NATS has them (`docs/events.md`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Time;

/// The state events of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowEvent {
    /// The run began; always seq 1.
    Started,
    /// The run ended well.
    Completed,
    /// The run failed.
    Failed,
    /// The decision to cancel was taken.
    Cancelled,
    /// The run took longer than its `timeout`.
    TimedOut,
}

/// The state events of a task execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskEvent {
    /// The task execution was created; always seq 1, and implied by the object's existence.
    Scheduled,
    /// An attempt's container runs.
    Started,
    /// The task ended well.
    Completed,
    /// An attempt failed.
    Failed,
    /// Another attempt follows.
    RetryScheduled,
    /// The task was ended from outside.
    Cancelled,
}

/// One change of a workflow's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowTransition {
    /// Position in this object's history, from 1, without gaps.
    pub seq: u64,
    /// What happened.
    pub event: WorkflowEvent,
    /// When it was decided.
    pub at: Time,
    /// What later writes may overwrite and the event must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub data: Option<Value>,
}

/// One change of a task execution's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskTransition {
    /// Position in this object's history, from 2 (1 is the creation), without gaps.
    pub seq: u64,
    /// What happened.
    pub event: TaskEvent,
    /// The attempt that it happened to, from 1; 0 if none had begun.
    pub attempt: u32,
    /// When it happened.
    pub at: Time,
    /// What later writes may overwrite and the event must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub data: Option<Value>,
}

/// How far the mirror has come with this object. Written only with status writes that happen
/// anyway, so it may lag behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorPosition {
    /// Transitions up to this seq are in the stream.
    pub seq: u64,
    /// The stream's creation time: a stream that was made anew holds nothing of this.
    pub stream: String,
}
