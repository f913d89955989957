use std::sync::Mutex;

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Duration, FINALIZER_EVENTS},
    operator::{
        fence::Fence,
        testing::{Answer, Asked, client, refusal},
    },
    ports::SystemClock,
};

fn execution() -> TaskExecution {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
        "metadata": {"name": "t", "namespace": "n", "uid": "tu", "resourceVersion": "1",
                     "finalizers": [FINALIZER_EVENTS]},
        "spec": {
            "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t", "container": {"image": "x"},
            "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
            "infrastructureRetries": 1, "imagePullTimeout": "10m",
        },
    }))
    .unwrap()
}

/// An API server with a pod of somebody else that has the name of ours.
#[derive(Default)]
struct Taken {
    gone: Mutex<bool>,
    asked: Mutex<Vec<String>>,
}

impl Taken {
    fn answer(&self, asked: Asked) -> Answer {
        let line = format!("{} {}", asked.method, asked.path);
        self.asked.lock().unwrap().push(line);
        let gone = *self.gone.lock().unwrap();
        match asked.method {
            Method::POST if gone => (201, stored(asked.body)),
            Method::POST => refusal(409, "AlreadyExists"),
            Method::PUT => (200, stored(asked.body)),
            _ => (
                200,
                json!({"metadata": {"name": "t-1", "namespace": "n", "uid": "foreign"}}),
            ),
        }
    }
}

fn stored(mut object: Value) -> Value {
    object["metadata"]["resourceVersion"] = json!("2");
    object
}

/// An operator in front of an API server that answers like this.
fn executions(answer: impl Fn(Asked) -> Answer + Send + Sync + 'static) -> Executions {
    let fence = Fence::default();
    fence.open_until(Instant::now() + std::time::Duration::from_secs(3600));
    let (hub, metrics) = (Arc::new(Hub::default()), Arc::new(Metrics::new(|_| ())));
    let client = client(move |asked| std::future::ready(answer(asked)));
    Executions {
        hub: hub.clone(),
        cluster: Cluster::new(client, hub, metrics.clone(), fence),
        clock: Arc::new(SystemClock),
        metrics: metrics.clone(),
        warnings: Warnings::new(metrics).0,
        calls: None,
        dispatches: None,
        serves: false,
        pods: PodSettings { restricted: false },
        deletion_grace: Grace::from_now(Duration::from_secs(60)),
    }
}

fn key() -> Key {
    ("n".into(), "t".into())
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_somebody_else_under_our_name_is_shown_and_looked_for_again() {
    let server = Arc::new(Taken::default());
    let answering = server.clone();
    let executions = executions(move |asked| answering.answer(asked));
    let (hub, key) = (executions.hub.clone(), key());
    hub.workflow(run("Running"));
    hub.execution(execution());

    let again = executions.reconcile(&key).await.unwrap().unwrap();
    let wait = again - Instant::now();
    assert!((10..=15).contains(&wait.as_secs()), "{wait:?}");
    let shown = hub.index.execution(&key).unwrap().status.clone().unwrap();
    assert_eq!(shown.reason.as_deref(), Some("NameTaken"));
    server.asked.lock().unwrap().clear();
    executions.reconcile(&key).await.unwrap().unwrap();
    let pods = "/api/v1/namespaces/n/pods";
    let looked = [format!("POST {pods}"), format!("GET {pods}/t-1")];
    assert_eq!(
        *server.asked.lock().unwrap(),
        looked,
        "no write but the try"
    );

    *server.gone.lock().unwrap() = true;
    executions.reconcile(&key).await.unwrap();
    let pod = hub.index.pod(&("n".into(), "t-1".into()));
    assert!(pod.is_some(), "{:?}", server.asked.lock().unwrap());
}

/// Finalizer and all, before anything of it was recorded.
#[tokio::test(start_paused = true)]
async fn a_pod_that_somebody_takes_away_as_it_starts_costs_an_attempt_each_time() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let executions = executions(move |asked| {
        let mut seen = seen.lock().unwrap();
        seen.push(asked.method.clone());
        let mut object = asked.body;
        object["metadata"]["resourceVersion"] = json!((seen.len() + 1).to_string());
        match asked.method {
            Method::POST => {
                object["metadata"]["creationTimestamp"] = json!(jiff::Timestamp::now().to_string());
                (201, object)
            }
            Method::PUT => (200, object),
            _ => refusal(404, "NotFound"),
        }
    });
    let (hub, key) = (executions.hub.clone(), key());
    hub.workflow(run("Running"));
    hub.execution(execution());
    executions.reconcile(&key).await.unwrap();
    hub.pod_gone(&("n".into(), "t-1".into()), None);
    executions.reconcile(&key).await.unwrap();
    let shown = hub.index.execution(&key).unwrap().status.clone().unwrap();
    assert_eq!(shown.failures.infrastructure, 1, "{shown:?}");
    let expected = [Method::POST, Method::GET, Method::PUT];
    assert_eq!(
        *asked.lock().unwrap(),
        expected,
        "the next pod after a pause"
    );
}

