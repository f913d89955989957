//! The reconciler of what the operator serves, tools and pools: each has a Deployment, whose pods take what there is to do.

#[cfg(test)]
mod tests;

use std::{fmt::Debug, marker::PhantomData, sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{core::NamespaceResourceScope, runtime::watcher};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{task::JoinSet, time::Instant};

use super::{
    cluster::{CallError, Cluster},
    dispatches::Dispatches,
    drive::drive,
    hub::Hub,
    index::{Key, Known, key_of, sibling},
    metrics::Metrics,
    queue::Queue,
    unparsable::Kind,
    watch::Watched,
};
use crate::{
    api::{ExecutorPool, Time, Tool},
    engine::server::{self, Plan, Served, ServerSettings, plan},
    ports::Clock,
};

/// Objects of a kind that are looked after at once.
const SERVE_AT_ONCE: usize = 4;

/// How often a Deployment is looked at that no watch shows.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A kind of object that the operator serves.
pub trait ServedHere:
    Served<Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The kind, in metrics and logs.
    const OBJECT: &'static str;
    /// What its queue is called in metrics.
    const QUEUE: &'static str;
    /// What its objects are called in paths.
    const PATH: &'static str;
    /// What their statuses are called in paths.
    const STATUS_PATH: &'static str;
    /// What the hub knows of them.
    fn within(hub: &Hub) -> &KnownServed<Self>;
}

impl ServedHere for Tool {
    const OBJECT: &'static str = "Tool";
    const QUEUE: &'static str = "tool";
    const PATH: &'static str = "tools";
    const STATUS_PATH: &'static str = "tools/status";
    fn within(hub: &Hub) -> &KnownServed<Tool> {
        &hub.tools
    }
}

impl ServedHere for ExecutorPool {
    const OBJECT: &'static str = "ExecutorPool";
    const QUEUE: &'static str = "pool";
    const PATH: &'static str = "executorpools";
    const STATUS_PATH: &'static str = "executorpools/status";
    fn within(hub: &Hub) -> &KnownServed<ExecutorPool> {
        &hub.pools
    }
}

/// What is known of the objects of a kind and of what serves them, and which to look at.
pub struct KnownServed<K> {
    objects: Known<K>,
    deployments: Known<Deployment>,
    /// Those to look at.
    pub queue: Queue<Key>,
}

impl<K> Default for KnownServed<K> {
    fn default() -> Self {
        KnownServed {
            objects: Known::default(),
            deployments: Known::default(),
            queue: Queue::default(),
        }
    }
}

impl KnownServed<Tool> {
    /// A tool, if tools are watched.
    pub fn tool(&self, key: &Key) -> Option<Arc<Tool>> {
        self.objects.get(key)
    }
}

impl KnownServed<ExecutorPool> {
    /// A pool, if pools are watched.
    pub fn pool(&self, key: &Key) -> Option<Arc<ExecutorPool>> {
        self.objects.get(key)
    }
}

impl<K: ServedHere> KnownServed<K> {
    /// Something that concerns all of them has changed.
    pub fn look_at_all(&self) {
        let all = self.objects.all().into_iter();
        all.for_each(|(key, _)| self.queue.add(key));
    }

    /// Whether a pod that the operator runs takes what there is for `served`. The Deployment knows it before the status
    /// says so.
    pub fn is_served(&self, served: &K) -> bool {
        let deployment = self.deployments.get(&server_of::<K>(&key_of(served)));
        deployment.is_some_and(|deployment| server::serves(&deployment, served))
    }

    /// An object, or what serves it, is another one than before. Tasks that wait for it need no call: they look again by
    /// themselves.
    fn changed(&self, key: Key) {
        self.queue.add(key);
    }

    fn deployment_changed(&self, deployment: &Key) {
        if let Some(served) = K::MANNER.served_by(&deployment.1) {
            self.changed(sibling(deployment, served));
        }
    }
}

impl<K: ServedHere> Watched for K {
    const KIND: &'static str = K::OBJECT;
    const PLURAL: &'static str = K::PATH;
    const SHOWN_AS: Option<Kind> = None;
    fn seen(self, hub: &Hub) {
        let (known, key) = (K::within(hub), key_of(&self));
        if known.objects.apply(self) {
            known.changed(key);
        }
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        K::within(hub).objects.delete(key, uid);
    }
    fn known(hub: &Hub) -> Vec<(Key, String)> {
        K::within(hub).objects.all()
    }
}

