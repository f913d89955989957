//! `Workflow`: one run.

use k8s_openapi::api::core::v1::Container;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Condition, Duration, ErrorInfo, MirrorPosition, PodTemplate, PoolRef, RetryPolicy, Suspension,
    Time, ToolRef, WorkflowTransition, schema,
};

/// What a run does. Immutable after creation, except `suspend`, `cancel` and `ttl`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "compozy.dev",
    version = "v1alpha1",
    kind = "Workflow",
    plural = "workflows",
    shortname = "cw",
    category = "compozy",
    namespaced,
    status = "WorkflowStatus",
    derive = "PartialEq",
    doc = "One run of a graph of tasks. Its UID is the workflow_exec_id of its events.",
    validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Done", type_ = "string", json_path = ".status.done", description = "tasks ended / tasks in all, each item of a forEach as one"),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startedAt"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
)]
#[x_kube(
    validation = Rule::new("has(self.inputs) == has(oldSelf.inputs) && (!has(self.inputs) || self.inputs == oldSelf.inputs)")
        .message("spec.inputs is immutable: delete the workflow and create it anew").field_path(".inputs"),
    validation = Rule::new("self.tasks == oldSelf.tasks")
        .message("spec.tasks is immutable: delete the workflow and create it anew").field_path(".tasks"),
    validation = Rule::new("has(self.outputs) == has(oldSelf.outputs) && (!has(self.outputs) || self.outputs == oldSelf.outputs)")
        .message("spec.outputs is immutable: delete the workflow and create it anew").field_path(".outputs"),
    validation = Rule::new("has(self.parallelism) == has(oldSelf.parallelism) && (!has(self.parallelism) || self.parallelism == oldSelf.parallelism)")
        .message("spec.parallelism is immutable: delete the workflow and create it anew").field_path(".parallelism"),
    validation = Rule::new("has(self.failurePolicy) == has(oldSelf.failurePolicy) && (!has(self.failurePolicy) || self.failurePolicy == oldSelf.failurePolicy)")
        .message("spec.failurePolicy is immutable: delete the workflow and create it anew").field_path(".failurePolicy"),
    validation = Rule::new("has(self.timeout) == has(oldSelf.timeout) && (!has(self.timeout) || self.timeout == oldSelf.timeout)")
        .message("spec.timeout is immutable: delete the workflow and create it anew").field_path(".timeout"),
    validation = Rule::new("has(self.taskDefaults) == has(oldSelf.taskDefaults) && (!has(self.taskDefaults) || self.taskDefaults == oldSelf.taskDefaults)")
        .message("spec.taskDefaults is immutable: delete the workflow and create it anew").field_path(".taskDefaults"),
    validation = Rule::new("has(self.podTemplate) == has(oldSelf.podTemplate) && (!has(self.podTemplate) || self.podTemplate == oldSelf.podTemplate)")
        .message("spec.podTemplate is immutable: delete the workflow and create it anew").field_path(".podTemplate"),
    validation = Rule::new("!has(oldSelf.cancel) || has(self.cancel)")
        .message("spec.cancel cannot be withdrawn").field_path(".cancel"),
)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowSpec {
    /// Data for expressions: any JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub inputs: Option<Map<String, Value>>,

    /// At most so many task executions under way at once. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub parallelism: Option<u32>,

    /// The longest time that the run may take; then what runs is ended and the phase is TimedOut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,

    /// What a failed task means for the others. Default FailFast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,

    /// While true nothing new starts: no task, no attempt, no retry. Pods that run go on to their
    /// end. The workflow's `timeout`, deadlines and pauses before retries stand still meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// Ends the run: what runs is stopped, the phase becomes Cancelled. Cannot be withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<Cancel>,

    /// How long the finished run stays before it is deleted with all that belongs to it. What it
    /// does not say the installation may; otherwise the run stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,

    /// For tasks that do not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_defaults: Option<TaskDefaults>,

    /// For every executor pod of the run; a task's own comes on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,

    /// The tasks: at most 5,000.
    #[schemars(length(min = 1, max = 5000), extend("x-kubernetes-list-type" = "atomic"))]
    pub tasks: Vec<Task>,

    /// The run's outputs: any JSON object; strings may hold expressions over the tasks' outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub outputs: Option<Map<String, Value>>,
}

