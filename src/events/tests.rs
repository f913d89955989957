//! What the events of whole objects say, as the flow documents want them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Event, Object, Subjects};
use crate::api::{TaskExecution, Workflow};

mod calls;

const RUN: &str = "6b1f0d0a-run";
const EXECUTION: &str = "92c1e3b4-task";

fn workflow(status: Value) -> Workflow {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
        "metadata": {"name": "hello", "namespace": "team", "uid": RUN},
        "spec": {"inputs": {"who": "world"}, "timeout": "90s", "tasks": [], "cancel": {"reason": "enough"}},
        "status": status,
    }))
    .unwrap()
}

fn task(status: Value) -> TaskExecution {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
        "metadata": {"name": "hello-greet-1a2b3c4d", "namespace": "team", "uid": EXECUTION,
                     "creationTimestamp": "2026-11-22T10:00:00Z"},
        "spec": {
            "workflow": {"name": "hello", "uid": RUN, "id": "greeter"}, "task": "greet",
            "inputs": {"to": "world"},
            "retry": {"maxAttempts": 3, "backoff": {"initial": "1s", "factor": 2.0, "max": "5m", "jitter": 0.1}},
            "infrastructureRetries": 3, "imagePullTimeout": "10m",
            "stop": {"code": "CANCELLED", "reason": "the run ended"},
        },
        "status": status,
    }))
    .unwrap()
}

fn at(second: u32) -> String {
    format!("2026-11-22T10:00:{second:02}.250Z")
}

fn events(object: Object<'_>, after: u64) -> Vec<Event> {
    let subjects = Subjects::new("compozy");
    let history = object
        .history()
        .into_iter()
        .filter(|entry| entry.sequence > after);
    history
        .map(|entry| {
            let event = object.event(entry.sequence, &subjects).unwrap();
            let filter = object.chain(&entry.filter, &subjects);
            assert_eq!(event.message().filter, filter);
            event
        })
        .inspect(assert_valid)
        .collect()
}

/// What is wrong with a value, as far as the keywords go that our schemas have.
fn violations(value: &Value, schema: &Value, root: &Value, path: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).unwrap();
        return violations(value, target, root, path);
    }
    let mut wrong = Vec::new();
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("no schema of ours has the type {other}"),
    };
    if !schema["type"].is_null() && !is(&schema["type"]) {
        wrong.push(format!("{path} is no {}: {value}", schema["type"]));
    }
    for field in schema["required"].as_array().into_iter().flatten() {
        if value.get(field.as_str().unwrap()).is_none() {
            wrong.push(format!("{path} has no {field}"));
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(inner) = value.get(name) {
            wrong.extend(violations(inner, field, root, &format!("{path}.{name}")));
        }
    }
    if !schema["const"].is_null() && schema["const"] != *value {
        wrong.push(format!("{path} is not {}: {value}", schema["const"]));
    }
    for ways in ["anyOf", "oneOf"].map(|ways| schema[ways].as_array()) {
        let tried: Vec<_> = ways
            .into_iter()
            .flatten()
            .map(|way| violations(value, way, root, path))
            .collect();
        if tried.iter().all(|wrong| !wrong.is_empty()) {
            wrong.extend(tried.into_iter().flatten());
        }
    }
    wrong
}

/// Every event that these tests see is as its schema says.
fn assert_valid(event: &Event) {
    let message = event.message();
    let header = message.headers.iter().find(|(name, _)| *name == "ce-type");
    let kind = &header.unwrap().1;
    let schemas = super::schemas();
    let named = schemas.iter().find(|(_, schema)| schema["title"] == **kind);
    let (_, schema) = named.unwrap_or_else(|| panic!("{kind} has no schema"));
    let wrong = violations(&body(event), schema, schema, "");
    assert!(wrong.is_empty(), "{kind}: {wrong:?}");
    let referenced = serde_json::from_slice(&event.by_reference().payload).unwrap();
    let wrong = violations(&referenced, schema, schema, "");
    assert!(wrong.is_empty(), "{kind} by reference: {wrong:?}");
}

