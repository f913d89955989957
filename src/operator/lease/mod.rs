//! Leader election: one operator works, others stand by with warm caches.
//!
//! The algorithm is that of client-go. Nobody trusts another's clock: a lease has run out when
//! this process has not seen it change for as long as the lease itself says. And its holder stops
//! before that, counted from the moment at which it sent its last successful renewal: the
//! [`Fence`].

mod record;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1;
use kube::{Api, Client, api::PostParams};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::record::{Terms, View};
use super::{fence::Fence, metrics::Metrics, settings::Settings};
use crate::ports::Clock;

/// How often a standby looks at the lease.
const LOOK: Duration = Duration::from_secs(1);
/// Giving the lease back is worth no longer wait.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(2);

/// The lease, as one candidate sees it, keeps it and gives it back.
pub struct Lease {
    api: Api<v1::Lease>,
    name: String,
    terms: Terms,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    view: View,
    fence: Fence,
    /// When the first renewal was sent of those that were not answered since the last that was.
    unanswered: Option<Instant>,
}

/// Why the lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Refused(#[from] kube::Error),
    #[error("somebody else wrote it first")]
    Overtaken,
    #[error("it is held by {0:?} now")]
    Lost(String),
}

impl Failure {
    /// Whether what was written from is not what the API server has.
    fn is_stale(&self) -> bool {
        matches!(self, Failure::Refused(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

impl Lease {
    /// A candidate for the lease. `client` must not retry by itself: a renewal that hangs in
    /// retries is a lease lost without knowing it.
    pub fn new(
        client: Client,
        settings: &Settings,
        identity: &str,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Lease {
        Lease {
            api: Api::namespaced(client, &settings.namespace),
            name: settings.lease_name.clone(),
            terms: Terms::new(settings.lease_duration.get()),
            clock,
            metrics,
            view: View::new(identity),
            fence: Fence::default(),
            unanswered: None,
        }
    }

    /// What tells whether this process may write.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Looks at the lease, without wanting it yet: who has looked for long knows sooner that it
    /// has run out.
    pub async fn follow(&mut self) -> Infallible {
        loop {
            self.look_or_complain().await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until this process leads. An API server that is away is waited for.
    pub async fn won(&mut self) {
        loop {
            let looked = self.look_or_complain().await;
            let now = Instant::now();
            let free_at = self.view.free_at(now);
            if looked && free_at <= now && self.take().await {
                return;
            }
            // To the moment at which it runs out, if that comes before the next look.
            let next = now + LOOK;
            tokio::time::sleep_until(if free_at > now {
                next.min(free_at)
            } else {
                next
            })
            .await;
        }
    }

    /// Renews the lease until this process no longer leads.
    pub async fn lost(&mut self) {
        let mut due = Instant::now() + self.terms.renew_every;
        while let Some(left) = self.fence.left() {
            tokio::time::sleep_until(due.min(Instant::now() + left)).await;
            let sent = Instant::now();
            if due > sent {
                continue;
            }
            match self.renew().await {
                Ok(()) => due = sent + self.terms.renew_every,
                Err(error @ Failure::Lost(_)) => {
                    warn!(%error, "the lease is lost");
                    return self.fence.close();
                }
                Err(error) => {
                    self.metrics.count_renew_failure();
                    warn!(%error, "the lease was not renewed; trying again");
                    due = Instant::now() + self.terms.retry_pause;
                }
            }
        }
        warn!("the lease was not renewed in time");
    }

    /// Gives the lease back, so that a standby need not wait for its end. What was lost is not
    /// ours to give.
    pub async fn give_back(mut self) {
        let Some(left) = self.fence.left() else {
            return;
        };
        self.fence.close();
        let record = self.view.given_back(self.clock.now());
        let bound = left.min(GIVE_BACK_TIMEOUT);
        match self.write(record, bound).await {
            Ok(()) => info!("the lease is given back"),
            Err(error) => warn!(%error, "the lease could not be given back"),
        }
    }

    async fn look_or_complain(&mut self) -> bool {
        match self.look(self.terms.call_timeout).await {
            Ok(()) => true,
            Err(error) => {
                debug!(%error, "the lease cannot be looked at");
                false
            }
        }
    }

    /// Asks for a lease that nobody holds.
    async fn take(&mut self) -> bool {
        let sent = Instant::now();
        let record = self.view.taken(&self.terms, self.clock.now());
        match self.write(record, self.terms.call_timeout).await {
            Ok(()) => {
                self.fence.open_until(sent + self.terms.trusted);
                // An answer that came too late is a lease that may have run out already.
                self.fence.left().is_some()
            }
            Err(error) => {
                debug!(%error, "the lease is free but was not given");
                false
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        if let Some(first) = self.unanswered {
            self.find_out(first).await?;
        }
        let sent = Instant::now();
        let bound = self.bound();
        let record = self.view.renewed(&self.terms, self.clock.now());
        let first = *self.unanswered.get_or_insert(sent);
        match self.write(record, bound).await {
            Ok(()) => {
                self.unanswered = None;
                self.fence.open_until(sent + self.terms.trusted);
                Ok(())
            }
            Err(error) if error.is_stale() => {
                self.find_out(first).await?;
                Err(Failure::Overtaken)
            }
            Err(error) => Err(error),
        }
    }

    /// How long a call may take now.
    fn bound(&self) -> Duration {
        let left = self.fence.left().unwrap_or_default();
        left.min(self.terms.call_timeout)
    }

    /// Looks who wrote the lease last. That may have been this process: a renewal whose answer
    /// was lost or late counts from when the first of them was sent, so that an API server with
    /// too much to do, which does what it is asked but late, costs nobody the lead.
    async fn find_out(&mut self, first: Instant) -> Result<(), Failure> {
        let before = self.view.renewed_at().cloned();
        self.look(self.bound()).await?;
        if let Some(holder) = self.view.stranger() {
            return Err(Failure::Lost(holder));
        }
        let after = self.view.renewed_at();
        // One that is missing was renewed by nobody.
        if after.is_some() && after != before.as_ref() {
            self.unanswered = None;
            self.fence.open_until(first + self.terms.trusted);
        }
        Ok(())
    }

    async fn look(&mut self, bound: Duration) -> Result<(), Failure> {
        let found = timed(bound, self.api.get_opt(&self.name)).await?;
        self.see(found);
        Ok(())
    }

    /// Writes over what was seen last, or anew if there was nothing.
    async fn write(&mut self, record: v1::LeaseSpec, bound: Duration) -> Result<(), Failure> {
        let (params, wanted) = (PostParams::default(), self.view.with(&self.name, record));
        let written = match wanted.metadata.resource_version {
            Some(_) => timed(bound, self.api.replace(&self.name, &params, &wanted)).await?,
            None => timed(bound, self.api.create(&params, &wanted)).await?,
        };
        self.see(Some(written));
        Ok(())
    }

    fn see(&mut self, found: Option<v1::Lease>) {
        self.view.see(found, &self.terms, Instant::now());
        self.metrics.show_lease_transitions(self.view.transitions());
    }
}

async fn timed<T>(
    bound: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(bound, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Timeout(bound)),
    }
}
