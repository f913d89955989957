//! A task that calls a tool: from the record of its call to its end.

use super::*;
use crate::{
    api::{CallRecord, ErrorInfo, FailureClass, ToolSpec, TransitionData},
    engine::names::tool_exec_id,
    protocol::tool::{MAX_OUTPUT_BYTES, ToolSubjects},
};

pub(super) const ME: &str = "operator-1";
const OTHER: &str = "operator-0";

pub(super) fn tool() -> ToolSpec {
    serde_json::from_value(json!({"external": true, "timeout": "60s"})).unwrap()
}

pub(super) fn calling(spec: Value) -> TaskExecution {
    let mut whole = json!({"container": null, "tool": {"name": "charge"}, "inputs": {"n": 1}});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    execution(whole)
}

pub(super) fn open(started: Option<Time>) -> CallView {
    CallView::Open {
        started,
        given_up: false,
    }
}

fn given_up() -> CallView {
    CallView::Open {
        started: None,
        given_up: true,
    }
}

pub(super) fn answered(at: Time, answer: Answer) -> CallView {
    CallView::Answered {
        started: None,
        at,
        answer,
    }
}

pub(super) fn declined() -> Answer {
    Answer::ToolError(ErrorInfo {
        message: "no money".to_owned(),
        code: "CARD_DECLINED".to_owned(),
        details: Some(json!({"card": "blue"})),
    })
}

fn planned(te: &TaskExecution, view: &CallView, now: Time) -> Plan {
    plan_call(te, ToolView::Found(&tool()), ME, view, now)
}

/// Plans and records in one go.
pub(super) fn step(te: &mut TaskExecution, view: &CallView, now: Time) -> TaskExecutionStatus {
    let plan = planned(te, view, now);
    recorded(te, &plan)
}

/// An execution whose first call was recorded at `CREATED` by `caller`.
fn called_by(caller: &str, spec: Value) -> TaskExecution {
    let mut te = calling(spec);
    let found = tool();
    let found = ToolView::Found(&found);
    let plan = plan_call(&te, found, caller, &CallView::Unsent, at(0));
    recorded(&mut te, &plan);
    te
}

pub(super) fn called(spec: Value) -> TaskExecution {
    called_by(ME, spec)
}

pub(super) fn data(status: &TaskExecutionStatus, event: TaskEvent) -> TransitionData {
    let mut seen = status.transitions.iter().rev();
    let seen = seen.find(|seen| seen.event == event).expect("it happened");
    TransitionData::read(seen.data.as_ref())
}

#[test]
fn a_call_is_recorded_before_it_is_sent() {
    let mut te = calling(json!({}));
    let status = step(&mut te, &CallView::Unsent, at(0));
    assert_eq!(status.phase, TaskPhase::Running);
    assert_eq!(events(&status), [TaskEvent::Started]);
    assert_eq!(status.executor.as_deref(), Some("tool/charge"));
    let record = CallRecord {
        attempt: 1,
        tool_exec_id: tool_exec_id("tu", 1),
        caller: ME.to_owned(),
        deadline: at(60),
        handled: false,
    };
    assert_eq!(record_of(&te), Some(&record));
    assert_eq!(
        planned(&te, &CallView::Unsent, at(0)),
        Plan::step(Step::Call(1))
    );
}

#[test]
fn a_quick_call_costs_two_status_writes() {
    let mut te = called(json!({}));
    assert_eq!(
        planned(&te, &open(None), at(0)),
        Plan::wake(Some(at(60))),
        "one so far"
    );
    let view = CallView::Answered {
        started: Some(at(1)),
        at: at(2),
        answer: Answer::Success(json!({"paid": 3.0})),
    };
    let status = step(&mut te, &view, at(2));
    assert_eq!(status.phase, TaskPhase::Succeeded);
    assert_eq!(status.outputs, Some(json!({"paid": 3})));
    assert_eq!(
        events(&status),
        [
            TaskEvent::Started,
            TaskEvent::ToolStarted,
            TaskEvent::ToolCompleted,
            TaskEvent::Completed
        ]
    );
    let told = data(&status, TaskEvent::ToolCompleted);
    let call = told.tool.unwrap();
    assert_eq!((call.id.as_str(), call.duration_ms), ("charge", Some(2000)));
    assert_eq!(call.exec_id, tool_exec_id("tu", 1));
    assert_eq!(told.error, None);
    let attempt = &status.attempts[0];
    assert_eq!(attempt.executor, "tool/charge");
    assert_eq!(
        (attempt.started_at, attempt.finished_at),
        (Some(at(0)), at(2))
    );
    assert!(status.call.is_some(), "a person may still read it");
    assert_eq!(planned(&te, &view, at(3)), Plan::default());
}