#[test]
fn a_body_that_is_not_as_its_schema_says_is_found() {
    let schemas = super::schemas();
    let (_, schema) = schemas
        .iter()
        .find(|(name, _)| name == "task.failed")
        .unwrap();
    let wrong = violations(&json!({"attempt": "1"}), schema, schema, "");
    for part in [".attempt is no", "has no \"sequence\"", "has no \"error\""] {
        assert!(
            wrong.iter().any(|said| said.contains(part)),
            "{part}: {wrong:?}"
        );
    }
}

fn body(event: &Event) -> Value {
    serde_json::from_slice(&event.message().payload).unwrap()
}

/// What each event says beyond what all say.
fn details(events: &[Event]) -> Vec<(String, Value)> {
    let common = [
        "namespace",
        "workflow_id",
        "workflow_exec_id",
        "task_id",
        "task_exec_id",
        "attempt",
        "sequence",
        "timestamp",
    ];
    let detail = |event: &Event| {
        let mut body = body(event);
        let fields = body.as_object_mut().unwrap();
        common.iter().for_each(|name| drop(fields.remove(*name)));
        (
            event
                .message()
                .subject
                .rsplit('.')
                .next()
                .unwrap()
                .to_owned(),
            body,
        )
    };
    events.iter().map(detail).collect()
}

