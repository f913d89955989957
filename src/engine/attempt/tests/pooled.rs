//! A task that a pool's worker runs: from its command to its end.

use std::sync::Arc;

use super::*;
use crate::{
    api::{ErrorInfo, FailureClass},
    protocol::pool::{LEASE, MAX_OUTPUT_BYTES, TaskNews, TaskReport},
};

fn pooled(spec: Value) -> TaskExecution {
    let mut whole = json!({"container": null, "pool": {"name": "text", "handler": "upper"}, "inputs": {"n": 1}});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    execution(whole)
}

fn planned(te: &TaskExecution, view: &PoolView, now: Time) -> Plan {
    plan_pool(te, PoolState::Served, view, now)
}

fn step(te: &mut TaskExecution, view: &PoolView, now: Time) -> TaskExecutionStatus {
    let plan = planned(te, view, now);
    recorded(te, &plan)
}

fn taken(by: &str, second: u64) -> Taken {
    Taken {
        worker: Arc::from(by),
        at: at(second),
    }
}

fn sent(taken: Option<Taken>, asked: Option<Asked>) -> PoolView {
    PoolView::Sent {
        since: at(0),
        delivered: taken.is_some(),
        taken,
        asked,
    }
}

fn asked(second: u64) -> Option<Asked> {
    Some(Asked {
        first: at(second),
        last: at(second),
    })
}

fn reported(attempt: u32, news: TaskNews) -> PoolView {
    PoolView::Ended(Arc::new(TaskReport {
        task_exec_id: "tu".to_owned(),
        attempt,
        worker: "w1".to_owned(),
        at: at(2),
        started_at: Some(at(1)),
        news,
    }))
}

fn succeeded(outputs: Value) -> PoolView {
    reported(1, TaskNews::Succeeded { outputs })
}

fn failed(code: &str) -> PoolView {
    let error = ErrorInfo {
        message: "no".to_owned(),
        code: code.to_owned(),
        details: None,
    };
    reported(1, TaskNews::Failed { error })
}

fn error_code(status: &TaskExecutionStatus) -> &str {
    status.error.as_ref().map_or("", |error| &error.code)
}

fn cancelled(spec: Value) -> TaskExecution {
    let mut te = pooled(spec);
    te.spec.stop = Some(Stop {
        code: "CANCELLED".to_owned(),
        reason: "enough".to_owned(),
    });
    te
}

#[test]
fn a_command_holds_all_that_a_worker_needs() {
    let te = pooled(json!({"timeout": "90s"}));
    let command = serde_json::to_value(command(&te, 2)).unwrap();
    let expected = json!({
        "task_exec_id": "tu", "attempt": 2, "inputs": {"n": 1}, "handler": "upper", "timeout_ms": 90_000,
        "task_id": "t", "workflow_id": "w", "workflow_exec_id": "wu", "namespace": "n", "pool": "text",
    });
    assert_eq!(command, expected);
}

#[test]
fn what_was_not_sent_is_sent_and_nothing_is_written_before() {
    let te = pooled(json!({}));
    let plan = planned(&te, &PoolView::Unsent, at(0));
    assert_eq!(plan, Plan::step(Step::Dispatch(1)));
}

#[test]
fn who_does_not_know_whether_it_was_sent_looks_first() {
    let te = pooled(json!({}));
    let plan = planned(&te, &PoolView::Unknown, at(0));
    assert_eq!(plan, Plan::step(Step::FindCommand(1)));
    let plan = planned(&cancelled(json!({})), &PoolView::Unknown, at(0));
    assert_eq!(plan, Plan::step(Step::FindCommand(1)), "to end it too");
}

