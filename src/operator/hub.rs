//! Where every observation comes in, from the watches and from the answers to our own writes,
//! and is told to whoever it concerns.

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::{
    fresh::Fresh,
    gaps::StepGaps,
    index::{Change, Index, Key, is_held, key_of, sibling},
    outbox::Outbox,
    publishing,
    queue::Queue,
    servers::KnownServed,
    unparsable::Unparsable,
};
use crate::{
    api::{ANNOTATION_MIRRORED, ExecutorPool, MirrorPosition, TaskExecution, Tool, Workflow},
    engine::outcome::{self, PodState},
};

/// An object whose events are mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mirrored {
    /// A workflow.
    Workflow(Key),
    /// A task execution.
    Execution(Key),
}

/// The index and the queues.
#[derive(Default)]
pub struct Hub {
    /// What is known.
    pub index: Index,
    /// Workflows to look at.
    pub workflows: Queue<Key>,
    /// Task executions to look at.
    pub executions: Queue<Key>,
    /// Objects to publish.
    pub mirrored: Queue<Mirrored>,
    /// Objects that were let go, to ask whether the stream still has their events.
    pub owed: Queue<Mirrored>,
    /// Tools, and what serves them.
    pub tools: KnownServed<Tool>,
    /// Pools, and their workers.
    pub pools: KnownServed<ExecutorPool>,
    /// Objects to show as unparsable.
    pub unparsable: Queue<Unparsable>,
    /// How far the events are.
    pub outbox: Outbox,
    /// How fast steps follow each other.
    pub gaps: StepGaps,
    /// Task executions for pools that this process made.
    pub fresh: Fresh,
}

impl Hub {
    /// A hub whose events `outbox` takes.
    pub fn new(outbox: Outbox) -> Hub {
        Hub {
            outbox,
            ..Hub::default()
        }
    }

    /// A workflow as it is now.
    pub fn workflow(&self, workflow: Workflow) {
        let key = key_of(&workflow);
        let uid = workflow.uid().unwrap_or_default();
        let held = is_held(&workflow);
        let receipt = receipt(&workflow);
        let known = self.index.workflow(&key);
        let known_over = known.as_deref().is_some_and(is_over);
        let known = known.and_then(|known| known.uid());
        let ends = is_over(&workflow) && !(known_over && known.as_ref() == Some(&uid));
        let deleted = workflow.metadata.deletion_timestamp.is_some();
        if !self.index.apply_workflow(workflow) {
            return;
        }
        if let Some(gone) = self.forget_namesake(known, &uid) {
            // Nobody tells that it went: a watch that was broken off lists only what is there.
            self.wake_children(&key, &gone);
        }
        self.workflows.add(key.clone());
        if ends || deleted {
            // What was held only because the run went on may go now; and the grace in which their
            // events can still be told begins with the deletion for its children too.
            self.wake_children(&key, &uid);
        }
        if held {
            self.mirrored.add(Mirrored::Workflow(key));
        } else if self.outbox.let_go(&uid, receipt.as_ref()) {
            self.owed.add(Mirrored::Workflow(key));
        }
    }

    /// A workflow is gone.
    pub fn workflow_gone(&self, key: &Key, uid: Option<&str>) {
        let known = || self.index.workflow(key).and_then(|known| known.uid());
        let gone = uid.map(str::to_owned).or_else(known);
        self.index.delete_workflow(key, uid);
        self.workflows.add(key.clone());
        let Some(uid) = gone.as_deref() else { return };
        self.outbox.forget(uid);
        // What it leaves behind is let go by its own reconciler.
        self.wake_children(key, uid);
    }

    fn wake_children(&self, workflow: &Key, uid: &str) {
        for name in self.index.children(uid) {
            self.executions.add(sibling(workflow, &name));
        }
    }

