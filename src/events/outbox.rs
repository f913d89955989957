//! From objects to events: each transition, with what spec and status know, is one event.

use serde_json::{Map, Value};

use super::chain::{Entry, Filter};
use super::message::Event;
use super::names::{Entity, Subjects, is_token, task_event, workflow_event};
use super::payload::{
    About, AboutCall, AboutTask, Cancelled, Completed, Details, Failure, Retries, TaskFailed,
    TaskRetryScheduled, TaskScheduled, TaskStarted, ToolAnswer, ToolCompleted, ToolFailed,
    ToolStarted, WorkflowFailed, WorkflowStarted, WorkflowTimedOut, WorkflowWaitingEnded,
    WorkflowWaitingStarted,
};
use crate::api::{
    GROUP, MirrorPosition, TaskEvent, TaskExecution, TaskExecutionStatus, TaskPhase,
    TaskTransition, Time, ToolCall, TransitionData, VERSION, Workflow, WorkflowEvent,
    WorkflowTransition,
};

/// Why a run waits. There is no other reason yet.
const SUSPENDED: &str = "suspended";

/// An object whose changes of state are told as events.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    /// A run.
    Workflow(&'a Workflow),
    /// A task execution.
    Task(&'a TaskExecution),
}

impl<'a> Object<'a> {
    /// Its UID; the API server gives one to every object.
    pub fn uid(self) -> &'a str {
        let meta = match self {
            Object::Workflow(workflow) => &workflow.metadata,
            Object::Task(task) => &task.metadata,
        };
        meta.uid.as_deref().unwrap_or_default()
    }

    /// The subjects of a filter of its events.
    pub fn chain(self, filter: &Filter, subjects: &Subjects) -> String {
        match filter {
            Filter::Own => subjects.chain(self.entity(), self.uid()),
            Filter::Call(id) => subjects.chain(Entity::Tool, id),
        }
    }

    /// How far its status says that the mirror is. It may be further.
    pub fn position(self) -> Option<&'a MirrorPosition> {
        match self {
            Object::Workflow(workflow) => workflow.status.as_ref()?.mirror.as_ref(),
            Object::Task(task) => task.status.as_ref()?.mirror.as_ref(),
        }
    }

    /// Every change of state that it still knows, in order.
    pub fn history(self) -> Vec<Entry> {
        match self {
            Object::Workflow(workflow) => {
                let status = workflow.status.iter();
                let transitions = status.flat_map(|status| &status.transitions);
                let entry = |transition: &WorkflowTransition| Entry {
                    sequence: transition.seq,
                    at: transition.at,
                    filter: Filter::Own,
                };
                transitions.map(entry).collect()
            }
            Object::Task(task) if is_stripped(task) => Vec::new(),
            Object::Task(task) => {
                let creation = Entry {
                    sequence: 1,
                    at: created(task),
                    filter: Filter::Own,
                };
                let entry = |transition: &TaskTransition| Entry {
                    sequence: transition.seq,
                    at: transition.at,
                    filter: filter(task, transition),
                };
                let told = transitions(task).iter().map(entry);
                std::iter::once(creation).chain(told).collect()
            }
        }
    }

    /// The sequence of its last change of state; 0 if it has none yet.
    pub fn newest(self) -> u64 {
        match self {
            Object::Workflow(workflow) => {
                let status = workflow.status.as_ref();
                let last = status.and_then(|status| status.transitions.last());
                last.map_or(0, |transition| transition.seq)
            }
            Object::Task(task) if is_stripped(task) => 0,
            Object::Task(task) => transitions(task).last().map_or(1, |last| last.seq),
        }
    }

    /// The event of the change of state with this sequence, if it still knows it.
    pub fn event(self, sequence: u64, subjects: &Subjects) -> Option<Event> {
        let (entity, name, about, details) = match self {
            Object::Workflow(workflow) => {
                let transitions = &workflow.status.as_ref()?.transitions;
                let transition = transitions.iter().find(|known| known.seq == sequence)?;
                workflow_details(workflow, transition)
            }
            Object::Task(task) if sequence == 1 => scheduled(task),
            Object::Task(task) => {
                let transitions = &task.status.as_ref()?.transitions;
                let transition = transitions.iter().find(|known| known.seq == sequence)?;
                task_details(task, transition)
            }
        };
        Some(Event::new(
            subjects,
            entity,
            name,
            about,
            details,
            self.path(),
        ))
    }

    fn entity(self) -> Entity {
        match self {
            Object::Workflow(_) => Entity::Workflow,
            Object::Task(_) => Entity::Task,
        }
    }

    fn path(self) -> String {
        let (meta, plural) = match self {
            Object::Workflow(workflow) => (&workflow.metadata, "workflows"),
            Object::Task(task) => (&task.metadata, "taskexecutions"),
        };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{plural}/{name}")
    }
}