/// The Deployments that serve objects of the kind `K`.
impl<K: ServedHere> Watched<K> for Deployment {
    const KIND: &'static str = "Deployment";
    const PLURAL: &'static str = "deployments";
    const SHOWN_AS: Option<Kind> = None;
    fn config() -> watcher::Config {
        watcher::Config::default().labels(K::MANNER.label)
    }
    fn seen(self, hub: &Hub) {
        let (known, key) = (K::within(hub), key_of(&self));
        if known.deployments.apply(self) {
            known.deployment_changed(&key);
        }
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        let known = K::within(hub);
        known.deployments.delete(key, uid);
        known.deployment_changed(key);
    }
    fn known(hub: &Hub) -> Vec<(Key, String)> {
        K::within(hub).deployments.all()
    }
}

/// Whether the API server said no. What cannot be applied, such as a list with an entry twice, it calls an error of its own
/// (500).
fn is_refusal(error: &CallError) -> bool {
    error.code().is_some() && !error.is_conflict() && !error.is_throttled()
}

/// The Deployment that serves an object.
fn server_of<K: Served>(served: &Key) -> Key {
    sibling(served, &K::MANNER.deployment(&served.1))
}

/// The reconciler of one kind.
pub struct Servers<K> {
    /// Where observations are.
    pub hub: Arc<Hub>,
    /// Where changes go.
    pub cluster: Cluster,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The installation's say.
    pub settings: ServerSettings,
    /// What feeds them, if they are fed.
    pub feed: Option<Arc<Dispatches>>,
    /// The kind.
    pub kind: PhantomData<K>,
}

impl<K: ServedHere> Servers<K> {
    /// Looks after all of them, for ever.
    pub fn start(self, tasks: &mut JoinSet<()>, metrics: &Arc<Metrics>) {
        let (hub, servers) = (self.hub.clone(), Arc::new(self));
        tasks.spawn(drive(
            K::QUEUE,
            hub,
            |hub| &K::within(hub).queue,
            SERVE_AT_ONCE,
            metrics.clone(),
            move |key| {
                let servers = servers.clone();
                async move { servers.look_after(&key).await }
            },
        ));
    }

    /// First the queue: workers are not ready before there is one.
    async fn look_after(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        let again = match &self.feed {
            Some(feed) => feed.prepare(key).await,
            None => None,
        };
        let due = self.reconcile(key).await?;
        Ok(due.into_iter().chain(again).min())
    }

    /// Does what is to be done about an object.
    ///
    /// # Errors
    /// A call that failed; trying again is safe.
    pub async fn reconcile(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        let hub = K::within(&self.hub);
        let Some(served) = hub.objects.get(key) else {
            return Ok(None);
        };
        let server = server_of::<K>(key);
        let known = hub.deployments.get(&server);
        let mut found = known.as_deref().cloned();
        if self.plan(&served, found.as_ref(), None).apply.is_some() {
            // The cache may be behind, and has nothing of a Deployment without our label.
            found = self.cluster.fetch_deployment(&server).await?;
        }
        let mut refused = None;
        if let Some(wanted) = self.plan(&served, found.as_ref(), None).apply {
            match self.cluster.apply_deployment::<K>(&wanted).await {
                Ok(applied) => found = Some(applied),
                Err(error) if is_refusal(&error) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        let said = refused.as_ref().map(CallError::said);
        let plan = self.plan(&served, found.as_ref(), said.as_deref());
        if let Some(status) = plan.record {
            self.cluster.record_served(&*served, status).await?;
        }
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        // No watch tells when somebody else's Deployment goes.
        let unwatched = found.is_some() && hub.deployments.get(&server).is_none();
        Ok(unwatched.then(|| Instant::now() + LOOK_AGAIN))
    }

    fn plan(&self, served: &K, found: Option<&Deployment>, refused: Option<&str>) -> Plan {
        let now = Time(self.clock.now());
        plan(served, found, refused, &self.settings, now)
    }
}