#[test]
fn that_the_tool_has_begun_is_shown_once_if_it_takes_longer_than_a_second() {
    let mut te = called(json!({}));
    let begun = open(Some(at(1)));
    assert_eq!(planned(&te, &begun, at(1)), Plan::wake(Some(at(2))));
    let status = step(&mut te, &begun, at(2));
    assert_eq!(
        events(&status),
        [TaskEvent::Started, TaskEvent::ToolStarted]
    );
    assert_eq!(planned(&te, &begun, at(3)), Plan::wake(Some(at(60))));
    let status = step(&mut te, &answered(at(4), Answer::Success(json!({}))), at(4));
    let started = events(&status);
    let started = started.iter().filter(|it| **it == TaskEvent::ToolStarted);
    assert_eq!(started.count(), 1);
}

#[test]
fn a_call_of_another_process_is_only_listened_for() {
    let te = called_by(OTHER, json!({}));
    let plan = planned(&te, &CallView::Unsent, at(1));
    assert_eq!(plan, Plan::step(Step::Listen(1)));
}

#[test]
fn without_nats_nothing_is_called_and_what_was_called_ends_by_its_deadline() {
    let mut te = calling(json!({}));
    let status = step(&mut te, &CallView::NoBus, at(1));
    assert_eq!(status.reason.as_deref(), Some("NatsMissing"));
    assert_eq!(planned(&te, &CallView::NoBus, at(2)), Plan::default());
    let mut te = called_by(OTHER, json!({}));
    assert_eq!(
        planned(&te, &CallView::NoBus, at(2)),
        Plan::wake(Some(at(60)))
    );
    let status = step(&mut te, &CallView::NoBus, at(60));
    assert_eq!(status.error.unwrap().code, "TOOL_UNAVAILABLE");
}

#[rstest]
#[case::error_of_the_tool(
    answered(at(2), declined()),
    TaskEvent::ToolCompleted,
    "CARD_DECLINED",
    "TOOL_ERROR",
    "the tool \"charge\" failed with CARD_DECLINED: no money"
)]
#[case::not_an_object(answered(at(2), Answer::Success(json!([1]))), TaskEvent::ToolCompleted, "INVALID_OUTPUTS", "INVALID_OUTPUTS", "is a list, and has to be one JSON object")]
#[case::nothing(
    answered(at(2), Answer::Success(Value::Null)),
    TaskEvent::ToolCompleted,
    "INVALID_OUTPUTS",
    "INVALID_OUTPUTS",
    "is null"
)]
#[case::too_large(answered(at(2), Answer::Success(json!({"x": "x".repeat(MAX_OUTPUT_BYTES)}))), TaskEvent::ToolCompleted, "OUTPUTS_TOO_LARGE", "OUTPUTS_TOO_LARGE", "has 262152 bytes, the limit is 262144")]
#[case::not_served(
    CallView::NoResponders { since: at(1) },
    TaskEvent::ToolFailed,
    "NO_RESPONDERS",
    "TOOL_UNAVAILABLE",
    "nobody serves the tool \"charge\". Start `executor tool serve`"
)]
#[case::unreadable(answered(at(2), Answer::Unreadable("expected value".to_owned())), TaskEvent::ToolFailed, "INVALID_RESULT", "TOOL_UNAVAILABLE", "cannot be read: expected value")]
fn a_call_that_gives_no_outputs_fails_the_attempt(
    #[case] view: CallView,
    #[case] event: TaskEvent,
    #[case] told: &str,
    #[case] code: &str,
    #[case] says: &str,
) {
    let mut te = called(json!({}));
    let status = step(&mut te, &view, at(2));
    assert_fails(&status, event, told, code, says);
}

