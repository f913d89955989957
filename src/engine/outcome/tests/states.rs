//! What has not ended, and what it waits for.

use rstest::rstest;

use super::*;

/// A pod that no node has.
fn unscheduled(conditions: Value) -> Pod {
    let mut pod = pod(json!({"phase": "Pending", "conditions": conditions}));
    pod.spec.as_mut().unwrap().node_name = None;
    pod
}

fn pending(state: Value) -> Pod {
    pod_with("Pending", state)
}

#[rstest]
#[case::created("Scheduling", WaitKind::Scheduling, CREATED, unscheduled(json!([])))]
#[case::unschedulable("Unschedulable", WaitKind::Scheduling, CREATED, unscheduled(json!([{
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient cpu.", "lastTransitionTime": SCHEDULED,
}])))]
#[case::creating(
    "ContainerCreating",
    WaitKind::Starting,
    SCHEDULED,
    pending(waiting("ContainerCreating", ""))
)]
#[case::no_word_of_the_kubelet("ContainerCreating", WaitKind::Starting, CREATED, pod(json!({"phase": "Pending"})))]
#[case::initializing(
    "ContainerCreating",
    WaitKind::Starting,
    SCHEDULED,
    pending(waiting("PodInitializing", ""))
)]
#[case::pull_failed(
    "ErrImagePull",
    WaitKind::Image,
    SCHEDULED,
    pending(waiting("ErrImagePull", "connection refused"))
)]
#[case::pull_backs_off(
    "ImagePullBackOff",
    WaitKind::Image,
    SCHEDULED,
    pending(waiting("ImagePullBackOff", "Back-off pulling image"))
)]
#[case::never_pulled(
    "ErrImageNeverPull",
    WaitKind::Image,
    SCHEDULED,
    pending(waiting("ErrImageNeverPull", ""))
)]
#[case::registry_away(
    "RegistryUnavailable",
    WaitKind::Image,
    SCHEDULED,
    pending(waiting("RegistryUnavailable", ""))
)]
#[case::signature(
    "SignatureValidationFailed",
    WaitKind::Image,
    SCHEDULED,
    pending(waiting("SignatureValidationFailed", ""))
)]
#[case::secret_missing(
    "CreateContainerConfigError",
    WaitKind::Starting,
    SCHEDULED,
    pending(waiting("CreateContainerConfigError", "secret \"db\" not found"))
)]
#[case::create_failed(
    "CreateContainerError",
    WaitKind::Starting,
    SCHEDULED,
    pending(waiting("CreateContainerError", ""))
)]
#[case::run_failed(
    "RunContainerError",
    WaitKind::Starting,
    SCHEDULED,
    pending(waiting("RunContainerError", ""))
)]
#[case::something_new(
    "SomethingNew",
    WaitKind::Starting,
    SCHEDULED,
    pending(waiting("SomethingNew", ""))
)]
#[case::no_state("ContainerCreating", WaitKind::Starting, SCHEDULED, pending(json!({})))]
fn a_waiting_pod(
    #[case] reason: &str,
    #[case] kind: WaitKind,
    #[case] since: &str,
    #[case] pod: Pod,
) {
    let PodState::Waiting {
        kind: seen,
        reason: why,
        message,
        since: seen_since,
    } = observe(&pod, None)
    else {
        panic!("not waiting")
    };
    assert_eq!(
        (seen, why.as_str(), seen_since),
        (kind, reason, time(since))
    );
    assert!(!message.is_empty());
}

#[test]
fn the_image_of_an_injected_container_is_waited_for_too() {
    let pod = pod(json!({
        "phase": "Pending",
        "initContainerStatuses": [container("proxy-init", waiting("ImagePullBackOff", "proxy:1"))],
        "containerStatuses": [main(waiting("PodInitializing", ""))],
    }));
    assert!(matches!(
        observe(&pod, None),
        PodState::Waiting {
            kind: WaitKind::Image,
            ..
        }
    ));
}

#[rstest]
#[case("container has runAsNonRoot and image will run as root (pod: \"x\", container: main)")]
#[case(
    "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root"
)]
#[case("container's runAsUser breaks non-root policy (pod: \"x\", container: main)")]
fn an_image_that_must_be_root_fails_at_once(#[case] said: &str) {
    let pod = pending(waiting("CreateContainerConfigError", said));
    let (class, code, retryable, message) = failure_of(&pod);
    assert_eq!(
        (class, code.as_str(), retryable),
        (FailureClass::Application, "IMAGE_RUNS_AS_ROOT", false)
    );
    assert!(message.contains("securityContext.runAsUser"), "{message}");
    assert!(ended_of(&pod).lingers, "the kubelet would try for ever");
}

