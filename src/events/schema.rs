//! JSON Schemas of the events' bodies, from the types that they are written with.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

use super::names::{Entity, event_type, task_event, workflow_event};
use super::payload::{
    About, AboutTask, Cancelled, Completed, Referenced, ReferencedCall, TaskFailed,
    TaskRetryScheduled, TaskScheduled, TaskStarted, ToolCompleted, ToolFailed, ToolStarted,
    WorkflowFailed, WorkflowStarted, WorkflowTimedOut, WorkflowWaitingEnded,
    WorkflowWaitingStarted,
};
use crate::api::{TaskEvent, WorkflowEvent};

pub(super) const WORKFLOW_EVENTS: [WorkflowEvent; 7] = [
    WorkflowEvent::Started,
    WorkflowEvent::Completed,
    WorkflowEvent::Failed,
    WorkflowEvent::Cancelled,
    WorkflowEvent::TimedOut,
    WorkflowEvent::WaitingStarted,
    WorkflowEvent::WaitingEnded,
];

pub(super) const TASK_EVENTS: [TaskEvent; 9] = [
    TaskEvent::Scheduled,
    TaskEvent::Started,
    TaskEvent::Completed,
    TaskEvent::Failed,
    TaskEvent::RetryScheduled,
    TaskEvent::Cancelled,
    TaskEvent::ToolStarted,
    TaskEvent::ToolCompleted,
    TaskEvent::ToolFailed,
];

/// The schema of every event, by the name of the entity and of the event: `task.started`.
pub fn schemas() -> Vec<(String, Value)> {
    let workflow = WORKFLOW_EVENTS.map(|event| {
        let schema = match event {
            WorkflowEvent::Started => schema::<WorkflowStarted>,
            WorkflowEvent::Completed => schema::<Completed>,
            WorkflowEvent::Failed => schema::<WorkflowFailed>,
            WorkflowEvent::Cancelled => schema::<Cancelled>,
            WorkflowEvent::TimedOut => schema::<WorkflowTimedOut>,
            WorkflowEvent::WaitingStarted => schema::<WorkflowWaitingStarted>,
            WorkflowEvent::WaitingEnded => schema::<WorkflowWaitingEnded>,
        };
        (Entity::Workflow, workflow_event(event), schema)
    });
    let task = TASK_EVENTS.map(|event| {
        let schema = match event {
            TaskEvent::Scheduled => schema::<TaskScheduled>,
            TaskEvent::Started => schema::<TaskStarted>,
            TaskEvent::Completed => schema::<Completed>,
            TaskEvent::Failed => schema::<TaskFailed>,
            TaskEvent::RetryScheduled => schema::<TaskRetryScheduled>,
            TaskEvent::Cancelled => schema::<Cancelled>,
            TaskEvent::ToolStarted => schema::<ToolStarted>,
            TaskEvent::ToolCompleted => schema::<ToolCompleted>,
            TaskEvent::ToolFailed => schema::<ToolFailed>,
        };
        let (entity, name) = task_event(event);
        (entity, name, schema)
    });
    let all = workflow.into_iter().chain(task);
    all.map(
        |(entity, name, schema): (Entity, &str, fn(Entity, &str) -> Value)| {
            (format!("{}.{name}", entity.as_str()), schema(entity, name))
        },
    )
    .collect()
}

/// What all events say, and either this one's details or the reference that replaces them.
fn schema<D: JsonSchema>(entity: Entity, name: &str) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut about = generator.root_schema_for::<About>().to_value();
    let task = generator.root_schema_for::<AboutTask>().to_value();
    let referenced = match entity {
        Entity::Tool => generator.subschema_for::<ReferencedCall>(),
        Entity::Workflow | Entity::Task => generator.subschema_for::<Referenced>(),
    };
    let details = [generator.subschema_for::<D>(), referenced];
    for field in task["required"].as_array().into_iter().flatten() {
        if let (Entity::Task | Entity::Tool, Some(required)) =
            (entity, about["required"].as_array_mut())
        {
            required.push(field.clone());
        }
    }
    for (field, _) in task["properties"].as_object().into_iter().flatten() {
        if let (Entity::Workflow, Some(all)) = (entity, about["properties"].as_object_mut()) {
            all.remove(field);
        }
    }
    about["title"] = json!(event_type(entity, name));
    about["description"] = json!(format!(
        "The body of {} `{name}`. `dataref` replaces what is too large for a message.",
        entity.as_str()
    ));
    about["anyOf"] = json!(details);
    about["$defs"] = json!(generator.definitions());
    about
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many values the schema of an enum of events has.
    fn values<T: JsonSchema>() -> usize {
        schemars::schema_for!(T)
            .to_value()
            .to_string()
            .matches("\"const\"")
            .count()
    }

    #[test]
    fn no_event_is_forgotten() {
        assert_eq!(WORKFLOW_EVENTS.len(), values::<WorkflowEvent>());
        assert_eq!(TASK_EVENTS.len(), values::<TaskEvent>());
    }

    #[test]
    fn a_schema_wants_what_all_events_say_and_the_details_or_their_reference() {
        let schemas = schemas();
        let of = |name: &str| schemas.iter().find(|(known, _)| known == name).unwrap();
        let task = &of("task.started").1;
        assert_eq!(task["title"], "dev.compozy.task.started.v1");
        let required = task["required"].to_string();
        for field in [
            "namespace",
            "workflow_id",
            "workflow_exec_id",
            "task_id",
            "task_exec_id",
            "attempt",
            "sequence",
            "timestamp",
        ] {
            assert!(
                required.contains(&format!("{field:?}")),
                "{field} in {required}"
            );
        }
        let either = json!([{"$ref": "#/$defs/TaskStarted"}, {"$ref": "#/$defs/Referenced"}]);
        assert_eq!(task["anyOf"], either);
        assert_eq!(
            task["$defs"]["TaskStarted"]["required"],
            json!(["executor"])
        );
        let run = &of("workflow.completed").1;
        assert!(run["properties"]["task_id"].is_null(), "{run}");
    }
}
