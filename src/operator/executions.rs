//! The task execution reconciler: applies the plans of [`crate::engine::attempt`], and lets
//! ended executions go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    cluster::{CallError, Cluster},
    hub::Hub,
    index::{Key, is_held, sibling},
    metrics::Metrics,
    time::{Due, instant},
    warnings::Warnings,
};
use crate::{
    api::{Duration, TaskExecution, TaskExecutionStatus, TaskPhase, Time},
    engine::{
        attempt::{self, Plan, PodView, Step},
        names, notice,
        pod::{PodSettings, attempt_pod},
    },
    events::Object,
    ports::Clock,
};

/// Plans follow each other in one go; more than these means that something fights back.
const MAX_ROUNDS: usize = 8;

/// What the reconciler works with.
pub struct Executions {
    /// Observations.
    pub hub: Arc<Hub>,
    /// Effects.
    pub cluster: Cluster,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Kubernetes Events.
    pub warnings: Warnings,
    /// How pods are made.
    pub pods: PodSettings,
    /// How long a deleted object waits for NATS.
    pub deletion_grace: Duration,
}

impl Executions {
    /// Brings one task execution as far as it goes now. Returns when to look again.
    ///
    /// # Errors
    /// A call that failed; trying again is safe.
    pub async fn reconcile(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        self.release_orphans(key).await?;
        let Some(execution) = self.hub.index.execution(key) else {
            return Ok(None);
        };
        let span = info_span!(
            "taskexecution",
            namespace = %key.0,
            object = %key.1,
            task_exec_id = execution.uid().unwrap_or_default(),
            workflow_exec_id = execution.spec.workflow.uid,
        );
        self.settle(key).instrument(span).await
    }

    async fn settle(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        for _ in 0..MAX_ROUNDS {
            let Some(execution) = self.hub.index.execution(key) else {
                return Ok(None);
            };
            let plan = self.plan(key, &execution).await?;
            if plan.steps.is_empty() {
                return self.rest(key, &execution, plan.wake).await;
            }
            for step in &plan.steps {
                if let Some(at) = self.apply(key, &execution, step).await? {
                    return Ok(Some(instant(&*self.clock, at)));
                }
            }
        }
        warn!("still not at rest after {MAX_ROUNDS} rounds");
        Ok(Some(Instant::now() + std::time::Duration::from_secs(1)))
    }

    /// Nobody will record how these pods end: somebody took their execution away, finalizer and
    /// all. What the cache does not have proves nothing, so the API server is asked first.
    async fn release_orphans(&self, key: &Key) -> Result<(), CallError> {
        let mut orphans = self.hub.index.pods_of(key);
        let known = self.hub.index.execution(key);
        orphans.retain(|pod| attempt::is_held(pod) && !owns(known.as_deref(), pod));
        if orphans.is_empty() {
            return Ok(());
        }
        let found = self.cluster.fetch_execution(key).await?;
        orphans.retain(|pod| !owns(found.as_ref(), pod));
        if let Some(found) = found {
            self.hub.execution(found);
        }
        for pod in orphans {
            self.cluster.delete_pod(&pod).await?;
            self.cluster.release_pod(&pod).await?;
        }
        Ok(())
    }

    /// The engine's plan; a pod that may be gone is first asked for.
    async fn plan(&self, key: &Key, execution: &TaskExecution) -> Result<Plan, CallError> {
        let attempt = attempt::current_attempt(execution);
        let pod = self.hub.index.pod(&pod_key(key, attempt));
        let previous = self.hub.index.pod(&pod_key(key, attempt.saturating_sub(1)));
        let view = pod.as_deref().map_or(PodView::Unseen, PodView::Present);
        let plan = self.decide(execution, view, previous.as_deref());
        let [Step::ConfirmPod(asked)] = plan.steps[..] else {
            return Ok(plan);
        };
        let found = self.cluster.fetch_pod(&pod_key(key, asked)).await?;
        let view = found.as_ref().map_or(PodView::Gone, PodView::Present);
        Ok(self.decide(execution, view, previous.as_deref()))
    }

    fn decide(&self, execution: &TaskExecution, pod: PodView, previous: Option<&Pod>) -> Plan {
        attempt::plan(execution, pod, previous, Time(self.clock.now()))
    }