fn workflow_details(
    workflow: &Workflow,
    transition: &WorkflowTransition,
) -> (Entity, &'static str, About, Details) {
    let spec = &workflow.spec;
    let status = workflow.status.as_ref();
    let data = TransitionData::read(transition.data.as_ref());
    let details = match transition.event {
        WorkflowEvent::Started => Details::WorkflowStarted(WorkflowStarted {
            inputs: spec.inputs.clone().unwrap_or_default(),
        }),
        WorkflowEvent::Completed => completed(status.and_then(|status| status.outputs.clone())),
        WorkflowEvent::Failed => {
            let error = Failure::of(&data, status.and_then(|status| status.error.as_ref()));
            Details::WorkflowFailed(WorkflowFailed { error })
        }
        WorkflowEvent::Cancelled => {
            cancelled(data.reason.or_else(|| spec.cancel.as_ref()?.reason.clone()))
        }
        WorkflowEvent::TimedOut => Details::WorkflowTimedOut(WorkflowTimedOut {
            timeout_duration_ms: spec.timeout.map_or(0, |timeout| timeout.millis()),
        }),
        WorkflowEvent::WaitingStarted => Details::WorkflowWaitingStarted(WorkflowWaitingStarted {
            wait_reason: SUSPENDED.to_owned(),
        }),
        WorkflowEvent::WaitingEnded => Details::WorkflowWaitingEnded(WorkflowWaitingEnded {
            resume_data: resume_data(&data),
        }),
    };
    let meta = &workflow.metadata;
    let about = About {
        namespace: meta.namespace.clone().unwrap_or_default(),
        workflow_id: meta.name.clone().unwrap_or_default(),
        workflow_exec_id: meta.uid.clone().unwrap_or_default(),
        task: None,
        sequence: transition.seq,
        timestamp: transition.at,
    };
    let name = workflow_event(transition.event);
    (Entity::Workflow, name, about, details)
}

fn task_details(
    task: &TaskExecution,
    transition: &TaskTransition,
) -> (Entity, &'static str, About, Details) {
    let status = task.status.as_ref();
    let data = TransitionData::read(transition.data.as_ref());
    let attempt = transition.attempt;
    let details = match transition.event {
        TaskEvent::Scheduled => Details::TaskScheduled(TaskScheduled {
            inputs: inputs(task),
        }),
        TaskEvent::Started => {
            let executor = data.executor.or_else(|| status?.executor.clone());
            Details::TaskStarted(TaskStarted {
                executor: executor.unwrap_or_default(),
            })
        }
        TaskEvent::Completed => completed(status.and_then(|status| status.outputs.clone())),
        TaskEvent::Failed => {
            let error = Failure::of(&data, status.and_then(|status| status.error.as_ref()));
            let retry_policy = Retries {
                max_attempts: task.spec.retry.max_attempts,
                current_attempt: data.current_attempt.unwrap_or(attempt),
            };
            Details::TaskFailed(TaskFailed {
                error,
                retry_policy,
            })
        }
        TaskEvent::RetryScheduled => Details::TaskRetryScheduled(TaskRetryScheduled {
            original_task_exec_id: task.metadata.uid.clone().unwrap_or_default(),
            next_attempt_delay_ms: data.next_attempt_delay_ms.unwrap_or_default(),
            attempt_number: attempt.saturating_add(1),
        }),
        TaskEvent::Cancelled => {
            let stop = || task.spec.stop.as_ref().map(|stop| stop.reason.clone());
            cancelled(data.reason.or_else(stop))
        }
        TaskEvent::ToolStarted => Details::ToolStarted(ToolStarted {
            call: call(task, transition, &data),
        }),
        TaskEvent::ToolCompleted => Details::ToolCompleted(ToolCompleted {
            call: call(task, transition, &data),
            duration_ms: data
                .tool
                .as_ref()
                .and_then(|tool| tool.duration_ms)
                .unwrap_or_default(),
            result: match data.error {
                Some(_) => ToolAnswer::ToolError {
                    error: Failure::of(&data, None),
                },
                None => ToolAnswer::Success {
                    output: output(status, attempt),
                },
            },
        }),
        TaskEvent::ToolFailed => Details::ToolFailed(ToolFailed {
            call: call(task, transition, &data),
            error: Failure::of(&data, None),
        }),
    };
    let about = about_task(task, attempt, transition.seq, transition.at);
    let (entity, name) = task_event(transition.event);
    (entity, name, about, details)
}