#[test]
fn a_quick_task_costs_one_status_write() {
    let mut te = pooled(json!({}));
    let view = sent(Some(taken("w1", 1)), None);
    assert_eq!(planned(&te, &view, at(1)), Plan::wake(Some(at(2))));
    let status = step(&mut te, &succeeded(json!({"said": 3.0})), at(2));
    assert_eq!(status.phase, TaskPhase::Succeeded);
    assert_eq!(events(&status), [TaskEvent::Started, TaskEvent::Completed]);
    assert_eq!(status.outputs, Some(json!({"said": 3})));
    assert_eq!(status.executor.as_deref(), Some("pool/text/w1"));
    assert_eq!(status.started_at, Some(at(1)));
    let again = planned(&te, &succeeded(json!({})), at(3));
    assert_eq!(again, Plan::default(), "the end is final");
}

#[test]
fn a_longer_one_is_shown_once_to_run() {
    let mut te = pooled(json!({}));
    let view = sent(Some(taken("w1", 1)), None);
    let status = step(&mut te, &view, at(2));
    assert_eq!(status.phase, TaskPhase::Running);
    assert_eq!(events(&status), [TaskEvent::Started]);
    assert_eq!(planned(&te, &view, at(9)), Plan::default());
    let status = step(&mut te, &succeeded(json!({})), at(10));
    assert_eq!(events(&status), [TaskEvent::Started, TaskEvent::Completed]);
}

#[test]
fn a_task_waits_visibly_for_its_pool_and_for_a_worker() {
    let mut te = pooled(json!({}));
    let missing = plan_pool(&te, PoolState::Missing, &PoolView::Unsent, at(0));
    let status = recorded(&mut te, &missing);
    assert_eq!(status.phase, TaskPhase::Pending);
    assert_eq!(status.reason.as_deref(), Some("PoolMissing"));
    let again = plan_pool(&te, PoolState::Missing, &PoolView::Unsent, at(1));
    assert_eq!(again, Plan::wake(Some(at(2))), "written once");

    let queued = sent(None, None);
    let plan = plan_pool(&te, PoolState::Unserved, &queued, at(0));
    assert_eq!(plan, Plan::wake(Some(at(1))), "a pool may just begin");
    let plan = plan_pool(&te, PoolState::Unserved, &queued, at(1));
    let status = recorded(&mut te, &plan);
    assert_eq!(status.reason.as_deref(), Some("NoWorkers"));
    assert_eq!(planned(&te, &queued, at(5)), Plan::default());
}

#[test]
fn without_nats_a_task_waits_and_says_why() {
    let mut te = pooled(json!({}));
    let status = step(&mut te, &PoolView::NoBus, at(0));
    assert_eq!(status.reason.as_deref(), Some("NatsMissing"));
}

#[test]
fn a_handlers_failure_is_the_tasks_and_is_tried_again_as_the_task_says() {
    let retry = json!({"maxAttempts": 2, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}});
    let mut te = pooled(json!({ "retry": retry }));
    let status = step(&mut te, &failed("NO_MONEY"), at(2));
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(status.failures.application, 1);
    let waits = planned(&te, &PoolView::Unknown, at(2));
    assert_eq!(
        waits,
        Plan::wake(Some(at(3))),
        "nobody sends it before its time"
    );
    let plan = planned(&te, &PoolView::Unknown, at(3));
    assert_eq!(plan, Plan::step(Step::FindCommand(2)));
    let plan = planned(&te, &PoolView::Unsent, at(3));
    assert_eq!(plan, Plan::step(Step::Dispatch(2)));
    let status = step(
        &mut te,
        &reported(
            2,
            TaskNews::Failed {
                error: ErrorInfo::new(ErrorCode::Timeout, "longer than 90s"),
            },
        ),
        at(4),
    );
    assert_eq!(status.phase, TaskPhase::Failed);
    assert_eq!(error_code(&status), "TIMEOUT");
}

#[rstest]
#[case::lost(PoolView::Lost { taken: Some(taken("w1", 1)) })]
#[case::lost_before_it_began(PoolView::Lost { taken: None })]
#[case::handed_back(reported(1, TaskNews::HandedBack))]
#[case::stopped_by_nobody(reported(1, TaskNews::Stopped))]
fn what_befalls_a_worker_is_no_fault_of_the_task(#[case] view: PoolView) {
    let mut te = pooled(json!({}));
    let status = step(&mut te, &view, at(2));
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(
        (status.failures.application, status.failures.infrastructure),
        (0, 1)
    );
    assert_eq!(status.attempts[0].class, Some(FailureClass::Infrastructure));
    assert_eq!(status.attempts[0].reason, "WORKER_LOST");
}

