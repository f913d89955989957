//! Calls of tools: each is sent once, by who recorded it, and what is recorded of it was answered.

use std::collections::BTreeMap;

use compozy::{
    api::{ErrorCode, TaskExecution, TaskPhase},
    protocol::tool::ToolExecute,
};
use jiff::Timestamp;
use serde_json::Value;

use super::Laws;

/// What was seen of a call.
#[derive(Default)]
pub(super) struct CallSeen {
    sent: bool,
    /// In the order in which they were given.
    results: Vec<Given>,
}

/// A result that somebody gave.
struct Given {
    at: Timestamp,
    body: Value,
    /// Whoever listened heard it. What nobody heard is only in the stream.
    heard: bool,
}

impl CallSeen {
    /// The results that count: the first one that was heard, or one before it that was found in the stream.
    fn first(&self) -> &[Given] {
        let heard = self.results.iter().position(|given| given.heard);
        let end = heard.map_or(self.results.len(), |heard| heard + 1);
        &self.results[..end]
    }
}

/// What was seen of all of them.
#[derive(Default)]
pub(super) struct CallsSeen {
    calls: BTreeMap<String, CallSeen>,
    /// Answers were lost for good.
    lost: bool,
    /// An operator's clock was set: a deadline may come early.
    clock_set: bool,
}

impl Laws {
    /// A process sends a call.
    pub fn called(&mut self, command: &ToolExecute, process: &str) {
        let id = &command.tool_exec_id;
        let call = self.calls.calls.entry(id.clone()).or_default();
        if std::mem::replace(&mut call.sent, true) {
            self.break_with("a call is sent once", id.clone());
        }
        let execution = self.executions.get(&command.task_exec_id);
        let record = execution.and_then(|seen| seen.call.as_ref());
        let theirs = record.filter(|record| record.tool_exec_id == *id);
        if theirs.is_none_or(|record| record.caller != process) {
            let what = format!("{process} calls {id}, recorded: {record:?}");
            self.break_with("a call is sent by who recorded it", what);
        }
    }

    /// Whoever serves a tool answers.
    pub fn answered(&mut self, id: &str, body: &Value, now: Timestamp) {
        if body["status"] != "STARTED" {
            let call = self.calls.calls.entry(id.to_owned()).or_default();
            call.results.push(Given {
                at: now,
                body: body.clone(),
                heard: false,
            });
        }
    }

    /// Whoever listens hears an answer.
    pub fn answer_heard(&mut self, message: &[u8]) {
        let Ok(body) = serde_json::from_slice::<Value>(message) else {
            return;
        };
        let id = body["tool_exec_id"].as_str().unwrap_or_default();
        let results = self.calls.calls.get_mut(id).map(|call| &mut call.results);
        let given = results.into_iter().flatten();
        for given in given.filter(|given| given.body == body) {
            given.heard = true;
        }
    }

    /// Answers were lost for good.
    pub fn answers_lost(&mut self) {
        self.calls.lost = true;
    }

    /// An operator's clock was set.
    pub fn clock_set(&mut self) {
        self.calls.clock_set = true;
    }

    /// Whether limits may come early.
    pub(super) fn limits_may_come_early(&self) -> bool {
        self.calls.clock_set
    }

    /// What is recorded of a call whose task execution has ended.
    pub(super) fn call_ended(&mut self, uid: &str, execution: &TaskExecution) {
        let Some(status) = execution.status.as_ref().filter(|it| it.phase.is_final()) else {
            return;
        };
        let Some(record) = status.call.as_ref() else {
            return;
        };
        let call = self.calls.calls.get(&record.tool_exec_id);
        let given = call.map_or(&[][..], |call| match self.calls.lost {
            // Whoever was to find the first one does not.
            true => &call.results,
            false => call.first(),
        });
        let gives = |given: &Given| status.outputs.as_ref() == Some(&given.body["output"]);
        if status.phase == TaskPhase::Succeeded && !given.iter().any(gives) {
            let given: Vec<_> = given.iter().map(|given| &given.body).collect();
            let what = format!("{uid}: {:?}, answered: {given:?}", status.outputs);
            self.break_with("a task gives what its tool gave", what);
        }
        let code = status.error.as_ref().map(|error| error.code.as_str());
        let good = self.calls.calls.get(&record.tool_exec_id);
        let good = good.and_then(|call| call.results.first()).filter(|given| {
            given.at < record.deadline.0
                && matches!(
                    given.body["status"].as_str(),
                    Some("SUCCESS" | "TOOL_ERROR")
                )
        });
        let forgotten = code == Some(ErrorCode::ToolUnavailable.as_str()) && good.is_some();
        if forgotten && !self.calls.lost && !self.calls.clock_set {
            let answered = good.map(|given| &given.body);
            let what = format!("{uid}: {:?}, answered: {answered:?}", status.error);
            self.break_with("no answer is forgotten", what);
        }
    }
}
