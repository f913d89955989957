//! What a user may rely on of one task execution.

mod answers;
mod calling;
mod calls_at_random;
mod finding;
mod pods;
mod pooled;
mod suspending;
mod waiting;

use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    container::{NAMESAKE_AGAIN, UNREACHABLE_GRACE},
    *,
};
use crate::{
    api::{FINALIZER_OUTCOME, LABEL_ATTEMPT, TaskEvent, TaskPhase},
    engine::names::pod_name,
};

const CREATED: &str = "2026-01-01T00:00:00Z";

fn at(seconds: u64) -> Time {
    Time(CREATED.parse().unwrap()).after(std::time::Duration::from_secs(seconds))
}

fn execution(spec: Value) -> TaskExecution {
    let mut whole = json!({
        "workflow": {"name": "w", "uid": "wu", "id": "w"},
        "task": "t",
        "container": {"image": "x"},
        "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
        "infrastructureRetries": 1,
        "imagePullTimeout": "10m",
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
        "metadata": {"name": "w-t-abc", "namespace": "n", "uid": "tu", "generation": 1,
                     "creationTimestamp": CREATED, "finalizers": ["compozy.dev/event-mirror"]},
        "spec": whole,
    }))
    .unwrap()
}

fn pod(attempt: u32, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": pod_name("w-t-abc", attempt), "namespace": "n", "uid": format!("p{attempt}"),
                     "creationTimestamp": CREATED, "finalizers": [FINALIZER_OUTCOME],
                     "labels": {LABEL_ATTEMPT: attempt.to_string()},
                     "ownerReferences": [{"apiVersion": "v", "kind": "TaskExecution", "name": "w-t-abc", "uid": "tu"}]},
        "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "x"}]},
        "status": status,
    }))
    .unwrap()
}

fn running(attempt: u32) -> Pod {
    pod(
        attempt,
        json!({"phase": "Running", "containerStatuses": [
        {"name": "main", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
         "state": {"running": {"startedAt": CREATED}}}]}),
    )
}

fn ended(attempt: u32, exit_code: i32, message: &str) -> Pod {
    let phase = if exit_code == 0 {
        "Succeeded"
    } else {
        "Failed"
    };
    pod(
        attempt,
        json!({"phase": phase, "containerStatuses": [
        {"name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
         "state": {"terminated": {"exitCode": exit_code, "message": message, "startedAt": CREATED, "finishedAt": CREATED}}}]}),
    )
}

fn pulling_fails(attempt: u32, reason: &str) -> Pod {
    pod(
        attempt,
        json!({"phase": "Pending", "containerStatuses": [
        {"name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
         "state": {"waiting": {"reason": reason, "message": "no such image"}}}]}),
    )
}

/// The status that the plan records; the execution has it from now on.
fn recorded(te: &mut TaskExecution, plan: &Plan) -> TaskExecutionStatus {
    let Some(Step::Record(status)) = plan.steps.first() else {
        panic!("nothing recorded, but {plan:?}");
    };
    te.status = Some((**status).clone());
    (**status).clone()
}

/// Plans and records in one go.
fn step(
    te: &mut TaskExecution,
    pod: PodView,
    previous: Option<&Pod>,
    now: Time,
) -> TaskExecutionStatus {
    let planned = plan(te, pod, previous, now);
    recorded(te, &planned)
}

fn events(status: &TaskExecutionStatus) -> Vec<TaskEvent> {
    status.transitions.iter().map(|seen| seen.event).collect()
}

#[test]
fn a_new_execution_gets_its_pod_without_a_status_write() {
    let plan = plan(&execution(json!({})), PodView::Unseen, None, at(0));
    assert_eq!(plan.steps, [Step::CreatePod(1)]);
}

