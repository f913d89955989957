//! Statuses as clusters write them, and what they mean.

mod endings;
mod failures;
mod outputs;
mod properties;
mod states;

use serde_json::{Value, json};

use super::*;

const CREATED: &str = "2026-01-02T03:00:00Z";
const SCHEDULED: &str = "2026-01-02T03:00:01Z";
const STARTED: &str = "2026-01-02T03:00:05Z";
const FINISHED: &str = "2026-01-02T03:00:20Z";

fn time(text: &str) -> Time {
    Time(text.parse().unwrap())
}

/// A scheduled pod of attempt 2 with this status.
fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "hello-greet-abcdefgh-2",
            "creationTimestamp": CREATED,
            "labels": {"compozy.dev/attempt": "2"},
            "finalizers": ["compozy.dev/outcome"],
        },
        "spec": {
            "nodeName": "node-a",
            "containers": [{
                "name": "main",
                "image": "busybox:1.36",
                "resources": {"limits": {"memory": "32Mi"}},
            }],
        },
        "status": status,
    }))
    .unwrap()
}

/// A pod of this phase whose main container is in this state.
fn pod_with(phase: &str, state: Value) -> Pod {
    pod(json!({
        "phase": phase,
        "startTime": SCHEDULED,
        "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": SCHEDULED}],
        "containerStatuses": [main(state)],
    }))
}

fn main(state: Value) -> Value {
    container("main", state)
}

fn container(name: &str, state: Value) -> Value {
    json!({
        "name": name, "image": "busybox:1.36", "imageID": "", "ready": false, "restartCount": 0,
        "lastState": {}, "state": state,
    })
}

fn exited(code: i32, reason: &str, message: &str) -> Value {
    json!({"terminated": {
        "exitCode": code, "reason": reason, "message": message,
        "startedAt": STARTED, "finishedAt": FINISHED, "containerID": "containerd://c0ffee",
    }})
}

fn running() -> Value {
    json!({"running": {"startedAt": STARTED}})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

/// As `DELETE` leaves it, asked for at `asked` (seconds after the hour) with the usual grace.
fn deleted(mut pod: Pod, asked: i64) -> Pod {
    let due = time("2026-01-02T03:00:00Z").0 + jiff::SignedDuration::from_secs(asked + 30);
    pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(due));
    pod.metadata.deletion_grace_period_seconds = Some(30);
    pod
}

/// As the kubelet's last word leaves it, which was heard at `at` (seconds after the hour).
fn removed(pod: Pod, at: i64) -> Pod {
    let mut pod = deleted(pod, at - 30);
    pod.metadata.deletion_grace_period_seconds = Some(0);
    pod
}

/// With the condition that whoever disrupts a pod sets first, `at` seconds after the hour.
fn disrupted(mut pod: Pod, reason: &str, at: u32) -> Pod {
    let condition = serde_json::from_value(json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": "said so",
        "lastTransitionTime": format!("2026-01-02T03:00:{at:02}Z"),
    }))
    .unwrap();
    let status = pod.status.as_mut().unwrap();
    status.conditions.get_or_insert_default().push(condition);
    pod
}

/// As the node ends a pod by its own decision.
fn with_reason(mut pod: Pod, reason: &str, message: &str) -> Pod {
    let status = pod.status.as_mut().unwrap();
    status.reason = Some(reason.to_owned());
    status.message = Some(message.to_owned());
    pod
}

fn stopping(attempt: u32) -> Stopping {
    Stopping {
        attempt,
        code: "TIMEOUT".to_owned(),
        reason: "the attempt ran longer than its timeout of 1m".to_owned(),
        at: time(FINISHED),
    }
}

fn ended_of(pod: &Pod) -> Ended {
    match observe(pod, None) {
        PodState::Ended(ended) => ended,
        other => panic!("not ended: {other:?}"),
    }
}

/// Class, code, retryable and message of a failure.
fn failure_of(pod: &Pod) -> (FailureClass, String, bool, String) {
    match ended_of(pod).outcome {
        Outcome::Failed {
            class,
            error,
            retryable,
        } => (class, error.code, retryable, error.message),
        other => panic!("not failed: {other:?}"),
    }
}

fn exit_137() -> Pod {
    pod_with("Failed", exited(137, "Error", ""))
}

fn never_ran(phase: &str) -> Pod {
    pod(json!({"phase": phase, "startTime": SCHEDULED}))
}
