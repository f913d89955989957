//! The workflow reconciler: applies the plans of [`crate::engine::workflow`], and lets ended
//! runs go.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::{Instrument, info, info_span, warn};

use super::{
    cluster::{CallError, Cluster},
    hub::Hub,
    index::{Key, is_held, sibling},
    metrics::Metrics,
    progress::{Progress, is_ended},
    time::{Due, Grace, instant},
    warnings::Warnings,
};
use crate::{
    api::{TaskExecution, Time, Workflow, WorkflowStatus},
    engine::{
        definition::Installation,
        notice,
        resolve::{refused, withdrawn},
        run::ExecutionIndex,
        workflow::{self, Observed, Plan, Step},
    },
    events::Object,
    ports::Clock,
};

/// Plans follow each other in one go; more than these means that something fights back.
const MAX_ROUNDS: usize = 16;

/// Task executions of one run created at once.
const CREATE_AT_ONCE: usize = 16;

/// What the reconciler works with.
pub struct Workflows {
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
    /// What the installation adds to and allows of every workflow.
    pub installation: Installation,
    /// How long a deleted object waits for NATS.
    pub deletion_grace: Grace,
    /// The runs under way. A run is with one reconciliation at a time, which takes it out.
    pub runs: Mutex<HashMap<Key, Progress>>,
}

impl Workflows {
    /// Brings one workflow as far as it goes now. Returns when to look again.
    ///
    /// # Errors
    /// A call that failed; trying again is safe.
    pub async fn reconcile(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        let Some(workflow) = self.hub.index.workflow(key) else {
            self.lock().remove(key);
            return Ok(None);
        };
        let span = info_span!(
            "workflow",
            namespace = %key.0,
            object = %key.1,
            workflow_exec_id = workflow.uid().unwrap_or_default(),
        );
        self.settle(key).instrument(span).await
    }

    async fn settle(&self, key: &Key) -> Result<Option<Instant>, CallError> {
        for _ in 0..MAX_ROUNDS {
            let Some(workflow) = self.hub.index.workflow(key) else {
                return Ok(None);
            };
            if workflow
                .status
                .as_ref()
                .is_some_and(|status| status.phase.is_final())
            {
                self.lock().remove(key);
                // Nobody asks any more how its tasks do.
                self.hub
                    .index
                    .take_changed(workflow.metadata.uid.as_deref().unwrap_or_default());
                return self.rest(&workflow).await;
            }
            let mut progress = self.progress(key, &workflow);
            let result = self.go_on(key, &workflow, &mut progress).await;
            self.lock().insert(key.clone(), progress);
            let plan = result?;
            if plan.steps.is_empty() {
                return self
                    .rest(&workflow)
                    .await
                    .map(|due| due.or(plan.wake.map(|wake| instant(&*self.clock, wake))));
            }
        }
        warn!("still not at rest after {MAX_ROUNDS} rounds");
        Ok(Some(Instant::now() + std::time::Duration::from_secs(1)))
    }

    /// One round: take in what changed, decide, apply.
    async fn go_on(
        &self,
        key: &Key,
        workflow: &Workflow,
        progress: &mut Progress,
    ) -> Result<Plan, CallError> {
        self.catch_up(key, progress).await?;
        progress.expand(workflow, &self.hub.index);
        let plan = self.plan(key, workflow, progress);
        self.apply_all(key, workflow, progress, &plan.steps).await?;
        Ok(plan)
    }

    /// The run as far as it is known; rebuilt from the cluster if this process does not know it.
    fn progress(&self, key: &Key, workflow: &Workflow) -> Progress {
        let known = self.lock().remove(key);
        match known {
            Some(progress) if progress.is_of(workflow) => progress,
            known => {
                Progress::rebuild(workflow, &self.installation, &self.hub.index).following(known)
            }
        }
    }