#[test]
fn a_short_task_is_started_and_completed_in_one_write() {
    let mut te = execution(json!({}));
    let done = ended(1, 0, r#"{"n": 3}"#);
    let planned = plan(&te, PodView::Present(&done), None, at(1));
    assert_eq!(planned.steps[1..], [Step::ReleasePod(1)]);
    let status = recorded(&mut te, &planned);
    assert_eq!(events(&status), [TaskEvent::Started, TaskEvent::Completed]);
    assert_eq!(status.phase, TaskPhase::Succeeded);
    assert_eq!(status.outputs, Some(json!({"n": 3})));
    assert_eq!(status.transitions[0].seq, 2, "1 is the creation");
}

#[test]
fn a_task_that_surely_ran_for_a_second_is_shown_running() {
    let mut te = execution(json!({}));
    let pod = running(1);
    let early = plan(&te, PodView::Present(&pod), None, at(0));
    assert_eq!(
        early,
        Plan {
            steps: vec![],
            wake: Some(at(2))
        }
    );
    let status = step(&mut te, PodView::Present(&pod), None, at(2));
    assert_eq!((status.phase, status.attempt), (TaskPhase::Running, 1));
    assert_eq!(plan(&te, PodView::Present(&pod), None, at(9)).steps, []);
}

#[test]
fn a_failed_attempt_is_retried_after_its_back_off_and_no_sooner() {
    let mut te = execution(
        json!({"retry": {"maxAttempts": 3, "backoff": {"initial": "10s", "factor": 2.0, "max": "1m", "jitter": 0.0}}}),
    );
    let failed = ended(1, 1, "boom");
    let status = step(&mut te, PodView::Present(&failed), None, at(0));
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(
        events(&status),
        [
            TaskEvent::Started,
            TaskEvent::Failed,
            TaskEvent::RetryScheduled
        ]
    );

    // The pod of the ended attempt is let go before anything else.
    assert_eq!(
        plan(&te, PodView::Unseen, Some(&failed), at(1)).steps,
        [Step::ReleasePod(1)]
    );
    let released = Pod {
        metadata: kube::api::ObjectMeta {
            finalizers: None,
            ..failed.metadata.clone()
        },
        ..failed
    };
    let waiting = plan(&te, PodView::Unseen, Some(&released), at(9));
    assert_eq!(
        waiting,
        Plan {
            steps: vec![],
            wake: Some(at(10))
        }
    );
    assert_eq!(
        plan(&te, PodView::Unseen, Some(&released), at(10)).steps,
        [Step::CreatePod(2)]
    );
}

#[test]
fn three_attempts_are_three_attempts() {
    let mut te = execution(
        json!({"retry": {"maxAttempts": 3, "backoff": {"initial": "0s", "factor": 1.0, "max": "0s", "jitter": 0.0}}}),
    );
    for attempt in 1..=3 {
        assert_eq!(current_attempt(&te), attempt);
        let failed = ended(attempt, 1, "boom");
        step(&mut te, PodView::Present(&failed), None, at(0));
    }
    let status = te.status.as_ref().unwrap();
    assert_eq!(status.phase, TaskPhase::Failed);
    let error = status.error.as_ref().unwrap();
    assert_eq!(error.code, "TASK_FAILED");
    assert!(
        error.message.contains("boom") && error.message.contains('1'),
        "{}",
        error.message
    );
    assert_eq!(
        status
            .transitions
            .iter()
            .map(|seen| seen.seq)
            .collect::<Vec<_>>(),
        (2..=9).collect::<Vec<_>>()
    );
}

#[test]
fn what_infrastructure_cost_does_not_count_against_the_task() {
    let mut te = execution(json!({}));
    let evicted = pod(
        1,
        json!({"phase": "Failed", "reason": "Evicted", "message": "node under pressure"}),
    );
    let status = step(&mut te, PodView::Present(&evicted), None, at(0));
    assert_eq!(
        status.phase,
        TaskPhase::Retrying,
        "maxAttempts is 1, infrastructureRetries is 1"
    );
    assert_eq!(
        (status.failures.application, status.failures.infrastructure),
        (0, 1)
    );
    let evicted = pod(
        2,
        json!({"phase": "Failed", "reason": "Evicted", "message": "again"}),
    );
    let status = step(&mut te, PodView::Present(&evicted), None, at(60));
    assert_eq!(
        status.phase,
        TaskPhase::Failed,
        "that budget has an end too"
    );
}

#[test]
fn an_overdue_attempt_is_recorded_as_stopping_before_its_pod_is_deleted() {
    let mut te = execution(json!({"timeout": "5s"}));
    let pod = running(1);
    step(&mut te, PodView::Present(&pod), None, at(2));
    let stopping = plan(&te, PodView::Present(&pod), None, at(6));
    assert_eq!(stopping.steps.len(), 1);
    let status = recorded(&mut te, &stopping);
    assert_eq!(status.stopping.as_ref().unwrap().code, "TIMEOUT");
    assert_eq!(
        plan(&te, PodView::Present(&pod), None, at(6)).steps,
        [Step::DeletePod(1)]
    );
    let killed = ended(1, 137, "");
    let status = step(&mut te, PodView::Present(&killed), None, at(7));
    assert_eq!(status.phase, TaskPhase::Failed);
    assert_eq!(status.error.as_ref().unwrap().code, "TIMEOUT");
    assert_eq!(status.failures.application, 1);
}

#[test]
fn an_attempt_that_ended_unseen_is_not_taken_for_overdue() {
    let mut te = execution(json!({"timeout": "5s"}));
    let known = running(1);
    step(&mut te, PodView::Cached(&known), None, at(2));
    assert_eq!(
        plan(&te, PodView::Cached(&known), None, at(6)).steps,
        [Step::ConfirmPod(1)]
    );
    let status = step(&mut te, PodView::Present(&ended(1, 0, "")), None, at(6));
    assert_eq!(status.phase, TaskPhase::Succeeded);
}

#[test]
fn a_node_that_never_ends_an_overdue_pod_is_waited_for_without_looking() {
    let mut te = execution(json!({"timeout": "5s"}));
    let mut pod = running(1);
    step(&mut te, PodView::Present(&pod), None, at(6));
    pod.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:06Z")).unwrap();
    let later = at(6)
        .after(UNREACHABLE_GRACE)
        .after(std::time::Duration::from_secs(9));
    for now in [at(7), later] {
        let waiting = plan(&te, PodView::Present(&pod), None, now);
        assert_eq!(
            waiting,
            Plan::default(),
            "a wake in the past comes again at once, for ever"
        );
    }
    // Who is asked to end the execution does not wait for ever.
    te.spec.stop =
        Some(serde_json::from_value(json!({"code": "CANCELLED", "reason": "x"})).unwrap());
    let asked = plan(&te, PodView::Present(&pod), None, at(7));
    assert_eq!(asked.wake, Some(at(6).after(UNREACHABLE_GRACE)));
    let status = step(&mut te, PodView::Present(&pod), None, later);
    assert!(status.phase.is_final());
}

#[test]
fn a_deadline_ends_the_execution_whatever_budget_is_left() {
    let mut te = execution(
        json!({"deadline": "5s", "retry": {"maxAttempts": 9, "backoff": {"initial": "1m", "factor": 1.0, "max": "1m", "jitter": 0.0}}}),
    );
    let failed = ended(1, 1, "boom");
    let retry = plan(&te, PodView::Present(&failed), None, at(1));
    recorded(&mut te, &retry);
    assert_eq!(plan(&te, PodView::Unseen, None, at(2)).wake, Some(at(5)));
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(5)).steps,
        [Step::ConfirmPod(2)]
    );
    let status = step(&mut te, PodView::Gone, None, at(5));
    assert_eq!(status.error.as_ref().unwrap().code, "DEADLINE_EXCEEDED");
}

