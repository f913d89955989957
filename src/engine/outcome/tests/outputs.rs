//! Outputs, reported errors and the log's tail.

use rstest::rstest;

use super::*;

fn outputs_of(message: &str) -> Outcome {
    ended_of(&pod_with("Succeeded", exited(0, "Completed", message))).outcome
}

#[rstest]
#[case::none("", json!({}))]
#[case::blank(" \n", json!({}))]
#[case::object("{\"text\": \"hello\", \"list\": [1, {\"a\": null}]}\n", json!({"text": "hello", "list": [1, {"a": null}]}))]
#[case::integral_doubles("{\"a\": 3.0, \"b\": [-0.0, 1e3]}", json!({"a": 3, "b": [0, 1000]}))]
#[case::doubles("{\"a\": 0.1}", json!({"a": 0.1}))]
#[case::beyond_what_a_double_tells_apart("{\"a\": 9007199254740994, \"b\": 1e300}", json!({"a": 9_007_199_254_740_994.0, "b": 1e300}))]
#[case::the_last_exact_one("{\"a\": -9007199254740992}", json!({"a": -9_007_199_254_740_992_i64}))]
fn good_outputs(#[case] message: &str, #[case] expected: Value) {
    assert_eq!(
        outputs_of(message),
        Outcome::Succeeded { outputs: expected }
    );
}

#[rstest]
#[case::list("[1]", "a list")]
#[case::text("\"hi\"", "a string")]
#[case::null("null", "null")]
#[case::log("all done", "all done")]
#[case::two_objects("{} {}", "trailing")]
#[case::cut("{\"a\": ", "EOF")]
#[case::infinite("{\"a\": 1e999}", "out of range")]
#[case::too_deep(&"[".repeat(500), "recursion")]
fn bad_outputs_say_what_is_wrong_and_what_to_do(#[case] message: &str, #[case] says: &str) {
    let pod = pod_with("Succeeded", exited(0, "Completed", message));
    let (class, code, retryable, text) = failure_of(&pod);
    assert_eq!(
        (class, code.as_str(), retryable),
        (FailureClass::Application, "INVALID_OUTPUTS", true)
    );
    assert!(text.contains(says), "{text:?} does not say {says:?}");
    assert!(text.contains("$COMPOZY_OUTPUTS"), "{text}");
}

fn object_of(size: usize) -> String {
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(size - 8));
    assert_eq!(text.len(), size);
    text
}

#[test]
fn outputs_that_may_have_been_cut_are_too_large() {
    assert!(matches!(
        outputs_of(&object_of(4095)),
        Outcome::Succeeded { .. }
    ));
    let pod = pod_with("Succeeded", exited(0, "Completed", &object_of(4096)));
    let (_, code, _, message) = failure_of(&pod);
    assert_eq!(code, "OUTPUTS_TOO_LARGE");
    for part in ["4096", "volume", "object store"] {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn more_containers_have_less_room_each() {
    let mut pod = pod_with("Succeeded", exited(0, "Completed", &object_of(3072)));
    let spec = pod.spec.as_mut().unwrap();
    spec.containers = vec![spec.containers[0].clone(); 4];
    assert_eq!(failure_of(&pod).1, "OUTPUTS_TOO_LARGE");
    pod.spec.as_mut().unwrap().containers.pop();
    assert!(matches!(ended_of(&pod).outcome, Outcome::Succeeded { .. }));
}

fn error_of(message: &str) -> ErrorInfo {
    match ended_of(&pod_with("Failed", exited(1, "Error", message))).outcome {
        Outcome::Failed { error, .. } => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_task_may_report_its_own_error() {
    let error = error_of(
        r#"{"error": {"message": "no such customer", "code": "NOT_FOUND", "details": {"id": 7.0}}}"#,
    );
    assert_eq!(
        (error.message.as_str(), error.code.as_str()),
        ("no such customer", "NOT_FOUND")
    );
    assert_eq!(
        error.details,
        Some(json!({"id": 7, "exit_code": 1, "reason": "Error", "class": "Application"}))
    );
}

#[rstest]
#[case::empty(r#"{"error": {}}"#, "exit code 1", "TASK_FAILED")]
#[case::message_only(r#"{"error": {"message": "bad"}}"#, "bad", "TASK_FAILED")]
#[case::odd_types(r#"{"error": {"message": 5, "code": true}}"#, "5", "true")]
#[case::blank(
    r#"{"error": {"message": " ", "code": ""}}"#,
    "exit code 1",
    "TASK_FAILED"
)]
#[case::text(
    r#"{"error": "bad"}"#,
    r#"exit code 1: {"error": "bad"}"#,
    "TASK_FAILED"
)]
#[case::outputs(r#"{"rows": 3}"#, r#"exit code 1: {"rows": 3}"#, "TASK_FAILED")]
fn what_is_missing_in_a_reported_error_is_filled(
    #[case] said: &str,
    #[case] message: &str,
    #[case] code: &str,
) {
    let error = error_of(said);
    assert_eq!(
        (error.message.as_str(), error.code.as_str()),
        (message, code)
    );
}

#[rstest]
#[case::list(r#"{"error": {"details": [1]}}"#, json!([1]))]
#[case::text(r#"{"error": {"details": "x"}}"#, json!("x"))]
fn details_that_are_no_object_become_one(#[case] said: &str, #[case] kept: Value) {
    assert_eq!(error_of(said).details.unwrap()["details"], kept);
}

#[test]
fn a_long_code_is_cut_to_what_the_api_takes() {
    let said = json!({"error": {"code": "Ü".repeat(500)}}).to_string();
    assert_eq!(error_of(&said).code.chars().count(), 128);
}

#[test]
fn a_reported_error_explains_exit_code_137_too() {
    let said = r#"{"error": {"message": "gave up", "code": "GAVE_UP"}}"#;
    let pod = pod_with("Failed", exited(137, "Error", said));
    assert_eq!(failure_of(&pod).1, "GAVE_UP");
}

#[test]
fn of_a_long_log_the_end_is_kept_whole_characters_only() {
    let log = format!("{}the end", "ü".repeat(2000));
    let message = error_of(&log).message;
    assert!(message.starts_with("exit code 1: …ü"), "{message}");
    assert!(message.ends_with("the end"));
    assert!(message.len() < 1100, "{} bytes", message.len());
}
