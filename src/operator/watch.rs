//! The watches: one for each kind and namespace, from the API server into the hub.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

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
    unparsable::{Kind, Unparsable},
};
use crate::api::{LABEL_WORKFLOW_UID, TaskExecution, Workflow};

/// A kind of object that is watched. Objects of one kind may be watched as several things: as what is `As`.
pub trait Watched<As = Self>:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
    /// The kind, in metrics and logs.
    const KIND: &'static str;
    /// What its objects are called in paths.
    const PLURAL: &'static str;
    /// Which objects.
    fn config() -> watcher::Config {
        watcher::Config::default()
    }
    /// As what an object is shown that cannot be parsed.
    const SHOWN_AS: Option<Kind>;
    /// The object as it is now.
    fn seen(self, hub: &Hub);
    /// The object is gone.
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>);
    /// Keys and UIDs of all that is known.
    fn known(hub: &Hub) -> Vec<(Key, String)>;
}

impl Watched for Workflow {
    const KIND: &'static str = "Workflow";
    const PLURAL: &'static str = "workflows";
    const SHOWN_AS: Option<Kind> = Some(Kind::Workflow);
    fn seen(self, hub: &Hub) {
        hub.workflow(self);
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.workflow_gone(key, uid);
    }
    fn known(hub: &Hub) -> Vec<(Key, String)> {
        hub.index.known_workflows()
    }
}

impl Watched for TaskExecution {
    const KIND: &'static str = "TaskExecution";
    const PLURAL: &'static str = "taskexecutions";
    const SHOWN_AS: Option<Kind> = Some(Kind::TaskExecution);
    fn seen(self, hub: &Hub) {
        hub.execution(self);
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.execution_gone(key, uid);
    }
    fn known(hub: &Hub) -> Vec<(Key, String)> {
        hub.index.known_executions()
    }
}

impl Watched for Pod {
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    const SHOWN_AS: Option<Kind> = None;
    fn config() -> watcher::Config {
        watcher::Config::default().labels(LABEL_WORKFLOW_UID)
    }
    fn seen(self, hub: &Hub) {
        hub.pod(self);
    }
    fn gone(hub: &Hub, key: &Key, uid: Option<&str>) {
        hub.pod_gone(key, uid);
    }
    fn known(hub: &Hub) -> Vec<(Key, String)> {
        hub.index.known_pods()
    }
}

/// Where objects are watched.
#[derive(Clone, Debug)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In this namespace.
    Namespace(String),
}

impl Scope {
    /// What is watched if these namespaces are asked for; none means all.
    pub fn of(namespaces: impl IntoIterator<Item = String>) -> Vec<Scope> {
        let scopes: Vec<_> = namespaces.into_iter().map(Scope::Namespace).collect();
        if scopes.is_empty() {
            return vec![Scope::Cluster];
        }
        scopes
    }

    fn api<K>(&self, client: Client) -> Api<DeserializeGuard<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Scope::Cluster => Api::all(client),
            Scope::Namespace(namespace) => Api::namespaced(client, namespace),
        }
    }

    fn has(&self, key: &Key) -> bool {
        match self {
            Scope::Cluster => true,
            Scope::Namespace(namespace) => *key.0 == **namespace,
        }
    }
}

/// A list that has not gone on for so long is asked for anew: the API server itself gives up after
/// a minute. The client would wait as long as for the next event of a watch, five minutes.
const LIST_PATIENCE: Duration = Duration::from_secs(65);

/// Watches all objects of a kind there, for ever. `synced` becomes true with the first whole list.
pub async fn watch<K: Watched<As>, As>(
    client: Client,
    scope: Scope,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    synced: watch::Sender<bool>,
) {
    let open = || watcher(scope.api::<K>(client.clone()), K::config()).default_backoff();
    follow::<K, As, _>(open, &scope, &hub, &metrics, &synced).await;
    // The stream never ends by itself; if it did, working on would be working blind.
    error!(kind = K::KIND, ?scope, "the watch ended");
}

