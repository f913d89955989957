//! How attempts end otherwise: well, stopped, and with what around them.

use rstest::rstest;

use super::*;

#[rstest]
#[case::plainly(pod_with("Succeeded", exited(0, "Completed", "")))]
#[case::a_second_before_the_phase_says_so(pod_with("Running", exited(0, "Completed", "")))]
#[case::and_was_evicted(with_reason(
    disrupted(
        pod_with("Failed", exited(0, "Completed", "")),
        "TerminationByKubelet",
        50
    ),
    "Evicted",
    ""
))]
#[case::and_was_drained(deleted(
    disrupted(
        pod_with("Failed", exited(0, "Completed", "")),
        "EvictionByEvictionAPI",
        10
    ),
    10
))]
#[case::and_was_deleted(deleted(pod_with("Succeeded", exited(0, "Completed", "")), 10))]
#[case::beside_a_child_out_of_memory(pod_with("Succeeded", exited(0, "OOMKilled", "")))]
#[case::in_a_pod_of_which_nothing_is_left(pod(json!({"phase": "Succeeded"})))]
fn exit_code_0_wins(#[case] pod: Pod) {
    let ended = ended_of(&pod);
    assert_eq!(ended.outcome, Outcome::Succeeded { outputs: json!({}) });
    assert!(!ended.lingers);
}

#[rstest]
#[case::killed(deleted(exit_137(), 18))]
#[case::at_the_last_moment(deleted(pod_with("Succeeded", exited(0, "Completed", "{}")), 18))]
#[case::while_drained(deleted(disrupted(exit_137(), "EvictionByEvictionAPI", 18), 18))]
#[case::before_it_ran(deleted(never_ran("Failed"), 18))]
#[case::before_the_phase_says_so(pod_with("Running", exited(143, "Error", "")))]
fn what_we_stop_is_stopped_whatever_else_happens(#[case] pod: Pod) {
    let PodState::Ended(ended) = observe(&pod, Some(&stopping(2))) else {
        panic!("not ended")
    };
    assert_eq!(ended.outcome, Outcome::Stopped);
}

#[test]
fn the_stopping_of_another_attempt_means_nothing() {
    let state = observe(&deleted(exit_137(), 18), Some(&stopping(1)));
    let PodState::Ended(Ended {
        outcome: Outcome::Failed { error, .. },
        ..
    }) = state
    else {
        panic!("{state:?}")
    };
    assert_eq!(error.code, "POD_DELETED");
}

#[test]
fn a_pod_that_lost_its_label_is_the_one_the_caller_means() {
    let mut pod = deleted(exit_137(), 18);
    pod.metadata.labels = None;
    assert!(matches!(
        observe(&pod, Some(&stopping(2))),
        PodState::Ended(Ended {
            outcome: Outcome::Stopped,
            ..
        })
    ));
}

#[test]
fn times_and_exit_code_are_the_containers() {
    let ended = ended_of(&pod_with("Failed", exited(1, "Error", "")));
    assert_eq!(ended.started_at, Some(time(STARTED)));
    assert_eq!(ended.finished_at, Some(time(FINISHED)));
    assert_eq!(ended.exit_code, Some(1));
}

#[test]
fn a_container_that_never_started_has_no_start() {
    let ended = ended_of(&pod_with(
        "Failed",
        json!({"terminated": {"exitCode": 128, "reason": "StartError",
            "startedAt": "1970-01-01T00:00:00Z", "finishedAt": FINISHED}}),
    ));
    assert_eq!(
        (ended.started_at, ended.finished_at),
        (None, Some(time(FINISHED)))
    );
}

#[test]
fn an_exit_code_that_the_kubelet_made_up_is_none() {
    let lost = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
    let ended = ended_of(&deleted(pod_with("Failed", lost), 18));
    assert_eq!(ended.exit_code, None);
    let Outcome::Failed { error, .. } = ended.outcome else {
        panic!("not failed")
    };
    assert_eq!(
        error.details,
        Some(json!({"reason": "Deleted", "class": "Infrastructure"}))
    );
}

#[test]
fn details_say_exit_code_reason_and_class() {
    let pod = pod_with("Failed", exited(2, "Error", ""));
    let Outcome::Failed { error, .. } = ended_of(&pod).outcome else {
        panic!("not failed")
    };
    assert_eq!(
        error.details,
        Some(json!({"exit_code": 2, "reason": "Error", "class": "Application"}))
    );
}

#[test]
fn a_failed_init_container_is_not_the_tasks_fault() {
    let pod = pod(json!({
        "phase": "Failed",
        "initContainerStatuses": [container("proxy-init", exited(1, "Error", "iptables: denied"))],
        "containerStatuses": [main(waiting("PodInitializing", ""))],
    }));
    let (class, code, retryable, message) = failure_of(&pod);
    assert_eq!(
        (class, code.as_str(), retryable),
        (FailureClass::Infrastructure, "START_ERROR", true)
    );
    assert!(
        message.contains("proxy-init") && message.contains("iptables"),
        "{message}"
    );
}

#[test]
fn a_sidecar_of_the_kubelets_kind_is_not_waited_for_after_success() {
    let pod = pod(json!({
        "phase": "Running",
        "initContainerStatuses": [container("proxy", running())],
        "containerStatuses": [main(exited(0, "Completed", ""))],
    }));
    assert!(!ended_of(&pod).lingers, "the kubelet ends it");
}

#[rstest]
#[case::success(0)]
#[case::failure(1)]
fn a_container_of_a_webhook_that_lives_on_is_to_be_deleted(#[case] code: i32) {
    let pod = pod(json!({
        "phase": "Running",
        "containerStatuses": [container("proxy", running()), main(exited(code, "Error", ""))],
    }));
    let ended = ended_of(&pod);
    assert_eq!(ended.exit_code, Some(code));
    assert!(ended.lingers);
}

#[test]
fn a_pod_gone_unread_was_deleted_by_somebody_or_by_us() {
    let Outcome::Failed {
        class,
        error,
        retryable,
    } = gone(None).outcome
    else {
        panic!("not failed")
    };
    assert_eq!(
        (class, error.code.as_str(), retryable),
        (FailureClass::Infrastructure, "POD_DELETED", true)
    );
    assert_eq!(gone(Some(&stopping(2))).outcome, Outcome::Stopped);
}
