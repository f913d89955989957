//! A task that is about to call a tool, and whether there is one.

use super::calling::{ME, answered, called, calling, declined, step};
use super::*;
use crate::api::{Tool, ToolSpec};

#[test]
fn a_tool_is_asked_for_only_when_it_is_about_to_be_called() {
    let unasked =
        |te: &TaskExecution| plan_call(te, ToolView::Unasked, ME, &CallView::Unsent, at(1));
    assert_eq!(unasked(&calling(json!({}))), Plan::step(Step::FindTool));
    assert_eq!(unasked(&called(json!({}))), Plan::step(Step::Call(1)));
    let mut waits = called(json!({"retry": {"maxAttempts": 2, "backoff":
        {"initial": "10s", "factor": 1.0, "max": "10s", "jitter": 0.0}}}));
    step(&mut waits, &answered(at(1), declined()), at(1));
    let stopped = calling(json!({"stop": {"code": "CANCELLED", "reason": "enough"}}));
    for te in [waits, stopped, calling(json!({"suspend": true}))] {
        assert_ne!(unasked(&te), Plan::step(Step::FindTool), "{:?}", te.spec);
    }
}

#[test]
fn a_tool_that_is_not_there_is_waited_for_and_said_once() {
    let mut te = calling(json!({"deadline": "20s"}));
    let without =
        |te: &TaskExecution, now| plan_call(te, ToolView::Missing, ME, &CallView::Unsent, now);
    let plan = without(&te, at(1));
    assert_eq!(plan.wake, Some(at(6)));
    let status = recorded(&mut te, &plan);
    assert_eq!(
        (status.phase, status.reason.as_deref(), status.attempt),
        (TaskPhase::Pending, Some("ToolMissing"), 0)
    );
    assert!(status.message.unwrap().contains("\"charge\""));
    assert_eq!(without(&te, at(6)), Plan::wake(Some(at(11))));
    assert_eq!(without(&te, at(18)), Plan::wake(Some(at(20))));
    let status = step(&mut te.clone(), &CallView::Unsent, at(19));
    assert_eq!((status.phase, status.reason), (TaskPhase::Running, None));
    let plan = without(&te, at(20));
    let status = recorded(&mut te, &plan);
    assert_eq!(status.error.unwrap().code, "DEADLINE_EXCEEDED");
}

#[test]
fn a_tool_whose_pods_do_not_take_calls_yet_is_waited_for() {
    let mut te = calling(json!({}));
    let tool: Tool = serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Tool", "metadata": {"name": "charge"},
        "spec": {"handler": {"container": {"image": "x"}, "exec": {"command": ["x"]}}},
    }))
    .unwrap();
    let planned = |te: &TaskExecution, served, now| {
        plan_call(te, ToolView::of(&tool, served), ME, &CallView::Unsent, now)
    };
    let plan = planned(&te, false, at(1));
    assert_eq!(plan.wake, Some(at(2)));
    let status = recorded(&mut te, &plan);
    assert_eq!(status.reason.as_deref(), Some("ToolNotReady"));
    assert!(status.message.unwrap().contains("describe tool charge"));
    assert_eq!(planned(&te, false, at(2)), Plan::wake(Some(at(3))));
    let plan = planned(&te, true, at(3));
    let status = recorded(&mut te, &plan);
    assert_eq!(status.phase, TaskPhase::Running);
    assert!(status.call.is_some());
}

/// A pod of the operator's comes back, after NATS was away or a node was drained; and nobody has the call.
#[test]
fn a_call_that_nobody_took_is_sent_again_if_the_operator_serves_the_tool() {
    let handled: ToolSpec = serde_json::from_value(json!({
        "timeout": "10s",
        "handler": {"container": {"image": "x"}, "exec": {"command": ["x"]}},
    }))
    .unwrap();
    let mut te = calling(json!({}));
    let nobody = |since| CallView::NoResponders { since };
    let planned = |te: &TaskExecution, caller, view: &CallView, now| {
        plan_call(te, ToolView::Found(&handled), caller, view, now)
    };
    let plan = planned(&te, ME, &CallView::Unsent, at(0));
    recorded(&mut te, &plan);
    let plan = planned(&te, ME, &nobody(at(1)), at(1));
    let again = plan.wake.unwrap();
    assert!(plan.steps.is_empty() && again > at(1) && again < at(2));
    let plan = planned(&te, ME, &nobody(at(1)), at(2));
    assert_eq!(plan, Plan::step(Step::Call(1)));
    // Not by a process that did not record it, not when its time is over, not of a tool that others serve.
    let ended = |te: &TaskExecution, caller, now| {
        let plan = planned(te, caller, &nobody(now), now);
        let status = recorded(&mut te.clone(), &plan);
        status.error.unwrap().code
    };
    assert_eq!(ended(&te, "another", at(2)), "TOOL_UNAVAILABLE");
    assert_eq!(ended(&te, ME, at(10)), "TOOL_UNAVAILABLE");
    assert_eq!(ended(&called(json!({})), ME, at(2)), "TOOL_UNAVAILABLE");
}
