//! What tools answer: how it is read, and what of it is kept.

use super::{
    calling::{answered, called, data, declined, step},
    *,
};
use crate::api::ErrorInfo;

#[rstest]
#[case::started(json!({"tool_exec_id": "u", "status": "STARTED"}), Heard::Started)]
#[case::success(json!({"tool_exec_id": "u", "status": "SUCCESS", "output": {"a": 1}}), Heard::Ended(Answer::Success(json!({"a": 1}))))]
#[case::error(json!({"tool_exec_id": "u", "status": "TOOL_ERROR", "error": {"message": "no money", "code": "CARD_DECLINED", "details": {"card": "blue"}}}), Heard::Ended(declined()))]
fn answers_are_read_as_they_are_written(#[case] message: Value, #[case] heard: Heard) {
    assert_eq!(hear(message.to_string().as_bytes(), "u"), heard);
}

#[rstest]
#[case::no_json("soon", "expected value")]
#[case::unknown(
    r#"{"tool_exec_id": "u", "status": "MAYBE"}"#,
    "unknown variant `MAYBE`"
)]
#[case::without_its_error(
    r#"{"tool_exec_id": "u", "status": "TOOL_ERROR"}"#,
    "missing field `error`"
)]
#[case::of_another_call(
    r#"{"tool_exec_id": "v", "status": "STARTED"}"#,
    "it is about the call \"v\""
)]
fn what_is_no_answer_says_why(#[case] message: &str, #[case] says: &str) {
    let Heard::Ended(Answer::Unreadable(why)) = hear(message.as_bytes(), "u") else {
        panic!("it was read");
    };
    assert!(why.contains(says), "{why}");
}

/// The API server would refuse what is not an object or too long, and the attempt would never end.
#[rstest]
#[case::nothing(Value::Null, json!(null))]
#[case::no_object(json!([1.0]), json!({"details": [1]}))]
#[case::too_large(json!({"x": "x".repeat(5000)}), json!({"left_out": "5008 bytes, the limit is 4096"}))]
fn an_error_of_a_tool_fits_into_the_status(#[case] details: Value, #[case] kept: Value) {
    let error = ErrorInfo {
        message: "ü".repeat(5000),
        code: "C".repeat(500),
        details: Some(details),
    };
    let mut te = called(json!({}));
    let status = step(&mut te, &answered(at(1), Answer::ToolError(error)), at(1));
    let told = data(&status, TaskEvent::ToolCompleted).error.unwrap();
    assert_eq!(told.details.unwrap_or_default(), kept);
    assert!(told.message.chars().count() <= 1025, "{}", told.message);
    assert!(told.code.chars().count() <= 129, "{}", told.code);
    let error = status.error.unwrap();
    assert!(error.message.chars().count() < 32_768, "{}", error.message);
}
