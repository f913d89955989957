use std::sync::Mutex;

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::{
    operator::{
        fence::Fence,
        metrics::Metrics,
        testing::{Answer, Asked, client, refusal},
    },
    ports::SystemClock,
};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/compozy-tool-charge";

fn tool() -> Tool {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Tool",
        "metadata": {"name": "charge", "namespace": "shop", "uid": "tu", "resourceVersion": "5", "generation": 1},
        "spec": {"handler": {"container": {"image": "x"}, "exec": {"command": ["x"]}}},
    }))
    .unwrap()
}

/// An API server with one Deployment, or none.
#[derive(Default)]
struct ApiServer {
    deployment: Mutex<Option<Value>>,
    /// What it says to whoever writes a Deployment, if it says no.
    refuses: Mutex<Option<&'static str>>,
    asked: Mutex<Vec<String>>,
    /// The last status written.
    status: Mutex<Value>,
}

impl ApiServer {
    fn answer(&self, asked: Asked) -> Answer {
        let line = format!("{} {}", asked.method, asked.path);
        self.asked.lock().unwrap().push(line);
        let mut deployment = self.deployment.lock().unwrap();
        if asked.path != DEPLOYMENT {
            assert_eq!(asked.method, Method::PUT);
            let mut tool = asked.body;
            *self.status.lock().unwrap() = tool["status"].clone();
            tool["metadata"]["resourceVersion"] = json!("9");
            return (200, tool);
        }
        match (asked.method, *self.refuses.lock().unwrap()) {
            (Method::GET, _) => deployment
                .clone()
                .map_or_else(|| refusal(404, "NotFound"), |found| (200, found)),
            (_, Some(reason)) => refusal(500, reason),
            (_, None) => {
                let mut applied = asked.body;
                applied["metadata"]["uid"] = json!("du");
                applied["metadata"]["resourceVersion"] = json!("8");
                *deployment = Some(applied.clone());
                (200, applied)
            }
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn reason(&self) -> String {
        let status = self.status.lock().unwrap();
        status["conditions"][0]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

fn servers(api: Arc<ApiServer>) -> Servers<Tool> {
    let hub = Arc::new(Hub::default());
    tool().seen(&hub);
    let client = client(move |asked| std::future::ready(api.answer(asked)));
    let fence = Fence::default();
    fence.open_until(Instant::now() + Duration::from_secs(3600));
    let metrics = Arc::new(Metrics::new(|_| ()));
    Servers {
        cluster: Cluster::new(client, hub.clone(), metrics, fence),
        hub,
        clock: Arc::new(SystemClock),
        settings: ServerSettings::default(),
        feed: None,
        kind: PhantomData,
    }
}

fn key() -> Key {
    ("shop".into(), "charge".into())
}

#[tokio::test]
async fn a_tool_gets_its_deployment_and_then_is_left_alone() {
    let api = Arc::new(ApiServer::default());
    let servers = servers(api.clone());
    assert_eq!(servers.reconcile(&key()).await.unwrap(), None);
    let tool = "/apis/compozy.dev/v1alpha1/namespaces/shop/tools/charge/status";
    assert_eq!(
        api.asked(),
        [
            format!("GET {DEPLOYMENT}"),
            format!("PATCH {DEPLOYMENT}"),
            format!("PUT {tool}")
        ]
    );
    assert_eq!(api.reason(), "NotServed");
    assert_eq!(servers.reconcile(&key()).await.unwrap(), None);
    assert_eq!(api.asked(), [""; 0]);
}

#[tokio::test]
async fn a_deployment_that_the_cache_does_not_have_is_not_written_again() {
    let api = Arc::new(ApiServer::default());
    servers(api.clone()).reconcile(&key()).await.unwrap();
    api.asked();
    // A process that has just started.
    let servers = servers(api.clone());
    servers.reconcile(&key()).await.unwrap();
    assert!(!api.asked().iter().any(|asked| asked.starts_with("PATCH")));
}

#[tokio::test]
async fn somebody_elses_deployment_is_looked_at_until_it_is_gone() {
    let api = Arc::new(ApiServer::default());
    let foreign =
        json!({"metadata": {"name": "compozy-tool-charge", "namespace": "shop", "uid": "foreign"}});
    *api.deployment.lock().unwrap() = Some(foreign);
    let servers = servers(api.clone());
    assert!(
        servers.reconcile(&key()).await.unwrap().is_some(),
        "it is looked at again"
    );
    assert_eq!(api.reason(), "NameTaken");
    *api.deployment.lock().unwrap() = None;
    servers.reconcile(&key()).await.unwrap();
    assert_eq!(api.reason(), "NotServed");
    assert_eq!(
        api.deployment.lock().unwrap().as_ref().unwrap()["metadata"]["uid"],
        "du"
    );
}

#[tokio::test]
async fn a_refusal_is_shown_and_tried_again() {
    let api = Arc::new(ApiServer::default());
    *api.refuses.lock().unwrap() = Some("denied by the webhook");
    let servers = servers(api.clone());
    let error = servers.reconcile(&key()).await.unwrap_err();
    assert!(error.said().contains("denied by the webhook"), "{error}");
    assert_eq!(api.reason(), "Refused");
    *api.refuses.lock().unwrap() = None;
    servers.reconcile(&key()).await.unwrap();
    assert_eq!(api.reason(), "NotServed");
}

#[tokio::test]
async fn a_deployment_that_goes_wakes_its_tool() {
    let api = Arc::new(ApiServer::default());
    let servers = servers(api.clone());
    let queue = &servers.hub.tools.queue;
    assert_eq!(queue.next().await, key());
    servers.reconcile(&key()).await.unwrap();
    queue.done(&key());
    let gone = ("shop".into(), "compozy-tool-charge".into());
    *api.deployment.lock().unwrap() = None;
    <Deployment as Watched<Tool>>::gone(&servers.hub, &gone, None);
    api.asked();
    assert_eq!(queue.next().await, key());
    servers.reconcile(&key()).await.unwrap();
    assert!(api.asked().contains(&format!("PATCH {DEPLOYMENT}")));
}

/// Their Deployments have labels of their own: a list of those of tools says nothing of those of pools.
#[tokio::test]
async fn a_deployment_wakes_what_it_serves_and_nothing_else() {
    let hub = Hub::default();
    let deployment = |name: &str| -> Deployment {
        let meta = json!({"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"});
        serde_json::from_value(json!({ "metadata": meta })).unwrap()
    };
    Watched::<ExecutorPool>::seen(deployment("compozy-pool-text"), &hub);
    assert_eq!(hub.pools.queue.next().await, ("shop".into(), "text".into()));
    assert_eq!(hub.tools.queue.depth(), 0);
    assert!(<Deployment as Watched<Tool>>::known(&hub).is_empty());
    Watched::<ExecutorPool>::seen(deployment("text"), &hub);
    Watched::<Tool>::seen(deployment("compozy-pool-text"), &hub);
    assert_eq!((hub.pools.queue.depth(), hub.tools.queue.depth()), (0, 0));
}

#[tokio::test]
async fn a_pool_is_served_as_soon_as_its_deployment_has_a_worker() {
    let hub = Hub::default();
    let pool: ExecutorPool = serde_json::from_value(json!({
        "metadata": {"name": "text", "namespace": "shop", "uid": "pu", "resourceVersion": "1"},
        "spec": {"container": {"image": "x"}, "exec": {"command": ["x"]}},
    }))
    .unwrap();
    pool.clone().seen(&hub);
    let known = hub.pools.pool(&key_of(&pool)).unwrap();
    assert!(!hub.pools.is_served(&known));
    let owner = json!({"apiVersion": "compozy.dev/v1alpha1", "kind": "ExecutorPool", "name": "text",
        "uid": "pu", "controller": true});
    let workers: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "compozy-pool-text", "namespace": "shop", "uid": "du", "resourceVersion": "2",
            "ownerReferences": [owner]},
        "status": {"readyReplicas": 1},
    }))
    .unwrap();
    Watched::<ExecutorPool>::seen(workers, &hub);
    assert!(hub.pools.is_served(&known));
}
