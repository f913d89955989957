//! `TaskExecution`: one task of one run, or one item of it. Written by the operator alone.

#![expect(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a type of its own"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Condition, Duration, ErrorInfo, LABEL_INDEX, LABEL_TASK, LABEL_WORKFLOW, LABEL_WORKFLOW_UID,
    MirrorPosition, PodTemplate, PoolRef, ResolvedRetry, Suspension, TaskTransition, Time, ToolRef,
};

/// Everything an attempt needs, resolved: nothing is left to choose when it is dispatched. Only
/// `suspend` and `stop` change later.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "compozy.dev",
    version = "v1alpha1",
    kind = "TaskExecution",
    plural = "taskexecutions",
    shortname = "te",
    category = "compozy",
    namespaced,
    status = "TaskExecutionStatus",
    derive = "PartialEq",
    doc = "One task of one run, or one item of its forEach, written by the operator alone. Its UID is the task_exec_id of its events.",
    printcolumn(name = "Workflow", type_ = "string", json_path = ".spec.workflow.name"),
    printcolumn(name = "Task", type_ = "string", json_path = ".spec.task"),
    printcolumn(
        name = "Index",
        type_ = "integer",
        json_path = ".spec.index",
        priority = 1
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Executor", type_ = "string", json_path = ".status.executor"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("[has(self.container), has(self.pool), has(self.tool)].filter(given, given).size() == 1 || has(self.stop)").message("needs exactly one of: container, pool, tool"),
    validation = Rule::new("self.task == oldSelf.task && self.workflow == oldSelf.workflow").message("task and workflow are immutable"),
    validation = Rule::new("has(self.index) == has(oldSelf.index) && (!has(self.index) || self.index == oldSelf.index)").message("index is immutable"),
)]
#[serde(rename_all = "camelCase")]
pub struct TaskExecutionSpec {
    /// The run that this belongs to.
    pub workflow: WorkflowRef,
    /// The task's name.
    pub task: String,
    /// Which item of the task's `forEach` it runs, from 0; missing if the task has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The task's inputs, resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_value")]
    pub inputs: Option<Value>,
    // Both are large, and the operator keeps many task executions that have ended without them.
    /// The container to run, resolved. Missing only if `stop` was there from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub container: Option<Box<Container>>,
    /// The pool whose worker gets `inputs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolRef>,
    /// The tool to call; `inputs` are its input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolRef>,
    /// The pod around it, merged from installation, workflow and task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub pod_template: Option<Box<PodTemplate>>,
    /// Retries of application failures.
    pub retry: ResolvedRetry,
    /// Retries of infrastructure failures.
    pub infrastructure_retries: u32,
    /// How long an image may be waited for.
    pub image_pull_timeout: Duration,
    /// The longest that one attempt may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The longest that the execution may take as a whole, from its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// The wish that no attempt starts, by the workflow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// The wish to end it, by the workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
}

impl TaskExecutionSpec {
    /// The labels of the task execution and of all that is made for it.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let index = self.index.map(|index| (LABEL_INDEX, index.to_string()));
        [
            (LABEL_WORKFLOW, self.workflow.name.clone()),
            (LABEL_WORKFLOW_UID, self.workflow.uid.clone()),
            (LABEL_TASK, self.task.clone()),
        ]
        .into_iter()
        .chain(index)
        .map(|(label, value)| (label.to_owned(), value))
        .collect()
    }
}

/// The run that a task execution belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowRef {
    /// The Workflow object's name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The Workflow object's UID: the `workflow_exec_id`.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The `workflow_id` of the events.
    #[schemars(length(max = 63))]
    pub id: String,
}

/// The wish to end a task execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// `CANCELLED` ends it as Cancelled; any other code fails it with this code.
    pub code: String,
    /// Why, for a person.
    pub reason: String,
}

