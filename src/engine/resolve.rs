//! From a task of the graph to a complete `TaskExecution`: nothing left to choose.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt, api::ObjectMeta};
use serde_json::{Value, json};

use crate::{
    api::{
        Duration, ErrorCode, FINALIZER_EVENTS, OnFailure, RetryPolicy, Stop, TaskExecution,
        TaskExecutionSpec, TaskExecutionStatus, TaskPhase, Workflow, WorkflowRef,
    },
    engine::{
        definition::{Definition, Executor, TaskDefinition},
        expression::{EvaluationError, ItemScope, Scope, TaskScope, WorkflowScope},
        names,
        run::{ExecutionIndex, NodeState, Run, TaskIndex},
    },
};

/// The largest resolved inputs of a task.
const MAX_INPUT_BYTES: usize = 256 * 1024;

const DEFAULT_INFRASTRUCTURE_RETRIES: u32 = 3;
const DEFAULT_IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(600);

/// The phase of a task that does not start.
pub const SKIPPED: &str = "Skipped";

/// Looks up a task execution, if it exists.
pub type Lookup<'a> = &'a dyn Fn(ExecutionIndex) -> Option<Arc<TaskExecution>>;

/// Finds the items of every task whose time for that has come. To be done whenever something was
/// observed: they are known from then on.
pub fn expand(workflow: &Workflow, definition: &Definition, run: &mut Run, lookup: Lookup) {
    while let Some(task) = run.unexpanded() {
        let data = RunData {
            workflow,
            definition,
            run,
            lookup,
        };
        let items = data.items(task);
        run.expand(definition, task, items);
    }
}

/// The data that a run's expressions may use.
pub struct RunData<'a> {
    /// The run.
    pub workflow: &'a Workflow,
    /// Its tasks.
    pub definition: &'a Definition,
    /// Where they are.
    pub run: &'a Run,
    /// Their task executions.
    pub lookup: Lookup<'a>,
}

