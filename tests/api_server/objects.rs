//! Objects for the random requests, and what may be done to them, good and bad.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::api_server::Kind;

/// A change of one field; none removes it.
pub type Edit = (&'static str, Option<Value>);

/// Applies edits; a field's path is dotted.
pub fn edited(mut object: Value, edits: &[Edit]) -> Value {
    for (path, value) in edits {
        let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
        let place =
            parents
                .split('.')
                .filter(|part| !part.is_empty())
                .fold(&mut object, |at, part| match part.parse::<usize>() {
                    Ok(index) => &mut at[index],
                    Err(_) => &mut at[part],
                });
        match (value, place.as_object_mut()) {
            (Some(value), _) => place[last] = value.clone(),
            (None, Some(fields)) => drop(fields.remove(last)),
            (None, None) => {}
        }
    }
    object
}

/// An object that is accepted.
pub fn template(kind: Kind, namespace: &str, name: &str) -> Value {
    let resource = kind.resource();
    let mut object = match kind {
        Kind::Namespace => json!({}),
        Kind::Event => json!({
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "compozy-operator",
            "reportingInstance": "one",
            "action": "Act", "reason": "Because", "type": "Warning", "note": "n",
            "regarding": {"kind": "Workflow", "namespace": namespace, "name": name},
        }),
        Kind::Pod => json!({"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "busybox:1.36"}],
        }}),
        Kind::ConfigMap => json!({"data": {"a": "1"}}),
        Kind::Lease => json!({"spec": {"holderIdentity": "one", "leaseDurationSeconds": 15}}),
        Kind::Workflow => json!({"spec": {
            "inputs": {"a": 1},
            "tasks": [{"name": "one", "container": {"image": "busybox", "args": ["x"]}}],
        }}),
        Kind::Tool => json!({"spec": {"external": true, "timeout": "5s"}}),
        Kind::TaskExecution => json!({"spec": {
            "imagePullTimeout": "10m",
            "infrastructureRetries": 3,
            "retry": {
                "maxAttempts": 1,
                "backoff": {"factor": 2.0, "initial": "1s", "jitter": 0.5, "max": "1m"},
            },
            "task": "one",
            "workflow": {"id": "w", "name": "w", "uid": "u"},
            "container": {"image": "busybox"},
            "inputs": {"a": null, "b": [1, {"c": 2}]},
        }}),
    };
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.into();
    object["metadata"] = json!({"name": name, "labels": {"l": "x"}});
    if resource.namespaced {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn some(value: Value) -> Option<Value> {
    Some(value)
}

/// Changes of metadata that any kind may see.
pub fn metadata_edit(rng: &mut Rng) -> Edit {
    match rng.u8(..12) {
        0 | 1 => ("metadata.labels.l", some(json!("y"))),
        2 => ("metadata.labels", None),
        3 => ("metadata.annotations", some(json!({"note": "1"}))),
        4 => ("metadata.finalizers", some(json!([]))),
        5 => ("metadata.finalizers", None),
        6 | 7 => ("metadata.finalizers", some(json!(["example.com/a"]))),
        8 => (
            "metadata.finalizers",
            some(json!(["example.com/a", "example.com/b"])),
        ),
        9 => ("metadata.generation", some(json!(77))),
        10 => (
            "metadata.ownerReferences",
            some(json!([{
                "apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "nobody",
            }])),
        ),
        _ => (
            "metadata.creationTimestamp",
            some(json!("2020-01-01T00:00:00Z")),
        ),
    }
}

/// Changes of what a kind is about.
pub fn content_edit(kind: Kind, rng: &mut Rng) -> Edit {
    let choices: Vec<Edit> = match kind {
        Kind::ConfigMap => vec![
            ("data.a", some(json!("2"))),
            ("data.b", some(json!("1"))),
            ("data", None),
            ("data", some(json!({"a": 1}))),
            ("unknown", some(json!(1))),
        ],
        Kind::Lease => vec![
            ("spec.holderIdentity", some(json!("two"))),
            ("spec.holderIdentity", None),
            ("spec.leaseDurationSeconds", some(json!(30))),
            ("spec.leaseDurationSeconds", some(json!("soon"))),
            ("spec.leaseTransitions", some(json!(1))),
            ("spec.renewTime", some(json!("2026-01-01T00:00:00.000000Z"))),
        ],
        Kind::Pod => vec![
            ("spec.containers.0.image", some(json!("busybox:1.37"))),
            ("spec.activeDeadlineSeconds", some(json!(100))),
            ("status.phase", some(json!("Running"))),
            ("unknown", some(json!(1))),
        ],
        Kind::Workflow => workflow_edits(),
        Kind::TaskExecution => vec![
            (
                "spec.stop",
                some(json!({"code": "CANCELLED", "reason": "r"})),
            ),
            ("spec.stop", some(json!({"code": "CANCELLED"}))),
            ("spec.stop", some(Value::Null)),
            ("spec.container", None),
            ("spec.task", some(json!("two"))),
            ("spec.workflow.uid", some(json!("v"))),
            ("spec.retry.backoff.jitter", some(json!("much"))),
            ("spec.imagePullTimeout", some(json!("soon"))),
            ("spec.unknown", some(json!(1))),
            ("status", some(json!({"phase": "Running"}))),
        ],
        Kind::Tool => vec![
            ("spec.external", some(json!(false))),
            ("spec.external", None),
            ("spec.timeout", some(json!("soon"))),
            ("spec.timeout", None),
            ("spec.unknown", some(json!(1))),
        ],
        Kind::Event => vec![
            ("note", some(json!("other"))),
            ("note", some(json!("n".repeat(1100)))),
            ("type", some(json!("Odd"))),
            ("action", None),
            ("eventTime", None),
            (
                "series",
                some(json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"})),
            ),
        ],
        Kind::Namespace => vec![("metadata.labels.l", some(json!("z")))],
    };
    choices[rng.usize(..choices.len())].clone()
}

fn workflow_edits() -> Vec<Edit> {
    vec![
        ("spec.cancel", some(json!({"reason": "enough"}))),
        ("spec.cancel", some(json!({}))),
        ("spec.cancel", None),
        ("spec.parallelism", some(json!(3))),
        ("spec.parallelism", some(json!(0))),
        ("spec.parallelism", some(json!("three"))),
        ("spec.parallelism", some(json!(1.5))),
        ("spec.inputs", some(json!({"a": 2}))),
        ("spec.inputs", some(json!("text"))),
        ("spec.inputs", some(Value::Null)),
        ("spec.inputs", None),
        ("spec.tasks", some(json!([]))),
        ("spec.tasks", None),
        (
            "spec.tasks",
            some(json!([{"name": "ONE", "container": {"image": "b"}}])),
        ),
        ("spec.tasks", some(json!([{"name": "one"}]))),
        (
            "spec.tasks",
            some(json!([{"name": "one", "container": {"image": ""}}])),
        ),
        (
            "spec.tasks",
            some(json!([{"name": "one", "container": {"command": ["x"]}}])),
        ),
        ("spec.tasks.0.timeout", some(json!("90s"))),
        ("spec.tasks.0.timeout", some(json!("soon"))),
        ("spec.tasks.0.dependsOn", some(json!([""]))),
        ("spec.tasks.0.unknown", some(json!(1))),
        (
            "spec.tasks.0.with",
            some(json!({"any": [1, null, {"b": "c"}]})),
        ),
        (
            "spec.tasks.0.forEach",
            some(json!({"items": [1, {"a": null}], "maxParallel": 2})),
        ),
        ("spec.tasks.0.forEach", some(json!({"items": "a, b"}))),
        (
            "spec.tasks.0.forEach",
            some(json!({"items": "${{ inputs.a }}", "failurePolicy": "Never"})),
        ),
        ("spec.failurePolicy", some(json!("Complete"))),
        ("spec.failurePolicy", some(json!("Never"))),
        ("spec.timeout", some(json!("1h"))),
        ("spec.timeout", some(json!(3600))),
        ("spec.timeout", some(Value::Null)),
        (
            "spec.taskDefaults",
            some(json!({"infrastructureRetries": 1})),
        ),
        (
            "spec.taskDefaults",
            some(json!({"infrastructureRetries": 100})),
        ),
        ("spec.outputs", some(json!({"o": "${{ inputs.a }}"}))),
        ("spec.unknown", some(json!({"deep": 1}))),
        ("spec", None),
        ("unknown", some(json!(1))),
        ("status", some(json!({"phase": "Running"}))),
    ]
}

/// A status, good or bad.
pub fn status(kind: Kind, rng: &mut Rng) -> Value {
    let choices = match kind {
        Kind::Pod => vec![
            json!({"phase": "Running"}),
            json!({"phase": "Running", "message": "m", "startTime": "2026-01-01T00:00:00Z"}),
            json!({"phase": "Succeeded", "reason": "r"}),
            json!({"phase": "Failed"}),
        ],
        _ => vec![
            json!({"phase": "Running", "observedGeneration": 1}),
            json!({"phase": "Pending", "unknown": 1}),
            json!({"phase": "Succeeded", "outputs": {"a": null}, "error": null}),
            json!({"phase": "Failed", "error": {"code": "X", "message": "m"}}),
            json!({"phase": "Failed", "error": {"code": "X"}}),
            json!({"phase": "Bogus"}),
            json!({"phase": 1}),
            json!({"startedAt": "yesterday"}),
            json!({"startedAt": "2026-01-01T00:00:00.123Z"}),
            json!(null),
        ],
    };
    choices[rng.usize(..choices.len())].clone()
}
