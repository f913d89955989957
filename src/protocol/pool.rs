//! A task for a warm pool and what its workers say of it, as they stand in NATS.
//!
//! | message | subject |
//! |---|---|
//! | [`TaskExecute`] | `<prefix>.commands.pool.<namespace>.<pool>.<task_exec_id>.<attempt>`: a work queue, one consumer a pool |
//! | [`TaskReport`] | `<prefix>.reports.<namespace>.pool.<pool>.<task_exec_id>`: a work queue, which the operator takes |
//! | [`Control`] | `<prefix>.control.<namespace>.<pool>.<task_exec_id>`, which the pool's workers subscribe |
//!
//! One delivery is one attempt: a command is never delivered twice. A worker touches what it works on every
//! [`TOUCH_EVERY`]; whose last touch is older than [`LEASE`] counts as lost, and has to stop by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{ErrorInfo, Time};

pub use super::tool::MAX_OUTPUT_BYTES;

/// A worker that did not touch a task for so long has lost it: the consumers' `ack_wait`.
pub const LEASE: Duration = Duration::from_secs(15);

/// How often a worker touches what it works on.
pub const TOUCH_EVERY: Duration = Duration::from_secs(5);

/// Subjects of pools under the installation's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSubjects {
    prefix: String,
}

impl PoolSubjects {
    /// Subjects that begin with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Where the command of one attempt goes.
    pub fn command(&self, namespace: &str, pool: &str, task_exec_id: &str, attempt: u32) -> String {
        let prefix = &self.prefix;
        format!("{prefix}.commands.pool.{namespace}.{pool}.{task_exec_id}.{attempt}")
    }

    /// All commands of a pool.
    pub fn queue(&self, namespace: &str, pool: &str) -> String {
        format!("{}.commands.pool.{namespace}.{pool}.>", self.prefix)
    }

    /// All commands.
    pub fn commands(&self) -> String {
        format!("{}.commands.pool.>", self.prefix)
    }

    /// The name of the stream of commands. Names hold no dots.
    pub fn stream(&self) -> String {
        format!("{}_POOLS", self.prefix.replace('.', "_").to_uppercase())
    }

    /// Where a worker asks the consumer of its pool for commands.
    pub fn pull(&self, namespace: &str, pool: &str) -> String {
        let consumer = Self::consumer(namespace, pool);
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{consumer}", self.stream())
    }

    /// Where it says how it stands with what that consumer delivered.
    pub fn acks(&self, namespace: &str, pool: &str) -> String {
        let consumer = Self::consumer(namespace, pool);
        format!("$JS.ACK.{}.{consumer}.>", self.stream())
    }

    /// The name of the consumer from which a pool's workers pull. An underscore cannot be in a name.
    pub fn consumer(namespace: &str, pool: &str) -> String {
        format!("{namespace}_{pool}")
    }

    /// Where a pool's worker reports about a task execution.
    pub fn report(&self, namespace: &str, pool: &str, task_exec_id: &str) -> String {
        let prefix = &self.prefix;
        format!("{prefix}.reports.{namespace}.pool.{pool}.{task_exec_id}")
    }

    /// All reports of a pool's workers.
    pub fn reports_of(&self, namespace: &str, pool: &str) -> String {
        format!("{}.reports.{namespace}.pool.{pool}.>", self.prefix)
    }

    /// All reports.
    pub fn reports(&self) -> String {
        format!("{}.reports.>", self.prefix)
    }

    /// Where a worker is told what to do about a task execution that it works on.
    pub fn control(&self, namespace: &str, pool: &str, task_exec_id: &str) -> String {
        format!("{}.control.{namespace}.{pool}.{task_exec_id}", self.prefix)
    }

    /// All that the workers of a pool are told.
    pub fn controls(&self, namespace: &str, pool: &str) -> String {
        format!("{}.control.{namespace}.{pool}.>", self.prefix)
    }
}