/// Follows a stream to its end. One whose list does not go on is opened anew.
async fn follow<K, As, S>(
    open: impl Fn() -> S,
    scope: &Scope,
    hub: &Hub,
    metrics: &Metrics,
    synced: &watch::Sender<bool>,
) where
    K: Watched<As>,
    S: Stream<Item = Result<Event<DeserializeGuard<K>>, watcher::Error>>,
{
    let mut stream = std::pin::pin!(open());
    let mut lists = true;
    // What was known when the list began and was not in it so far. What came to be known since,
    // by our own writes, a list need not have.
    let mut unlisted = BTreeMap::new();
    let mut unparsed = Unparsed::default();
    let mut complaints = Complaints::default();
    loop {
        let next = match lists {
            true => tokio::time::timeout(LIST_PATIENCE, stream.next()).await,
            false => Ok(stream.next().await),
        };
        let event = match next {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(_) => {
                warn!(kind = K::KIND, ?scope, patience = ?LIST_PATIENCE, "a list does not go on; asking anew");
                stream.set(open());
                continue;
            }
        };
        match event {
            Ok(Event::Init) => {
                lists = true;
                let known = K::known(hub).into_iter();
                unlisted = known.filter(|(key, _)| scope.has(key)).collect();
            }
            Ok(Event::InitApply(object)) => {
                unlisted.remove(&key_of(&object));
                unparsed.take_in::<K, As>(object, hub, metrics);
            }
            Ok(Event::InitDone) => {
                for (key, uid) in std::mem::take(&mut unlisted) {
                    K::gone(hub, &key, Some(&uid));
                }
                lists = false;
                synced.send_replace(true);
            }
            Ok(Event::Apply(object)) => unparsed.take_in::<K, As>(object, hub, metrics),
            Ok(Event::Delete(object)) => {
                unparsed.versions.remove(&key_of(&object));
                K::gone(hub, &key_of(&object), object.meta().uid.as_deref());
            }
            Err(error) => complaints.about(K::KIND, &error),
        }
    }
}

/// The last version of each object that could not be parsed.
#[derive(Default)]
struct Unparsed {
    versions: BTreeMap<Key, Option<String>>,
}

