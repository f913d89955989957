//! Attempts that do not get going: what they wait for, who is told, and when it ends.

use super::*;

#[test]
fn a_pod_that_is_only_missing_from_the_cache_is_asked_for() {
    let mut te = execution(json!({}));
    step(&mut te, PodView::Present(&running(1)), None, at(2));
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(3)).steps,
        [Step::ConfirmPod(1)]
    );
    let status = step(&mut te, PodView::Gone, None, at(3));
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(status.failures.infrastructure, 1);
}

#[test]
fn a_node_that_never_answers_cannot_keep_a_cancelled_run_open() {
    let mut te = execution(json!({"stop": {"code": "CANCELLED", "reason": "enough"}}));
    let mut pod = running(1);
    step(&mut te, PodView::Present(&pod), None, at(2));
    pod.metadata.deletion_timestamp = serde_json::from_value(json!(CREATED)).unwrap();
    let waiting = plan(&te, PodView::Present(&pod), None, at(10));
    assert_eq!(
        waiting,
        Plan {
            steps: vec![],
            wake: Some(at(302))
        }
    );
    let status = step(&mut te, PodView::Present(&pod), None, at(302));
    assert_eq!(status.phase, TaskPhase::Cancelled);
}

#[test]
fn an_image_that_does_not_come_is_shown_at_once_and_once() {
    let mut te = execution(json!({}));
    let waiting = pulling_fails(1, "ErrImagePull");
    let status = step(&mut te, PodView::Present(&waiting), None, at(1));
    assert_eq!(status.phase, TaskPhase::Pending);
    assert_eq!(status.reason.as_deref(), Some("ErrImagePull"));
    let backing_off = pulling_fails(1, "ImagePullBackOff");
    assert_eq!(
        plan(&te, PodView::Present(&backing_off), None, at(5)).steps,
        []
    );
}

#[test]
fn an_image_that_never_comes_ends_the_execution_without_retry() {
    let mut te = execution(
        json!({"retry": {"maxAttempts": 5, "backoff": {"initial": "0s", "factor": 1.0, "max": "0s", "jitter": 0.0}}}),
    );
    let waiting = pulling_fails(1, "ImagePullBackOff");
    step(&mut te, PodView::Present(&waiting), None, at(1));
    let status = step(&mut te, PodView::Present(&waiting), None, at(600));
    assert_eq!(status.stopping.as_ref().unwrap().code, "IMAGE_PULL");
    let status = step(&mut te, PodView::Gone, None, at(601));
    assert_eq!(
        (status.phase, status.error.unwrap().code.as_str()),
        (TaskPhase::Failed, "IMAGE_PULL")
    );
}

#[test]
fn somebody_elses_pod_under_our_name_is_waited_for_not_taken() {
    let mut te = execution(json!({}));
    let mut foreign = ended(1, 0, "{}");
    foreign.metadata.owner_references = None;
    let planned = plan(&te, PodView::Present(&foreign), None, at(1));
    assert_eq!(planned.wake, Some(at(1).after(NAMESAKE_AGAIN)));
    let status = recorded(&mut te, &planned);
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (TaskPhase::Pending, Some("NameTaken"))
    );
    let later = plan(&te, PodView::Present(&foreign), None, at(20));
    assert_eq!(later, Plan::wake(Some(at(20).after(NAMESAKE_AGAIN))));
}

#[test]
fn an_expression_error_fails_the_execution_without_a_pod() {
    let mut te = execution(
        json!({"container": null, "stop": {"code": "EXPRESSION_ERROR", "reason": "no such key"}}),
    );
    let status = step(&mut te, PodView::Unseen, None, at(0));
    assert_eq!(
        (status.phase, status.error.unwrap().code.as_str()),
        (TaskPhase::Failed, "EXPRESSION_ERROR")
    );
}

#[test]
fn a_namesake_that_goes_away_costs_no_attempt() {
    let mut te = execution(json!({}));
    let mut foreign = running(1);
    foreign.metadata.owner_references = None;
    step(&mut te, PodView::Present(&foreign), None, at(1));
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(2)).steps,
        [Step::CreatePod(1)]
    );
}

#[rstest]
#[case(
    "pods \"p\" is forbidden: exceeded quota: q",
    TaskPhase::Pending,
    "QuotaExceeded"
)]
#[case(
    "User \"s\" cannot create resource \"pods\"",
    TaskPhase::Pending,
    "Forbidden"
)]
#[case(
    "namespace n because it is being terminated",
    TaskPhase::Cancelled,
    "DELETED"
)]
#[case(
    "violates PodSecurity \"restricted:latest\"",
    TaskPhase::Failed,
    "POD_REFUSED"
)]
fn a_refused_pod_waits_where_somebody_can_help_and_else_ends(
    #[case] message: &str,
    #[case] phase: TaskPhase,
    #[case] reason: &str,
) {
    let mut te = execution(json!({}));
    let planned = plan_refused(&te, message, at(1));
    let status = recorded(&mut te, &planned);
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (phase, Some(reason))
    );
    assert_eq!(plan_refused(&te, message, at(2)).steps, [], "once");
    if phase == TaskPhase::Pending {
        assert_eq!(
            plan(&te, PodView::Unseen, None, at(2)).steps,
            [Step::CreatePod(1)]
        );
    }
}

#[test]
fn a_pod_that_is_only_slow_to_start_costs_no_write() {
    let te = execution(json!({}));
    let starting = pulling_fails(1, "ContainerCreating");
    assert_eq!(
        plan(&te, PodView::Present(&starting), None, at(20)).steps,
        []
    );
    let Step::Record(status) = &plan(&te, PodView::Present(&starting), None, at(30)).steps[0]
    else {
        panic!()
    };
    assert_eq!(status.reason.as_deref(), Some("ContainerCreating"));
    let unconfigured = pulling_fails(1, "CreateContainerConfigError");
    assert_eq!(
        plan(&te, PodView::Present(&unconfigured), None, at(5))
            .steps
            .len(),
        1
    );
}