    /// Applies one step. Returns when to look again if the rest must wait until then.
    async fn apply(
        &self,
        key: &Key,
        execution: &TaskExecution,
        step: &Step,
    ) -> Result<Option<Time>, CallError> {
        let pod = |attempt: &u32| self.hub.index.pod(&pod_key(key, *attempt));
        match step {
            Step::CreatePod(attempt) => return self.create_pod(key, execution, *attempt).await,
            Step::Record(status) => self.record(execution, status).await?,
            Step::ConfirmPod(attempt) => {
                self.cluster.fetch_pod(&pod_key(key, *attempt)).await?;
            }
            Step::DeletePod(attempt) => {
                if let Some(pod) = pod(attempt) {
                    self.cluster.delete_pod(&pod).await?;
                }
            }
            Step::ReleasePod(attempt) => {
                if let Some(pod) = pod(attempt) {
                    self.cluster.release_pod(&pod).await?;
                }
            }
        }
        Ok(None)
    }

    async fn record(
        &self,
        execution: &TaskExecution,
        status: &TaskExecutionStatus,
    ) -> Result<(), CallError> {
        let mut status = status.clone();
        let uid = execution.uid().unwrap_or_default();
        status.mirror = self.hub.outbox.position(&uid).or(status.mirror);
        self.log(execution, &status);
        if status.phase.is_final()
            && let Some(duration) = status.duration
        {
            self.metrics
                .observe_task(status.phase.as_str(), duration.get().as_secs_f64());
        }
        let before = execution.status.as_ref();
        let notice = notice::of_task(&execution.spec.task, before, &status);
        self.cluster.record_execution(execution, status).await?;
        if let Some(notice) = notice {
            self.warnings.about_task(execution, notice);
        }
        Ok(())
    }

    fn log(&self, execution: &TaskExecution, status: &TaskExecutionStatus) {
        info!(
            workflow = execution.spec.workflow.name,
            task = execution.spec.task,
            attempt = status.attempt,
            phase = status.phase.as_str(),
            reason = status.reason.as_deref().unwrap_or_default(),
            "recorded",
        );
    }

