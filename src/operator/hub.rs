//! Where every observation comes in, from the watches and from the answers to our own writes,
//! and is told to whoever it concerns.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{
    gaps::StepGaps,
    index::{Change, Index, Key, is_held, key_of, sibling},
    outbox::Outbox,
    queue::Queue,
};
use crate::{
    api::{TaskExecution, Workflow},
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
    /// How far the events are.
    pub outbox: Outbox,
    /// How fast steps follow each other.
    pub gaps: StepGaps,
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
        if !self.index.apply_workflow(workflow) {
            return;
        }
        self.workflows.add(key.clone());
        if held {
            self.mirrored.add(Mirrored::Workflow(key));
        } else {
            self.outbox.forget(&uid);
        }
    }

    /// A workflow is gone.
    pub fn workflow_gone(&self, key: &Key, uid: Option<&str>) {
        self.index.delete_workflow(key, uid);
        self.workflows.add(key.clone());
        let Some(uid) = uid else { return };
        self.outbox.forget(uid);
        // What it leaves behind is let go by its own reconciler.
        for name in self.index.children(uid) {
            self.executions.add(sibling(key, &name));
        }
    }

    /// A task execution as it is now.
    pub fn execution(&self, execution: TaskExecution) {
        let key = key_of(&execution);
        let uid = execution.uid().unwrap_or_default();
        let held = is_held(&execution);
        let workflow = sibling(&key, &execution.spec.workflow.name);
        match self.index.apply_execution(execution) {
            Change::Stale => return,
            Change::Minor => {}
            Change::Notable => self.workflows.add(workflow),
        }
        self.executions.add(key.clone());
        if held {
            self.mirrored.add(Mirrored::Execution(key));
        } else {
            self.outbox.forget(&uid);
        }
    }

    /// A task execution is gone.
    pub fn execution_gone(&self, key: &Key, uid: Option<&str>) {
        let Some(gone) = self.index.delete_execution(key, uid) else {
            return;
        };
        self.outbox
            .forget(gone.metadata.uid.as_deref().unwrap_or_default());
        self.gaps.forget(key);
        self.workflows.add(sibling(key, &gone.spec.workflow.name));
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

    /// A pod is gone.
    pub fn pod_gone(&self, key: &Key, uid: Option<&str>) {
        let owner = self.index.pod(key).and_then(|pod| owner(&pod));
        self.index.delete_pod(key, uid);
        if let Some(execution) = owner {
            self.executions.add(execution);
        }
    }

    /// Queues every object for publication: the stream is a new one.
    pub fn publish_all(&self) {
        for key in self.index.workflow_keys() {
            self.mirrored.add(Mirrored::Workflow(key));
        }
        for key in self.index.execution_keys() {
            self.mirrored.add(Mirrored::Execution(key));
        }
    }
}

/// The task execution that a pod belongs to.
fn owner(pod: &Pod) -> Option<Key> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.kind == "TaskExecution")?;
    Some(sibling(&key_of(pod), &owner.name))
}
