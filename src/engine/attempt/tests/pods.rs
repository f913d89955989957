//! Pods that are not the current attempt's, and names that others took.

use super::*;

fn foreign(mut pod: Pod) -> Pod {
    pod.metadata.owner_references = None;
    pod
}

/// An execution that failed so often, by nobody's fault, and may go on.
fn failed_so_far(infrastructure: u32) -> TaskExecution {
    let mut te = execution(json!({"infrastructureRetries": 9}));
    let status = json!({
        "phase": "Retrying", "attempt": infrastructure,
        "failures": {"application": 0, "infrastructure": infrastructure},
    });
    te.status = Some(serde_json::from_value(status).unwrap());
    te
}

#[test]
fn a_pod_of_an_earlier_attempt_that_comes_too_late_is_deleted_at_once() {
    let te = failed_so_far(2);
    let (late, current) = (running(1), running(3));
    let planned = plan(&te, PodView::Present(&current), [&late, &current], at(0));
    assert_eq!(planned.steps, [Step::DeletePod(1), Step::ReleasePod(1)]);

    // Until it is gone no other one starts.
    let mut going = late;
    going.metadata.finalizers = None;
    going.metadata.deletion_timestamp = current.metadata.creation_timestamp.clone();
    assert_eq!(plan(&te, PodView::Unseen, [&going], at(0)).steps, []);
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(0)).steps,
        [Step::CreatePod(3)]
    );
}

#[test]
fn a_pod_of_a_later_attempt_than_the_status_knows_of_is_left_alone() {
    let te = failed_so_far(0);
    let current = running(1);
    let later = running(2);
    let planned = plan(&te, PodView::Present(&current), [&current, &later], at(0));
    assert_eq!(planned.steps, []);
}

#[test]
fn a_pod_that_comes_after_the_end_is_deleted_whichever_attempt_it_is() {
    for (stored, number) in [(0, 1), (1, 2), (3, 1)] {
        let mut te = failed_so_far(stored);
        te.spec.stop =
            Some(serde_json::from_value(json!({"code": "CANCELLED", "reason": "x"})).unwrap());
        let status = step(&mut te, PodView::Gone, None, at(1));
        assert_eq!(status.phase, TaskPhase::Cancelled);
        let late = running(number);
        let planned = plan(&te, PodView::Unseen, [&late], at(2));
        let expected = [Step::DeletePod(number), Step::ReleasePod(number)];
        assert_eq!(planned.steps, expected, "{stored}");
    }
}

#[test]
fn what_lives_on_in_the_last_pod_is_deleted_though_the_operator_ended_before_it_did() {
    let mut te = execution(json!({}));
    let mut pod = ended(1, 0, "{}");
    let status = pod.status.as_mut().unwrap();
    status.phase = Some("Running".to_owned());
    let mut injected = status.container_statuses.as_ref().unwrap()[0].clone();
    injected.name = "injected".to_owned();
    injected.state = None;
    status.container_statuses.as_mut().unwrap().push(injected);
    let planned = plan(&te, PodView::Present(&pod), None, at(1));
    assert_eq!(
        planned.steps[1..],
        [Step::DeletePod(1), Step::ReleasePod(1)]
    );
    recorded(&mut te, &planned);
    let again = plan(&te, PodView::Present(&pod), None, at(2));
    assert_eq!(again.steps, [Step::DeletePod(1), Step::ReleasePod(1)]);
}

#[test]
fn a_name_that_somebody_took_from_an_attempt_that_had_begun_ends_that_attempt() {
    let mut te = execution(json!({}));
    step(&mut te, PodView::Present(&running(1)), None, at(2));
    let status = step(&mut te, PodView::Present(&foreign(running(1))), None, at(5));
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(status.attempts[0].reason, "POD_DELETED");
    let due = status.retry_at.unwrap();
    assert_eq!(
        plan(&te, PodView::Unseen, None, due).steps,
        [Step::CreatePod(2)]
    );
}

#[test]
fn a_pod_that_lost_its_label_is_still_the_attempts() {
    let te = execution(json!({}));
    let mut pod = ended(1, 0, "{}");
    pod.metadata.labels = None;
    let planned = plan(&te, PodView::Present(&pod), None, at(1));
    assert_eq!(planned.steps[1..], [Step::ReleasePod(1)]);
    // That of another attempt is nobody's to take.
    pod.metadata.labels = running(2).metadata.labels;
    let mut te = te;
    let status = step(&mut te, PodView::Present(&pod), None, at(1));
    assert_eq!(status.reason.as_deref(), Some("NameTaken"));
    assert!(status.message.unwrap().contains("w-t-abc-1"));
}
