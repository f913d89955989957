use super::*;
use crate::engine::outcome;
use serde_json::{Value, json};

fn workflow() -> Workflow {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
        "metadata": {"name": "w", "namespace": "n", "uid": "wu", "resourceVersion": "1"},
        "spec": {"tasks": []},
    }))
    .unwrap()
}

fn execution(version: u64, phase: &str, finalizers: Value) -> TaskExecution {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
        "metadata": {"name": "t", "namespace": "n", "uid": "tu",
                     "resourceVersion": version.to_string(), "finalizers": finalizers},
        "spec": {
            "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t", "container": {"image": "x"},
            "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
            "infrastructureRetries": 1, "imagePullTimeout": "10m",
        },
        "status": {"phase": phase},
    }))
    .unwrap()
}

fn key() -> Key {
    ("n".into(), "t".into())
}

#[test]
fn an_older_version_never_replaces_a_newer_one() {
    let index = Index::default();
    assert_eq!(
        index.apply_execution(execution(9, "Running", json!([]))),
        Change::Notable
    );
    assert_eq!(
        index.apply_execution(execution(10, "Running", json!([]))),
        Change::Minor
    );
    assert_eq!(
        index.apply_execution(execution(9, "Pending", json!([]))),
        Change::Stale
    );
    let known = index.execution(&key()).unwrap();
    assert_eq!(known.resource_version().as_deref(), Some("10"));
}

#[test]
fn the_next_object_of_a_name_replaces_the_one_before_and_never_the_other_way_round() {
    let index = Index::default();
    let mut next = execution(12, "Pending", json!([]));
    next.metadata.uid = Some("next".to_owned());
    index.apply_execution(execution(9, "Running", json!([])));
    assert_eq!(index.apply_execution(next), Change::Notable);
    // The answer to a write that came late.
    assert_eq!(
        index.apply_execution(execution(10, "Failed", json!([]))),
        Change::Stale
    );
    assert!(
        index.delete_execution(&key(), Some("tu")).is_none(),
        "the first one is not there"
    );
    let known = index.execution(&key()).unwrap();
    assert_eq!(known.metadata.uid.as_deref(), Some("next"));
}

fn deleted_pod(version: u64, due: &str, grace: i64) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "t-1", "namespace": "n", "uid": "pu", "resourceVersion": version.to_string(),
                     "finalizers": [crate::api::FINALIZER_OUTCOME],
                     "deletionTimestamp": due, "deletionGracePeriodSeconds": grace},
    }))
    .unwrap()
}

#[test]
fn the_first_deletion_of_a_pod_is_the_one_that_counts() {
    let index = Index::default();
    index.apply_pod(deleted_pod(1, "2026-01-01T00:00:30Z", 30));
    index.apply_pod(deleted_pod(2, "2026-01-01T00:00:05Z", 0));
    let known = index.pod(&("n".into(), "t-1".into())).unwrap();
    assert_eq!(known.resource_version().as_deref(), Some("2"));
    let asked = outcome::deletion_asked(&known.metadata).unwrap();
    assert_eq!(asked.to_string(), "2026-01-01T00:00:00.000Z");
    // Somebody may shorten the grace: that asks for nothing later.
    index.apply_pod(deleted_pod(3, "2026-01-01T00:00:00Z", 1));
    let known = index.pod(&("n".into(), "t-1".into())).unwrap();
    let asked = outcome::deletion_asked(&known.metadata).unwrap();
    assert_eq!(asked.to_string(), "2025-12-31T23:59:59.000Z");
}

#[test]
fn a_run_knows_which_of_its_tasks_changed_and_how_many_are_held() {
    let index = Index::default();
    index.apply_workflow(workflow());
    let held = json!([FINALIZER_EVENTS]);
    index.apply_execution(execution(1, "Running", held.clone()));
    assert_eq!(index.take_changed("wu").len(), 1);
    assert_eq!(index.take_changed("wu").len(), 0);
    index.apply_execution(execution(2, "Succeeded", held));
    assert_eq!(index.held_children("wu"), 1);
    index.apply_execution(execution(3, "Succeeded", json!([])));
    assert_eq!(index.held_children("wu"), 0);
    assert_eq!(index.take_changed("wu").len(), 1);
}

#[test]
fn nothing_is_remembered_for_a_run_that_is_not_known() {
    let index = Index::default();
    index.apply_execution(execution(1, "Running", json!([FINALIZER_EVENTS])));
    index.delete_execution(&key(), None);
    assert_eq!(index.take_changed("wu").len(), 0);
    assert_eq!(
        (index.held_children("wu"), index.children("wu").len()),
        (0, 0)
    );
}

fn ended_pod(version: u64, finalizers: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "t-1", "namespace": "n", "uid": "pu", "finalizers": finalizers,
                     "resourceVersion": version.to_string()},
        "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "x"}]},
        "status": {"phase": "Succeeded"},
    }))
    .unwrap()
}

#[test]
fn of_a_pod_that_was_let_go_only_its_place_is_kept() {
    let index = Index::default();
    let key: Key = ("n".into(), "t-1".into());
    let held = json!([crate::api::FINALIZER_OUTCOME]);
    assert!(index.apply_pod(ended_pod(1, held.clone())));
    assert!(index.pod(&key).is_some());
    assert!(index.apply_pod(ended_pod(3, json!([]))));
    assert!(index.pod(&key).is_none());
    assert_eq!(index.known_pods(), [(key.clone(), "pu".to_owned())]);
    assert!(
        !index.apply_pod(ended_pod(2, held)),
        "an old version is no news"
    );
    assert!(index.pod(&key).is_none());
    index.delete_pod(&key, Some("another"), None);
    assert_eq!(index.known_pods().len(), 1);
    index.delete_pod(&key, Some("pu"), None);
    assert_eq!(index.known_pods().len(), 0);
}

#[test]
fn the_pods_of_an_execution_are_those_that_it_owns() {
    let index = Index::default();
    let pod = |name: &str, owner: &str| {
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "n", "uid": name,
            "finalizers": ["compozy.dev/outcome"],
            "ownerReferences": [{"apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
                                 "name": owner, "uid": "u"}]}}),
        )
        .unwrap()
    };
    for (name, owner) in [("t-1", "t"), ("t-2", "t"), ("t-x-1", "t-x"), ("ta-1", "ta")] {
        index.apply_pod(pod(name, owner));
    }
    let found = index.pods_of(&key());
    let names: Vec<_> = found.iter().map(|pod| pod.name_any()).collect();
    assert_eq!(names, ["t-1", "t-2"]);
}
