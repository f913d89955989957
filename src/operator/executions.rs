//! The task execution reconciler: applies the plans of [`crate::engine::attempt`], and lets
//! ended executions go.

mod calling;
mod dispatching;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    calls::CallsUnderWay,
    cluster::{CallError, Cluster},
    dispatches::Dispatches,
    hub::{Hub, is_over},
    index::{Key, is_held, sibling},
    metrics::Metrics,
    progress::is_ended,
    time::{Due, Grace, instant},
    warnings::Warnings,
};
use crate::{
    api::{
        LABEL_INDEX, LABEL_TASK, LABEL_WORKFLOW, LABEL_WORKFLOW_UID, TaskExecution,
        TaskExecutionStatus, TaskPhase, Time, Workflow,
    },
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

/// A pod that has to stay until its run has recorded something is looked at again after so long.
const ORPHAN_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

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
    /// Calls of tools; none without NATS.
    pub calls: Option<CallsUnderWay>,
    /// Commands for pools; none without NATS.
    pub dispatches: Option<Arc<Dispatches>>,
    /// Whether this operator serves tools and pools, so that it knows whose pods take what there is to do.
    pub serves: bool,
    /// How pods are made.
    pub pods: PodSettings,
    /// How long a deleted object waits for NATS.
    pub deletion_grace: Grace,
}

