//! The bodies of the events: a contract with subscribers. Fields are only ever added.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::Time;

/// The body of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Payload<D> {
    /// What every event says.
    #[serde(flatten)]
    pub about: About,
    /// What this event says.
    #[serde(flatten)]
    pub details: D,
}

/// What every event says: whom it is about and when it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct About {
    /// The namespace of the run.
    pub namespace: String,
    /// The workflow's name: that of its template, or of the run where it has none.
    pub workflow_id: String,
    /// The run's UID.
    pub workflow_exec_id: String,
    /// The task execution, in its events.
    #[serde(flatten)]
    pub task: Option<AboutTask>,
    /// Place in the object's history, from 1.
    pub sequence: u64,
    /// When it happened.
    pub timestamp: Time,
}

/// What every task event says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AboutTask {
    /// The task's name.
    pub task_id: String,
    /// The task execution's UID.
    pub task_exec_id: String,
    /// The attempt that it is about, from 1; 0 before the first.
    pub attempt: u32,
    /// Which item of the task's `forEach` it is about, from 0; missing if the task has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// `started` of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowStarted {
    /// The run's inputs.
    pub inputs: Map<String, Value>,
}

/// `failed` of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowFailed {
    /// Why; `details` names the failed task and its error, where one was the cause.
    pub error: Failure,
}

/// `timed_out` of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowTimedOut {
    /// How long it was allowed to take.
    pub timeout_duration_ms: u64,
}

/// `waiting_started` of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowWaitingStarted {
    /// What it waits for: `suspended`, to be resumed.
    pub wait_reason: String,
}

/// `waiting_ended` of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowWaitingEnded {
    /// What ended the wait; of a suspended run, `suspended_ms`: how long it was suspended.
    pub resume_data: Map<String, Value>,
}

/// `scheduled` of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskScheduled {
    /// The task's inputs, resolved: any JSON.
    pub inputs: Value,
}

/// `started` of a task: once an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskStarted {
    /// What runs the attempt: the pod's name, or `tool/` and the tool's.
    pub executor: String,
}

/// `failed` of a task: once a failed attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskFailed {
    /// Why the attempt failed.
    pub error: Failure,
    /// Where it stands among the tries.
    pub retry_policy: Retries,
}

/// `retry_scheduled` of a task: another attempt follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRetryScheduled {
    /// The task execution: all its attempts share it.
    pub original_task_exec_id: String,
    /// How long the next attempt waits.
    pub next_attempt_delay_ms: u64,
    /// The next attempt's number; every try counts.
    pub attempt_number: u32,
}

/// `started` of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolStarted {
    /// Which call.
    #[serde(flatten)]
    pub call: AboutCall,
}

/// `completed` of a tool: it answered, be it with an error of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCompleted {
    /// Which call.
    #[serde(flatten)]
    pub call: AboutCall,
    /// What it answered with.
    #[serde(flatten)]
    pub result: ToolAnswer,
    /// How long the call took.
    pub duration_ms: u64,
}

/// `failed` of a tool: there is no answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolFailed {
    /// Which call.
    #[serde(flatten)]
    pub call: AboutCall,
    /// Why there is none.
    pub error: Failure,
}

/// What every tool event says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AboutCall {
    /// The tool's name.
    pub tool_id: String,
    /// The call's id, a UUID.
    pub tool_exec_id: String,
}

/// What a tool answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "tool_execution_status", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ToolAnswer {
    /// It ended well.
    Success {
        /// What it gave; null if that was nothing that a task can give, which the task's `failed` says.
        output: Value,
    },
    /// It ended with an error of its own.
    ToolError {
        /// Which.
        error: Failure,
    },
}

/// `completed` of a workflow or a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completed {
    /// What it gave: a JSON object.
    pub outputs: Value,
}

/// `cancelled` of a workflow or a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cancelled {
    /// Why, as whoever ended it said.
    pub reason: String,
}

/// Instead of an event's details where they are too large for a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Referenced {
    /// The path, at the Kubernetes API, of the object that holds them.
    pub dataref: String,
}

/// Instead of the details of a tool's event where they are too large for a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReferencedCall {
    /// Which call.
    #[serde(flatten)]
    pub call: AboutCall,
    /// The path, at the Kubernetes API, of the object that holds the rest.
    pub dataref: String,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// For a person.
    pub message: String,
    /// For a program: upper snake case.
    pub code: String,
    /// More; of a task, its `class`: Application or Infrastructure.
    pub details: Map<String, Value>,
}

/// Where a failed attempt stands among the tries that its task has for failures of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retries {
    /// How many tries the task has.
    pub max_attempts: u32,
    /// Which of them this was, from 1.
    pub current_attempt: u32,
}

/// The details of any event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Details {
    WorkflowStarted(WorkflowStarted),
    WorkflowFailed(WorkflowFailed),
    WorkflowTimedOut(WorkflowTimedOut),
    WorkflowWaitingStarted(WorkflowWaitingStarted),
    WorkflowWaitingEnded(WorkflowWaitingEnded),
    TaskScheduled(TaskScheduled),
    TaskStarted(TaskStarted),
    TaskFailed(TaskFailed),
    TaskRetryScheduled(TaskRetryScheduled),
    ToolStarted(ToolStarted),
    ToolCompleted(ToolCompleted),
    ToolFailed(ToolFailed),
    Completed(Completed),
    Cancelled(Cancelled),
    Referenced(Referenced),
    ReferencedCall(ReferencedCall),
}

impl Details {
    /// The call of a tool that it is about.
    pub(super) fn call(&self) -> Option<&AboutCall> {
        match self {
            Details::ToolStarted(ToolStarted { call })
            | Details::ToolCompleted(ToolCompleted { call, .. })
            | Details::ToolFailed(ToolFailed { call, .. })
            | Details::ReferencedCall(ReferencedCall { call, .. }) => Some(call),
            _ => None,
        }
    }
}