impl RunData<'_> {
    /// A task execution, complete. An expression that its data does not suit gives one that fails
    /// at once, so that the failure has an id, an event and a place to be read.
    pub fn task_execution(&self, which: ExecutionIndex) -> TaskExecution {
        let definition = &self.definition.tasks()[which.task];
        let mut spec = self.bare_spec(definition);
        spec.index = which.item;
        if let Some(stop) = self.run.refusal(which.task) {
            spec.stop = Some(stop.clone());
            return self.of_spec(spec);
        }
        if let Err(stop) = self.resolve(definition, self.item(which), &mut spec) {
            spec.stop = Some(stop);
        }
        self.of_spec(spec)
    }

    fn of_spec(&self, spec: TaskExecutionSpec) -> TaskExecution {
        TaskExecution {
            metadata: self.metadata(&spec),
            spec,
            status: None,
        }
    }

    /// The items of a task with `forEach`; or why it can have none.
    fn items(&self, task: TaskIndex) -> Result<Vec<Value>, Stop> {
        let Some(for_each) = &self.definition.tasks()[task].for_each else {
            return Ok(Vec::new());
        };
        let names = for_each.items.references().task_names();
        let items = self
            .with_scope(names, None, |scope| for_each.items.evaluate(scope))
            .map_err(|error| unsuitable(&error))?;
        let place = format!("spec.tasks[{task}].forEach.items");
        let Value::Array(items) = items else {
            return Err(no_list(&place, &items));
        };
        let limit = self.definition.max_items() as usize;
        // What has begun under a higher limit goes on.
        if items.len() > limit && !self.run.has_begun_items(task) {
            return Err(too_many(&place, items.len(), limit));
        }
        Ok(items)
    }

    fn item(&self, which: ExecutionIndex) -> Option<ItemScope<'_>> {
        let index = which.item?;
        let value = self.run.item(which.task, index)?;
        Some(ItemScope { value, index })
    }

    /// The run's outputs.
    ///
    /// # Errors
    /// An expression that the data does not suit.
    pub fn outputs(&self) -> Result<Option<Value>, EvaluationError> {
        let Some(template) = self.definition.outputs() else {
            return Ok(None);
        };
        let names = template.references().task_names();
        self.with_scope(names, None, |scope| template.evaluate(scope))
            .map(Some)
    }

    /// Adds what the attempts need; or says why there can be none.
    fn resolve(
        &self,
        task: &TaskDefinition,
        item: Option<ItemScope>,
        spec: &mut TaskExecutionSpec,
    ) -> Result<(), Stop> {
        let evaluated = self.with_scope(task.task_names(), item, |scope| {
            let with = task.with.as_ref();
            let inputs = with.map(|with| with.evaluate(scope)).transpose()?;
            let container = task.executor.container();
            let container = container.map(|it| it.evaluate(scope)).transpose()?;
            Ok((inputs, container))
        });
        let (inputs, container) = evaluated.map_err(|error| unsuitable(&error))?;
        let size = inputs.as_ref().map_or(0, |inputs| inputs.to_string().len());
        if size > MAX_INPUT_BYTES {
            return Err(too_large(size));
        }
        spec.inputs = inputs;
        spec.container = container.map(Box::new);
        match &task.executor {
            Executor::Container { pod_template, .. } => {
                spec.pod_template = Some(pod_template.clone());
            }
            Executor::Pool(pool) => spec.pool = Some(pool.clone()),
            Executor::Tool(tool) => spec.tool = Some(tool.clone()),
        }
        Ok(())
    }

    /// Evaluates with only the tasks in scope that the expressions name: a step costs what it
    /// touches.
    fn with_scope<'n, T>(
        &self,
        names: impl Iterator<Item = &'n str>,
        item: Option<ItemScope>,
        evaluate: impl FnOnce(&Scope) -> Result<T, EvaluationError>,
    ) -> Result<T, EvaluationError> {
        let seen: Vec<(&str, Seen)> = names
            .filter_map(|name| Some((name, self.see(self.definition.position(name)?))))
            .collect();
        let tasks = seen
            .iter()
            .map(|(name, seen)| ((*name).to_owned(), seen.scope()))
            .collect();
        evaluate(&Scope {
            inputs: self.definition.inputs(),
            workflow: WorkflowScope {
                name: self.workflow.metadata.name.as_deref().unwrap_or_default(),
                namespace: self
                    .workflow
                    .metadata
                    .namespace
                    .as_deref()
                    .unwrap_or_default(),
                uid: self.workflow.metadata.uid.as_deref().unwrap_or_default(),
            },
            tasks: &tasks,
            item,
        })
    }

    fn see(&self, task: TaskIndex) -> Seen {
        if let Some(count) = self.run.item_count(task) {
            return self.see_items(task, count);
        }
        let status = self.status(task.into());
        let phase = match self.run.state(task) {
            NodeState::Skipped => SKIPPED,
            _ => status.phase.as_str(),
        };
        Seen {
            phase,
            outputs: status.outputs.unwrap_or_else(|| json!({})),
            error: status
                .error
                .and_then(|error| serde_json::to_value(error).ok()),
            attempts: status.attempt,
        }
    }

    /// What is known of a task with items, all of which have ended or will not start.
    fn see_items(&self, task: TaskIndex, count: u32) -> Seen {
        let of = |item| self.status(ExecutionIndex::of_item(task, item));
        let phase = match self.run.state(task) {
            NodeState::Ended(phase) => phase.as_str(),
            _ => SKIPPED,
        };
        let tolerated = self.definition.tasks()[task].on_failure == OnFailure::Continue;
        let statuses: Vec<_> = (0..count).map(of).collect();
        let attempts = statuses.iter().map(|status| status.attempt).sum();
        let good = phase == TaskPhase::Succeeded.as_str();
        let error = self.run.first_failed_item(task).filter(|_| !good);
        let error = error.and_then(|item| statuses[item as usize].error.clone());
        let list = || {
            let outputs = statuses.into_iter().map(outputs_or_null);
            Value::Array(outputs.collect())
        };
        Seen {
            phase,
            outputs: if good || tolerated { list() } else { json!({}) },
            error: error.and_then(|error| serde_json::to_value(error).ok()),
            attempts,
        }
    }

    fn status(&self, which: ExecutionIndex) -> TaskExecutionStatus {
        let execution = (self.lookup)(which);
        let status = execution.and_then(|te| te.status.clone());
        status.unwrap_or_default()
    }

    fn metadata(&self, spec: &TaskExecutionSpec) -> ObjectMeta {
        let name = self.workflow.name_any();
        let uid = self.workflow.uid().unwrap_or_default();
        let child = names::task_execution_name(&name, &uid, &spec.task, spec.index);
        ObjectMeta {
            name: Some(child),
            namespace: self.workflow.namespace(),
            labels: Some(spec.labels()),
            owner_references: Some(vec![OwnerReference {
                api_version: Workflow::api_version(&()).into_owned(),
                kind: Workflow::kind(&()).into_owned(),
                name,
                uid,
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            finalizers: Some(vec![FINALIZER_EVENTS.to_owned()]),
            ..ObjectMeta::default()
        }
    }

    fn bare_spec(&self, task: &TaskDefinition) -> TaskExecutionSpec {
        let defaults = self.definition.defaults();
        let own = &task.spec;
        let policy = |policy: &Option<RetryPolicy>| policy.clone().unwrap_or_default();
        let workflow = self.workflow.name_any();
        TaskExecutionSpec {
            workflow: WorkflowRef {
                id: workflow.clone(),
                uid: self.workflow.uid().unwrap_or_default(),
                name: workflow,
            },
            task: own.name.clone(),
            index: None,
            inputs: None,
            container: None,
            pool: None,
            tool: None,
            pod_template: None,
            retry: policy(&own.retry).resolve(&policy(&defaults.retry)),
            infrastructure_retries: own
                .infrastructure_retries
                .or(defaults.infrastructure_retries)
                .unwrap_or(DEFAULT_INFRASTRUCTURE_RETRIES),
            image_pull_timeout: own
                .image_pull_timeout
                .or(defaults.image_pull_timeout)
                .unwrap_or(DEFAULT_IMAGE_PULL_TIMEOUT),
            timeout: own.timeout.or(defaults.timeout),
            deadline: own.deadline.or(defaults.deadline),
            suspend: false,
            stop: None,
        }
    }
}

/// In place of a task execution that the API server does not take: one that fails at once and
/// says why.
pub fn refused(execution: &TaskExecution, message: &str) -> TaskExecution {
    let mut refused = execution.clone();
    refused.spec.container = None;
    refused.spec.pool = None;
    refused.spec.tool = None;
    refused.spec.inputs = None;
    refused.spec.stop = Some(Stop {
        code: ErrorCode::PodRefused.as_str().to_owned(),
        reason: format!("the API server refused the task execution: {message}"),
    });
    refused
}

/// In place of a task execution of which nobody knows whether it came to be, in a run that starts nothing any more: it
/// takes the name and ends without having begun, unless the first one was there before it.
pub fn withdrawn(execution: &TaskExecution) -> TaskExecution {
    let mut withdrawn = execution.clone();
    withdrawn.spec.stop = Some(Stop {
        code: ErrorCode::Cancelled.as_str().to_owned(),
        reason: "the run started nothing any more before the task had begun".to_owned(),
    });
    withdrawn
}

/// What an expression may read of a task.
struct Seen {
    phase: &'static str,
    outputs: Value,
    error: Option<Value>,
    attempts: u32,
}

impl Seen {
    fn scope(&self) -> TaskScope<'_> {
        TaskScope {
            phase: self.phase,
            outputs: &self.outputs,
            error: self.error.as_ref(),
            attempts: self.attempts,
        }
    }
}

/// The outputs of an item; null if it did not end well.
fn outputs_or_null(status: TaskExecutionStatus) -> Value {
    match status.phase {
        TaskPhase::Succeeded => status.outputs.unwrap_or_else(|| json!({})),
        _ => Value::Null,
    }
}

fn unsuitable(error: &EvaluationError) -> Stop {
    Stop {
        code: ErrorCode::ExpressionError.as_str().to_owned(),
        reason: error.to_string(),
    }
}

fn no_list(place: &str, value: &Value) -> Stop {
    let what = match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    };
    Stop {
        code: ErrorCode::ExpressionError.as_str().to_owned(),
        reason: format!("{place}: the expression gives {what}, and a list is needed"),
    }
}

fn too_many(place: &str, count: usize, limit: usize) -> Stop {
    Stop {
        code: ErrorCode::TooManyItems.as_str().to_owned(),
        reason: format!(
            "{place}: there are {count} items, the limit is {limit}: let one item stand for several, \
             or raise forEach.maxItems of the installation"
        ),
    }
}

fn too_large(size: usize) -> Stop {
    Stop {
        code: ErrorCode::InputsTooLarge.as_str().to_owned(),
        reason: format!(
            "the task's inputs have {size} bytes, the limit is {MAX_INPUT_BYTES}: pass a reference \
             to the data instead"
        ),
    }
}
