//! Names of entities and events, and the subjects made of them.

use crate::api::{TaskEvent, WorkflowEvent};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entity {
    /// A run.
    Workflow,
    /// A task execution.
    Task,
    /// A call of a tool.
    Tool,
}

impl Entity {
    /// The entity as a token of subjects and types.
    pub const fn as_str(self) -> &'static str {
        match self {
            Entity::Workflow => "workflow",
            Entity::Task => "task",
            Entity::Tool => "tool",
        }
    }
}

/// The last token of a workflow event's subject.
pub(super) const fn workflow_event(event: WorkflowEvent) -> &'static str {
    match event {
        WorkflowEvent::Started => "started",
        WorkflowEvent::Completed => "completed",
        WorkflowEvent::Failed => "failed",
        WorkflowEvent::Cancelled => "cancelled",
        WorkflowEvent::TimedOut => "timed_out",
        WorkflowEvent::WaitingStarted => "waiting_started",
        WorkflowEvent::WaitingEnded => "waiting_ended",
    }
}

/// What a change of a task execution's state is about, and the last token of its event's subject.
pub(super) const fn task_event(event: TaskEvent) -> (Entity, &'static str) {
    let name = match event {
        TaskEvent::Scheduled => "scheduled",
        TaskEvent::Started => "started",
        TaskEvent::Completed => "completed",
        TaskEvent::Failed => "failed",
        TaskEvent::RetryScheduled => "retry_scheduled",
        TaskEvent::Cancelled => "cancelled",
        TaskEvent::ToolStarted => return (Entity::Tool, "started"),
        TaskEvent::ToolCompleted => return (Entity::Tool, "completed"),
        TaskEvent::ToolFailed => return (Entity::Tool, "failed"),
    };
    (Entity::Task, name)
}

/// Whether a text can stand between two dots of a subject.
pub(super) fn is_token(text: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '.' | '*' | '>');
    !text.is_empty() && text.chars().all(fits)
}

/// The CloudEvents type of an event.
pub(super) fn event_type(entity: Entity, event: &str) -> String {
    format!("dev.compozy.{}.{event}.v1", entity.as_str())
}

/// Subjects under the installation's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// Subjects that begin with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Where an event of an object goes.
    pub fn event(&self, entity: Entity, uid: &str, event: &str) -> String {
        format!(
            "{}.events.{}.instance.{uid}.{event}",
            self.prefix,
            entity.as_str()
        )
    }

    /// All events of an object: its chain.
    pub fn chain(&self, entity: Entity, uid: &str) -> String {
        self.event(entity, uid, "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::schema::{TASK_EVENTS, WORKFLOW_EVENTS};

    #[test]
    fn event_tokens_are_those_of_the_resources() {
        for event in WORKFLOW_EVENTS {
            assert_eq!(serde_json::to_value(event).unwrap(), workflow_event(event));
        }
        for event in TASK_EVENTS {
            let (entity, name) = task_event(event);
            let of_tool = matches!(entity, Entity::Tool);
            let token = if of_tool {
                format!("tool_{name}")
            } else {
                name.to_owned()
            };
            assert_eq!(serde_json::to_value(event).unwrap(), token);
        }
    }

    #[test]
    fn subjects_are_those_of_the_flow_documents() {
        let subjects = Subjects::new("compozy");
        assert_eq!(
            subjects.event(Entity::Task, "u-1", "scheduled"),
            "compozy.events.task.instance.u-1.scheduled"
        );
        assert_eq!(
            subjects.chain(Entity::Workflow, "u-2"),
            "compozy.events.workflow.instance.u-2.*"
        );
    }
}