/// One step of the graph.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.container), has(self.pool), has(self.tool)].filter(given, given).size() == 1").message("a task needs exactly one of: container, pool, tool"),
    validation = Rule::new("has(self.container) || !has(self.podTemplate)").message("is for a task with container: this one has no pod of its own").field_path(".podTemplate"),
    validation = Rule::new("has(self.container) || !has(self.imagePullTimeout)").message("is for a task with container: this one has no pod of its own").field_path(".imagePullTimeout"),
)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// The task's name, unique in the workflow: a DNS label.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,

    /// Runs the task as a pod with this container. `image`, `command`, `args` and `env[].value`
    /// may hold expressions. Outputs: one JSON object of less than 4,096 bytes in the file that
    /// $COMPOZY_OUTPUTS names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::container")]
    pub container: Option<Container>,

    /// Runs the task on a worker of a pool that is there already, in milliseconds instead of the
    /// seconds that a pod takes. The worker gets the task's `with`; the outputs are what it gives: a
    /// JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolRef>,

    /// Calls a tool with the task's `with`, without a pod. The outputs are what the tool gives: a
    /// JSON object. If it answers with an error the task fails with TOOL_ERROR, if it does not
    /// answer with TOOL_UNAVAILABLE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolRef>,

    /// Starts after these tasks succeeded, or failed with `onFailure: Continue`. If one of them
    /// does not, this task is skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 5000),
        inner(length(min = 1, max = 63)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub depends_on: Vec<String>,

    /// The task's inputs: any JSON, strings may hold expressions; at most 256 KiB once resolved.
    /// The container finds them as a file that $COMPOZY_INPUTS names; without `with` there is
    /// neither. A pool's worker and a tool get them as their input; without `with` that is {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_value")]
    pub with: Option<Value>,

    /// Runs the task once for each item of a list. `with` and `container` may use `item` and
    /// `index` (from 0); retries and time limits are each execution's own. The task's outputs are
    /// the list of the items' outputs, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,

    /// Retries when the task fails by its own fault. Its back-off also holds for infrastructure
    /// retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,

    /// Retries when an attempt ends by no fault of the task: eviction, preemption, a lost node,
    /// a pod deleted by somebody. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub infrastructure_retries: Option<u32>,

    /// How long a pod with a node may take to start its container. Default 10m; then the task
    /// fails, not retried: with IMAGE_PULL if the image did not come, with START_ERROR if a
    /// volume, a Secret or the like did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_timeout: Option<Duration>,

    /// The longest that one attempt may run, from its container's start, such as 90s or 1h30m.
    /// Unbounded by default. An attempt that runs longer is stopped and counts as a failure of
    /// the task's own (TIMEOUT). Of a tool, the longest that an answer is waited for, if the tool's
    /// own timeout is not shorter (TOOL_UNAVAILABLE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,

    /// The longest that the task may take as a whole, from the creation of its task execution:
    /// waiting, attempts and back-off included. Unbounded by default. Then the task fails with
    /// DEADLINE_EXCEEDED, not retried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,

    /// Whether the task's failure fails the run. Default Fail. Under `forEach`, Continue holds for
    /// each item: all run, and the outputs have null in the place of one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,

    /// For this task's pods, on top of the workflow's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// One execution of a task for each item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForEach {
    /// The items: a list, whose strings may hold expressions, or a string that is one whole
    /// expression which gives a list. An empty list succeeds at once. How many there may be is
    /// limited by the installation, by default to 10,000.
    #[schemars(schema_with = "super::schema::items")]
    pub items: Value,
    /// At most so many items under way at once. By default only the workflow's `parallelism` limits
    /// them, which holds beside this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub max_parallel: Option<u32>,
    /// What a failed item means for the others. Default FailFast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<ItemFailurePolicy>,
}

/// What a failed item means for the others; one failed item fails the task. FailFast (the default):
/// no further item starts, those that run may finish. Complete: all items run. Cancel: no further
/// item starts, those that run are ended. With `onFailure: Continue` no item fails the task, and all
/// run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ItemFailurePolicy {
    /// No further item starts; those that run may finish.
    #[default]
    FailFast,
    /// All items run.
    Complete,
    /// No further item starts; those that run are ended.
    Cancel,
}

/// Values for tasks that do not set them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskDefaults {
    /// See `tasks[].retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// See `tasks[].infrastructureRetries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub infrastructure_retries: Option<u32>,
    /// See `tasks[].imagePullTimeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_timeout: Option<Duration>,
    /// See `tasks[].timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// See `tasks[].deadline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
}

/// What a failed task means for the others. FailFast (the default): nothing new starts, what runs
/// may finish. Complete: tasks that do not depend on the failed one go on. Cancel: nothing new
/// starts, what runs is ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// Nothing new starts; what runs may finish.
    #[default]
    FailFast,
    /// Tasks that do not depend on the failed one go on.
    Complete,
    /// Nothing new starts; what runs is ended.
    Cancel,
}

