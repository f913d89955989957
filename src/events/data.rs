//! What a transition keeps for its event.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::ErrorInfo;

/// The `data` of a transition: what its event says and later writes may overwrite. What spec gives, or a status that
/// is final, is not repeated here.
///
/// | event | holds |
/// |---|---|
/// | task `started` | `executor` |
/// | task `failed` | `error`, `current_attempt` |
/// | task `retry_scheduled` | `delay_ms` |
/// | `cancelled` of both | `reason` |
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransitionData {
    /// What runs the attempt: the pod's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// Why the attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// Which application try it was, from 1: infrastructure failures do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_attempt: Option<u32>,
    /// How long the next attempt waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Why it was ended from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl TransitionData {
    /// As it stands in a transition; none if there is nothing to keep.
    pub fn into_value(self) -> Option<Value> {
        let value = serde_json::to_value(self).ok()?;
        value
            .as_object()
            .is_some_and(|fields| !fields.is_empty())
            .then_some(value)
    }

    /// As it was kept. What does not read is left out: an event with a gap is better than a chain that stops.
    pub(super) fn of(data: Option<&Value>) -> Self {
        data.and_then(|value| Self::deserialize(value).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn data_reads_as_it_was_written() {
        let data = TransitionData {
            error: Some(ErrorInfo {
                message: "exit 1".into(),
                code: "TASK_FAILED".into(),
                details: Some(json!({"class": "Application"})),
            }),
            current_attempt: Some(2),
            ..TransitionData::default()
        };
        let value = data.clone().into_value().unwrap();
        assert_eq!(value["currentAttempt"], 2);
        assert_eq!(TransitionData::of(Some(&value)), data);
    }

    #[test]
    fn nothing_to_keep_is_no_data_and_nonsense_is_left_out() {
        assert_eq!(TransitionData::default().into_value(), None);
        assert_eq!(TransitionData::of(None), TransitionData::default());
        assert_eq!(
            TransitionData::of(Some(&json!({"executor": 7}))),
            TransitionData::default()
        );
    }
}
