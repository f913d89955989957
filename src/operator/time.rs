//! From the time of day, which objects carry, to the timer's clock.

use kube::Resource;
use tokio::time::Instant;

use crate::{
    api::{Duration, Time},
    ports::Clock,
};

/// The instant at which the time of day will be `at`.
pub fn instant(clock: &dyn Clock, at: Time) -> Instant {
    Instant::now() + at.since(Time(clock.now()))
}

/// How long a deleted object waits for NATS to take its events.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    span: Duration,
    /// When this process began to work on objects.
    began: Instant,
}

impl Grace {
    /// At least so long this process tries to publish an object's last event: what was deleted while no operator ran,
    /// or long before it ended, has not waited for NATS.
    const TRIED: std::time::Duration = std::time::Duration::from_secs(30);

    /// Objects wait for `span` after their deletion. The process begins now.
    pub fn from_now(span: Duration) -> Grace {
        let began = Instant::now();
        Grace { span, began }
    }

    /// How long it is after the deletion.
    pub fn span(&self) -> Duration {
        self.span
    }

    fn tried_since(&self, begun: Instant) -> Instant {
        begun.max(self.began) + self.span.get().min(Self::TRIED)
    }
}

/// When a deleted object is let go although NATS does not have its events.
pub enum Due {
    /// It was not deleted: it waits.
    Never,
    /// Then.
    At(Instant),
    /// The grace is over.
    Now,
}

impl Due {
    /// The end of `grace` for the object, of which the last event is that it `ended`.
    pub fn of<K: Resource>(
        object: &K,
        ended: Option<Time>,
        grace: Grace,
        clock: &dyn Clock,
    ) -> Due {
        let Some(deleted) = &object.meta().deletion_timestamp else {
            return Due::Never;
        };
        let now = Instant::now();
        let waited = instant(clock, Time(deleted.0).after(grace.span.get()));
        let ended = ended.and_then(|ended| now.checked_sub(Time(clock.now()).since(ended)));
        let tried = grace.tried_since(ended.unwrap_or(grace.began));
        match waited.max(tried) {
            // What was overdue is due at a present that has passed by now.
            due if due <= Instant::now() => Due::Now,
            due => Due::At(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{api::Workflow, ports::SystemClock};

    fn ago_by(seconds: i64) -> Time {
        Time(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds))
    }

    fn deleted(seconds_ago: i64) -> Workflow {
        let at = ago_by(seconds_ago).0;
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "deletionTimestamp": at.to_string()},
            "spec": {"tasks": [{"name": "a", "container": {"image": "x"}}]},
        }))
        .unwrap()
    }

    /// In so many seconds is due what was deleted and what ended so many ago.
    fn due(deleted_ago: i64, ended_ago: i64, grace: Grace) -> u64 {
        let ended = Some(ago_by(ended_ago));
        match Due::of(&deleted(deleted_ago), ended, grace, &SystemClock) {
            Due::At(at) => at.duration_since(Instant::now()).as_secs_f64().round() as u64,
            Due::Now => 0,
            Due::Never => u64::MAX,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_deleted_while_no_operator_ran_waits_for_nats_all_the_same() {
        let grace = Grace::from_now(Duration::from_secs(300));
        assert_eq!(due(100, 100, grace), 200);
        assert_eq!(due(3600, 3600, grace), 30);
        tokio::time::advance(std::time::Duration::from_secs(31)).await;
        assert_eq!(due(3600, 3600, grace), 0);
        let short = Grace::from_now(Duration::from_secs(5));
        assert_eq!(due(3600, 3600, short), 5);
    }

    /// On a clock that does not stand still.
    #[tokio::test]
    async fn what_is_overdue_is_let_go_now_and_not_in_a_moment() {
        let grace = Grace::from_now(Duration::from_secs(0));
        let due = Due::of(&deleted(60), Some(ago_by(60)), grace, &SystemClock);
        assert!(matches!(due, Due::Now));
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_long_after_its_deletion_still_has_time_to_be_told() {
        let grace = Grace::from_now(Duration::from_secs(300));
        tokio::time::advance(std::time::Duration::from_secs(3600)).await;
        assert_eq!(due(3600, 1, grace), 29);
        assert_eq!(due(3600, 31, grace), 0);
    }
}
