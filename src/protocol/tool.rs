//! A call of a tool and its answers, as they stand in NATS.
//!
//! | message | subject |
//! |---|---|
//! | [`ToolExecute`] | `<prefix>.commands.tool.<namespace>_<workflow>.execute.<namespace>_<tool>`, which tool executors subscribe as a queue group |
//! | [`ToolExecutionResult`] | `<prefix>.results.tool.<namespace>.<caller>.<tool_exec_id>`, which the caller subscribes |
//!
//! An underscore cannot be in a name, so a token is of one namespace and one name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{ErrorInfo, Time};

/// The largest output of a tool as JSON. What is in `status` has to stay far below the API server's 1.5 MiB.
pub const MAX_OUTPUT_BYTES: usize = 256 * 1024;

/// Subjects of calls under the installation's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolSubjects {
    prefix: String,
}

impl ToolSubjects {
    /// Subjects that begin with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Where a call of `tool` by a run of `workflow` goes.
    pub fn execute(&self, namespace: &str, workflow: &str, tool: &str) -> String {
        let prefix = &self.prefix;
        format!("{prefix}.commands.tool.{namespace}_{workflow}.execute.{namespace}_{tool}")
    }

    /// Where a tool executor hears all calls of its tool.
    pub fn serve(&self, namespace: &str, tool: &str) -> String {
        format!("{}.commands.tool.*.execute.{namespace}_{tool}", self.prefix)
    }

    /// Where the answers to one call go. `caller` is the UID of the task execution.
    pub fn result(&self, namespace: &str, caller: &str, tool_exec_id: &str) -> String {
        let prefix = &self.prefix;
        format!("{prefix}.results.tool.{namespace}.{caller}.{tool_exec_id}")
    }

    /// Whether `subject` is where the answers to this call go, whoever calls.
    pub fn is_result(&self, subject: &str, namespace: &str, tool_exec_id: &str) -> bool {
        let all = format!("{}.results.tool.{namespace}.", self.prefix);
        let is_token = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            !text.is_empty() && text.chars().all(allowed)
        };
        subject
            .strip_prefix(&all)
            .and_then(|rest| rest.split_once('.'))
            .is_some_and(|(caller, id)| is_token(caller) && is_token(id) && id == tool_exec_id)
    }

    /// Where the answers to all calls of a namespace go.
    pub fn answers(&self, namespace: &str) -> String {
        format!("{}.results.tool.{namespace}.>", self.prefix)
    }

    /// Where the answers to all calls go.
    pub fn results(&self) -> String {
        format!("{}.results.tool.>", self.prefix)
    }
}

/// `ToolExecute`: the command to run a tool once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolExecute {
    /// The tool's name.
    pub tool_id: String,
    /// The call's id, a UUID: whoever gets it twice has to run it once.
    pub tool_exec_id: String,
    /// The tool's input.
    pub input_args: Value,
    /// Where the answers go.
    pub reply_to_subject: String,
    /// When nobody waits for an answer any more.
    pub deadline: Time,
    /// The namespace of caller and tool.
    pub namespace: String,
    /// The run's `workflow_id`.
    pub workflow_id: String,
    /// The run's UID.
    pub workflow_exec_id: String,
    /// The calling task's name.
    pub task_id: String,
    /// The calling task execution's UID.
    pub task_exec_id: String,
    /// The attempt that calls, from 1.
    pub attempt: u32,
}

/// `ToolExecutionResult`: an answer of a tool executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolExecutionResult {
    /// The call that is answered.
    pub tool_exec_id: String,
    /// What is said of it.
    #[serde(flatten)]
    pub result: ToolResult,
}

impl ToolExecutionResult {
    /// What a message on the reply subject of the call with this id says.
    ///
    /// # Errors
    /// It is no answer to that call, and why.
    pub fn read(payload: &[u8], tool_exec_id: &str) -> Result<ToolResult, String> {
        let answer: Self = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        match answer.tool_exec_id == tool_exec_id {
            true => Ok(answer.result),
            false => Err(format!("it is about the call {:?}", answer.tool_exec_id)),
        }
    }
}

/// What a tool executor says of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ToolResult {
    /// It has begun; its result follows. Optional.
    Started,
    /// It ended well.
    Success {
        /// What it gives.
        #[serde(default)]
        output: Value,
    },
    /// It ended with an error of its own.
    ToolError {
        /// Which.
        error: ErrorInfo,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_are_those_of_the_flow_documents() {
        let of = |result| {
            let tool_exec_id = "u".to_owned();
            serde_json::to_value(ToolExecutionResult {
                tool_exec_id,
                result,
            })
            .unwrap()
        };
        let output = json!({"n": 55});
        assert_eq!(
            of(ToolResult::Success { output }),
            json!({"tool_exec_id": "u", "status": "SUCCESS", "output": {"n": 55}})
        );
        let error = ErrorInfo {
            message: "no money".to_owned(),
            code: "CARD_DECLINED".to_owned(),
            details: None,
        };
        assert_eq!(
            of(ToolResult::ToolError { error }),
            json!({"tool_exec_id": "u", "status": "TOOL_ERROR", "error": {"message": "no money", "code": "CARD_DECLINED"}})
        );
        assert_eq!(
            of(ToolResult::Started),
            json!({"tool_exec_id": "u", "status": "STARTED"})
        );
    }

    #[test]
    fn two_namespaces_do_not_answer_each_other() {
        let subjects = ToolSubjects::new("compozy");
        assert_eq!(
            subjects.execute("shop", "order", "charge"),
            "compozy.commands.tool.shop_order.execute.shop_charge"
        );
        assert_eq!(
            subjects.serve("shop", "charge"),
            "compozy.commands.tool.*.execute.shop_charge"
        );
        assert_eq!(
            subjects.result("shop", "te-uid", "call"),
            "compozy.results.tool.shop.te-uid.call"
        );
    }

    #[test]
    fn answers_go_to_the_call_and_its_namespace_alone() {
        let subjects = ToolSubjects::new("compozy");
        let is_result = |subject: &str| subjects.is_result(subject, "shop", "call");
        assert!(is_result("compozy.results.tool.shop.te-uid.call"));
        for elsewhere in [
            "compozy.results.tool.bank.te-uid.call",
            "compozy.results.tool.shop.te-uid.other",
            "compozy.results.tool.shop.call",
            "compozy.results.tool.shop.*.call",
            "compozy.results.tool.shop.te.uid.call",
            "compozy.results.tool.shop..call",
            "compozy.events.task.instance.x.completed",
            "$JS.API.STREAM.DELETE.COMPOZY_EVENTS",
        ] {
            assert!(!is_result(elsewhere), "{elsewhere}");
        }
    }
}