/// Whether a task's failure fails the run. Fail (the default): it does. Continue: it counts as
/// success for dependents and for the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// It does.
    #[default]
    Fail,
    /// It counts as success for dependents and for the run.
    Continue,
}

/// The wish to end a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cancel {
    /// Why; carried into the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
}

/// How long a finished run stays, counted from its end. It is never deleted before its events are
/// in NATS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ttl {
    /// After success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_succeeded: Option<Duration>,
    /// After any other end: Failed, Cancelled, TimedOut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_failed: Option<Duration>,
}

/// Where a run is: Pending (not looked at yet), Running, Suspended (by `spec.suspend`), Stopping
/// (the decision to end is taken, tasks still end), or for good Succeeded, Failed, Cancelled, TimedOut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPhase {
    /// Not looked at yet.
    #[default]
    Pending,
    /// Tasks start as they may.
    Running,
    /// Nothing new starts, by `spec.suspend`.
    Suspended,
    /// The decision to end is taken; tasks still end.
    Stopping,
    /// Ended well.
    Succeeded,
    /// Ended by a failure.
    Failed,
    /// Ended by a wish.
    Cancelled,
    /// Ended by its `timeout`.
    TimedOut,
}

impl RunPhase {
    /// Whether nothing can follow.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            RunPhase::Succeeded | RunPhase::Failed | RunPhase::Cancelled | RunPhase::TimedOut
        )
    }

    /// The phase as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            RunPhase::Pending => "Pending",
            RunPhase::Running => "Running",
            RunPhase::Suspended => "Suspended",
            RunPhase::Stopping => "Stopping",
            RunPhase::Succeeded => "Succeeded",
            RunPhase::Failed => "Failed",
            RunPhase::Cancelled => "Cancelled",
            RunPhase::TimedOut => "TimedOut",
        }
    }
}

/// What the operator sees of a run. Written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.phase) || !(oldSelf.phase in ['Succeeded', 'Failed', 'Cancelled', 'TimedOut']) || (has(self.phase) && self.phase == oldSelf.phase)")
        .message("a final phase is final")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowStatus {
    /// Where the run is.
    #[serde(default)]
    pub phase: RunPhase,
    /// `Succeeded` and `Finished`, for `kubectl wait`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this was written for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Fingerprint of the immutable part of the spec, pinned when the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// When the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// For how long the run was suspended, which its `timeout` does not count.
    #[serde(default, skip_serializing_if = "Suspension::is_none")]
    pub suspension: Suspension,
    /// When the final phase was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// From start to end, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// What to know at a glance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Tasks ended / tasks in all; of a task with `forEach` each item counts as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
    /// One row a task; above 500 tasks only the failed ones and those under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tasks: Vec<TaskRow>,
    /// The run's outputs, once it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub outputs: Option<Value>,
    /// Why the run did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// The outbox of events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub transitions: Vec<WorkflowTransition>,
    /// How far the events are in NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorPosition>,
}

/// A task's state at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskRow {
    /// The task's name.
    pub name: String,
    /// Waiting, Skipped, or the phase of its task execution; of a task with `forEach`, Running until
    /// its last item has ended.
    pub phase: String,
    /// How its items are, as far as is known.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
}

/// How the items of a task with `forEach` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemCounts {
    /// All items.
    pub total: u32,
    /// Those that ended well.
    pub succeeded: u32,
    /// Those that did not: that failed or were cancelled.
    pub failed: u32,
    /// Those that will not start.
    pub skipped: u32,
    /// Those under way.
    pub running: u32,
    /// So many, from the first on, have begun, whatever became of their task executions.
    pub begun: u32,
}

impl TaskRow {
    /// Which task executions of the task it says to have begun: that they ran or ended. `None`
    /// stands for that of the task as a whole.
    pub fn begun(&self) -> impl Iterator<Item = Option<u32>> + use<> {
        let items = self.items.map_or(0, |items| items.begun);
        let whole = self.items.is_none() && self.has_begun();
        whole
            .then_some(None)
            .into_iter()
            .chain((0..items).map(Some))
    }

    /// Whether it says that this execution of the task has begun.
    pub fn says_begun(&self, index: Option<u32>) -> bool {
        match (self.items, index) {
            (Some(items), Some(index)) => index < items.begun,
            (None, None) => self.has_begun(),
            _ => false,
        }
    }

    /// Whether it says that the task began.
    fn has_begun(&self) -> bool {
        !matches!(self.phase.as_str(), "Waiting" | "Pending" | "Skipped")
    }
}