    async fn create_pod(
        &self,
        key: &Key,
        execution: &TaskExecution,
        attempt: u32,
    ) -> Result<Option<Time>, CallError> {
        let plan = attempt_pod(execution, attempt, &self.pods);
        if let Some(inputs) = &plan.inputs {
            self.cluster.ensure_inputs(inputs).await?;
        }
        let created = self.cluster.create_pod(&plan.pod).await;
        match created {
            Ok(()) => {
                if let Some(gap) = self.hub.gaps.close(key) {
                    self.metrics.observe_step_gap(gap);
                }
                debug!(pod = names::pod_name(&key.1, attempt), "created");
                Ok(None)
            }
            Err(error) if error.is_already_exists() => self.meet(key, execution, attempt).await,
            Err(error) if error.is_final_refusal() => {
                let refused =
                    attempt::plan_refused(execution, &error.said(), Time(self.clock.now()));
                for step in &refused.steps {
                    if let Step::Record(status) = step {
                        self.record(execution, status).await?;
                    }
                }
                // An execution that ended asks for no pod again; one that waits does, later.
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A pod of that name exists. The next plan finds it, unless the index does not keep it: one
    /// of somebody else's, which is looked at again in a while, or one of ours that has ended and
    /// lost its finalizer.
    async fn meet(
        &self,
        key: &Key,
        execution: &TaskExecution,
        attempt: u32,
    ) -> Result<Option<Time>, CallError> {
        let pod_key = pod_key(key, attempt);
        let found = self.cluster.fetch_pod(&pod_key).await?;
        let Some(pod) = found.filter(|_| self.hub.index.pod(&pod_key).is_none()) else {
            return Ok(None);
        };
        let plan = self.decide(execution, PodView::Present(&pod), None);
        for step in &plan.steps {
            if let Step::Record(status) = step {
                self.record(execution, status).await?;
            }
        }
        Ok(plan.wake)
    }

    /// Nothing to do for the attempts: if the execution ended, see whether it may go.
    async fn rest(
        &self,
        key: &Key,
        execution: &TaskExecution,
        wake: Option<Time>,
    ) -> Result<Option<Instant>, CallError> {
        let phase = execution
            .status
            .as_ref()
            .map(|status| status.phase)
            .unwrap_or_default();
        if !phase.is_final() || !is_held(execution) {
            return Ok(wake.map(|wake| instant(&*self.clock, wake)));
        }
        if !self.run_is_over(key, execution).await? {
            return Ok(None);
        }
        if self.hub.outbox.is_complete(Object::Task(execution)) {
            let uid = execution.uid().unwrap_or_default();
            let receipt = self.hub.outbox.position(&uid);
            let released = self.cluster.release_execution(execution, receipt.as_ref());
            return released.await.map(|()| None);
        }
        self.let_go_when_due(key, execution, phase).await
    }

    /// Whether the workflow has reached its final phase or is gone. Until then a finished
    /// execution stays, even if somebody deletes it: its task would be run again.
    async fn run_is_over(&self, key: &Key, execution: &TaskExecution) -> Result<bool, CallError> {
        let owner = &execution.spec.workflow;
        let workflow_key = sibling(key, &owner.name);
        match self.hub.index.workflow(&workflow_key) {
            Some(workflow) if workflow.uid().as_deref() == Some(&owner.uid) => Ok(workflow
                .status
                .as_ref()
                .is_some_and(|status| status.phase.is_final())),
            // Not known, or another run of that name: the API server has the last word.
            _ => Ok(!self
                .cluster
                .workflow_exists(&workflow_key, &owner.uid)
                .await?),
        }
    }

    async fn let_go_when_due(
        &self,
        key: &Key,
        execution: &TaskExecution,
        phase: TaskPhase,
    ) -> Result<Option<Instant>, CallError> {
        match self.due(key, execution) {
            Due::Never => Ok(None),
            Due::At(at) => Ok(Some(at)),
            Due::Now => {
                debug!(
                    phase = phase.as_str(),
                    "letting a deleted task execution go without NATS"
                );
                self.metrics.count_let_go();
                self.warnings.let_go(execution, self.deletion_grace);
                self.cluster
                    .release_execution(execution, None)
                    .await
                    .map(|()| None)
            }
        }
    }

    /// When the grace ends: it begins with the deletion of the execution or of its run. A run is
    /// held by its executions, and takes them along only when it goes itself.
    fn due(&self, key: &Key, execution: &TaskExecution) -> Due {
        let owner = &execution.spec.workflow;
        let run = self.hub.index.workflow(&sibling(key, &owner.name));
        match (
            Due::of(execution, self.deletion_grace, &*self.clock),
            run.filter(|run| run.uid().as_deref() == Some(&owner.uid)),
        ) {
            (Due::Never, Some(run)) => Due::of(&*run, self.deletion_grace, &*self.clock),
            (due, _) => due,
        }
    }
}

fn pod_key(key: &Key, attempt: u32) -> Key {
    sibling(key, &names::pod_name(&key.1, attempt))
}

/// Whether a pod belongs to this very execution.
fn owns(execution: Option<&TaskExecution>, pod: &Pod) -> bool {
    let uid = execution.and_then(|execution| execution.metadata.uid.as_deref());
    let mut owners = pod.owner_references().iter();
    uid.is_some_and(|uid| owners.any(|owner| owner.uid == uid))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::FINALIZER_EVENTS,
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

    #[tokio::test(start_paused = true)]
    async fn a_pod_of_somebody_else_under_our_name_is_shown_and_looked_for_again() {
        let server = Arc::new(Taken::default());
        let answering = server.clone();
        let fence = Fence::default();
        fence.open_until(Instant::now() + std::time::Duration::from_secs(3600));
        let (hub, metrics) = (Arc::new(Hub::default()), Arc::new(Metrics::new(|_| ())));
        let client = client(move |asked| std::future::ready(answering.answer(asked)));
        let executions = Executions {
            hub: hub.clone(),
            cluster: Cluster::new(client, hub.clone(), metrics.clone(), fence),
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
            warnings: Warnings::new(metrics).0,
            pods: PodSettings { restricted: false },
            deletion_grace: Duration::from_secs(60),
        };
        hub.execution(execution());
        let key: Key = ("n".into(), "t".into());

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
}