#[test]
fn a_cancelled_execution_stops_its_pod_and_waits_for_its_end() {
    let mut te = execution(json!({"stop": {"code": "CANCELLED", "reason": "enough"}}));
    let pod = running(1);
    step(&mut te, PodView::Present(&pod), None, at(2));
    assert_eq!(
        plan(&te, PodView::Present(&pod), None, at(2)).steps,
        [Step::DeletePod(1)]
    );
    let status = step(&mut te, PodView::Present(&ended(1, 143, "")), None, at(3));
    assert_eq!(status.phase, TaskPhase::Cancelled);
    assert_eq!(
        status.transitions.last().unwrap().event,
        TaskEvent::Cancelled
    );
    assert_eq!(
        status.transitions.last().unwrap().data,
        Some(json!({"reason": "enough"}))
    );
}

#[rstest]
#[case(json!({"phase": "Succeeded"}))]
#[case(json!({"phase": "Failed"}))]
#[case(json!({"phase": "Cancelled"}))]
fn a_final_phase_is_never_left(#[case] status: Value) {
    let mut te = execution(json!({"stop": {"code": "CANCELLED", "reason": "late"}}));
    te.status = Some(serde_json::from_value(status).unwrap());
    te.status.as_mut().unwrap().attempt = 1;
    for view in [
        PodView::Unseen,
        PodView::Gone,
        PodView::Present(&running(1)),
        PodView::Present(&ended(1, 1, "")),
    ] {
        let plan = plan(&te, view, None, at(1000));
        assert!(
            !plan
                .steps
                .iter()
                .any(|step| matches!(step, Step::Record(_) | Step::CreatePod(_))),
            "{plan:?}"
        );
    }
}

