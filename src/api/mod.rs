//! The custom resources of group `compozy.dev`, as types. No tokio, no client, no clock.
//!
//! A doc comment here becomes the CRD's description and so the text of `kubectl explain`.
//! Defaults live in code (`effective` functions), never in the CRD: an upgrade adding one would
//! change every live spec and with it the pinned spec hash.

mod condition;
pub mod crd;
mod error;
mod executor_pool;
mod handler;
mod pod_template;
mod retry;
mod schema;
mod suspension;
mod task_execution;
mod time;
mod tool;
mod transition;
mod workflow;

pub use condition::{Condition, ConditionStatus, FINISHED, PARSED, READY, SUCCEEDED};
pub use error::{ErrorCode, ErrorInfo};
pub use executor_pool::{ExecutorPool, ExecutorPoolSpec, PoolRef};
pub use handler::{HandlerAddress, HandlerCommand, HandlerPods, ServerStatus};
pub use pod_template::{PodMetadata, PodOverlay, PodTemplate};
pub use retry::{Backoff, ResolvedBackoff, ResolvedRetry, RetryPolicy};
pub use suspension::Suspension;
pub use task_execution::{
    AttemptRecord, CallRecord, FailureClass, Failures, Stop, Stopping, TaskExecution,
    TaskExecutionSpec, TaskExecutionStatus, TaskPhase, WorkflowRef,
};
pub use time::{Duration, Time};
pub use tool::{DEFAULT_TOOL_TIMEOUT, Tool, ToolHandler, ToolRef, ToolSpec};
pub use transition::{
    MirrorPosition, TaskEvent, TaskTransition, ToolCall, TransitionData, WorkflowEvent,
    WorkflowTransition,
};
pub use workflow::{
    Cancel, FailurePolicy, ForEach, ItemCounts, ItemFailurePolicy, OnFailure, RunPhase, Task,
    TaskDefaults, TaskRow, Ttl, Workflow, WorkflowSpec, WorkflowStatus,
};

/// The API group of every custom resource.
pub const GROUP: &str = "compozy.dev";
/// The API version written and served.
pub const VERSION: &str = "v1alpha1";

/// Label: name of the workflow that a child belongs to.
pub const LABEL_WORKFLOW: &str = "compozy.dev/workflow";
/// Label: UID of the workflow that a child belongs to.
pub const LABEL_WORKFLOW_UID: &str = "compozy.dev/workflow-uid";
/// Label: name of the task that a child runs.
pub const LABEL_TASK: &str = "compozy.dev/task";
/// Label: index of the item of `forEach` that a child is of, from 0.
pub const LABEL_INDEX: &str = "compozy.dev/index";
/// Label on pods: number of the attempt, from 1.
pub const LABEL_ATTEMPT: &str = "compozy.dev/attempt";
/// Label on what serves a tool: the tool's name.
pub const LABEL_TOOL: &str = "compozy.dev/tool";
/// Label on a pool's workers: the pool's name.
pub const LABEL_POOL: &str = "compozy.dev/pool";
/// Prefix of labels and annotations that only the operator writes.
pub const RESERVED_PREFIX: &str = "compozy.dev/";

/// Finalizer on workflows and task executions: held until every state event is in NATS.
pub const FINALIZER_EVENTS: &str = "compozy.dev/event-mirror";
/// Annotation on what was let go with all its events in NATS: where they are, a [`MirrorPosition`].
pub const ANNOTATION_MIRRORED: &str = "compozy.dev/mirrored";
/// Finalizer on pods: held until the task execution's status has the attempt's result.
pub const FINALIZER_OUTCOME: &str = "compozy.dev/outcome";
