//! What a transition keeps for its event.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::payload::Failure;
use crate::api::{ErrorInfo, FailureClass};

/// The `data` of a transition as the engine writes it: what its event says and later writes may overwrite. What spec
/// gives, or a status that is final, need not be here.
///
/// | event | holds |
/// |---|---|
/// | task `started` | `executor` |
/// | task `failed` | `error`, `class`, `current_attempt` |
/// | task `retry_scheduled` | `next_attempt_delay_ms` |
/// | `cancelled` of both | `reason` |
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TransitionData {
    /// What runs the attempt: the pod's name.
    pub executor: Option<String>,
    /// Why the attempt failed.
    pub error: Option<ErrorInfo>,
    /// Whose fault it was.
    pub class: Option<FailureClass>,
    /// Which of the task's own tries it was, from 1: infrastructure failures do not count.
    pub current_attempt: Option<u32>,
    /// How long the next attempt waits.
    pub next_attempt_delay_ms: Option<u64>,
    /// Why it was ended from outside.
    pub reason: Option<String>,
}

impl TransitionData {
    /// As it was kept. What does not read is left out: an event with a gap is better than a chain that stops.
    pub fn of(data: Option<&Value>) -> Self {
        data.and_then(|value| Self::deserialize(value).ok())
            .unwrap_or_default()
    }

    /// The error, or the one that the status ended with, whose details say whose fault it was.
    pub fn failure(&self, ended_with: Option<&ErrorInfo>) -> Failure {
        let error = self.error.as_ref().or(ended_with);
        let (message, code) = error
            .map(|error| (error.message.clone(), error.code.clone()))
            .unwrap_or_default();
        let mut details = match error.and_then(|error| error.details.clone()) {
            Some(Value::Object(details)) => details,
            Some(other) => Map::from_iter([("details".to_owned(), other)]),
            None => Map::new(),
        };
        if let Some(class) = self.class {
            details.entry("class").or_insert_with(|| json!(class));
        }
        Failure {
            message,
            code,
            details,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_read_is_left_out() {
        assert_eq!(TransitionData::of(None), TransitionData::default());
        assert_eq!(
            TransitionData::of(Some(&json!({"executor": 7}))),
            TransitionData::default()
        );
        let kept = json!({"reason": "enough", "of_a_later_version": 1});
        assert_eq!(
            TransitionData::of(Some(&kept)).reason.as_deref(),
            Some("enough")
        );
    }

    #[test]
    fn details_are_an_object_and_say_whose_fault_it_was() {
        let failure = |data: Value| {
            serde_json::to_value(TransitionData::of(Some(&data)).failure(None)).unwrap()
        };
        assert_eq!(
            failure(
                json!({"class": "Infrastructure", "error": {"message": "m", "code": "EVICTED", "details": {"node": "n"}}})
            ),
            json!({"message": "m", "code": "EVICTED", "details": {"node": "n", "class": "Infrastructure"}})
        );
        assert_eq!(
            failure(json!({"error": {"message": "m", "code": "X"}})),
            json!({"message": "m", "code": "X", "details": {}})
        );
        assert_eq!(
            failure(json!({})),
            json!({"message": "", "code": "", "details": {}})
        );
    }
}