    /// Takes in what changed. A task execution that seems gone is asked for: a cache that missed
    /// something must not end a task.
    async fn catch_up(&self, key: &Key, progress: &mut Progress) -> Result<(), CallError> {
        for name in self.hub.index.take_changed(progress.uid()) {
            progress.mark(&name);
        }
        while let Some(name) = progress.next_marked() {
            let execution_key = sibling(key, &name);
            if let Some(execution) = self.hub.index.execution(&execution_key) {
                progress.observe(&execution);
            } else if progress.has_come_and_gone(&name) {
                match self.cluster.fetch_execution(&execution_key).await {
                    Ok(Some(execution)) => self.hub.execution(execution),
                    Ok(None) => progress.observe_gone(&name, Time(self.clock.now())),
                    Err(error) => {
                        progress.mark(&name);
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in what no watch has shown, before a run ends. A creation that was not answered is sent
    /// again, as one that is not to begin: the API server may still do the first one, and only its
    /// answer tells whether the task began.
    async fn confirm_tasks(&self, key: &Key, progress: &mut Progress) -> Result<(), CallError> {
        for (which, sent) in progress.unanswered() {
            match self.create(key, progress, which, &withdrawn(&sent)).await {
                Err(error) if error.code().is_none() => return Err(error),
                // A webhook may be away for long, and the run must be able to end.
                Err(_) => self.look_for(&sibling(key, &sent.name_any())).await?,
                Ok(()) => {}
            }
            progress.answered(which);
        }
        if !progress.all_seen() {
            for name in self.cluster.list_executions(key, progress.uid()).await? {
                self.look_for(&sibling(key, &name)).await?;
            }
            progress.confirmed();
        }
        Ok(())
    }

    /// Takes in a task execution that is not known, if it is there.
    async fn look_for(&self, execution: &Key) -> Result<(), CallError> {
        if self.hub.index.execution(execution).is_none()
            && let Some(found) = self.cluster.fetch_execution(execution).await?
        {
            self.hub.execution(found);
        }
        Ok(())
    }

    fn plan(&self, key: &Key, workflow: &Workflow, progress: &Progress) -> Plan {
        let unended = match progress.graph() {
            Ok(_) => Vec::new(),
            Err(_) => self.unended(key, progress.uid()),
        };
        workflow::plan(&Observed {
            workflow,
            graph: progress.graph(),
            lookup: &|which| {
                let name = progress.name(which)?;
                self.hub.index.execution(&sibling(key, &name))
            },
            unended: &unended,
            all_seen: progress.all_seen(),
            told: self.hub.outbox.is_complete(Object::Workflow(workflow)),
            last_progress: progress.last_write(),
            now: Time(self.clock.now()),
        })
    }

    fn unended(&self, key: &Key, uid: &str) -> Vec<Arc<TaskExecution>> {
        let children = self.hub.index.children(uid);
        let executions = children
            .iter()
            .filter_map(|name| self.hub.index.execution(&sibling(key, name)));
        executions
            .filter(|execution| !is_ended(execution))
            .collect()
    }

    /// Decisions are recorded in their order; task executions are created side by side.
    async fn apply_all(
        &self,
        key: &Key,
        workflow: &Workflow,
        progress: &mut Progress,
        steps: &[Step],
    ) -> Result<(), CallError> {
        let creations = steps.iter().filter_map(|step| match step {
            Step::Create(which, execution) => Some((*which, &**execution)),
            _ => None,
        });
        self.create_all(key, progress, creations).await?;
        for step in steps {
            match step {
                Step::Create(..) => {}
                Step::ConfirmTasks => self.confirm_tasks(key, progress).await?,
                Step::Hold => self.cluster.hold_workflow(workflow).await?,
                Step::Record(status) => {
                    self.record(workflow, status).await?;
                    progress.wrote(Time(self.clock.now()));
                }
                Step::Suspend(name, suspend) => {
                    if let Some(known) = self.hub.index.execution(&sibling(key, name)) {
                        unless_gone(self.cluster.suspend_execution(&known, *suspend).await)?;
                    }
                }
                Step::Stop(name, stop) => {
                    let key = sibling(key, name);
                    unless_gone(self.cluster.stop_execution(&key, stop).await)?;
                }
            }
        }
        Ok(())
    }

    async fn create_all<'a>(
        &self,
        key: &Key,
        progress: &Progress,
        executions: impl Iterator<Item = (ExecutionIndex, &'a TaskExecution)>,
    ) -> Result<(), CallError> {
        // The first failure ends them all: those under way have no answer then.
        let creations: Vec<_> = executions
            .map(|(which, execution)| async move {
                progress.sends(which, execution);
                let created = self.create(key, progress, which, execution).await;
                if !created.as_ref().is_err_and(CallError::may_be_done) {
                    progress.answered(which);
                }
                created
            })
            .collect();
        stream::iter(creations)
            .buffer_unordered(CREATE_AT_ONCE)
            .try_collect()
            .await
    }

    async fn create(
        &self,
        key: &Key,
        progress: &Progress,
        which: ExecutionIndex,
        execution: &TaskExecution,
    ) -> Result<(), CallError> {
        let execution_key = sibling(key, &execution.name_any());
        let freed_by = progress.freed_by(which).into_iter();
        let freed_by = freed_by.filter_map(|other| Some(sibling(key, &progress.name(other)?)));
        self.hub.gaps.freed(execution_key.clone(), freed_by);
        match self.cluster.create_execution(execution).await {
            Ok(_) => Ok(()),
            // Ours, from before a crash or a lost answer: the name holds this run's UID.
            Err(error) if error.is_already_exists() => {
                if let Some(found) = self.cluster.fetch_execution(&execution_key).await? {
                    self.hub.execution(found);
                }
                Ok(())
            }
            Err(error) if error.is_final_refusal() && error.code() != Some(403) => {
                let refused = refused(execution, &error.said());
                self.cluster.create_execution(&refused).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }

    async fn record(&self, workflow: &Workflow, status: &WorkflowStatus) -> Result<(), CallError> {
        let mut status = status.clone();
        let uid = workflow.uid().unwrap_or_default();
        status.mirror = self.hub.outbox.position(&uid).or(status.mirror);
        let before = workflow.status.as_ref().map(|status| status.phase);
        if before != Some(status.phase) {
            info!(
                phase = ?status.phase,
                message = status.message.as_deref().unwrap_or_default(),
                "recorded",
            );
        }
        let notice = notice::of_run(before, &status);
        self.cluster.record_workflow(workflow, status).await?;
        if let Some(notice) = notice {
            self.warnings.about_run(workflow, notice);
        }
        Ok(())
    }

    /// Nothing to do for the tasks: if the run ended, see whether it may go.
    async fn rest(&self, workflow: &Workflow) -> Result<Option<Instant>, CallError> {
        let ended = workflow
            .status
            .as_ref()
            .is_some_and(|status| status.phase.is_final());
        let begun = workflow
            .status
            .as_ref()
            .is_some_and(|status| status.started_at.is_some());
        let may_go = ended || (!begun && workflow.metadata.deletion_timestamp.is_some());
        let uid = workflow.uid().unwrap_or_default();
        if !may_go || self.hub.index.held_children(&uid) > 0 {
            return Ok(None);
        }
        if !is_held(workflow) {
            return self.delete_when_due(workflow).await;
        }
        if !begun || self.hub.outbox.is_complete(Object::Workflow(workflow)) {
            let receipt = self.hub.outbox.position(&uid);
            let released = self.cluster.release(workflow, receipt.as_ref());
            return released.await.map(|()| None);
        }
        let finished_at = workflow
            .status
            .as_ref()
            .and_then(|status| status.finished_at);
        match Due::of(workflow, finished_at, self.deletion_grace, &*self.clock) {
            Due::Never => Ok(None),
            Due::At(at) => Ok(Some(at)),
            Due::Now => {
                self.metrics.count_let_go();
                self.warnings.let_go(workflow, self.deletion_grace.span());
                let released = self.cluster.release(workflow, None);
                released.await.map(|()| None)
            }
        }
    }

    /// All events of the run are told: it goes when its time is over.
    async fn delete_when_due(&self, workflow: &Workflow) -> Result<Option<Instant>, CallError> {
        let expires_at = workflow::expires_at(workflow, &self.installation.ttl);
        let Some(at) = expires_at.filter(|_| workflow.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        if at > Time(self.clock.now()) {
            return Ok(Some(instant(&*self.clock, at)));
        }
        info!(expired = %at, "deleted, its ttl is over");
        self.cluster.delete_workflow(workflow).await.map(|()| None)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Progress>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is gone need not be told anything.
fn unless_gone(told: Result<(), CallError>) -> Result<(), CallError> {
    match told {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