fn transitions(task: &TaskExecution) -> &[TaskTransition] {
    let status = task.status.as_ref();
    status.map_or(&[], |status| &status.transitions)
}

/// A final one without transitions was let go and its copy stripped: it cannot tell what it was.
fn is_stripped(task: &TaskExecution) -> bool {
    let status = task.status.as_ref();
    transitions(task).is_empty() && status.is_some_and(|status| status.phase.is_final())
}

/// The first event of a task execution is its existence: no status write is spent on it.
fn scheduled(task: &TaskExecution) -> (Entity, &'static str, About, Details) {
    let details = Details::TaskScheduled(TaskScheduled {
        inputs: inputs(task),
    });
    let (entity, name) = task_event(TaskEvent::Scheduled);
    (entity, name, about_task(task, 0, 1, created(task)), details)
}

fn about_task(task: &TaskExecution, attempt: u32, sequence: u64, timestamp: Time) -> About {
    About {
        namespace: task.metadata.namespace.clone().unwrap_or_default(),
        workflow_id: task.spec.workflow.id.clone(),
        workflow_exec_id: task.spec.workflow.uid.clone(),
        task: Some(AboutTask {
            task_id: task.spec.task.clone(),
            task_exec_id: task.metadata.uid.clone().unwrap_or_default(),
            attempt,
            index: task.spec.index,
        }),
        sequence,
        timestamp,
    }
}

fn created(task: &TaskExecution) -> Time {
    let created = task.metadata.creation_timestamp.as_ref();
    Time(created.map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0))
}

fn inputs(task: &TaskExecution) -> Value {
    task.spec
        .inputs
        .clone()
        .unwrap_or_else(|| Map::new().into())
}

/// Where the event of a transition goes.
fn filter(task: &TaskExecution, transition: &TaskTransition) -> Filter {
    match task_event(transition.event) {
        (Entity::Tool, _) => Filter::Call(call_id(task, transition).to_owned()),
        _ => Filter::Own,
    }
}

/// The id of the call that a transition is about. One that cannot be a part of a subject would stop the chain: then the
/// task execution's takes its place.
fn call_id<'a>(task: &'a TaskExecution, transition: &'a TaskTransition) -> &'a str {
    let id = ToolCall::id_in(transition.data.as_ref()).filter(|id| is_token(id));
    id.or(task.metadata.uid.as_deref()).unwrap_or_default()
}

/// The call of a tool that a transition is about.
fn call(task: &TaskExecution, transition: &TaskTransition, data: &TransitionData) -> AboutCall {
    let tool = data.tool.as_ref();
    AboutCall {
        tool_id: tool.map(|tool| tool.id.clone()).unwrap_or_default(),
        tool_exec_id: call_id(task, transition).to_owned(),
    }
}

/// What a call gave: the outputs, of the attempt that they are of. What another one gave could not be taken as outputs,
/// and was not kept.
fn output(status: Option<&TaskExecutionStatus>, attempt: u32) -> Value {
    let ended_well = |status: &&TaskExecutionStatus| {
        status.phase == TaskPhase::Succeeded && status.attempt == attempt
    };
    let outputs = status
        .filter(ended_well)
        .and_then(|status| status.outputs.clone());
    outputs.unwrap_or_default()
}

fn resume_data(data: &TransitionData) -> Map<String, Value> {
    let suspended = data.suspended_ms.map(Value::from);
    suspended
        .map(|millis| ("suspended_ms".to_owned(), millis))
        .into_iter()
        .collect()
}

fn completed(outputs: Option<Value>) -> Details {
    Details::Completed(Completed {
        outputs: outputs.unwrap_or_else(|| Map::new().into()),
    })
}

fn cancelled(reason: Option<String>) -> Details {
    Details::Cancelled(Cancelled {
        reason: reason.unwrap_or_default(),
    })
}
