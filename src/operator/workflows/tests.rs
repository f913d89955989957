use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Duration, FINALIZER_EVENTS, RunPhase, TaskPhase},
    engine::names::task_execution_name,
    operator::{
        fence::Fence,
        testing::{Answer, Asked, client, refusal},
    },
    ports::SystemClock,
};

/// An API server with the run `w` and its task executions.
#[derive(Default)]
struct Server {
    run: Value,
    executions: BTreeMap<String, Value>,
    /// So many creations are done and not answered.
    unanswered: usize,
    /// A webhook that looks at creations is away.
    webhook_away: bool,
    asked: Vec<String>,
}

impl Server {
    fn answer(&mut self, asked: Asked) -> Answer {
        let name = asked.path.rsplit('/').next().unwrap_or_default().to_owned();
        self.asked.push(format!("{} {name}", asked.method));
        match (asked.method, name.as_str()) {
            (Method::POST, _) => self.create(asked.body),
            (Method::GET, "taskexecutions") => {
                let items: Vec<_> = self.executions.values().map(metadata).collect();
                (200, json!({"metadata": {}, "items": items}))
            }
            (_, "status") => {
                self.run["status"] = asked.body["status"].clone();
                (200, newer(&mut self.run))
            }
            (Method::PATCH, "w") => {
                self.run["metadata"]["finalizers"] = asked.body["metadata"]["finalizers"].clone();
                (200, newer(&mut self.run))
            }
            (method, name) => match self.executions.get_mut(name) {
                None => refusal(404, "NotFound"),
                Some(execution) if method == Method::PATCH => {
                    execution["spec"]["stop"] = asked.body["spec"]["stop"].clone();
                    (200, newer(execution))
                }
                Some(execution) => (200, execution.clone()),
            },
        }
    }

    fn create(&mut self, mut body: Value) -> Answer {
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        if self.webhook_away {
            return refusal(500, "InternalError");
        }
        if self.executions.contains_key(&name) {
            return refusal(409, "AlreadyExists");
        }
        body["metadata"]["uid"] = json!("tu");
        body["metadata"]["resourceVersion"] = json!("2");
        self.executions.insert(name, body.clone());
        if self.unanswered > 0 {
            self.unanswered -= 1;
            return refusal(500, "InternalError");
        }
        (201, body)
    }
}

fn newer(object: &mut Value) -> Value {
    let version = object["metadata"]["resourceVersion"].as_str().unwrap();
    let version = version.parse::<u64>().unwrap() + 1;
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object.clone()
}

fn metadata(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

fn run(status: Value) -> Value {
    json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
        "metadata": {"name": "w", "namespace": "n", "uid": "wu", "generation": 1, "resourceVersion": "1",
                     "finalizers": [FINALIZER_EVENTS]},
        "spec": {"tasks": [{"name": "t", "container": {"image": "x"}}]},
        "status": status,
    })
}

fn begun() -> Value {
    json!({"phase": "Running", "startedAt": "2026-01-01T00:00:00Z", "transitions": [
        {"seq": 1, "event": "started", "at": "2026-01-01T00:00:00Z"}]})
}

struct Installation {
    workflows: Workflows,
    hub: Arc<Hub>,
    server: Arc<Mutex<Server>>,
}

impl Installation {
    /// A pod of a task execution that somebody took away.
    fn leave_pod_of(&self, execution: &str) {
        let pod = json!({"metadata": {
            "name": format!("{execution}-1"), "namespace": "n", "uid": "pu", "resourceVersion": "1",
            "ownerReferences": [{"apiVersion": "v", "kind": "TaskExecution", "name": execution, "uid": "tu"}],
        }});
        self.hub.pod(serde_json::from_value(pod).unwrap());
    }

    /// An operator that has just begun, and a run.
    fn new(run: Value) -> Installation {
        let server = Arc::new(Mutex::new(Server {
            run,
            ..Server::default()
        }));
        let answering = server.clone();
        let client =
            client(move |asked| std::future::ready(answering.lock().unwrap().answer(asked)));
        let fence = Fence::default();
        fence.open_until(Instant::now() + std::time::Duration::from_secs(3600));
        let (hub, metrics) = (Arc::new(Hub::default()), Arc::new(Metrics::new(|_| ())));
        let workflows = Workflows {
            hub: hub.clone(),
            cluster: Cluster::new(client, hub.clone(), metrics.clone(), fence),
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
            warnings: Warnings::new(metrics).0,
            installation: crate::engine::definition::Installation::default(),
            deletion_grace: Grace::from_now(Duration::from_secs(60)),
            runs: Mutex::default(),
        };
        let installation = Installation {
            workflows,
            hub,
            server,
        };
        installation.watch();
        installation
    }

