//! From a task of the graph to a complete `TaskExecution`: nothing left to choose.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt, api::ObjectMeta};
use serde_json::{Value, json};

use crate::{
    api::{
        Duration, ErrorCode, FINALIZER_EVENTS, LABEL_TASK, LABEL_WORKFLOW, LABEL_WORKFLOW_UID,
        RetryPolicy, Stop, TaskExecution, TaskExecutionSpec, Workflow, WorkflowRef,
    },
    engine::{
        definition::{Definition, TaskDefinition},
        expression::{EvaluationError, Scope, TaskScope, WorkflowScope},
        names,
        run::{NodeState, Run, TaskIndex},
    },
};

/// The largest resolved inputs of a task.
const MAX_INPUT_BYTES: usize = 256 * 1024;

const DEFAULT_INFRASTRUCTURE_RETRIES: u32 = 3;
const DEFAULT_IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(600);

/// Looks up the task execution of a task, if it exists.
pub type Lookup<'a> = &'a dyn Fn(TaskIndex) -> Option<Arc<TaskExecution>>;

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
    /// The task execution of `task`, complete. An expression that its data does not suit gives
    /// one that fails at once, so that the failure has an id, an event and a place to be read.
    pub fn task_execution(&self, task: TaskIndex) -> TaskExecution {
        let definition = &self.definition.tasks()[task];
        let mut spec = self.bare_spec(definition);
        match self.evaluate_task(definition) {
            Ok((inputs, container)) => {
                let size = inputs.as_ref().map_or(0, |inputs| inputs.to_string().len());
                if size > MAX_INPUT_BYTES {
                    spec.stop = Some(too_large(size));
                } else {
                    spec.inputs = inputs;
                    spec.container = Some(Box::new(container));
                }
            }
            Err(error) => {
                spec.stop = Some(Stop {
                    code: ErrorCode::ExpressionError.as_str().to_owned(),
                    reason: error.to_string(),
                });
            }
        }
        TaskExecution {
            metadata: self.metadata(&definition.spec.name),
            spec,
            status: None,
        }
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
        self.with_scope(names, |scope| template.evaluate(scope))
            .map(Some)
    }

    fn evaluate_task(
        &self,
        task: &TaskDefinition,
    ) -> Result<(Option<Value>, Container), EvaluationError> {
        self.with_scope(task.task_names(), |scope| {
            let inputs = task
                .with
                .as_ref()
                .map(|with| with.evaluate(scope))
                .transpose()?;
            Ok((inputs, task.container.evaluate(scope)?))
        })
    }

    /// Evaluates with only the tasks in scope that the expressions name: a step costs what it
    /// touches.
    fn with_scope<'n, T>(
        &self,
        names: impl Iterator<Item = &'n str>,
        evaluate: impl FnOnce(&Scope) -> Result<T, EvaluationError>,
    ) -> Result<T, EvaluationError> {
        let seen: Vec<(&str, Seen)> = names
            .filter_map(|name| Some((name, self.see(self.definition.position(name)?))))
            .collect();
        let tasks = seen
            .iter()
            .map(|(name, seen)| ((*name).to_owned(), seen.scope()))
            .collect();
        let inputs = Value::Object(self.workflow.spec.inputs.clone().unwrap_or_default());
        evaluate(&Scope {
            inputs: &inputs,
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
        })
    }

    fn see(&self, task: TaskIndex) -> Seen {
        let status = (self.lookup)(task)
            .and_then(|te| te.status.clone())
            .unwrap_or_default();
        let phase = match self.run.state(task) {
            NodeState::Skipped => "Skipped",
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

    fn metadata(&self, task: &str) -> ObjectMeta {
        let name = self.workflow.name_any();
        let uid = self.workflow.uid().unwrap_or_default();
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        ObjectMeta {
            name: Some(names::task_execution_name(&name, &uid, task)),
            namespace: self.workflow.namespace(),
            labels: Some(BTreeMap::from([
                label(LABEL_WORKFLOW, &name),
                label(LABEL_WORKFLOW_UID, &uid),
                label(LABEL_TASK, task),
            ])),
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
            inputs: None,
            container: None,
            pod_template: Some(Box::new(task.pod_template.clone())),
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
    refused.spec.inputs = None;
    refused.spec.stop = Some(Stop {
        code: ErrorCode::PodRefused.as_str().to_owned(),
        reason: format!("the API server refused the task execution: {message}"),
    });
    refused
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

fn too_large(size: usize) -> Stop {
    Stop {
        code: ErrorCode::InputsTooLarge.as_str().to_owned(),
        reason: format!(
            "the task's inputs have {size} bytes, the limit is {MAX_INPUT_BYTES}: pass a reference \
             to the data instead"
        ),
    }
}
