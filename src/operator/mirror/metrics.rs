//! What the mirror counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prometheus_client::registry::Registry;

use crate::ports::{PublishAck, PublishError};

/// The mirror's metrics; copies count together.
#[derive(Debug, Clone, Default)]
pub struct MirrorMetrics {
    /// Events stored.
    pub published: Counter,
    /// Events that turned out to be stored already.
    pub duplicates: Counter,
    /// Events that were not where the chain was expected to end.
    pub wrong_last: Counter,
    /// Attempts to publish that failed otherwise.
    pub failures: Counter,
    /// Events that neither the objects nor the stream have any more.
    pub lost: Counter,
    /// How often the stream was found to have lost messages or to be another one.
    pub streams_lost: Counter,
    /// Events that wait to be stored.
    pub lag: Gauge,
    /// How long the oldest of them has waited, in seconds.
    pub oldest_pending: Gauge<f64, AtomicU64>,
    /// Whether the connection stands.
    pub connected: Gauge,
}

impl MirrorMetrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let counters = [
            (
                "events_published",
                "Events stored in NATS",
                &metrics.published,
            ),
            (
                "events_duplicate",
                "Events that NATS had already",
                &metrics.duplicates,
            ),
            (
                "events_wrong_last",
                "Events refused because their chain ended elsewhere",
                &metrics.wrong_last,
            ),
            (
                "events_publish_failures",
                "Attempts to publish an event that failed",
                &metrics.failures,
            ),
            (
                "events_lost",
                "Events that can no longer be published",
                &metrics.lost,
            ),
            (
                "events_streams_lost",
                "Times the stream lost messages or was made anew",
                &metrics.streams_lost,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "events_pending",
            "Events that are not in NATS yet",
            metrics.lag.clone(),
        );
        registry.register(
            "events_oldest_pending_seconds",
            "How long the oldest event has waited that is not in NATS yet",
            metrics.oldest_pending.clone(),
        );
        registry.register(
            "nats_connected",
            "1 if NATS is connected",
            metrics.connected.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, result: &Result<PublishAck, PublishError>) {
        let counter = match result {
            Ok(ack) if ack.duplicate => &self.duplicates,
            Ok(_) => &self.published,
            Err(PublishError::WrongLastSequence) => &self.wrong_last,
            Err(_) => &self.failures,
        };
        counter.inc();
    }

    pub(super) fn count_lost(&self, lost: u64) {
        self.lost.inc_by(lost);
    }

    /// One object's share of the lag changed.
    pub(super) fn move_lag(&self, from: u64, to: u64) {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.lag.inc_by(signed(to) - signed(from));
    }
}