    /// The watch brings the run.
    fn watch(&self) {
        let run = self.server.lock().unwrap().run.clone();
        self.hub.workflow(serde_json::from_value(run).unwrap());
    }

    /// A user cancels the run.
    fn cancel(&self) {
        let run = &mut self.server.lock().unwrap().run;
        run["spec"]["cancel"] = json!({"reason": "changed my mind"});
        run["metadata"]["generation"] = json!(2);
        newer(run);
    }

    async fn reconcile(&self) -> Result<(), CallError> {
        let key: Key = ("n".into(), "w".into());
        self.workflows.reconcile(&key).await.map(drop)
    }

    fn phase(&self) -> RunPhase {
        let phase = &self.server.lock().unwrap().run["status"]["phase"];
        serde_json::from_value(phase.clone()).unwrap()
    }

    fn stops(&self) -> Vec<Value> {
        let server = self.server.lock().unwrap();
        let stops = server.executions.values();
        stops.map(|te| te["spec"]["stop"]["code"].clone()).collect()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.server.lock().unwrap().asked)
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_without_an_answer_is_sent_again_before_the_run_may_end() {
    let installation = Installation::new(run(Value::Null));
    installation.server.lock().unwrap().unanswered = 1;
    installation.reconcile().await.unwrap_err();
    installation.cancel();
    installation.watch();
    installation.asked();
    installation.reconcile().await.unwrap();
    assert_eq!(installation.phase(), RunPhase::Stopping);
    assert_eq!(installation.stops(), ["CANCELLED"]);
    let name = task_execution_name("w", "wu", "t", None);
    assert_eq!(
        installation.asked(),
        [
            "POST taskexecutions".to_owned(),
            format!("GET {name}"),
            "PUT status".to_owned(),
            format!("PATCH {name}"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_sent_again_when_nothing_starts_any_more_does_not_begin() {
    let installation = Installation::new(run(begun()));
    installation.server.lock().unwrap().webhook_away = true;
    installation.reconcile().await.unwrap_err();
    installation.server.lock().unwrap().webhook_away = false;
    installation.cancel();
    installation.watch();
    installation.asked();
    installation.reconcile().await.unwrap();
    assert_eq!(installation.stops(), ["CANCELLED"]);
    let asked = installation.asked();
    assert_eq!(asked[0], "POST taskexecutions");
    assert!(!asked.iter().any(|it| it.starts_with("PATCH")), "{asked:?}");
}

/// Its pod ran: to create it again would run it twice.
#[tokio::test(start_paused = true)]
async fn a_task_that_came_and_went_while_its_creation_had_no_answer_is_not_run_again() {
    let installation = Installation::new(run(begun()));
    installation.server.lock().unwrap().unanswered = 1;
    installation.reconcile().await.unwrap_err();
    let name = task_execution_name("w", "wu", "t", None);
    let created = installation.server.lock().unwrap().executions.remove(&name);
    let created = serde_json::from_value(created.unwrap()).unwrap();
    installation.hub.execution(created);
    let key: Key = ("n".into(), name.as_str().into());
    installation.hub.execution_gone(&key, None);
    installation.asked();
    installation.reconcile().await.unwrap();
    assert_eq!(installation.phase(), RunPhase::Failed);
    let asked = installation.asked();
    assert_eq!(asked[..2], [format!("GET {name}"), "PUT status".to_owned()]);
    let created = asked.iter().any(|it| it.starts_with("POST"));
    assert!(!created, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_can_create_nothing_can_be_cancelled() {
    let installation = Installation::new(run(begun()));
    installation.server.lock().unwrap().webhook_away = true;
    installation.reconcile().await.unwrap_err();
    installation.cancel();
    installation.watch();
    installation.reconcile().await.unwrap();
    assert_eq!(installation.phase(), RunPhase::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_leader_created_is_asked_for_before_the_run_ends() {
    let created = Installation::new(run(begun()));
    created.reconcile().await.unwrap();
    let execution = created.server.lock().unwrap().executions.clone();

    let taken_over = Installation::new(run(begun()));
    taken_over.server.lock().unwrap().executions = execution;
    taken_over.cancel();
    taken_over.watch();
    taken_over.reconcile().await.unwrap();
    assert_eq!(taken_over.phase(), RunPhase::Stopping);
    assert_eq!(taken_over.stops(), ["CANCELLED"]);
    assert_eq!(taken_over.asked()[0], "GET taskexecutions");
}

#[tokio::test(start_paused = true)]
async fn a_run_of_which_nothing_can_be_unseen_ends_without_a_question() {
    let installation = Installation::new(run(Value::Null));
    installation.reconcile().await.unwrap();
    let name = task_execution_name("w", "wu", "t", None);
    let ended = |execution: &mut Value| {
        execution["status"] = json!({"phase": "Succeeded", "attempt": 1, "outputs": {}});
        serde_json::from_value::<TaskExecution>(newer(execution)).unwrap()
    };
    let execution = {
        let mut server = installation.server.lock().unwrap();
        ended(server.executions.get_mut(&name).unwrap())
    };
    installation.hub.execution(execution);
    installation.reconcile().await.unwrap();
    assert_eq!(installation.phase(), RunPhase::Succeeded);

    // A task that is to start and never was: only of a run that was taken over it is not known.
    let cancelled = Installation::new(run(Value::Null));
    cancelled.cancel();
    cancelled.watch();
    cancelled.reconcile().await.unwrap();
    assert_eq!(cancelled.phase(), RunPhase::Cancelled);
    for installation in [installation, cancelled] {
        let asked = installation.asked();
        assert!(
            asked.iter().all(|asked| !asked.starts_with("GET")),
            "{asked:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_end_was_written_without_an_answer_lets_its_tasks_go() {
    let installation = Installation::new(run(begun()));
    installation.reconcile().await.unwrap();
    let hub = &installation.hub;
    while hub.executions.depth() > 0 {
        let key = hub.executions.next().await;
        hub.executions.done(&key);
    }
    {
        let run = &mut installation.server.lock().unwrap().run;
        run["status"]["phase"] = json!(RunPhase::Cancelled);
        newer(run);
    }
    installation.watch();
    let waiting = hub.executions.depth();
    assert_eq!(waiting, 1, "nobody else would tell them");
    assert_ne!(
        hub.index
            .execution(&hub.executions.next().await)
            .map(|te| te.status.clone().unwrap_or_default().phase),
        Some(TaskPhase::Succeeded)
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_of_which_only_a_pod_is_left_is_not_run_again() {
    let installation = Installation::new(run(begun()));
    let name = task_execution_name("w", "wu", "t", None);
    installation.leave_pod_of(&name);
    installation.reconcile().await.unwrap();
    assert_eq!(installation.phase(), RunPhase::Failed);
    let asked = installation.asked();
    assert_eq!(asked[..2], [format!("GET {name}"), "PUT status".to_owned()]);
    assert!(
        !asked.contains(&"POST taskexecutions".to_owned()),
        "{asked:?}"
    );
}

fn run_with_items(status: Value) -> Value {
    let mut run = run(status);
    run["spec"]["tasks"][0]["forEach"] = json!({"items": ["a", "b", "c"], "maxParallel": 2});
    run
}

#[tokio::test(start_paused = true)]
async fn every_item_has_an_execution_of_its_own() {
    let installation = Installation::new(run_with_items(Value::Null));
    installation.reconcile().await.unwrap();
    let server = installation.server.lock().unwrap();
    let made: Vec<_> = server.executions.keys().cloned().collect();
    let names = [0, 1].map(|index| task_execution_name("w", "wu", "t", Some(index)));
    assert_eq!(made, names);
    let row = &server.run["status"]["tasks"][0];
    assert_eq!((&row["total"], &row["running"]), (&json!(3), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn an_item_that_was_taken_away_is_not_run_again_by_the_next_operator() {
    let mut status = begun();
    status["tasks"] = json!([{"name": "t", "phase": "Running", "total": 3, "succeeded": 0,
        "failed": 0, "skipped": 0, "running": 2, "begun": 2}]);
    let installation = Installation::new(run_with_items(status));
    installation.reconcile().await.unwrap();
    let asked = installation.asked();
    for index in [0, 1] {
        let question = format!("GET {}", task_execution_name("w", "wu", "t", Some(index)));
        assert!(asked.contains(&question), "{asked:?}");
    }
    assert!(
        !asked.contains(&"POST taskexecutions".to_owned()),
        "{asked:?}"
    );
    assert_eq!(installation.phase(), RunPhase::Failed);
}

#[tokio::test(start_paused = true)]
async fn an_item_of_which_only_a_pod_is_left_is_not_run_again() {
    let installation = Installation::new(run_with_items(begun()));
    let name = task_execution_name("w", "wu", "t", Some(0));
    installation.leave_pod_of(&name);
    installation.reconcile().await.unwrap();
    assert_eq!(installation.phase(), RunPhase::Failed);
    let asked = installation.asked();
    assert_eq!(asked[0], format!("GET {name}"));
    assert!(
        !asked.contains(&"POST taskexecutions".to_owned()),
        "{asked:?}"
    );
}