    /// A task execution as it is now.
    pub fn execution(&self, execution: TaskExecution) {
        let key = key_of(&execution);
        let uid = execution.uid().unwrap_or_default();
        let held = is_held(&execution);
        let receipt = receipt(&execution);
        let workflow = sibling(&key, &execution.spec.workflow.name);
        let known = self.index.execution(&key).and_then(|known| known.uid());
        match self.index.apply_execution(execution) {
            Change::Stale => return,
            Change::Minor => {}
            Change::Notable => self.workflows.add(workflow),
        }
        self.forget_namesake(known, &uid);
        self.executions.add(key.clone());
        if held {
            self.mirrored.add(Mirrored::Execution(key));
        } else if self.outbox.let_go(&uid, receipt.as_ref()) {
            self.owed.add(Mirrored::Execution(key));
        }
    }

    /// A task execution is gone.
    pub fn execution_gone(&self, key: &Key, uid: Option<&str>) {
        let Some(gone) = self.index.delete_execution(key, uid) else {
            return;
        };
        let uid = gone.metadata.uid.as_deref().unwrap_or_default();
        self.outbox.forget(uid);
        self.fresh.take(uid);
        self.gaps.forget(key);
        self.executions.add(key.clone());
        self.workflows.add(sibling(key, &gone.spec.workflow.name));
        // The end of its run is told no later for what will never be told.
        publishing::wake_run(self, key, &gone.spec.workflow);
    }

    /// A pod as it is now.
    pub fn pod(&self, pod: Pod) {
        let Some(execution) = owner(&pod) else { return };
        let ended = matches!(outcome::observe(&pod, None), PodState::Ended(_));
        if self.index.apply_pod(pod) {
            if ended {
                self.gaps.ended(&execution);
            }
            self.executions.add(execution);
        }
    }

    /// The answer to a call about a pod that was made at that moment. It may come after the pod is gone, and would bring it
    /// back for good.
    pub fn answered_pod(&self, pod: Pod, asked: Instant) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if !self.index.went_after(uid, asked) {
            self.pod(pod);
        }
    }

    /// A pod is gone.
    pub fn pod_gone(&self, key: &Key, uid: Option<&str>) {
        let owner = self.index.pod(key).and_then(|pod| owner(&pod));
        self.index.delete_pod(key, uid, owner.as_ref());
        if let Some(execution) = owner {
            self.executions.add(execution);
        }
    }

    /// An object took the place of another one whose end was not seen; the UID of that.
    fn forget_namesake(&self, known: Option<String>, uid: &str) -> Option<String> {
        let gone = known.filter(|known| known != uid)?;
        self.outbox.forget(&gone);
        Some(gone)
    }

    /// Queues every object that has something to tell: the connection came back.
    pub fn publish_all(&self) {
        for (who, uid, held) in self.all_mirrored() {
            if held {
                self.mirrored.add(who);
            } else if self.outbox.is_owed(&uid) {
                self.owed.add(who);
            }
        }
    }

    /// The stream lost messages: what was let go may have to be told again too.
    pub fn start_over(&self) {
        let all = self.all_mirrored();
        let let_go = all.filter(|(who, _, held)| !held && self.receipt_of(who).is_some());
        self.outbox.start_over(let_go.map(|(_, uid, _)| uid));
        self.publish_all();
    }

    /// The receipt of an object that was let go.
    pub fn receipt_of(&self, who: &Mirrored) -> Option<MirrorPosition> {
        match who {
            Mirrored::Workflow(key) => receipt(&*self.index.workflow(key)?),
            Mirrored::Execution(key) => receipt(&*self.index.execution(key)?),
        }
    }

    /// Every workflow and task execution, with its UID and whether it is held.
    fn all_mirrored(&self) -> impl Iterator<Item = (Mirrored, String, bool)> {
        let workflows = self.index.workflow_keys().into_iter().filter_map(|key| {
            let workflow = self.index.workflow(&key)?;
            let uid = workflow.uid().unwrap_or_default();
            Some((Mirrored::Workflow(key), uid, is_held(&*workflow)))
        });
        let executions = self.index.execution_keys().into_iter().filter_map(|key| {
            let execution = self.index.execution(&key)?;
            let uid = execution.uid().unwrap_or_default();
            Some((Mirrored::Execution(key), uid, is_held(&*execution)))
        });
        workflows.chain(executions)
    }
}

