//! What a lease's record says, and since when it says so.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::api::ObjectMeta;
use tokio::time::Instant;

/// A lease counts in whole seconds, and in a shorter one no renewal could fail.
const SHORTEST: u64 = 3;

/// The times that follow from a lease's duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    seconds: u32,
    /// Who has not seen the record change for so long may take the lease.
    pub(super) duration: Duration,
    /// Its holder trusts in it for so long from the sending of a renewal. What is between the two
    /// is for clocks of different speed, and for requests still on their way.
    pub(super) trusted: Duration,
    /// From one renewal to the next.
    pub(super) renew_every: Duration,
    /// A renewal that takes longer is given up, early enough for another one.
    pub(super) call_timeout: Duration,
    /// The pause after a failed renewal.
    pub(super) retry_pause: Duration,
}

impl Terms {
    pub(super) fn new(wanted: Duration) -> Terms {
        let seconds = u32::try_from(wanted.as_secs().max(SHORTEST)).unwrap_or(u32::MAX);
        let duration = Duration::from_secs(seconds.into());
        Terms {
            seconds,
            duration,
            trusted: duration - duration / 5,
            renew_every: duration / 5,
            call_timeout: duration / 3,
            retry_pause: duration / 30,
        }
    }
}

/// The lease as this process last saw it.
#[derive(Debug)]
pub(super) struct View {
    identity: String,
    /// The object; none if it is missing.
    object: Option<v1::Lease>,
    /// Until when whoever held it at the last change may believe to hold it.
    held_until: Option<Instant>,
    /// The acquisition that this process last asked for. It tells our record from one of a
    /// process with the same identity.
    asked_at: Option<MicroTime>,
}

impl View {
    pub(super) fn new(identity: &str) -> View {
        View {
            identity: identity.to_owned(),
            object: None,
            held_until: None,
            asked_at: None,
        }
    }

    /// Takes in what the API server has. A lease that somebody deleted is held for as long as it
    /// was: its holder may not know.
    pub(super) fn see(&mut self, found: Option<v1::Lease>, terms: &Terms, now: Instant) {
        if let Some(lease) = &found {
            let record = lease.spec.as_ref();
            let known = self.object.as_ref().and_then(|known| known.spec.as_ref());
            if record != known || self.object.is_none() {
                self.held_until = holder(lease).map(|_| {
                    let seconds = record.and_then(|record| record.lease_duration_seconds);
                    let said = seconds.and_then(|seconds| u64::try_from(seconds).ok());
                    now + said.map_or(terms.duration, Duration::from_secs)
                });
            }
        }
        self.object = found;
    }

    /// When the lease may be taken.
    pub(super) fn free_at(&self, now: Instant) -> Instant {
        let ours = self
            .object
            .as_ref()
            .is_some_and(|lease| self.is_ours(lease));
        self.held_until.filter(|_| !ours).unwrap_or(now)
    }

    /// Who holds the lease, if that is somebody else, or nobody.
    pub(super) fn stranger(&self) -> Option<String> {
        let lease = self.object.as_ref()?;
        (!self.is_ours(lease)).then(|| holder(lease).unwrap_or_default().to_owned())
    }

    /// What the record says of its last renewal.
    pub(super) fn renewed_at(&self) -> Option<&MicroTime> {
        let record = self.object.as_ref()?.spec.as_ref()?;
        record.renew_time.as_ref()
    }

    /// How often the lease has changed hands.
    pub(super) fn transitions(&self) -> i32 {
        let record = self.object.as_ref().and_then(|lease| lease.spec.as_ref());
        record
            .and_then(|record| record.lease_transitions)
            .unwrap_or(0)
    }

    /// The record of a lease taken now.
    pub(super) fn taken(&mut self, terms: &Terms, now: jiff::Timestamp) -> v1::LeaseSpec {
        let before = self.object.as_ref().and_then(holder);
        let changes = before != Some(self.identity.as_str());
        self.asked_at = Some(micros(now));
        v1::LeaseSpec {
            acquire_time: self.asked_at.clone(),
            lease_transitions: Some(self.transitions().saturating_add(changes.into())),
            ..self.renewed(terms, now)
        }
    }

    /// The record of the lease that is held, renewed now.
    pub(super) fn renewed(&self, terms: &Terms, now: jiff::Timestamp) -> v1::LeaseSpec {
        v1::LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(terms.seconds).ok(),
            acquire_time: self.asked_at.clone(),
            renew_time: Some(self.later_than_seen(now)),
            lease_transitions: Some(self.transitions()),
            ..v1::LeaseSpec::default()
        }
    }

    /// The time, but never that of the record seen last: others would not see a renewal.
    fn later_than_seen(&self, now: jiff::Timestamp) -> MicroTime {
        let seen = self.renewed_at();
        let moment = jiff::SignedDuration::from_micros(1);
        let next = seen.and_then(|seen| seen.0.checked_add(moment).ok());
        micros(next.map_or(now, |next| next.max(now)))
    }

    /// The record of a lease that nobody holds.
    pub(super) fn given_back(&self, now: jiff::Timestamp) -> v1::LeaseSpec {
        v1::LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: self.asked_at.clone(),
            renew_time: Some(micros(now)),
            lease_transitions: Some(self.transitions()),
            ..v1::LeaseSpec::default()
        }
    }

    /// The object to write, over the one that was seen.
    pub(super) fn with(&self, name: &str, record: v1::LeaseSpec) -> v1::Lease {
        let metadata = self.object.as_ref().map_or_else(
            || ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            |seen| seen.metadata.clone(),
        );
        v1::Lease {
            metadata,
            spec: Some(record),
        }
    }

    fn is_ours(&self, lease: &v1::Lease) -> bool {
        let record = lease.spec.as_ref();
        let acquired = record.and_then(|record| record.acquire_time.as_ref());
        holder(lease) == Some(&self.identity)
            && self.asked_at.is_some()
            && acquired == self.asked_at.as_ref()
    }
}

/// Who holds a lease.
fn holder(lease: &v1::Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// Kubernetes keeps no more than microseconds.
fn micros(time: jiff::Timestamp) -> MicroTime {
    MicroTime(jiff::Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time))
}
