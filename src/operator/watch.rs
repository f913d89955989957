//! The watches: one for each kind, from the API server into the hub.

use std::{collections::HashSet, fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{error, warn};

use super::{
    hub::Hub,
    index::{Key, key_of},
    metrics::Metrics,
};
use crate::api::{LABEL_WORKFLOW_UID, TaskExecution, Workflow};

/// A kind of object that is watched.
pub trait Watched:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
    /// The kind, in metrics and logs.
    const KIND: &'static str;
    /// Which objects.
    fn config() -> watcher::Config {
        watcher::Config::default()
    }
    /// The object as it is now.
    fn seen(self, hub: &Hub);
    /// The object is gone.
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>);
    /// The keys of all that is known.
    fn known(hub: &Hub) -> Vec<Key>;
}

impl Watched for Workflow {
    const KIND: &'static str = "Workflow";
    fn seen(self, hub: &Hub) {
        hub.workflow(self);
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.workflow_gone(key, uid);
    }
    fn known(hub: &Hub) -> Vec<Key> {
        hub.index.workflow_keys()
    }
}

impl Watched for TaskExecution {
    const KIND: &'static str = "TaskExecution";
    fn seen(self, hub: &Hub) {
        hub.execution(self);
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.execution_gone(key, uid);
    }
    fn known(hub: &Hub) -> Vec<Key> {
        hub.index.execution_keys()
    }
}

impl Watched for Pod {
    const KIND: &'static str = "Pod";
    fn config() -> watcher::Config {
        watcher::Config::default().labels(LABEL_WORKFLOW_UID)
    }
    fn seen(self, hub: &Hub) {
        hub.pod(self);
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.pod_gone(key, uid);
    }
    fn known(hub: &Hub) -> Vec<Key> {
        hub.index.pod_keys()
    }
}

/// Watches all objects of a kind, for ever. `synced` becomes true with the first whole list.
pub async fn watch<K: Watched>(
    client: Client,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    synced: watch::Sender<bool>,
) {
    let api = Api::<DeserializeGuard<K>>::all(client);
    let stream = watcher(api, K::config()).default_backoff();
    follow::<K>(stream, &hub, &metrics, &synced).await;
    // The stream never ends by itself; if it did, working on would be working blind.
    error!(kind = K::KIND, "the watch ended");
}

async fn follow<K: Watched>(
    stream: impl Stream<Item = Result<Event<DeserializeGuard<K>>, watcher::Error>>,
    hub: &Hub,
    metrics: &Metrics,
    synced: &watch::Sender<bool>,
) {
    let mut stream = std::pin::pin!(stream);
    let mut listed = HashSet::new();
    let mut complaints = Complaints::default();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(key_of(&object));
                take_in(object, hub, metrics);
            }
            Ok(Event::InitDone) => {
                let unlisted = K::known(hub)
                    .into_iter()
                    .filter(|key| !listed.contains(key));
                unlisted.for_each(|key| K::gone(hub, &key, None));
                listed = HashSet::new();
                synced.send_replace(true);
            }
            Ok(Event::Apply(object)) => take_in(object, hub, metrics),
            Ok(Event::Delete(object)) => {
                K::gone(hub, &key_of(&object), object.meta().uid.as_deref());
            }
            Err(error) => complaints.about(K::KIND, &error),
        }
    }
}

/// An object that does not parse is counted and left alone; it never stops the others.
fn take_in<K: Watched>(object: DeserializeGuard<K>, hub: &Hub, metrics: &Metrics) {
    match object.0 {
        Ok(object) => object.seen(hub),
        Err(invalid) => {
            metrics.count_invalid(K::KIND);
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            warn!(kind = K::KIND, namespace, name, error = %invalid.error, "a stored object cannot be parsed");
        }
    }
}

/// Logs a failing watch, but not at the rate at which it fails.
#[derive(Default)]
struct Complaints {
    last: Option<tokio::time::Instant>,
}

impl Complaints {
    fn about(&mut self, kind: &'static str, error: &watcher::Error) {
        const QUIET: Duration = Duration::from_secs(10);
        if self.last.is_none_or(|last| last.elapsed() >= QUIET) {
            self.last = Some(tokio::time::Instant::now());
            warn!(kind, %error, "watching failed; trying again");
        }
    }
}