/// `TaskExecute`: the command to run one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskExecute {
    /// The task execution's UID.
    pub task_exec_id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The task's inputs; `{}` if it has none.
    pub inputs: Value,
    /// Which of the pool's functions is meant, as the task says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// How long the attempt may run, in milliseconds from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The task's name.
    pub task_id: String,
    /// The run's `workflow_id`.
    pub workflow_id: String,
    /// The run's UID.
    pub workflow_exec_id: String,
    /// The namespace of the run and the pool.
    pub namespace: String,
    /// The pool's name.
    pub pool: String,
}

/// What a worker says of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task execution's UID.
    pub task_exec_id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Who says it: the worker's pod, or whatever it calls itself.
    pub worker: String,
    /// When that was, by the worker's clock.
    pub at: Time,
    /// When the attempt began, by the worker's clock; missing if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// What.
    #[serde(flatten)]
    pub news: TaskNews,
}

impl TaskReport {
    /// The report's identity: said again it is the same one, whoever says it.
    pub fn id(&self) -> String {
        let status = match self.news {
            TaskNews::Started => "STARTED",
            TaskNews::Succeeded { .. } => "SUCCEEDED",
            TaskNews::Failed { .. } => "FAILED",
            TaskNews::Stopped => "STOPPED",
            TaskNews::HandedBack => "HANDED_BACK",
        };
        format!("{}:{}:{status}", self.task_exec_id, self.attempt)
    }
}

/// What can be said of an attempt. Nothing follows an end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskNews {
    /// It has begun. Said before the handler is called.
    Started,
    /// It ended well.
    Succeeded {
        /// What the handler gave.
        #[serde(default)]
        outputs: Value,
    },
    /// The handler failed, or took longer than `timeout_ms` (code TIMEOUT).
    Failed {
        /// What went wrong.
        error: ErrorInfo,
    },
    /// It was ended because the operator asked for it.
    Stopped,
    /// The worker had to end before the attempt did: no fault of the task's.
    HandedBack,
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The attempt that it is about.
    pub attempt: u32,
    /// What to do.
    pub order: Order,
}

/// What to do with an attempt that is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Order {
    /// End it, and report that it was [`Stopped`](TaskNews::Stopped).
    Cancel,
    /// It is not this worker's any more: end it, and say nothing.
    Stale,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subjects_are_those_of_the_contract() {
        let subjects = PoolSubjects::new("compozy");
        assert_eq!(
            subjects.command("shop", "text", "te-uid", 2),
            "compozy.commands.pool.shop.text.te-uid.2"
        );
        assert_eq!(
            subjects.report("shop", "text", "te-uid"),
            "compozy.reports.shop.pool.text.te-uid"
        );
        assert_eq!(
            subjects.control("shop", "text", "te-uid"),
            "compozy.control.shop.text.te-uid"
        );
        assert_eq!(PoolSubjects::consumer("shop", "text"), "shop_text");
    }

    #[test]
    fn a_report_is_one_flat_object() {
        let report = TaskReport {
            task_exec_id: "te-uid".to_owned(),
            attempt: 1,
            worker: "w1".to_owned(),
            at: serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap(),
            started_at: None,
            news: TaskNews::Succeeded {
                outputs: json!({"n": 55}),
            },
        };
        let written = serde_json::to_value(&report).unwrap();
        assert_eq!(written["status"], "SUCCEEDED");
        assert_eq!(report.id(), "te-uid:1:SUCCEEDED");
        assert_eq!(written["outputs"], json!({"n": 55}));
        assert_eq!(
            serde_json::from_value::<TaskReport>(written).unwrap(),
            report
        );
        let control = Control {
            attempt: 1,
            order: Order::Cancel,
        };
        assert_eq!(
            serde_json::to_value(control).unwrap(),
            json!({"attempt": 1, "order": "CANCEL"})
        );
    }
}