#[test]
fn what_a_worker_gives_is_one_object_of_a_bounded_size() {
    let mut te = pooled(json!({}));
    assert_eq!(
        error_code(&step(&mut te, &succeeded(json!([1])), at(2))),
        "INVALID_OUTPUTS"
    );
    let mut te = pooled(json!({}));
    let large = json!({"text": "x".repeat(MAX_OUTPUT_BYTES)});
    assert_eq!(
        error_code(&step(&mut te, &succeeded(large), at(2))),
        "OUTPUTS_TOO_LARGE"
    );
}

#[test]
fn a_task_that_is_not_wanted_any_more_is_taken_back_or_its_worker_is_asked_to_end_it() {
    let mut te = cancelled(json!({}));
    let queued = sent(None, None);
    assert_eq!(planned(&te, &queued, at(0)), Plan::step(Step::Withdraw(1)));
    let ended = step(&mut te.clone(), &PoolView::Unsent, at(0));
    assert_eq!(ended.phase, TaskPhase::Cancelled, "nobody had it");

    let running = sent(Some(taken("w1", 1)), asked(2));
    assert_eq!(planned(&te, &running, at(2)), Plan::wake(Some(at(3))));
    let plan = planned(&te, &running, at(3));
    assert_eq!(
        plan,
        Plan::step(Step::Cancel(1)),
        "it may not have heard it"
    );
    let status = step(&mut te, &reported(1, TaskNews::Stopped), at(4));
    assert_eq!(status.phase, TaskPhase::Cancelled);
    assert_eq!(status.attempts[0].executor, "pool/text/w1");
}

#[test]
fn who_says_nothing_for_two_leases_when_asked_to_end_it_is_not_waited_for() {
    let mut te = cancelled(json!({}));
    let over = at(2).after(LEASE * 2);
    let status = step(&mut te, &sent(None, asked(2)), over);
    assert_eq!(status.phase, TaskPhase::Cancelled);
}

#[test]
fn what_left_the_queue_of_a_suspended_run_and_is_with_nobody_counts_as_lost() {
    let mut te = pooled(json!({"infrastructureRetries": 1}));
    let unsure = sent(None, asked(2));
    assert_eq!(planned(&te, &unsure, at(3)), Plan::step(Step::Cancel(1)));
    let status = step(&mut te, &unsure, at(2).after(LEASE * 2));
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(status.failures.infrastructure, 1);
}

#[test]
fn an_end_that_came_in_time_counts_though_it_was_not_waited_for() {
    let mut te = cancelled(json!({}));
    let status = step(&mut te, &succeeded(json!({})), at(2));
    assert_eq!(status.phase, TaskPhase::Succeeded);
}

#[test]
fn a_suspended_run_takes_back_what_no_worker_has_and_lets_the_rest_go_on() {
    let mut te = pooled(json!({"suspend": true}));
    step(&mut te, &sent(None, None), at(1));
    let queued = sent(None, None);
    assert_eq!(planned(&te, &queued, at(1)), Plan::step(Step::Withdraw(1)));
    let running = sent(Some(taken("w1", 0)), None);
    assert_eq!(
        step(&mut te.clone(), &running, at(1)).phase,
        TaskPhase::Running
    );
    let status = step(&mut te, &PoolView::Unsent, at(1));
    assert_eq!(status.reason.as_deref(), Some("Suspended"));
    let before = command_id(&te, 1);
    te.spec.suspend = false;
    step(&mut te, &PoolView::Unsent, at(6));
    let plan = planned(&te, &PoolView::Unsent, at(6));
    assert_eq!(plan, Plan::step(Step::Dispatch(1)));
    assert_ne!(
        command_id(&te, 1),
        before,
        "the queue would take it for the one before"
    );
}
