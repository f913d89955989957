//! Leader election: one operator works, others stand by with warm caches.

use std::time::Duration;

use k8s_openapi::api::coordination::v1;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{debug, warn};

use super::settings::Settings;

/// Giving the lease back is worth no longer wait.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// The lease manager counts in whole seconds and renews this much before the end.
const SHORTEST_LEASE: u64 = 3;
/// How often a standby looks whether the lease was given back.
const LOOK: Duration = Duration::from_secs(1);
/// A look that takes longer is given up.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The lease, held or waited for in the background.
pub struct Lease {
    candidate: Candidate,
    leads: watch::Receiver<bool>,
    keeper: Keeper,
}

type Keeper = JoinHandle<kube_lease_manager::Result<LeaseManager>>;

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
        let candidate = Candidate {
            client,
            name: settings.lease_name.clone(),
            namespace: settings.namespace.clone(),
            identity: identity.to_owned(),
            duration: settings.lease_duration.get().as_secs().max(SHORTEST_LEASE),
        };
        let (leads, keeper) = candidate.apply().await?;
        Ok(Lease {
            candidate,
            leads,
            keeper,
        })
    }

    /// Waits until this process leads. The lease manager sleeps until another's lease would end;
    /// when that one is given back earlier, it is woken by starting it anew.
    pub async fn won(&mut self) {
        loop {
            tokio::select! {
                biased;
                // An error means that the keeper ended, which `lost` reports.
                _ = self.leads.wait_for(|leads| *leads) => return,
                () = self.candidate.free() => {}
            }
            match self.candidate.apply().await {
                Ok((leads, keeper)) => {
                    std::mem::replace(&mut self.keeper, keeper).abort();
                    self.leads = leads;
                }
                Err(error) => debug!(%error, "the lease is free but cannot be asked for"),
            }
        }
    }

    /// Waits until this process no longer leads.
    pub async fn lost(&mut self) {
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the lease back, so that a standby need not wait for its end.
    pub async fn give_back(self) {
        let Lease { leads, keeper, .. } = self;
        drop(leads);
        match tokio::time::timeout(RELEASE_TIMEOUT, keeper).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => warn!(%error, "the lease could not be given back"),
            Ok(Err(error)) => warn!(%error, "the lease's keeper failed"),
            Err(_) => warn!("the lease could not be given back in time"),
        }
    }
}

/// Who asks for which lease.
struct Candidate {
    client: Client,
    name: String,
    namespace: String,
    identity: String,
    duration: u64,
}

impl Candidate {
    /// Asks for the lease, and keeps it once it is held.
    async fn apply(&self) -> kube_lease_manager::Result<(watch::Receiver<bool>, Keeper)> {
        let manager = LeaseManagerBuilder::new(self.client.clone(), &self.name)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_duration(self.duration)
            .with_grace((self.duration / 3).max(1))
            .build()
            .await?;
        Ok(manager.watch().await)
    }

    /// Waits until nobody holds the lease.
    async fn free(&self) {
        let leases: Api<v1::Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        loop {
            tokio::time::sleep(LOOK).await;
            let look = tokio::time::timeout(LOOK_TIMEOUT, leases.get_opt(&self.name));
            let held = match look.await {
                Ok(Ok(lease)) => lease.and_then(|lease| lease.spec?.holder_identity),
                Ok(Err(error)) => {
                    debug!(%error, "the lease cannot be looked at");
                    continue;
                }
                Err(_) => continue,
            };
            if held.is_none_or(|holder| holder.is_empty()) {
                return;
            }
        }
    }
}
