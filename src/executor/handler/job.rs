//! What a handler is given to do, whoever asks for it: a call of a tool, or a task of a pool.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::protocol::{pool::TaskExecute, tool::ToolExecute};

/// One piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Tells it from all others that run.
    pub(super) id: String,
    pub(super) input: Value,
    /// What is known of it beside its input: name, as environment variables have it, and value.
    pub(super) context: Vec<(&'static str, String)>,
    /// The same as JSON.
    pub(super) fields: Map<String, Value>,
}

impl From<&ToolExecute> for Job {
    fn from(call: &ToolExecute) -> Job {
        Job {
            id: call.tool_exec_id.clone(),
            input: call.input_args.clone(),
            context: vec![
                ("TOOL", call.tool_id.clone()),
                ("TOOL_EXEC_ID", call.tool_exec_id.clone()),
                ("NAMESPACE", call.namespace.clone()),
                ("WORKFLOW", call.workflow_id.clone()),
                ("WORKFLOW_EXEC_ID", call.workflow_exec_id.clone()),
                ("TASK", call.task_id.clone()),
                ("TASK_EXEC_ID", call.task_exec_id.clone()),
                ("ATTEMPT", call.attempt.to_string()),
                ("DEADLINE", call.deadline.to_string()),
            ],
            fields: fields(call, ["input_args", "reply_to_subject"]),
        }
    }
}

impl From<&TaskExecute> for Job {
    fn from(task: &TaskExecute) -> Job {
        let mut context = vec![
            ("POOL", task.pool.clone()),
            ("NAMESPACE", task.namespace.clone()),
            ("WORKFLOW", task.workflow_id.clone()),
            ("WORKFLOW_EXEC_ID", task.workflow_exec_id.clone()),
            ("TASK", task.task_id.clone()),
            ("TASK_EXEC_ID", task.task_exec_id.clone()),
            ("ATTEMPT", task.attempt.to_string()),
            // The same for all attempts.
            ("IDEMPOTENCY_KEY", task.task_exec_id.clone()),
        ];
        context.extend(task.handler.clone().map(|handler| ("HANDLER", handler)));
        Job {
            id: format!("{}.{}", task.task_exec_id, task.attempt),
            input: task.inputs.clone(),
            context,
            fields: fields(task, ["inputs", "timeout_ms"]),
        }
    }
}

/// The fields of a message, but those that are told otherwise or are nobody's business.
fn fields(message: &impl Serialize, left_out: [&str; 2]) -> Map<String, Value> {
    let Ok(Value::Object(fields)) = serde_json::to_value(message) else {
        return Map::new();
    };
    let told = |name: &str| !left_out.contains(&name);
    fields.into_iter().filter(|(name, _)| told(name)).collect()
}