/// Where a task execution is: Pending (`reason` says what it waits for), Running, Retrying (the
/// next attempt starts at `retryAt`), or for good Succeeded, Failed, Cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaskPhase {
    /// Its executor is not running yet; `reason` says what it waits for.
    #[default]
    Pending,
    /// Its executor runs.
    Running,
    /// An attempt failed; the next one starts at `retryAt`.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended by a failure.
    Failed,
    /// Ended from outside.
    Cancelled,
}

impl TaskPhase {
    /// Whether nothing can follow.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            TaskPhase::Succeeded | TaskPhase::Failed | TaskPhase::Cancelled
        )
    }

    /// The phase as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskPhase::Pending => "Pending",
            TaskPhase::Running => "Running",
            TaskPhase::Retrying => "Retrying",
            TaskPhase::Succeeded => "Succeeded",
            TaskPhase::Failed => "Failed",
            TaskPhase::Cancelled => "Cancelled",
        }
    }
}

/// Whose fault a failed attempt was; missing if it succeeded or was stopped. Application: the
/// task's own, counts against `retry.maxAttempts`. Infrastructure: not the task's, counts against
/// `infrastructureRetries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureClass {
    /// The task's own: counts against `retry.maxAttempts`.
    Application,
    /// Not the task's: counts against `infrastructureRetries`.
    Infrastructure,
}

/// What the operator sees of a task execution.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.phase) || !(oldSelf.phase in ['Succeeded', 'Failed', 'Cancelled']) || (has(self.phase) && self.phase == oldSelf.phase)")
        .message("a final phase is final")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskExecutionStatus {
    /// Where it is.
    #[serde(default)]
    pub phase: TaskPhase,
    /// The last attempt that is known to have begun, from 1; every try counts.
    #[serde(default)]
    pub attempt: u32,
    /// How many attempts failed, by whose fault.
    #[serde(default)]
    pub failures: Failures,
    /// The last ended attempts, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub attempts: Vec<AttemptRecord>,
    /// What runs the current attempt: the pod's name, `pool/` and the pool's with its worker, or
    /// `tool/` and the tool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// Why it is in this phase, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is in this phase, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the next attempt may start; it moves by the time that the run is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// For how long it was suspended, which `deadline` and pauses do not count.
    #[serde(default, skip_serializing_if = "Suspension::is_none")]
    pub suspension: Suspension,
    /// Written before the operator deletes a pod itself, so that its own deletion is never taken
    /// for somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<Stopping>,
    /// The last call of a tool: written before it is sent, so that no call is ever sent twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallRecord>,
    /// What the task gave, once it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub outputs: Option<Value>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// `Succeeded` and `Finished`, for `kubectl wait`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When the first attempt's container started, its worker began, or its tool was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the final phase was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// From first start to end, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// The outbox of events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub transitions: Vec<TaskTransition>,
    /// How far the events are in NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorPosition>,
}

/// Ended attempts by whose fault it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failures {
    /// The task's own.
    #[serde(default)]
    pub application: u32,
    /// Not the task's.
    #[serde(default)]
    pub infrastructure: u32,
}

/// One ended attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// Its number, from 1.
    pub number: u32,
    /// What ran it: the pod's name, `pool/` and the pool's with its worker, or `tool/` and the
    /// tool's.
    pub executor: String,
    /// When its container started, its worker began or its tool was called, if that happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Time,
    /// Whose fault the failure was; missing if it succeeded or was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// How it ended, in one word: `Completed` or an error code.
    pub reason: String,
    /// The container's exit code, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How it ended, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The decision to call a tool. Only the process that wrote it may send the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// The attempt whose call it is.
    pub attempt: u32,
    /// The call's id: a UUID that follows from task execution and attempt.
    pub tool_exec_id: String,
    /// Which process of the operator sends it.
    pub caller: String,
    /// Until when an answer is waited for.
    pub deadline: Time,
    /// The operator serves the tool: a call that nobody took is sent again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handled: bool,
}

/// The operator's decision to end an attempt's pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stopping {
    /// The attempt being stopped.
    pub attempt: u32,
    /// The error code that the attempt ends with.
    pub code: String,
    /// Why, for a person.
    pub reason: String,
    /// When it was decided.
    pub at: Time,
}