/// A failed attempt's pod in which something lives on that somebody injected.
fn lingering() -> Pod {
    let mut failed = ended(1, 1, "boom");
    let status = failed.status.as_mut().unwrap();
    status.phase = Some("Running".to_owned());
    status.container_statuses.as_mut().unwrap().push(
        serde_json::from_value(
            json!({"name": "injected", "image": "x", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {"startedAt": CREATED}}}),
        )
        .unwrap(),
    );
    failed
}

#[test]
fn no_attempt_starts_while_something_of_the_one_before_runs() {
    let mut te = execution(
        json!({"retry": {"maxAttempts": 2, "backoff": {"initial": "0s", "factor": 1.0, "max": "0s", "jitter": 0.0}}}),
    );
    let mut failed = lingering();
    let planned = plan(&te, PodView::Present(&failed), None, at(1));
    assert_eq!(
        planned.steps[1..],
        [Step::DeletePod(1), Step::ReleasePod(1)]
    );
    recorded(&mut te, &planned);
    failed.metadata.finalizers = None;
    assert_eq!(plan(&te, PodView::Unseen, Some(&failed), at(2)).steps, []);
    assert_eq!(
        plan(&te, PodView::Unseen, None, at(3)).steps,
        [Step::CreatePod(2)]
    );
}

#[test]
fn what_lives_on_of_the_attempt_before_is_deleted_though_the_operator_ended_before_it_did() {
    let mut te = execution(
        json!({"retry": {"maxAttempts": 2, "backoff": {"initial": "0s", "factor": 1.0, "max": "0s", "jitter": 0.0}}}),
    );
    let failed = lingering();
    step(&mut te, PodView::Present(&failed), None, at(1));
    assert_eq!(
        plan(&te, PodView::Unseen, Some(&failed), at(2)).steps,
        [Step::DeletePod(1), Step::ReleasePod(1)]
    );
}

#[test]
fn the_times_of_one_history_never_run_backwards() {
    let mut te = execution(
        json!({"retry": {"maxAttempts": 2, "backoff": {"initial": "0s", "factor": 1.0, "max": "0s", "jitter": 0.0}}}),
    );
    step(&mut te, PodView::Present(&ended(1, 1, "boom")), None, at(7));
    let status = step(&mut te, PodView::Present(&ended(2, 0, "")), None, at(8));
    assert!(
        status.transitions.is_sorted_by_key(|seen| seen.at),
        "{:?}",
        status.transitions
    );
}

#[test]
fn a_history_does_not_go_back_with_the_clock_of_a_new_leader() {
    let mut te = execution(json!({"retry": {"maxAttempts": 2, "backoff":
        {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}}}));
    let failed = ended(1, 1, "");
    step(&mut te, PodView::Present(&failed), None, at(100));
    let done = ended(2, 0, "{}");
    let status = step(&mut te, PodView::Present(&done), None, at(40));
    let times: Vec<_> = status.transitions.iter().map(|seen| seen.at).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(status.finished_at, Some(at(100)));
    assert!(status.started_at <= status.finished_at);
}
