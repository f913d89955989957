//! Expressions as users meet them, across the files of this module.

mod bounds;
mod data;
mod faults;
mod kubelet;
mod language;
mod names;

use super::{EvaluationError, Scope, TaskScope, Template, WorkflowScope};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const WORKFLOW: WorkflowScope<'static> = WorkflowScope {
    name: "hello",
    namespace: "default",
    uid: "7d3f",
};

/// Evaluates `template` with these inputs and no tasks.
fn evaluate(template: &str, inputs: &Value) -> Result<Value, EvaluationError> {
    let template = Template::compile(template).unwrap_or_else(|error| panic!("{error}"));
    template.evaluate(&Scope {
        inputs,
        workflow: WORKFLOW,
        tasks: &BTreeMap::new(),
        item: None,
    })
}

/// Evaluates one expression with a task `build` that succeeded, one called `a-b` that failed, and
/// some inputs.
fn result_of(expression: &str) -> Result<Value, String> {
    let inputs = json!({
        "who": "world", "count": 3, "ratio": 1.5, "flag": true, "none": null, "whole": 4.0,
        "items": [{"id": 1, "tag": "a"}, {"id": 2, "tag": "b"}, {"id": 3, "tag": "a"}],
        "map": {"z": 1, "a": 2, "m": 3}, "": "empty", "odd key": "odd",
    });
    let outputs = json!({"text": "built", "size": 7, "nested": {"list": [1, 2]}});
    let none = json!({});
    let error = json!({"code": "TASK_FAILED", "message": "exit 1"});
    let tasks = BTreeMap::from([
        (
            "build".to_owned(),
            TaskScope {
                phase: "Succeeded",
                outputs: &outputs,
                error: None,
                attempts: 2,
            },
        ),
        (
            "a-b".to_owned(),
            TaskScope {
                phase: "Failed",
                outputs: &none,
                error: Some(&error),
                attempts: 1,
            },
        ),
    ]);
    let template = Template::compile(&format!("${{{{ {expression} }}}}"))
        .map_err(|error| error.to_string())?;
    template
        .evaluate(&Scope {
            inputs: &inputs,
            workflow: WORKFLOW,
            tasks: &tasks,
            item: None,
        })
        .map_err(|error| error.message().to_owned())
}
