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
    /// The end of `grace` after the object's deletion.
    pub fn of<K: Resource>(object: &K, grace: Duration, clock: &dyn Clock) -> Due {
        let Some(deleted) = &object.meta().deletion_timestamp else {
            return Due::Never;
        };
        let due = Time(deleted.0).after(grace.get());
        if due.0 <= clock.now() {
            Due::Now
        } else {
            Due::At(instant(clock, due))
        }
    }
}