#[test]
fn an_image_name_that_is_none_fails_at_once() {
    let pod = pending(waiting(
        "InvalidImageName",
        "couldn't parse image name \"Busy Box\"",
    ));
    let (_, code, retryable, message) = failure_of(&pod);
    assert_eq!((code.as_str(), retryable), ("IMAGE_PULL", false));
    assert!(message.contains("Busy Box"), "{message}");
}

#[test]
fn a_hopeless_pod_that_we_stop_is_waited_for() {
    let pod = deleted(pending(waiting("InvalidImageName", "")), 10);
    assert!(matches!(
        observe(&pod, Some(&stopping(2))),
        PodState::Waiting { .. }
    ));
}

#[rstest]
#[case::plainly(pod_with("Running", running()))]
#[case::before_the_phase_says_so(pod_with("Pending", running()))]
#[case::while_the_node_does_not_answer(pod_with("Unknown", running()))]
#[case::while_being_deleted(deleted(pod_with("Running", running()), 18))]
#[case::while_being_drained(disrupted(
    deleted(pod_with("Running", running()), 18),
    "EvictionByEvictionAPI",
    18
))]
#[case::failed_but_why_is_not_known_yet(pod_with("Running", exited(137, "Error", "")))]
#[case::failed_with_a_sidecar_that_the_kubelet_ends(pod(json!({
    "phase": "Running",
    "initContainerStatuses": [container("proxy", running())],
    "containerStatuses": [main(exited(1, "Error", ""))],
})))]
fn a_running_pod(#[case] pod: Pod) {
    assert_eq!(
        observe(&pod, None),
        PodState::Running {
            since: time(STARTED)
        }
    );
}

#[test]
fn a_pod_deleted_before_it_had_a_node_has_ended() {
    let pod = deleted(unscheduled(json!([])), 10);
    let (_, code, ..) = failure_of(&pod);
    assert_eq!(code, "POD_DELETED");
    assert!(!ended_of(&pod).lingers);
    assert!(matches!(
        observe(&pod, Some(&stopping(2))),
        PodState::Ended(Ended {
            outcome: Outcome::Stopped,
            ..
        })
    ));
}

#[test]
fn a_pod_deleted_while_it_starts_is_waited_for() {
    let pod = deleted(pending(waiting("ContainerCreating", "")), 10);
    assert!(matches!(observe(&pod, None), PodState::Waiting { .. }));
}

#[test]
fn a_failed_container_of_a_disrupted_pod_needs_no_phase() {
    let pod = deleted(
        disrupted(
            pod_with("Running", exited(143, "Error", "")),
            "DeletionByTaintManager",
            18,
        ),
        18,
    );
    let (_, code, ..) = failure_of(&pod);
    assert_eq!(code, "EVICTED");
}

#[test]
fn a_disruption_that_was_called_off_is_none() {
    let mut pod = disrupted(
        pod_with("Failed", exited(1, "Error", "")),
        "PreemptionByScheduler",
        10,
    );
    for condition in pod
        .status
        .iter_mut()
        .flat_map(|status| status.conditions.iter_mut().flatten())
    {
        condition.status = "False".to_owned();
    }
    assert_eq!(failure_of(&pod).1, "TASK_FAILED");
}

#[test]
fn a_running_container_without_a_start_began_with_its_pod() {
    let pod = pod_with("Running", json!({"running": {}}));
    assert_eq!(
        observe(&pod, None),
        PodState::Running {
            since: time(SCHEDULED)
        }
    );
}

#[test]
fn a_container_that_could_not_be_started_never_counts_as_running() {
    let end = json!({"exitCode": 128, "reason": "StartError", "message": "no such file",
        "startedAt": "1970-01-01T00:00:00Z", "finishedAt": FINISHED});
    let pod = pod_with("Running", json!({ "terminated": end }));
    let ended = ended_of(&pod);
    assert_eq!((ended.started_at, ended.exit_code), (None, Some(128)));
    let Outcome::Failed { error, .. } = ended.outcome else {
        panic!("{:?}", ended.outcome)
    };
    assert_eq!(error.code, "START_ERROR");
}

#[test]
fn every_bound_has_its_code() {
    assert_eq!(WaitKind::Scheduling.overdue(), None);
    assert_eq!(WaitKind::Image.overdue(), Some(ErrorCode::ImagePull));
    assert_eq!(WaitKind::Starting.overdue(), Some(ErrorCode::StartError));
}
