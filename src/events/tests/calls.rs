//! What is told of the calls of tools.

use super::*;

/// A task of two attempts: the tool refuses the first call, and the second one succeeds.
fn called(outputs: &Value) -> TaskExecution {
    let first = json!({"id": "charge", "exec_id": "call-1", "duration_ms": 40});
    let second = json!({"id": "charge", "exec_id": "call-2"});
    let answered = json!({"id": "charge", "exec_id": "call-2", "duration_ms": 1500});
    let declined = json!({"message": "no money", "code": "CARD_DECLINED", "details": {"card": 4}});
    let failed =
        json!({"message": "the tool charge: CARD_DECLINED: no money", "code": "TOOL_ERROR"});
    task(json!({
        "phase": "Succeeded", "attempt": 2, "outputs": outputs,
        "transitions": [
            {"seq": 2, "event": "started", "attempt": 1, "at": at(1), "data": {"executor": "tool/charge"}},
            {"seq": 3, "event": "tool_started", "attempt": 1, "at": at(1), "data": {"tool": first}},
            {"seq": 4, "event": "tool_completed", "attempt": 1, "at": at(2), "data": {"tool": first, "error": declined}},
            {"seq": 5, "event": "failed", "attempt": 1, "at": at(2),
             "data": {"error": failed, "class": "Application", "current_attempt": 1}},
            {"seq": 6, "event": "retry_scheduled", "attempt": 1, "at": at(2), "data": {"next_attempt_delay_ms": 10}},
            {"seq": 7, "event": "started", "attempt": 2, "at": at(3), "data": {"executor": "tool/charge"}},
            {"seq": 8, "event": "tool_started", "attempt": 2, "at": at(3), "data": {"tool": second}},
            {"seq": 9, "event": "tool_completed", "attempt": 2, "at": at(5), "data": {"tool": answered}},
            {"seq": 10, "event": "completed", "attempt": 2, "at": at(5)},
        ],
    }))
}

#[test]
fn a_task_that_fails_because_of_a_tool_is_told_as_in_the_flow_document() {
    let task = called(&json!({"receipt": 7}));
    let told = events(Object::Task(&task), 2);
    let first = json!({"tool_id": "charge", "tool_exec_id": "call-1"});
    let second = json!({"tool_id": "charge", "tool_exec_id": "call-2"});
    let with = |call: &Value, more: Value| {
        let mut both = call.clone();
        both.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        both
    };
    let declined = json!({"message": "no money", "code": "CARD_DECLINED", "details": {"card": 4}});
    let failed = json!({"message": "the tool charge: CARD_DECLINED: no money", "code": "TOOL_ERROR",
                        "details": {"class": "Application"}});
    assert_eq!(
        details(&told),
        expected([
            ("started", first.clone()),
            (
                "completed",
                with(
                    &first,
                    json!({"tool_execution_status": "TOOL_ERROR", "error": declined, "duration_ms": 40})
                )
            ),
            (
                "failed",
                json!({"error": failed, "retry_policy": {"max_attempts": 3, "current_attempt": 1}})
            ),
            (
                "retry_scheduled",
                json!({"original_task_exec_id": EXECUTION, "next_attempt_delay_ms": 10, "attempt_number": 2})
            ),
            ("started", json!({"executor": "tool/charge"})),
            ("started", second.clone()),
            (
                "completed",
                with(
                    &second,
                    json!({"tool_execution_status": "SUCCESS", "output": {"receipt": 7}, "duration_ms": 1500})
                )
            ),
            ("completed", json!({"outputs": {"receipt": 7}})),
        ])
    );
    let own = format!("compozy.events.task.instance.{EXECUTION}.*");
    let call = |id: &str| format!("compozy.events.tool.instance.{id}.*");
    let filters: Vec<_> = told
        .iter()
        .map(|event| event.message().filter.clone())
        .collect();
    assert_eq!(
        filters[..4],
        [call("call-1"), call("call-1"), own.clone(), own.clone()]
    );
    assert_eq!(
        filters[4..],
        [own.clone(), call("call-2"), call("call-2"), own]
    );
    let message = told[1].message();
    assert_eq!(message.id, format!("{EXECUTION}:4"));
    let said = |name: &str| {
        message
            .headers
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(said("ce-type"), Some("dev.compozy.tool.completed.v1"));
    assert_eq!(said("ce-subject"), Some("tool/call-1"));
    assert_eq!(said("ce-sequence"), Some("4"));
    assert_eq!(body(&told[1])["task_exec_id"], EXECUTION);
}

#[test]
fn a_tool_that_does_not_answer_has_failed() {
    let call = json!({"id": "charge", "exec_id": "call-1"});
    let timeout = json!({"message": "no answer within 1m", "code": "TIMEOUT"});
    let task = task(json!({"phase": "Running", "transitions": [
        {"seq": 2, "event": "tool_failed", "attempt": 1, "at": at(1), "data": {"tool": call, "error": timeout}},
    ]}));
    let failed = json!({"tool_id": "charge", "tool_exec_id": "call-1",
                        "error": {"message": "no answer within 1m", "code": "TIMEOUT", "details": {}}});
    assert_eq!(
        details(&events(Object::Task(&task), 1)),
        expected([("failed", failed)])
    );
}

#[test]
fn a_large_answer_of_a_tool_goes_by_reference() {
    let dataref = "/apis/compozy.dev/v1alpha1/namespaces/team/taskexecutions/hello-greet-1a2b3c4d";
    let task = called(&json!({"text": "x".repeat(300_000)}));
    let told = events(Object::Task(&task), 8);
    let referenced = json!({"tool_id": "charge", "tool_exec_id": "call-2", "dataref": dataref});
    assert_eq!(
        details(&told),
        expected([
            ("completed", referenced),
            ("completed", json!({"dataref": dataref}))
        ])
    );
    let message = told[0].message();
    assert_eq!(
        message.subject,
        "compozy.events.tool.instance.call-2.completed"
    );
    assert!(
        message
            .headers
            .contains(&("ce-dataref", dataref.to_owned()))
    );
}

#[test]
fn an_answer_that_no_task_can_give_is_not_that_of_a_later_attempt() {
    let mut task = called(&json!({"receipt": 7}));
    let transitions = &mut task.status.as_mut().unwrap().transitions;
    transitions[2]
        .data
        .as_mut()
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove("error");
    let told = events(Object::Task(&task), 3);
    assert_eq!(body(&told[0])["tool_execution_status"], "SUCCESS");
    assert_eq!(body(&told[0])["output"], Value::Null);
    assert_eq!(body(&told[5])["output"], json!({"receipt": 7}));
}

#[test]
fn a_call_whose_id_no_subject_can_have_does_not_stop_the_chain() {
    for data in [
        Value::Null,
        json!({"tool": 7}),
        json!({"tool": {"id": "t", "exec_id": "a.b"}}),
        json!({"tool": {"exec_id": ""}}),
    ] {
        let transition =
            json!({"seq": 2, "event": "tool_started", "attempt": 1, "at": at(1), "data": data});
        let task = task(json!({"phase": "Running", "transitions": [transition]}));
        let told = events(Object::Task(&task), 1);
        assert_eq!(
            told[0].message().subject,
            format!("compozy.events.tool.instance.{EXECUTION}.started")
        );
        assert_eq!(body(&told[0])["tool_exec_id"], EXECUTION);
    }
}
