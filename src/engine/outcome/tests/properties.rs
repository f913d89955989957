//! Whatever a status holds, it means something, and never what is forbidden.

use proptest::{option, prelude::*, sample::select};

use super::*;

fn time_text() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("1970-01-01T00:00:00Z")),
        Just(json!("9999-12-30T22:00:00Z")),
        (0u32..60).prop_map(|second| json!(format!("2026-01-02T03:00:{second:02}Z"))),
    ]
}

fn reason() -> impl Strategy<Value = Value> {
    let known = select(vec![
        "",
        "Error",
        "Completed",
        "OOMKilled",
        "StartError",
        "ContainerStatusUnknown",
        "Unknown",
        "Evicted",
        "Preempting",
        "NodeLost",
        "Terminated",
        "DeadlineExceeded",
        "OutOfcpu",
        "SysctlForbidden",
        "ContainerCreating",
        "PodInitializing",
        "ImagePullBackOff",
        "InvalidImageName",
        "CreateContainerConfigError",
        "EvictionByEvictionAPI",
        "DeletionByPodGC",
        "TerminationByKubelet",
    ]);
    prop_oneof![
        Just(Value::Null),
        known.prop_map(Value::from),
        any::<String>().prop_map(Value::from)
    ]
}

fn message() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<String>().prop_map(Value::from),
        (0usize..6000).prop_map(|size| json!("ü".repeat(size))),
        Just(json!(
            "{\"error\":{\"message\":\"m\",\"code\":\"C\",\"details\":null}}"
        )),
        Just(json!("{\"a\":1}")),
        Just(json!(
            "container has runAsNonRoot and image will run as root"
        )),
    ]
}

fn state() -> impl Strategy<Value = Value> {
    let exit = prop_oneof![select(vec![0, 1, 137, 143, 255]), any::<i32>()];
    prop_oneof![
        Just(json!({})),
        Just(Value::Null),
        time_text().prop_map(|at| json!({"running": {"startedAt": at}})),
        (reason(), message()).prop_map(|(reason, message)| json!({"waiting": {"reason": reason, "message": message}})),
        (exit, reason(), message(), time_text(), time_text()).prop_map(|(code, reason, message, from, to)| {
            json!({"terminated": {
                "exitCode": code, "reason": reason, "message": message, "startedAt": from, "finishedAt": to,
            }})
        }),
    ]
}

fn containers() -> impl Strategy<Value = Value> {
    let named = (select(vec!["main", "proxy", ""]), state())
        .prop_map(|(name, state)| container(name, state));
    prop_oneof![
        Just(Value::Null),
        prop::collection::vec(named, 0..4).prop_map(Value::from)
    ]
}

fn condition() -> impl Strategy<Value = Value> {
    let kind = select(vec!["PodScheduled", "DisruptionTarget", "Ready"]);
    let status = select(vec!["True", "False", "Unknown"]);
    (kind, status, reason(), message(), time_text()).prop_map(|(kind, status, reason, message, at)| {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at})
    })
}

fn status() -> impl Strategy<Value = Value> {
    let phase = select(vec![
        "",
        "Pending",
        "Running",
        "Succeeded",
        "Failed",
        "Unknown",
        "New",
    ]);
    let conditions = prop::collection::vec(condition(), 0..3);
    (phase, reason(), message(), conditions, containers(), containers(), time_text()).prop_map(
        |(phase, reason, message, conditions, containers, init, start)| {
            json!({
                "phase": phase, "reason": reason, "message": message, "conditions": conditions,
                "containerStatuses": containers, "initContainerStatuses": init, "startTime": start,
            })
        },
    )
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let grace = option::of(prop_oneof![0i64..100, any::<i64>()]);
    (
        option::of(status()),
        any::<bool>(),
        time_text(),
        grace,
        time_text(),
    )
        .prop_map(|(status, has_node, deleted, grace, created)| {
            let mut pod = pod(json!({}));
            pod.status = status.map(|status| serde_json::from_value(status).unwrap());
            let read = |value| serde_json::from_value(value).unwrap();
            pod.metadata.deletion_timestamp = read(deleted);
            pod.metadata.deletion_grace_period_seconds = grace;
            pod.metadata.creation_timestamp = read(created);
            if !has_node {
                pod.spec = None;
            }
            pod
        })
}

fn main_of(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerState> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers
        .iter()
        .find(|container| container.name == "main")?
        .state
        .as_ref()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn every_status_means_something_and_never_what_is_forbidden(pod in any_pod(), stop in option::of(1u32..4)) {
        let stopping = stop.map(stopping);
        let state = observe(&pod, stopping.as_ref());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let exit_code = main_of(&pod).and_then(|state| Some(state.terminated.as_ref()?.exit_code));

        prop_assert_eq!(&state, &observe(&pod, stopping.as_ref()), "it depends on nothing else");
        let PodState::Ended(ended) = state else {
            prop_assert!(!["Succeeded", "Failed"].contains(&phase), "a final phase is an end");
            prop_assert_ne!(exit_code, Some(0), "exit code 0 is an end");
            return Ok(());
        };
        prop_assert!(ended.exit_code.is_none() || ended.exit_code == exit_code);
        match ended.outcome {
            Outcome::Stopped => prop_assert_eq!(stop, Some(2), "only what we stopped is stopped"),
            Outcome::Succeeded { outputs } => {
                prop_assert_ne!(stop, Some(2));
                prop_assert!(outputs.is_object());
                prop_assert!(exit_code.unwrap_or(0) == 0);
            }
            Outcome::Failed { class, error, retryable } => {
                prop_assert_ne!(stop, Some(2));
                prop_assert!(retryable || class == FailureClass::Application);
                prop_assert!(!error.message.is_empty() && error.message.len() < 8192);
                prop_assert!(!error.code.is_empty() && error.code.chars().count() <= 128);
                prop_assert!(error.details.is_some_and(|details| details["class"].is_string()));
                if exit_code == Some(0) {
                    prop_assert!(error.code == "INVALID_OUTPUTS" || error.code == "OUTPUTS_TOO_LARGE");
                }
            }
        }
    }
}
