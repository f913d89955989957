//! Conditions as `kubectl wait --for=condition=…` reads them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Time;

/// Condition type: True once the final phase is reached, whatever it is; absent before.
pub const FINISHED: &str = "Finished";
/// Condition type: True or False once the final phase is reached; absent before.
pub const SUCCEEDED: &str = "Succeeded";

/// Condition type: False while the stored object cannot be parsed; absent otherwise.
pub const PARSED: &str = "Parsed";

/// Condition type: whether a tool is served.
pub const READY: &str = "Ready";

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        }
    }
}

/// One observation of the object's state (the fields of `metav1.Condition`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Finished`, `Succeeded`, `Parsed` or `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// The generation of the spec that this was seen for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// The pair of conditions of an object that reached its final phase.
    pub fn finished(
        succeeded: bool,
        reason: &str,
        message: &str,
        at: Time,
        generation: Option<i64>,
    ) -> Vec<Condition> {
        let condition = |kind: &str, status| Condition {
            kind: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: at,
            observed_generation: generation,
        };
        vec![
            condition(SUCCEEDED, succeeded.into()),
            condition(FINISHED, ConditionStatus::True),
        ]
    }
}
