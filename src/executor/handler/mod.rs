//! Handlers: the ways in which somebody else's code answers a call.

mod exec;
mod http;
mod output;
mod process;
mod stdio;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::api::ErrorInfo;
use crate::protocol::tool::ToolExecute;

pub use exec::Exec;
pub use http::Http;
pub use stdio::Stdio;

/// Answers calls.
#[derive(Debug)]
pub enum Handler {
    /// A process for each call.
    Exec(Exec),
    /// One process for all calls, a line for each.
    Stdio(Stdio),
    /// A request to a web server for each call.
    Http(Http),
}

impl Handler {
    /// Runs a call. Dropped before its end, it ends what runs: a process is killed with all that it started.
    ///
    /// # Errors
    /// The tool's own, or why there is no output.
    pub async fn run(&self, call: &ToolExecute) -> Result<Value, ErrorInfo> {
        match self {
            Handler::Exec(exec) => exec.run(call).await,
            Handler::Stdio(stdio) => stdio.run(call).await,
            Handler::Http(http) => http.run(call).await,
        }
    }
}

/// What a handler is told of a call beside its input: name, as environment variables have it, and value.
fn context(call: &ToolExecute) -> [(&'static str, String); 9] {
    [
        ("TOOL", call.tool_id.clone()),
        ("TOOL_EXEC_ID", call.tool_exec_id.clone()),
        ("NAMESPACE", call.namespace.clone()),
        ("WORKFLOW", call.workflow_id.clone()),
        ("WORKFLOW_EXEC_ID", call.workflow_exec_id.clone()),
        ("TASK", call.task_id.clone()),
        ("TASK_EXEC_ID", call.task_exec_id.clone()),
        ("ATTEMPT", call.attempt.to_string()),
        ("DEADLINE", call.deadline.to_string()),
    ]
}