impl Executions {
    /// Brings one task execution as far as it goes now. Returns when to look again.
    ///
    /// # Errors
    /// A call that failed; trying again is safe.
    pub async fn reconcile(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        let again = self.release_orphans(key).await?;
        let Some(execution) = self.hub.index.execution(key) else {
            self.forget_call(key);
            if let Some(dispatches) = &self.dispatches {
                dispatches.gone(key).await;
            }
            return Ok(again);
        };
        let span = info_span!(
            "taskexecution",
            namespace = %key.0,
            object = %key.1,
            task_exec_id = execution.uid().unwrap_or_default(),
            workflow_exec_id = execution.spec.workflow.uid,
        );
        let due = self.settle(key).instrument(span).await?;
        Ok(due.into_iter().chain(again).min())
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
    /// all. What the cache does not have proves nothing, so the API server is asked first. Returns
    /// when to look again if some have to stay for now.
    async fn release_orphans(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        let mut orphans = self.hub.index.pods_of(key);
        let known = self.hub.index.execution(key);
        let is_of =
            |te: Option<&TaskExecution>, pod: &Pod| te.is_some_and(|te| attempt::is_owned(pod, te));
        orphans.retain(|pod| attempt::is_held(pod) && !is_of(known.as_deref(), pod));
        if orphans.is_empty() {
            return Ok(None);
        }
        let found = self.cluster.fetch_execution(key).await?;
        orphans.retain(|pod| !is_of(found.as_ref(), pod));
        if let Some(found) = found {
            self.hub.execution(found);
        }
        let mut again = None;
        for pod in orphans {
            if pod.metadata.deletion_timestamp.is_none() {
                self.cluster.delete_pod(&pod).await?;
            }
            if self.is_remembered(key, &pod) {
                self.cluster.release_pod(&pod).await?;
            } else {
                again = Some(Instant::now() + ORPHAN_AGAIN);
            }
        }
        Ok(again)
    }

    /// Whether the run of an orphan needs no pod any more to know that the task began: it would be
    /// run again by an operator that has only just begun itself.
    fn is_remembered(&self, key: &Key, pod: &Pod) -> bool {
        let label = |name: &str| pod.labels().get(name).map(String::as_str);
        let (uid, task) = (label(LABEL_WORKFLOW_UID), label(LABEL_TASK));
        let run = label(LABEL_WORKFLOW).and_then(|run| self.hub.index.workflow(&sibling(key, run)));
        let Some(run) = run.filter(|run| run.metadata.uid.as_deref() == uid && !is_over(run))
        else {
            return true;
        };
        let index = label(LABEL_INDEX).and_then(|index| index.parse().ok());
        let mut rows = run.status.iter().flat_map(|status| &status.tasks);
        rows.any(|row| Some(row.name.as_str()) == task && row.says_begun(index))
    }

    /// The engine's plan.
    async fn plan(&self, key: &Key, execution: &TaskExecution) -> Result<Plan, CallError> {
        let outliving = !is_ended(execution) && self.run_is_over(key, execution).await?;
        let outliving = outliving.then(|| attempt::outliving(execution));
        let execution = outliving.as_ref().unwrap_or(execution);
        match (&execution.spec.tool, &execution.spec.pool) {
            (Some(tool), _) => self.plan_call(key, execution, tool).await,
            (_, Some(pool)) => self.plan_pool(key, execution, pool).await,
            _ => self.plan_pod(key, execution).await,
        }
    }

    /// A pod that may be gone or have ended is first asked for.
    async fn plan_pod(&self, key: &Key, execution: &TaskExecution) -> Result<Plan, CallError> {
        let attempt = attempt::current_attempt(execution);
        let pod = self.hub.index.pod(&pod_key(key, attempt));
        let pods = self.hub.index.pods_of(key);
        let view = pod.as_deref().map_or(PodView::Unseen, PodView::Cached);
        let plan = self.decide(execution, view, &pods);
        let (asked, missing) = match plan.steps[..] {
            [Step::ConfirmPod(asked)] => (asked, PodView::Gone),
            [Step::CreatePod(asked)] if self.hub.index.is_lost(key, &pod_key(key, asked)) => {
                (asked, PodView::Lost)
            }
            _ => return Ok(plan),
        };
        let found = self.cluster.fetch_pod(&pod_key(key, asked)).await?;
        let view = found.as_ref().map_or(missing, PodView::Present);
        Ok(self.decide(execution, view, &pods))
    }

    /// The run that an execution belongs to, if it is known.
    fn run_of(&self, key: &Key, execution: &TaskExecution) -> Option<Arc<Workflow>> {
        let owner = &execution.spec.workflow;
        let run = self.hub.index.workflow(&sibling(key, &owner.name));
        run.filter(|run| run.uid().as_deref() == Some(&owner.uid))
    }

    fn decide(&self, execution: &TaskExecution, pod: PodView, pods: &[Arc<Pod>]) -> Plan {
        let pods = pods.iter().map(AsRef::as_ref);
        attempt::plan(execution, pod, pods, Time(self.clock.now()))
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
            Step::Call(_) => return Ok(self.call(key, execution).await),
            Step::Listen(_) => return Ok(self.listen(execution).await),
            Step::Dispatch(_) | Step::Withdraw(_) | Step::Cancel(_) => {
                return Ok(self.dispatch(key, execution, step).await);
            }
            // Done while planning.
            Step::FindTool | Step::ConfirmCall(_) | Step::FindCommand(_) => {}
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
        let notice = notice::of_task(&execution.spec, before, &status);
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
            index = execution.spec.index,
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
        let plan = self.decide(execution, PodView::Present(&pod), &[]);
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
        if phase.is_final() {
            self.forget_call(key);
            if let Some(dispatches) = &self.dispatches {
                dispatches.forget(key).await;
            }
        }
        if !phase.is_final() || !is_held(execution) {
            return Ok(wake.map(|wake| instant(&*self.clock, wake)));
        }
        if !self.run_is_over(key, execution).await? {
            return Ok(None);
        }
        if self.hub.outbox.is_complete(Object::Task(execution)) {
            let uid = execution.uid().unwrap_or_default();
            let receipt = self.hub.outbox.position(&uid);
            let released = self.cluster.release(execution, receipt.as_ref());
            return released.await.map(|()| None);
        }
        self.let_go_when_due(key, execution, phase).await
    }

    /// Whether the workflow has reached its final phase or is gone. Until then a finished
    /// execution stays, even if somebody deletes it: its task would be run again.
    async fn run_is_over(&self, key: &Key, execution: &TaskExecution) -> Result<bool, CallError> {
        if let Some(run) = self.run_of(key, execution) {
            return Ok(is_over(&run));
        }
        // Not known, or another run of that name: the API server has the last word.
        let owner = &execution.spec.workflow;
        let run = sibling(key, &owner.name);
        let exists = self.cluster.workflow_exists(&run, &owner.uid);
        exists.await.map(|exists| !exists)
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
                self.warnings.let_go(execution, self.deletion_grace.span());
                self.cluster.release(execution, None).await.map(|()| None)
            }
        }
    }

    /// When the grace ends: it begins with the deletion of the execution or of its run. A run is
    /// held by its executions, and takes them along only when it goes itself.
    fn due(&self, key: &Key, execution: &TaskExecution) -> Due {
        let ended = execution
            .status
            .as_ref()
            .and_then(|status| status.finished_at);
        let (grace, clock) = (self.deletion_grace, &*self.clock);
        match (
            Due::of(execution, ended, grace, clock),
            self.run_of(key, execution),
        ) {
            (Due::Never, Some(run)) => Due::of(&*run, ended, grace, clock),
            (due, _) => due,
        }
    }
}

fn pod_key(key: &Key, attempt: u32) -> Key {
    sibling(key, &names::pod_name(&key.1, attempt))
}
