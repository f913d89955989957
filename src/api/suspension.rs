//! Time that does not count, because the run was suspended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Time};

/// For how long a run, or one of its task executions, was suspended: so long its time limits and
/// pauses stood still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Suspension {
    /// Since when it is suspended; missing if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Time>,
    /// How long earlier suspensions took in all; missing if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    total: Option<Duration>,
}

impl Suspension {
    /// Whether it is suspended now.
    pub fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Whether it never was.
    pub fn is_none(&self) -> bool {
        *self == Suspension::default()
    }

    /// It is suspended from `now` on.
    pub fn begin(&mut self, now: Time) {
        self.since.get_or_insert(now);
    }

    /// It goes on from `now` on; returns for how long it was suspended.
    pub fn end(&mut self, now: Time) -> std::time::Duration {
        let Some(since) = self.since.take() else {
            return std::time::Duration::ZERO;
        };
        let length = now.since(since);
        self.total = Some(self.total().saturating_add(length).into());
        length
    }

    /// When a limit that would end at `at` ends: never while it is suspended.
    pub fn due(&self, at: Time) -> Option<Time> {
        (!self.is_on()).then(|| at.after(self.total()))
    }

    /// The time that pauses begin at: while it is suspended, that at which it was.
    pub fn clock(&self, now: Time) -> Time {
        self.since.unwrap_or(now)
    }

    /// How long earlier suspensions took in all.
    pub fn total(&self) -> std::time::Duration {
        self.total.unwrap_or_default().get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time("2026-01-01T00:00:00Z".parse().unwrap()).after(std::time::Duration::from_secs(seconds))
    }

    #[test]
    fn limits_move_by_what_the_suspensions_took() {
        let mut suspension = Suspension::default();
        assert_eq!(suspension.due(at(100)), Some(at(100)));
        suspension.begin(at(10));
        suspension.begin(at(12));
        assert_eq!(suspension.due(at(100)), None, "nothing is due meanwhile");
        assert_eq!(suspension.end(at(15)).as_secs(), 5);
        suspension.begin(at(20));
        suspension.end(at(22));
        assert_eq!(suspension.due(at(100)), Some(at(107)));
    }

    #[test]
    fn a_clock_that_steps_back_takes_nothing_away() {
        let mut suspension = Suspension::default();
        suspension.begin(at(10));
        assert_eq!(suspension.end(at(3)).as_secs(), 0);
        assert!(!suspension.is_none(), "that there was one is not forgotten");
    }

    #[test]
    fn it_survives_a_restart() {
        let mut suspension = Suspension::default();
        suspension.begin(at(10));
        suspension.end(at(15));
        suspension.begin(at(20));
        let stored = serde_json::to_value(suspension).unwrap();
        assert_eq!(
            stored,
            serde_json::json!({"since": "2026-01-01T00:00:20.000Z", "total": "5s"})
        );
        assert_eq!(
            serde_json::from_value::<Suspension>(stored).unwrap(),
            suspension
        );
    }
}
