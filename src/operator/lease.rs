//! Leader election: one operator works, others stand by with warm caches.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::{sync::watch, task::JoinHandle};
use tracing::warn;

use super::settings::Settings;

/// Giving the lease back is worth no longer wait.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// The lease manager counts in whole seconds and renews this much before the end.
const SHORTEST_LEASE: u64 = 3;

/// The lease, held or waited for in the background.
pub struct Lease {
    leads: watch::Receiver<bool>,
    keeper: JoinHandle<kube_lease_manager::Result<LeaseManager>>,
}

impl Lease {
    /// Starts to wait for the lease. `client` must not retry by itself: a renewal that hangs in
    /// retries is a lease lost without knowing it.
    ///
    /// # Errors
    /// The lease object can be neither read nor created.
    pub async fn seek(
        client: Client,
        settings: &Settings,
        identity: &str,
    ) -> kube_lease_manager::Result<Lease> {
        let duration = settings.lease_duration.get().as_secs().max(SHORTEST_LEASE);
        let manager = LeaseManagerBuilder::new(client, &settings.lease_name)
            .with_namespace(&settings.namespace)
            .with_identity(identity)
            .with_duration(duration)
            .with_grace((duration / 3).max(1))
            .build()
            .await?;
        let (leads, keeper) = manager.watch().await;
        Ok(Lease { leads, keeper })
    }

    /// Waits until this process leads.
    pub async fn won(&mut self) {
        // An error means that the keeper ended, which `lost` reports.
        let _ = self.leads.wait_for(|leads| *leads).await;
    }

    /// Waits until this process no longer leads.
    pub async fn lost(&mut self) {
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the lease back, so that a standby need not wait for its end.
    pub async fn give_back(self) {
        let Lease { leads, keeper } = self;
        drop(leads);
        match tokio::time::timeout(RELEASE_TIMEOUT, keeper).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => warn!(%error, "the lease could not be given back"),
            Ok(Err(error)) => warn!(%error, "the lease's keeper failed"),
            Err(_) => warn!("the lease could not be given back in time"),
        }
    }
}