/// The run of the execution.
fn run(phase: &str) -> Workflow {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
        "metadata": {"name": "w", "namespace": "n", "uid": "wu", "resourceVersion": "1"},
        "spec": {"tasks": []}, "status": {"phase": phase},
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_comes_after_its_run_has_ended_is_cancelled_without_a_pod() {
    for gone in [false, true] {
        comes_after_its_run(gone).await;
    }
}

async fn comes_after_its_run(gone: bool) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let executions = executions(move |asked| {
        seen.lock().unwrap().push(asked.method.to_string());
        match asked.method {
            Method::GET => refusal(404, "NotFound"),
            Method::PATCH => (200, json!(execution())),
            _ => (200, stored(asked.body)),
        }
    });
    if !gone {
        executions.hub.workflow(run("Cancelled"));
    }
    executions.hub.execution(execution());
    executions.reconcile(&key()).await.unwrap();
    let known = executions.hub.index.execution(&key()).unwrap();
    let status = known.status.clone().unwrap();
    assert_eq!(status.phase, TaskPhase::Cancelled);
    assert_eq!(status.message.as_deref(), Some("its run is over"));
    assert_eq!(known.spec.stop, None, "that is the run's to write");
    // The pod is asked for, the end is written, the finalizer goes; a run that is not known is
    // asked for each time.
    let asked = asked.lock().unwrap().concat();
    let expected = if gone {
        "GETGETPUTGETPATCH"
    } else {
        "GETPUTPATCH"
    };
    assert_eq!(asked, expected);
}

fn orphan() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "t-1", "namespace": "n", "uid": "pu", "resourceVersion": "1",
            "finalizers": [crate::api::FINALIZER_OUTCOME],
            "labels": {LABEL_WORKFLOW: "w", LABEL_WORKFLOW_UID: "wu", LABEL_TASK: "t"},
            "ownerReferences": [{"apiVersion": "v", "kind": "TaskExecution", "name": "t", "uid": "tu"}],
        },
        "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "x"}]},
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_execution_was_taken_away_stays_until_its_run_shows_that_the_task_began() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let executions = executions(move |asked| {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        seen.lock()
            .unwrap()
            .push(format!("{} {name}", asked.method));
        let mut pod = orphan();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        match asked.method {
            Method::GET => refusal(404, "NotFound"),
            Method::PATCH => {
                pod["metadata"]["finalizers"] = Value::Null;
                (200, stored(pod))
            }
            _ => (200, stored(pod)),
        }
    });
    let hub = &executions.hub;
    let mut run = run("Running");
    let rows =
        |phase: &str| serde_json::from_value(json!([{"name": "t", "phase": phase}])).unwrap();
    run.status.as_mut().unwrap().tasks = rows("Pending");
    hub.workflow(run.clone());
    hub.pod(serde_json::from_value(orphan()).unwrap());
    let again = executions.reconcile(&key()).await.unwrap();
    assert_eq!(again, Some(Instant::now() + ORPHAN_AGAIN));
    assert_eq!(*asked.lock().unwrap(), ["GET t", "DELETE t-1"]);
    run.metadata.resource_version = Some("2".to_owned());
    run.status.as_mut().unwrap().tasks = rows("Cancelled");
    hub.workflow(run);
    asked.lock().unwrap().clear();
    assert_eq!(executions.reconcile(&key()).await.unwrap(), None);
    assert_eq!(*asked.lock().unwrap(), ["GET t", "PATCH t-1"]);
}
