//! Whether what was seen of a case is what it expects.

use std::{collections::BTreeMap, fmt::Debug};

use compozy::api::{ErrorInfo, TaskExecution, TaskExecutionStatus, Workflow, WorkflowStatus};
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Case,
    expect::{self, Phase, Told},
};

/// What was seen of a case: its objects at their end, and what happened on the way.
pub struct Seen {
    /// The run.
    pub workflow: Workflow,
    /// The task executions by their keys, those that were taken away apart.
    pub executions: BTreeMap<String, TaskExecution>,
    /// Every pod that was ever created, with its task.
    pub pods: Vec<(String, Pod)>,
    /// Every event in the order of the writes that hold them.
    pub told: Vec<Told>,
    /// The reasons that each task's status showed while it was Pending, if somebody looked.
    pub waits: Option<BTreeMap<String, Vec<String>>>,
}

/// Everything that is not as expected, a line each.
pub fn contradictions(case: &Case, seen: &Seen) -> Vec<String> {
    let mut found = Findings::default();
    let status = seen.workflow.status.clone().unwrap_or_default();
    found.of_run(&case.expect.run, &status);
    for (task, expected) in &case.expect.tasks {
        found.of_task(task, expected, &status, seen);
    }
    for of in seen.executions.keys() {
        if !case.expect.tasks.contains_key(of) {
            found.add(format!("{of}: nothing is expected of it"));
        }
    }
    for [first, second] in &case.expect.order {
        let position = |told: &Told| seen.told.iter().position(|seen| seen == told);
        match (position(first), position(second)) {
            (Some(before), Some(after)) if before < after => {}
            places => found.add(format!("`{first}` not before `{second}`: {places:?}")),
        }
    }
    found.lines
}

#[derive(Default)]
struct Findings {
    lines: Vec<String>,
}

impl Findings {
    fn add(&mut self, line: String) {
        self.lines.push(line);
    }

    fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, seen: &T) {
        if expected != seen {
            self.add(format!("{what}: expected {expected:?}, seen {seen:?}"));
        }
    }

    fn of_run(&mut self, expected: &expect::Run, status: &WorkflowStatus) {
        let events: Vec<_> = status.transitions.iter().map(|seen| seen.event).collect();
        self.same("run phase", &expected.phase, &status.phase);
        self.same("run events", &expected.events, &events);
        self.same("run outputs", &expected.outputs, &status.outputs);
        self.error("run", expected.error.as_ref(), status.error.as_ref());
        if let Some(takes) = expected.takes {
            let took = status.duration;
            let fits = took.is_some_and(|took| takes.at_least <= took && took <= takes.at_most);
            if !fits {
                self.add(format!("run took {took:?}, expected {takes:?}"));
            }
        }
    }

    fn of_task(&mut self, task: &str, expected: &expect::Task, run: &WorkflowStatus, seen: &Seen) {
        let row = run.tasks.iter().find(|row| row.name == task);
        let phase = match expected.phase {
            Phase::Gone => Phase::Cancelled,
            phase => phase,
        };
        let row = row.map(|row| row.phase.clone());
        // A spec that cannot be run has no rows, and no item has one of its own.
        let of_item = task.contains('/');
        if !of_item && (row.is_some() || expected.phase != Phase::Skipped) {
            self.same(&format!("{task} row"), &Some(format!("{phase:?}")), &row);
        }
        if let Some(items) = &expected.items {
            let row = run.tasks.iter().find(|row| row.name == task);
            let seen = row.and_then(|row| row.items).unwrap_or_default();
            let seen = [seen.total, seen.succeeded, seen.failed, seen.skipped];
            let wanted = [items.total, items.succeeded, items.failed, items.skipped];
            self.same(&format!("{task} items"), &wanted, &seen);
            return;
        }
        match seen.executions.get(task) {
            Some(te) => {
                let status = te.status.clone().unwrap_or_default();
                self.same(
                    &format!("{task} phase"),
                    &format!("{:?}", expected.phase),
                    &status.phase.as_str().to_owned(),
                );
                self.same(&format!("{task} inputs"), &expected.inputs, &te.spec.inputs);
                self.of_status(task, expected, &status);
            }
            None if matches!(expected.phase, Phase::Skipped | Phase::Gone) => {}
            None => self.add(format!("{task}: has no task execution")),
        }
        self.pods(task, expected, seen);
        if let Some(waits) = &seen.waits {
            let shown = waits.get(task).cloned().unwrap_or_default();
            self.same(&format!("{task} waits"), &expected.waits, &shown);
        }
    }

    fn of_status(&mut self, task: &str, expected: &expect::Task, status: &TaskExecutionStatus) {
        let scheduled = std::iter::once(compozy::api::TaskEvent::Scheduled);
        let later = status.transitions.iter().map(|seen| seen.event);
        let events: Vec<_> = scheduled.chain(later).collect();
        self.same(&format!("{task} events"), &expected.events, &events);
        let attempts: Vec<_> = status
            .attempts
            .iter()
            .map(|seen| (seen.reason.clone(), seen.class, seen.exit_code))
            .collect();
        let wanted: Vec<_> = expected
            .attempts
            .iter()
            .map(|attempt| (attempt.reason.clone(), attempt.class, attempt.exit_code))
            .collect();
        self.same(&format!("{task} attempts"), &wanted, &attempts);
        let outputs = status
            .outputs
            .clone()
            .filter(|outputs| *outputs != json!({}));
        self.same(&format!("{task} outputs"), &expected.outputs, &outputs);
        self.error(task, expected.error.as_ref(), status.error.as_ref());
    }

    fn error(&mut self, of: &str, expected: Option<&expect::Error>, seen: Option<&ErrorInfo>) {
        let (expected, seen) = match (expected, seen) {
            (Some(expected), Some(seen)) => (expected, seen),
            (None, None) => return,
            (None, Some(seen)) => return self.add(format!("{of} error not expected: {seen:?}")),
            (Some(error), None) => return self.add(format!("{of} error not seen: {error:?}")),
        };
        self.same(&format!("{of} error code"), &expected.code, &seen.code);
        for words in &expected.says {
            if !seen.message.contains(words) {
                self.add(format!("{of} error: no {words:?} in {:?}", seen.message));
            }
        }
        let details = seen.details.clone().unwrap_or_default();
        let failed = details["failed_task_id"].as_str().map(str::to_owned);
        self.same(&format!("{of} error's task"), &expected.task, &failed);
        if let Some(part) = &expected.details {
            self.part(&format!("{of} error details"), part, &details);
        }
    }

    fn pods(&mut self, task: &str, expected: &expect::Task, seen: &Seen) {
        let pods = seen.pods.iter().filter(|(of, _)| of == task);
        for (_, pod) in pods {
            if let Some(part) = &expected.pod {
                self.part(&format!("{task} pod"), part, pod);
            }
        }
    }

    /// Whether everything in `part` is in `whole`; of lists each element, at its place.
    fn part(&mut self, what: &str, part: &Value, whole: &impl Serialize) {
        let whole = serde_json::to_value(whole).unwrap();
        if let Some(path) = missing(part, &whole) {
            self.add(format!("{what}: {path}, in {whole}"));
        }
    }
}

/// The first place at which `whole` does not have what `part` has.
fn missing(part: &Value, whole: &Value) -> Option<String> {
    let below = |key: String, part: &Value, whole: &Value| {
        missing(part, whole).map(|path| format!(".{key}{path}"))
    };
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => part.iter().find_map(|(key, value)| {
            below(key.clone(), value, whole.get(key).unwrap_or(&Value::Null))
        }),
        (Value::Array(part), Value::Array(whole)) => {
            part.iter().enumerate().find_map(|(place, value)| {
                let there = whole.get(place).unwrap_or(&Value::Null);
                below(place.to_string(), value, there)
            })
        }
        _ => (part != whole).then(|| format!(": expected {part}, seen {whole}")),
    }
}
