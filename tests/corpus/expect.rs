//! What must come of a case. Everything that is not said must not be.

use std::{collections::BTreeMap, fmt};

use compozy::api::{Duration, FailureClass, RunPhase, TaskEvent, WorkflowEvent};
use serde::Deserialize;
use serde_json::Value;

/// `expect.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// What the case shows, in a sentence.
    pub shows: String,
    /// Whether it runs on a real cluster too.
    #[serde(default)]
    pub cluster: bool,
    /// The run.
    pub run: Run,
    /// Every task.
    pub tasks: BTreeMap<String, Task>,
    /// Pairs of events of which the first comes before the second.
    #[serde(default)]
    pub order: Vec<[Told; 2]>,
}

/// A run at its end.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Run {
    /// Its final phase.
    pub phase: RunPhase,
    /// All its events, in order.
    pub events: Vec<WorkflowEvent>,
    /// Its outputs.
    pub outputs: Option<Value>,
    /// Its error.
    pub error: Option<Error>,
    /// How long it takes.
    pub takes: Option<Takes>,
}

/// A task at the end of its run.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// Its phase.
    pub phase: Phase,
    /// All its events, in order.
    #[serde(default)]
    pub events: Vec<TaskEvent>,
    /// All its attempts, in order.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// How its items are, of a task with `forEach`; each of them is a task of its own here.
    pub items: Option<Items>,
    /// Its inputs, resolved.
    pub inputs: Option<Value>,
    /// Its outputs; `{}` need not be said.
    pub outputs: Option<Value>,
    /// Its error.
    pub error: Option<Error>,
    /// The reasons that its status shows while it is Pending, in order.
    #[serde(default)]
    pub waits: Vec<String>,
    /// What the pods of all its attempts have, other parts apart.
    pub pod: Option<Value>,
}

/// How the items of a task ended.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Items {
    /// All.
    pub total: u32,
    /// Those that ended well.
    #[serde(default)]
    pub succeeded: u32,
    /// Those that did not.
    #[serde(default)]
    pub failed: u32,
    /// Those that did not start.
    #[serde(default)]
    pub skipped: u32,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Phase {
    /// It never started.
    Skipped,
    /// Its task execution was taken away by somebody.
    Gone,
    /// Ended well.
    Succeeded,
    /// Ended by a failure.
    Failed,
    /// Ended from outside.
    Cancelled,
}

/// An attempt that ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attempt {
    /// `Completed` or an error code.
    pub reason: String,
    /// Whose fault it was, if it was a failure.
    pub class: Option<FailureClass>,
    /// The exit code, if there was one.
    pub exit_code: Option<i32>,
}

/// An error.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Error {
    /// For programs.
    pub code: String,
    /// Words that its message has.
    #[serde(default)]
    pub says: Vec<String>,
    /// The task that failed, of a run's error.
    pub task: Option<String>,
    /// What its details have, other parts apart.
    pub details: Option<Value>,
}

/// Bounds of a time; both are part of it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Takes {
    /// No less.
    pub at_least: Duration,
    /// No more.
    pub at_most: Duration,
}

/// An event as `order` names it: `TASK EVENT`, or `run EVENT`. Of several it is the first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Told {
    /// The task; none for the run.
    pub task: Option<String>,
    /// The event's name.
    pub event: String,
}

impl TryFrom<String> for Told {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (of, event) = text
            .split_once(' ')
            .ok_or_else(|| format!("{text:?} is not like `TASK completed` or `run started`"))?;
        Ok(Told {
            task: (of != "run").then(|| of.to_owned()),
            event: event.to_owned(),
        })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.task.as_deref().unwrap_or("run"),
            self.event
        )
    }
}