/// Where the events of an object are that was let go with all of them in the stream.
pub fn receipt<K: Resource>(object: &K) -> Option<MirrorPosition> {
    let text = object.annotations().get(ANNOTATION_MIRRORED)?;
    let receipt = serde_json::from_str(text).ok();
    receipt.filter(|_| !is_held(object))
}

/// Whether a run has reached its final phase.
pub fn is_over(workflow: &Workflow) -> bool {
    let status = workflow.status.as_ref();
    status.is_some_and(|status| status.phase.is_final())
}

/// The task execution that a pod belongs to.
fn owner(pod: &Pod) -> Option<Key> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.kind == "TaskExecution")?;
    Some(sibling(&key_of(pod), &owner.name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::FINALIZER_EVENTS;

    fn run(version: &str, more: Value) -> Workflow {
        let mut run = json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": "n", "uid": "wu", "resourceVersion": version},
            "spec": {"tasks": []},
        });
        for (part, value) in more.as_object().into_iter().flatten() {
            let fields = value.as_object().cloned().unwrap_or_default();
            match run[part].as_object_mut() {
                Some(known) => known.extend(fields),
                None => run[part] = fields.into(),
            }
        }
        serde_json::from_value(run).unwrap()
    }

    /// A hub that knows a run and its task execution, which nobody has to look at.
    async fn hub_at_rest() -> (Hub, Key) {
        let execution: TaskExecution = serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
            "metadata": {"name": "t", "namespace": "n", "uid": "tu", "resourceVersion": "2"},
            "spec": {
                "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t", "container": {"image": "x"},
                "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
                "infrastructureRetries": 1, "imagePullTimeout": "10m",
            },
        }))
        .unwrap();
        let hub = Hub::default();
        hub.workflow(run("1", json!({})));
        hub.execution(execution);
        let key = hub.executions.next().await;
        hub.executions.done(&key);
        (hub, key)
    }

    #[tokio::test]
    async fn a_run_that_is_being_deleted_wakes_its_task_executions() {
        let (hub, key) = hub_at_rest().await;
        hub.workflow(run("3", json!({"metadata": {"labels": {"a": "b"}}})));
        assert_eq!(
            hub.executions.depth(),
            0,
            "a change that does not concern them"
        );
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        hub.workflow(run("4", json!({ "metadata": deleted })));
        assert_eq!(hub.executions.next().await, key);
    }

    /// Its end may have been recorded by a write whose answer was lost.
    #[tokio::test]
    async fn a_run_that_is_seen_to_have_ended_wakes_its_task_executions_once() {
        let (hub, key) = hub_at_rest().await;
        let ended = json!({"status": {"phase": "Failed"}});
        hub.workflow(run("3", ended.clone()));
        assert_eq!(hub.executions.next().await, key);
        hub.executions.done(&key);
        hub.workflow(run("4", ended));
        assert_eq!(hub.executions.depth(), 0, "it had ended before");
    }

    /// A watch that was broken off lists the new one and says nothing of the old one.
    #[tokio::test]
    async fn a_run_in_the_place_of_another_one_wakes_the_task_executions_of_that() {
        let (hub, key) = hub_at_rest().await;
        hub.workflow(run("3", json!({"metadata": {"uid": "another"}})));
        assert_eq!(hub.executions.next().await, key);
    }

    /// Its events were what the end of the run waited for.
    #[tokio::test]
    async fn a_task_execution_that_is_taken_away_untold_lets_the_end_of_its_run_be_told() {
        let (hub, key) = hub_at_rest().await;
        let held = json!({"finalizers": [FINALIZER_EVENTS]});
        hub.workflow(run(
            "3",
            json!({"metadata": held, "status": {"phase": "Failed"}}),
        ));
        let mirrored = hub.mirrored.next().await;
        hub.mirrored.done(&mirrored);
        assert_eq!(hub.mirrored.depth(), 0);
        hub.execution_gone(&key, None);
        assert_eq!(hub.mirrored.next().await, mirrored);
    }
}