impl Unparsed {
    /// An object that does not parse is counted, logged and shown, each version of it once; it
    /// never stops the others.
    fn take_in<K: Watched<As>, As>(
        &mut self,
        object: DeserializeGuard<K>,
        hub: &Hub,
        metrics: &Metrics,
    ) {
        let key = key_of(&object);
        let invalid = match object.0 {
            Ok(object) => {
                self.versions.remove(&key);
                return object.seen(hub);
            }
            Err(invalid) => invalid,
        };
        // What was known of it is no longer true, and nothing must be decided from it.
        K::gone(hub, &key, None);
        let version = invalid.metadata.resource_version;
        if self.versions.get(&key) == Some(&version) {
            return;
        }
        self.versions.insert(key.clone(), version);
        metrics.count_invalid(K::KIND);
        let error = invalid.error.to_string();
        warn!(kind = K::KIND, namespace = %key.0, name = %key.1, error, "a stored object cannot be parsed");
        if let Some(kind) = K::SHOWN_AS {
            hub.unparsable.add(Unparsable {
                kind,
                key,
                generation: invalid.metadata.generation,
                error,
            });
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};

    use super::*;

    fn workflow(namespace: &str, uid: &str) -> Value {
        json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": namespace, "uid": uid, "resourceVersion": "1"},
            "spec": {"tasks": []},
        })
    }

    fn object(value: Value) -> DeserializeGuard<Workflow> {
        serde_json::from_value(value).unwrap()
    }

    fn hub() -> Hub {
        let hub = Hub::default();
        for namespace in ["a", "b"] {
            let known = serde_json::from_value(workflow(namespace, namespace)).unwrap();
            hub.workflow(known);
        }
        hub
    }

    fn uid(hub: &Hub, namespace: &str) -> Option<String> {
        let key = (namespace.into(), "w".into());
        hub.index.workflow(&key)?.metadata.uid.clone()
    }

    async fn follow_events(
        hub: &Hub,
        scope: Scope,
        events: Vec<Event<DeserializeGuard<Workflow>>>,
    ) {
        let metrics = Metrics::new(|_| ());
        let (synced, _) = watch::channel(false);
        let events = Cell::new(events);
        let open = || futures::stream::iter(events.take().into_iter().map(Ok));
        follow::<Workflow, Workflow, _>(open, &scope, hub, &metrics, &synced).await;
        assert!(*synced.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_does_not_go_on_is_asked_for_anew_and_a_silent_watch_is_not() {
        let (hub, metrics) = (hub(), Metrics::new(|_| ()));
        let (synced, _) = watch::channel(false);
        let opened = Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            let events = match opened.get() {
                1 => vec![],
                2 => vec![Event::Init],
                3 => vec![Event::Init, Event::InitDone, Event::Init],
                _ => vec![Event::Init, Event::InitDone],
            };
            futures::stream::iter(events.into_iter().map(Ok)).chain(futures::stream::pending())
        };
        let followed =
            follow::<Workflow, Workflow, _>(open, &Scope::Cluster, &hub, &metrics, &synced);
        let followed = tokio::time::timeout(20 * LIST_PATIENCE, followed).await;
        assert!(followed.is_err(), "a watch lasts for ever");
        assert_eq!(opened.get(), 4);
        assert!(*synced.borrow());
    }

    #[tokio::test]
    async fn a_list_of_one_namespace_says_nothing_about_another() {
        let hub = hub();
        let scope = Scope::Namespace("a".to_owned());
        follow_events(&hub, scope, vec![Event::Init, Event::InitDone]).await;
        assert_eq!(uid(&hub, "a"), None);
        assert_eq!(uid(&hub, "b").as_deref(), Some("b"));
    }

    #[tokio::test]
    async fn what_is_listed_under_the_same_name_stays() {
        let hub = hub();
        let mut new = workflow("a", "new");
        new["metadata"]["resourceVersion"] = json!("2");
        let listed = vec![Event::Init, Event::InitApply(object(new)), Event::InitDone];
        follow_events(&hub, Scope::Cluster, listed).await;
        assert_eq!(uid(&hub, "a").as_deref(), Some("new"));
        assert_eq!(uid(&hub, "b"), None);
    }

    #[tokio::test]
    async fn an_object_that_does_not_parse_stops_nothing() {
        let hub = hub();
        let mut broken = workflow("c", "c");
        broken["spec"] = json!({"tasks": "none"});
        let listed = vec![
            Event::Init,
            Event::InitApply(object(broken)),
            Event::InitApply(object(workflow("a", "a"))),
            Event::InitDone,
        ];
        follow_events(&hub, Scope::Cluster, listed).await;
        assert_eq!(uid(&hub, "a").as_deref(), Some("a"));
        assert_eq!(uid(&hub, "c"), None);
        assert_eq!(hub.unparsable.depth(), 1);
    }

    #[tokio::test]
    async fn what_no_longer_parses_is_not_acted_upon_by_its_older_version() {
        let hub = hub();
        let mut newer = workflow("a", "a");
        newer["status"] = json!({"phase": "OfANewerOperator"});
        let events = vec![
            Event::Init,
            Event::InitApply(object(workflow("a", "a"))),
            Event::InitApply(object(workflow("b", "b"))),
            Event::InitDone,
            Event::Apply(object(newer)),
        ];
        follow_events(&hub, Scope::Cluster, events).await;
        assert_eq!(uid(&hub, "a"), None);
        assert_eq!(uid(&hub, "b").as_deref(), Some("b"));
        // The newer operator is back, or somebody mended it.
        let events = vec![
            Event::Init,
            Event::InitApply(object(workflow("a", "a"))),
            Event::InitApply(object(workflow("b", "b"))),
            Event::InitDone,
        ];
        follow_events(&hub, Scope::Cluster, events).await;
        assert_eq!(uid(&hub, "a").as_deref(), Some("a"));
    }

    #[test]
    fn no_namespace_asked_for_means_all() {
        assert!(matches!(Scope::of([])[..], [Scope::Cluster]));
        let two = Scope::of(["a".to_owned(), "b".to_owned()]);
        assert!(two[0].has(&("a".into(), "w".into())) && !two[1].has(&("a".into(), "w".into())));
    }
}
