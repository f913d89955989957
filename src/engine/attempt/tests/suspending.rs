//! What an execution does while its run is suspended.

use super::*;

fn suspended(te: &mut TaskExecution, suspend: bool, now: Time) {
    te.spec.suspend = suspend;
    let status = step(te, PodView::Unseen, None, now);
    assert_eq!(status.suspension.is_on(), suspend);
}

#[test]
fn no_attempt_starts() {
    let mut te = execution(json!({}));
    suspended(&mut te, true, at(1));
    let status = step(&mut te, PodView::Unseen, None, at(1));
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (TaskPhase::Pending, Some("Suspended"))
    );
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(99)),
        Plan::default(),
        "and nothing is written at rest"
    );
    suspended(&mut te, false, at(100));
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(100)).steps,
        [Step::CreatePod(1)]
    );
}

#[test]
fn what_runs_goes_on_to_its_end_and_its_timeout_counts_on() {
    let mut te = execution(json!({"timeout": "60s", "deadline": "30s"}));
    let pod = running(1);
    step(&mut te, PodView::Present(&pod), None, at(2));
    te.spec.suspend = true;
    step(&mut te, PodView::Present(&pod), None, at(3));
    let at_rest = plan(&te, PodView::Present(&pod), None, at(40));
    assert_eq!(at_rest, Plan::wake(Some(at(61))), "no deadline meanwhile");
    let status = step(&mut te, PodView::Present(&pod), None, at(61));
    assert_eq!(status.stopping.unwrap().code, "TIMEOUT");
}

#[test]
fn what_ends_well_has_ended() {
    let mut te = execution(json!({}));
    suspended(&mut te, true, at(1));
    let status = step(&mut te, PodView::Present(&ended(1, 0, "")), None, at(2));
    assert_eq!(status.phase, TaskPhase::Succeeded);
}

#[test]
fn the_deadline_stands_still() {
    let mut te = execution(json!({"deadline": "30s"}));
    suspended(&mut te, true, at(10));
    step(&mut te, PodView::Unseen, None, at(10));
    assert_eq!(plan(&te, PodView::Unseen, None, at(1000)), Plan::default());
    suspended(&mut te, false, at(1010));
    let pod = running(1);
    step(&mut te, PodView::Present(&pod), None, at(1011));
    assert_eq!(
        plan(&te, PodView::Present(&pod), None, at(1012)).wake,
        Some(at(1030))
    );
}

fn patient() -> TaskExecution {
    execution(
        json!({"retry": {"maxAttempts": 3, "backoff": {"initial": "10s", "factor": 1.0, "max": "10s", "jitter": 0.0}}}),
    )
}

#[test]
fn what_is_left_of_a_pause_before_a_retry_follows_the_suspension() {
    let mut te = patient();
    step(&mut te, PodView::Present(&ended(1, 1, "boom")), None, at(0));
    suspended(&mut te, true, at(4));
    assert_eq!(te.status.as_ref().unwrap().phase, TaskPhase::Retrying);
    assert_eq!(plan(&te, PodView::Unseen, None, at(500)), Plan::default());
    suspended(&mut te, false, at(1000));
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(1000)),
        Plan::wake(Some(at(1006)))
    );
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(1006)).steps,
        [Step::CreatePod(2)]
    );
}

#[test]
fn an_attempt_that_fails_meanwhile_is_retried_after_its_whole_pause() {
    let mut te = patient();
    suspended(&mut te, true, at(4));
    let status = step(
        &mut te,
        PodView::Present(&ended(1, 1, "boom")),
        None,
        at(50),
    );
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(plan(&te, PodView::Unseen, None, at(500)), Plan::default());
    suspended(&mut te, false, at(1000));
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(1000)),
        Plan::wake(Some(at(1010)))
    );
}

#[test]
fn it_can_be_stopped() {
    let mut te = execution(json!({}));
    suspended(&mut te, true, at(1));
    te.spec.stop = Some(Stop {
        code: "CANCELLED".to_owned(),
        reason: "enough".to_owned(),
    });
    let status = step(&mut te, PodView::Gone, None, at(2));
    assert_eq!(status.phase, TaskPhase::Cancelled);
}

#[test]
fn an_ended_execution_ignores_it() {
    let mut te = execution(json!({}));
    step(&mut te, PodView::Present(&ended(1, 0, "")), None, at(2));
    te.spec.suspend = true;
    assert_eq!(plan(&te, PodView::Unseen, None, at(3)), Plan::default());
}