#[rstest]
#[case::heard_all_the_time(ME, given_up(), "did not answer within 1m.")]
#[case::of_another_process(
    OTHER,
    given_up(),
    "the operator restarted meanwhile, and the call may or may not have run"
)]
#[case::never_sent(
    ME,
    CallView::Unsent,
    "because NATS could not be reached; it has not run"
)]
fn a_call_that_is_not_answered_in_time_has_failed(
    #[case] caller: &str,
    #[case] view: CallView,
    #[case] says: &str,
) {
    let mut te = called_by(caller, json!({}));
    let status = step(&mut te, &view, at(60));
    assert_fails(
        &status,
        TaskEvent::ToolFailed,
        "TIMEOUT",
        "TOOL_UNAVAILABLE",
        says,
    );
}

fn assert_fails(
    status: &TaskExecutionStatus,
    event: TaskEvent,
    told: &str,
    code: &str,
    says: &str,
) {
    let answered = event == TaskEvent::ToolCompleted;
    let begun = answered.then_some(TaskEvent::ToolStarted);
    let expected: Vec<_> = [TaskEvent::Started]
        .into_iter()
        .chain(begun)
        .chain([event, TaskEvent::Failed])
        .collect();
    assert_eq!(events(status), expected);
    let of_tool = data(status, event);
    assert_eq!(of_tool.error.as_ref().unwrap().code, told);
    assert_eq!(of_tool.tool.unwrap().duration_ms.is_some(), answered);
    assert_eq!(
        data(status, TaskEvent::Failed).class,
        Some(FailureClass::Application)
    );
    let error = status.error.as_ref().unwrap();
    assert_eq!(
        (status.phase, error.code.as_str()),
        (TaskPhase::Failed, code)
    );
    assert!(error.message.contains(says), "{}", error.message);
    let details = error.details.as_ref().unwrap();
    assert_eq!(details["tool_id"], "charge");
    assert_eq!(details["tool_exec_id"], tool_exec_id("tu", 1));
    assert_eq!(details["tool_error"]["code"], told);
}

#[test]
fn before_a_deadline_ends_a_call_the_stored_answer_is_asked_for() {
    let te = called(json!({}));
    assert_eq!(
        planned(&te, &open(None), at(60)),
        Plan::step(Step::ConfirmCall(1))
    );
    let te = called_by(OTHER, json!({}));
    assert_eq!(
        planned(&te, &CallView::Unsent, at(60)),
        Plan::step(Step::ConfirmCall(1))
    );
    let mut te = called(json!({"deadline": "5s"}));
    assert_eq!(planned(&te, &open(None), at(1)).wake, Some(at(5)));
    assert_eq!(
        planned(&te, &open(None), at(5)),
        Plan::step(Step::ConfirmCall(1))
    );
    let stored = answered(at(4), Answer::Success(json!({})));
    assert_eq!(
        step(&mut te.clone(), &stored, at(5)).phase,
        TaskPhase::Succeeded
    );
    let status = step(&mut te, &given_up(), at(5));
    assert_eq!(status.error.as_ref().unwrap().code, "DEADLINE_EXCEEDED");
    let told = data(&status, TaskEvent::ToolFailed);
    assert_eq!(told.error.unwrap().code, "DEADLINE_EXCEEDED");
}

#[test]
fn an_attempt_has_the_shorter_of_its_own_timeout_and_the_tools() {
    let deadline = |spec| record_of(&called(spec)).unwrap().deadline;
    assert_eq!(deadline(json!({"timeout": "5s"})), at(5));
    assert_eq!(deadline(json!({"timeout": "5m"})), at(60));
}

#[rstest]
#[case::cancelled("CANCELLED", TaskPhase::Cancelled)]
#[case::by_another_code("TIMEOUT", TaskPhase::Failed)]
fn a_call_under_way_is_given_up_when_the_execution_is_stopped(
    #[case] code: &str,
    #[case] phase: TaskPhase,
    #[values(CallView::Unsent, open(None), open(Some(at(1))))] view: CallView,
) {
    let mut te = called(json!({}));
    te.spec.stop = Some(Stop {
        code: code.to_owned(),
        reason: "enough".to_owned(),
    });
    let status = step(&mut te, &view, at(2));
    assert_eq!(status.phase, phase);
    let told = data(&status, TaskEvent::ToolFailed).error.unwrap();
    assert_eq!(
        (told.code.as_str(), told.message.as_str()),
        (code, "enough")
    );
    assert_eq!(status.attempts[0].reason, code);
    let late = answered(at(3), Answer::Success(json!({})));
    assert_eq!(planned(&te, &late, at(3)), Plan::default(), "nobody's");
}