fn expected<const N: usize>(events: [(&str, Value); N]) -> Vec<(String, Value)> {
    events
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[test]
fn a_successful_task_is_told_as_in_the_flow_document() {
    let task = task(json!({
        "phase": "Succeeded", "outputs": {"text": "hello"},
        "transitions": [
            {"seq": 2, "event": "started", "attempt": 1, "at": at(2), "data": {"executor": "pod-1"}},
            {"seq": 3, "event": "completed", "attempt": 1, "at": at(3)},
        ],
    }));
    let told = events(Object::Task(&task), 0);
    assert_eq!(
        details(&told),
        expected([
            ("scheduled", json!({"inputs": {"to": "world"}})),
            ("started", json!({"executor": "pod-1"})),
            ("completed", json!({"outputs": {"text": "hello"}})),
        ])
    );
    let subjects: Vec<_> = told
        .iter()
        .map(|event| event.message().subject.as_str())
        .collect();
    let chain = format!("compozy.events.task.instance.{EXECUTION}");
    assert_eq!(
        subjects,
        [
            format!("{chain}.scheduled"),
            format!("{chain}.started"),
            format!("{chain}.completed")
        ]
    );
    assert!(
        told.iter()
            .all(|event| event.message().filter == format!("{chain}.*"))
    );
    assert_eq!(
        body(&told[0]),
        json!({
            "namespace": "team", "workflow_id": "greeter", "workflow_exec_id": RUN,
            "task_id": "greet", "task_exec_id": EXECUTION, "attempt": 0, "sequence": 1,
            "timestamp": "2026-11-22T10:00:00.000Z", "inputs": {"to": "world"},
        })
    );
    assert_eq!(body(&told[2])["attempt"], 1);
    assert_eq!(body(&told[2])["timestamp"], at(3));
}

#[test]
fn every_attempt_keeps_its_own_failure() {
    let failed = |message: &str, class: &str, current: u32| json!({"error": {"message": message, "code": "X"}, "class": class, "max_attempts": 3, "current_attempt": current});
    let retry = json!({"next_attempt_delay_ms": 1040, "attempt_number": 2});
    let task = task(json!({
        "phase": "Failed", "error": {"message": "exit 2", "code": "TASK_FAILED", "details": {"exit_code": 2}},
        "transitions": [
            {"seq": 2, "event": "failed", "attempt": 1, "at": at(1), "data": failed("gone", "Infrastructure", 1)},
            {"seq": 3, "event": "retry_scheduled", "attempt": 1, "at": at(1), "data": retry},
            {"seq": 4, "event": "failed", "attempt": 2, "at": at(4), "data": failed("exit 1", "Application", 1)},
            {"seq": 5, "event": "failed", "attempt": 3, "at": at(5)},
        ],
    }));
    assert_eq!(
        details(&events(Object::Task(&task), 1)),
        expected([
            (
                "failed",
                json!({"error": {"message": "gone", "code": "X", "details": {"class": "Infrastructure"}},
                       "retry_policy": {"max_attempts": 3, "current_attempt": 1}})
            ),
            (
                "retry_scheduled",
                json!({"original_task_exec_id": EXECUTION, "next_attempt_delay_ms": 1040, "attempt_number": 2})
            ),
            (
                "failed",
                json!({"error": {"message": "exit 1", "code": "X", "details": {"class": "Application"}},
                       "retry_policy": {"max_attempts": 3, "current_attempt": 1}})
            ),
            (
                "failed",
                json!({"error": {"message": "exit 2", "code": "TASK_FAILED", "details": {"exit_code": 2}},
                       "retry_policy": {"max_attempts": 3, "current_attempt": 3}})
            ),
        ])
    );
}

#[test]
fn a_cancelled_task_says_why() {
    let cancelled = |data: Value| {
        let transition =
            json!({"seq": 2, "event": "cancelled", "attempt": 0, "at": at(1), "data": data});
        let task = task(json!({"phase": "Cancelled", "transitions": [transition]}));
        details(&events(Object::Task(&task), 1))
    };
    let said = |reason: &str| expected([("cancelled", json!({"reason": reason}))]);
    assert_eq!(cancelled(json!({"reason": "deleted"})), said("deleted"));
    assert_eq!(cancelled(Value::Null), said("the run ended"));
}

#[test]
fn a_workflow_is_told_by_its_transitions() {
    let workflow = workflow(json!({
        "phase": "Failed", "outputs": {"said": "x"},
        "error": {"message": "greet failed", "code": "TASK_FAILED",
                  "details": {"failed_task_id": "greet", "failed_task_exec_id": EXECUTION, "task_error": {"code": "X"}}},
        "transitions": [
            {"seq": 1, "event": "started", "at": at(1)},
            {"seq": 2, "event": "completed", "at": at(2)},
            {"seq": 3, "event": "failed", "at": at(3)},
            {"seq": 4, "event": "cancelled", "at": at(4)},
            {"seq": 5, "event": "timed_out", "at": at(5)},
            {"seq": 6, "event": "waiting_started", "at": at(6)},
            {"seq": 7, "event": "waiting_ended", "at": at(7), "data": {"suspended_ms": 61_000}},
        ],
    }));
    let told = events(Object::Workflow(&workflow), 0);
    assert_eq!(
        details(&told),
        expected([
            ("started", json!({"inputs": {"who": "world"}})),
            ("completed", json!({"outputs": {"said": "x"}})),
            (
                "failed",
                json!({"error": {"message": "greet failed", "code": "TASK_FAILED", "details": {
                    "failed_task_id": "greet", "failed_task_exec_id": EXECUTION, "task_error": {"code": "X"}}}})
            ),
            ("cancelled", json!({"reason": "enough"})),
            ("timed_out", json!({"timeout_duration_ms": 90_000})),
            ("waiting_started", json!({"wait_reason": "suspended"})),
            (
                "waiting_ended",
                json!({"resume_data": {"suspended_ms": 61_000}})
            ),
        ])
    );
    assert_eq!(
        body(&told[0]),
        json!({"namespace": "team", "workflow_id": "hello", "workflow_exec_id": RUN, "sequence": 1,
               "timestamp": at(1), "inputs": {"who": "world"}})
    );
    assert_eq!(
        told[0].message().subject,
        format!("compozy.events.workflow.instance.{RUN}.started")
    );
    assert_eq!(events(Object::Workflow(&workflow), 3).len(), 4);
}

#[test]
fn an_object_without_status_tells_what_its_existence_tells() {
    let mut unseen = workflow(json!({}));
    unseen.status = None;
    assert_eq!(Object::Workflow(&unseen).newest(), 0);
    let mut created = task(json!({}));
    created.status = None;
    assert_eq!(Object::Task(&created).newest(), 1);
    assert_eq!(events(Object::Task(&created), 0).len(), 1);
    assert!(events(Object::Task(&created), 1).is_empty());
    // What was let go and stripped in memory must not be told anew without its inputs.
    assert!(events(Object::Task(&task(json!({"phase": "Succeeded"}))), 0).is_empty());
}

#[test]
fn headers_are_a_cloud_event() {
    let task = task(json!({"phase": "Pending"}));
    let told = events(Object::Task(&task), 0);
    let message = told[0].message();
    assert_eq!(message.id, format!("{EXECUTION}:1"));
    let headers: Vec<_> = message
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    assert_eq!(
        headers,
        [
            ("ce-specversion", "1.0"),
            ("ce-id", "92c1e3b4-task:1"),
            ("ce-type", "dev.compozy.task.scheduled.v1"),
            ("ce-source", "/namespaces/team/workflows/6b1f0d0a-run"),
            ("ce-subject", "task/92c1e3b4-task"),
            ("ce-time", "2026-11-22T10:00:00.000Z"),
            ("ce-sequence", "1"),
            ("ce-datacontenttype", "application/json"),
        ]
    );
}

#[test]
fn what_is_too_large_goes_by_reference() {
    let dataref = "/apis/compozy.dev/v1alpha1/namespaces/team/taskexecutions/hello-greet-1a2b3c4d";
    let mut large = task(json!({"phase": "Pending"}));
    large.spec.inputs = Some(json!({"text": "x".repeat(300_000)}));
    let told = events(Object::Task(&large), 0);
    assert_eq!(
        details(&told),
        expected([("scheduled", json!({"dataref": dataref}))])
    );
    assert_eq!(body(&told[0])["task_exec_id"], EXECUTION);
    assert!(
        told[0]
            .message()
            .headers
            .contains(&("ce-dataref", dataref.to_owned()))
    );

    // A server with a lower limit gets the same for a smaller one.
    let small = events(Object::Task(&task(json!({"phase": "Pending"}))), 0);
    let referenced = small[0].by_reference();
    assert_eq!(referenced, told[0].by_reference());
    assert_eq!(&referenced, told[0].message());
}

proptest! {
    #[test]
    fn any_history_is_told_once_each_in_order_from_anywhere(
        kinds in prop::collection::vec(0_usize..5, 0..40),
        pruned in 0_usize..10,
        after in 0_u64..45,
        data in prop::option::of("[a-z0-9\\\\\"${} \n]{0,12}"),
    ) {
        let names = ["started", "completed", "failed", "retry_scheduled", "cancelled"];
        let transitions: Vec<Value> = kinds
            .iter()
            .enumerate()
            .skip(pruned)
            .map(|(index, kind)| json!({"seq": index + 2, "event": names[*kind], "attempt": index, "at": at(1),
                "data": data.as_ref().map(|text| json!({"executor": text, "reason": text}))}))
            .collect();
        let held: Vec<u64> = std::iter::once(1)
            .chain(transitions.iter().map(|transition| transition["seq"].as_u64().unwrap()))
            .filter(|sequence| *sequence > after)
            .collect();
        let task = task(json!({"phase": "Running", "transitions": transitions}));
        let told = events(Object::Task(&task), after);
        prop_assert_eq!(told.iter().map(Event::sequence).collect::<Vec<_>>(), held);
        for event in &told {
            let message = event.message();
            prop_assert_eq!(&message.id, &format!("{EXECUTION}:{}", event.sequence()));
            prop_assert_eq!(&body(event)["sequence"], event.sequence());
            prop_assert_eq!(&message.subject, &message.filter.replace('*', message.subject.rsplit('.').next().unwrap()));
        }
    }
}
