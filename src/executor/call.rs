//! `tool call`: calls a tool once, as any caller does.

use futures::StreamExt;
use serde_json::Value;

use crate::api::{ErrorInfo, Time};
use crate::ports::{BusError, CallNews, Calls, Clock, SystemClock};
use crate::protocol::tool::{ToolExecute, ToolExecutionResult, ToolResult, ToolSubjects};

/// What comes of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The tool's output.
    Output(Value),
    /// The tool's own error.
    ToolError(ErrorInfo),
    /// No answer, or none that can be read.
    NoAnswer(ErrorInfo),
}

/// Calls, and waits for the result until the call's deadline.
pub async fn call(calls: &dyn Calls, subjects: &ToolSubjects, execute: &ToolExecute) -> Outcome {
    let left = execute.deadline.since(Time(SystemClock.now()));
    match tokio::time::timeout(left, answer(calls, subjects, execute)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(BusError::TooLarge(text))) => no_answer(
            "INPUTS_TOO_LARGE",
            format!("the input is too large: {text}"),
        ),
        Ok(Err(error)) => no_answer("UNAVAILABLE", format!("the call was not sent: {error}")),
        Err(_) => {
            let tool = &execute.tool_id;
            no_answer("TIMEOUT", format!("the tool {tool} did not answer in time"))
        }
    }
}

async fn answer(
    calls: &dyn Calls,
    subjects: &ToolSubjects,
    execute: &ToolExecute,
) -> Result<Outcome, BusError> {
    let reply = &execute.reply_to_subject;
    let subject = subjects.execute(&execute.namespace, &execute.workflow_id, &execute.tool_id);
    // Only maps with keys that are no text cannot be written.
    let payload = serde_json::to_vec(execute).unwrap_or_default();
    let mut news = calls.listen(reply).await?;
    calls.send(&subject, reply, payload.into()).await?;
    while let Some(heard) = news.next().await {
        let messages = match heard {
            CallNews::Message(message) => vec![message],
            CallNews::NoResponders => return Ok(nobody(execute)),
            // Without a stream of answers, or the right to ask it, the tool may still say more.
            CallNews::Reconnected => calls.stored(reply).await.unwrap_or_default(),
        };
        let mut outcomes = messages.iter().map(|message| read(message, execute));
        if let Some(outcome) = outcomes.find_map(|outcome| outcome) {
            return Ok(outcome);
        }
    }
    Err(BusError::Unavailable("the connection has ended".to_owned()))
}

fn nobody(execute: &ToolExecute) -> Outcome {
    let (tool, namespace) = (&execute.tool_id, &execute.namespace);
    let message = format!(
        "nobody serves the tool {tool}: start `executor tool serve {tool} --namespace {namespace} …`"
    );
    no_answer("NO_RESPONDERS", message)
}

/// What a message says of the end of the call, if it does.
fn read(message: &[u8], execute: &ToolExecute) -> Option<Outcome> {
    Some(
        match ToolExecutionResult::read(message, &execute.tool_exec_id) {
            Ok(ToolResult::Started) => return None,
            Ok(ToolResult::Success { output }) => Outcome::Output(output),
            Ok(ToolResult::ToolError { error }) => Outcome::ToolError(error),
            Err(why) => no_answer(
                "INVALID_RESULT",
                format!("the answer cannot be read: {why}"),
            ),
        },
    )
}

fn no_answer(code: &str, message: String) -> Outcome {
    Outcome::NoAnswer(ErrorInfo {
        message,
        code: code.to_owned(),
        details: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::memory::calls::MemoryCalls;
    use bytes::Bytes;
    use rstest::rstest;
    use serde_json::json;

    fn execute() -> ToolExecute {
        let subjects = ToolSubjects::new("compozy");
        ToolExecute {
            tool_id: "charge".into(),
            tool_exec_id: "id".into(),
            input_args: json!({}),
            reply_to_subject: subjects.result("shop", "caller", "id"),
            deadline: Time(SystemClock.now()).after(std::time::Duration::from_secs(60)),
            namespace: "shop".into(),
            workflow_id: "order".into(),
            workflow_exec_id: "w".into(),
            task_id: "pay".into(),
            task_exec_id: "caller".into(),
            attempt: 1,
        }
    }

    async fn answered(answers: &'static [&'static str]) -> Outcome {
        let calls = MemoryCalls::default();
        let subject = "compozy.commands.tool.shop_order.execute.shop_charge";
        calls.serve(subject, |_| {
            answers.iter().map(|text| Bytes::from(*text)).collect()
        });
        call(&calls, &ToolSubjects::new("compozy"), &execute()).await
    }

    fn code(outcome: Outcome) -> String {
        match outcome {
            Outcome::NoAnswer(error) | Outcome::ToolError(error) => error.code,
            Outcome::Output(output) => output.to_string(),
        }
    }

    #[rstest]
    #[case(&[r#"{"tool_exec_id":"id","status":"SUCCESS","output":{"n":1}}"#], r#"{"n":1}"#)]
    #[case(&[r#"{"tool_exec_id":"id","status":"STARTED"}"#, r#"{"tool_exec_id":"id","status":"SUCCESS","output":{"n":2}}"#], r#"{"n":2}"#)]
    #[case(&[r#"{"tool_exec_id":"id","status":"TOOL_ERROR","error":{"code":"POOR","message":"no money"}}"#], "POOR")]
    #[case(&["garbage"], "INVALID_RESULT")]
    #[case(&[r#"{"tool_exec_id":"other","status":"SUCCESS","output":{}}"#], "INVALID_RESULT")]
    #[tokio::test(start_paused = true)]
    async fn the_first_end_that_is_told_counts(
        #[case] answers: &'static [&'static str],
        #[case] end: &str,
    ) {
        assert_eq!(code(answered(answers).await), end);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_deadline() {
        let started = r#"{"tool_exec_id":"id","status":"STARTED"}"#;
        let answers: &[&str] = Box::leak(Box::new([started]));
        assert_eq!(code(answered(answers).await), "TIMEOUT");
    }

    #[tokio::test]
    async fn nobody_is_told_at_once() {
        let calls = MemoryCalls::default();
        let outcome = call(&calls, &ToolSubjects::new("compozy"), &execute()).await;
        assert_eq!(code(outcome), "NO_RESPONDERS");
        calls.set_away(true);
        let outcome = call(&calls, &ToolSubjects::new("compozy"), &execute()).await;
        assert_eq!(code(outcome), "UNAVAILABLE");
    }
}
