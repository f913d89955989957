//! The outbox: changes of state that wait in status until NATS has them (`docs/events.md`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ErrorInfo, FailureClass, Time};

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
    /// The run was suspended.
    WaitingStarted,
    /// The run goes on.
    WaitingEnded,
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
    /// The tool that an attempt called began.
    ToolStarted,
    /// The tool answered, be it with an error.
    ToolCompleted,
    /// The tool did not answer.
    ToolFailed,
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
    /// The attempt that it happened to, or that would have come next, from 1.
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
    /// The place in the stream of the last of them: messages before the stream's first had their
    /// time, others that are not there were lost.
    #[serde(default)]
    pub stream_seq: u64,
}

/// The `data` of a transition: what its event says and later writes may overwrite. What spec
/// gives, or a status that is final, is not repeated here.
///
/// | event | holds |
/// |---|---|
/// | task `started` | `executor` |
/// | task `failed` | `error`, `class`, `current_attempt` |
/// | task `retry_scheduled` | `next_attempt_delay_ms` |
/// | task `tool_…` | `tool` |
/// | `tool_completed` with the tool's own error, `tool_failed` | `error` |
/// | `cancelled` of both | `reason` |
/// | workflow `waiting_ended` | `suspended_ms` |
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransitionData {
    /// What runs the attempt: the pod's name, or `tool/` and the tool's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// Why the attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// Whose fault it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// Which of the task's own tries it was, from 1: infrastructure failures do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_attempt: Option<u32>,
    /// How long the next attempt waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_delay_ms: Option<u64>,
    /// The call of a tool that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolCall>,
    /// Why it was ended from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how long the run was suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended_ms: Option<u64>,
}

/// The call of a tool that a change of state is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool's name.
    pub id: String,
    /// The call's id, a UUID.
    pub exec_id: String,
    /// How long the call took, of one that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl ToolCall {
    /// The id of the call that a transition's `data` is about.
    pub fn id_in(data: Option<&Value>) -> Option<&str> {
        data?.get("tool")?.get("exec_id")?.as_str()
    }
}

impl TransitionData {
    /// As it was kept. What does not read is left out: an event with a gap is better than a chain
    /// that stops.
    pub fn read(data: Option<&Value>) -> Self {
        data.and_then(|value| Self::deserialize(value).ok())
            .unwrap_or_default()
    }

    /// As it is kept; nothing if it is empty.
    pub fn write(&self) -> Option<Value> {
        let empty = *self == Self::default();
        serde_json::to_value(self).ok().filter(|_| !empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_read_is_left_out() {
        assert_eq!(TransitionData::read(None), TransitionData::default());
        assert_eq!(
            TransitionData::read(Some(&json!({"executor": 7}))),
            TransitionData::default()
        );
        let kept = json!({"reason": "enough", "of_a_later_version": 1});
        assert_eq!(
            TransitionData::read(Some(&kept)).reason.as_deref(),
            Some("enough")
        );
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let data = TransitionData {
            executor: Some("pod".to_owned()),
            ..TransitionData::default()
        };
        assert_eq!(data.write(), Some(json!({"executor": "pod"})));
        assert_eq!(TransitionData::read(data.write().as_ref()), data);
        assert_eq!(TransitionData::default().write(), None);
    }
}