#[test]
fn what_was_answered_counts_though_the_execution_was_stopped() {
    let stop = json!({"stop": {"code": "CANCELLED", "reason": "enough"}});
    let mut te = called(json!({}));
    te.spec.stop = serde_json::from_value(stop["stop"].clone()).unwrap();
    let good = answered(at(2), Answer::Success(json!({})));
    assert_eq!(
        step(&mut te.clone(), &good, at(2)).phase,
        TaskPhase::Succeeded
    );
    let status = step(&mut te, &answered(at(2), declined()), at(2));
    assert_eq!(status.phase, TaskPhase::Cancelled);
    assert!(events(&status).contains(&TaskEvent::Failed), "that is told");
    let mut before = calling(stop);
    let status = step(&mut before, &CallView::Unsent, at(1));
    assert_eq!(events(&status), [TaskEvent::Cancelled], "nothing is called");
}

#[test]
fn a_deleted_execution_gives_its_call_up() {
    let mut te = called(json!({}));
    te.metadata.deletion_timestamp = te.metadata.creation_timestamp.clone();
    let status = step(&mut te, &open(None), at(2));
    assert_eq!(status.phase, TaskPhase::Cancelled);
    assert_eq!(
        data(&status, TaskEvent::ToolFailed).error.unwrap().code,
        "DELETED"
    );
}

#[test]
fn each_attempt_is_a_call_of_its_own_after_its_back_off() {
    let mut te = called(json!({"retry": {"maxAttempts": 2, "backoff":
        {"initial": "10s", "factor": 1.0, "max": "10s", "jitter": 0.0}}}));
    let failed = answered(at(5), declined());
    let status = step(&mut te, &failed, at(5));
    assert_eq!(status.phase, TaskPhase::Retrying);
    assert_eq!(record_of(&te), None, "that call is over");
    assert_eq!(
        planned(&te, &CallView::Unsent, at(6)),
        Plan::wake(Some(at(15)))
    );
    let status = step(&mut te, &CallView::Unsent, at(15));
    assert_eq!((status.phase, status.attempt), (TaskPhase::Running, 2));
    assert_ne!(record_of(&te).unwrap().tool_exec_id, tool_exec_id("tu", 1));
    assert_eq!(
        planned(&te, &CallView::Unsent, at(15)),
        Plan::step(Step::Call(2))
    );
    let status = step(&mut te, &answered(at(16), declined()), at(16));
    assert_eq!(status.phase, TaskPhase::Failed);
    assert_eq!(status.attempts.len(), 2);
}

#[test]
fn suspended_nothing_is_called_and_what_was_called_goes_on() {
    let mut te = calling(json!({"suspend": true}));
    step(&mut te, &CallView::Unsent, at(1));
    let status = step(&mut te, &CallView::Unsent, at(1));
    assert_eq!(status.reason.as_deref(), Some("Suspended"));
    assert_eq!(planned(&te, &CallView::Unsent, at(99)), Plan::default());

    let mut te = called(json!({"deadline": "10s"}));
    te.spec.suspend = true;
    step(&mut te, &open(None), at(2));
    assert_eq!(
        planned(&te, &open(None), at(50)),
        Plan::wake(Some(at(60))),
        "the deadline stands still, the call's does not"
    );
    let status = step(
        &mut te,
        &answered(at(51), Answer::Success(json!({}))),
        at(51),
    );
    assert_eq!(status.phase, TaskPhase::Succeeded);
}

#[test]
fn what_is_sent_says_all_that_a_tool_needs() {
    let te = called(json!({}));
    let sent = execute(&te, record_of(&te).unwrap(), &ToolSubjects::new("compozy"));
    let id = tool_exec_id("tu", 1);
    assert_eq!(
        serde_json::to_value(sent).unwrap(),
        json!({
            "tool_id": "charge", "tool_exec_id": id, "input_args": {"n": 1},
            "reply_to_subject": format!("compozy.results.tool.n.tu.{id}"),
            "deadline": "2026-01-01T00:01:00.000Z", "namespace": "n", "workflow_id": "w",
            "workflow_exec_id": "wu", "task_id": "t", "task_exec_id": "tu", "attempt": 1,
        })
    );
    let te = called(json!({"inputs": null}));
    let sent = execute(&te, record_of(&te).unwrap(), &ToolSubjects::new("compozy"));
    assert_eq!(sent.input_args, json!({}));
}
