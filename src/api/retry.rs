//! How often a failed task is tried again, and how long to wait before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Retries of application failures (the task's own). Infrastructure failures have a budget of
/// their own: `infrastructureRetries`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// How often the task is tried in all, the first try included. Default 1: no retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub max_attempts: Option<u32>,
    /// How long to wait before the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

/// Waiting times that grow: `initial`, then each `factor` times the one before, at most `max`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// The wait before the second attempt. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Duration>,
    /// By how much each wait is longer than the one before. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub factor: Option<f64>,
    /// The longest wait. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
    /// By up to which share of itself each wait is shorter, 0 to 1, different for each task, so
    /// that many do not retry at once. Default 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub jitter: Option<f64>,
}

/// A retry policy with nothing left to default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedRetry {
    /// How often the task is tried in all, the first try included.
    pub max_attempts: u32,
    /// How long to wait before the next attempt.
    pub backoff: ResolvedBackoff,
}

/// A back-off with nothing left to default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedBackoff {
    /// The wait before the second attempt.
    pub initial: Duration,
    /// By how much each wait is longer than the one before.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
    /// The share of each wait that is drawn anew, 0 to 1.
    pub jitter: f64,
}

impl RetryPolicy {
    /// This policy, its gaps filled from `defaults` and then from the built-in values.
    pub fn resolve(&self, defaults: &RetryPolicy) -> ResolvedRetry {
        let empty = Backoff::default();
        let own = self.backoff.as_ref().unwrap_or(&empty);
        let fallback = defaults.backoff.as_ref().unwrap_or(&empty);
        ResolvedRetry {
            max_attempts: self.max_attempts.or(defaults.max_attempts).unwrap_or(1),
            backoff: ResolvedBackoff {
                initial: own
                    .initial
                    .or(fallback.initial)
                    .unwrap_or(Duration::from_secs(1)),
                factor: own.factor.or(fallback.factor).unwrap_or(2.0),
                max: own.max.or(fallback.max).unwrap_or(Duration::from_secs(300)),
                jitter: own.jitter.or(fallback.jitter).unwrap_or(0.1),
            },
        }
    }
}
