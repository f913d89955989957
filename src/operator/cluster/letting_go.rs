//! The calls that let ended objects go, with a receipt that says where the stream has their events.

use kube::{Resource, ResourceExt};
use serde_json::json;

use super::{CallError, Cluster, error::found, finalizers_patch};
use crate::{
    api::{ANNOTATION_MIRRORED, FINALIZER_EVENTS, MirrorPosition, TaskExecution, Workflow},
    operator::index::{Key, key_of},
};

impl Cluster {
    /// Takes our finalizer from a task execution. If its events are in the stream, `receipt` says
    /// where.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn release_execution(
        &self,
        execution: &TaskExecution,
        receipt: Option<&MirrorPosition>,
    ) -> Result<(), CallError> {
        let patch = let_go_patch(execution, receipt);
        let key = key_of(execution);
        let written = self
            .patch::<TaskExecution>(&key, "taskexecutions", &patch)
            .await;
        self.take_execution(&key, execution.metadata.uid.as_deref(), written)
    }

    /// Takes our finalizer from a workflow. If its events are in the stream, `receipt` says where.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn release_workflow(
        &self,
        workflow: &Workflow,
        receipt: Option<&MirrorPosition>,
    ) -> Result<(), CallError> {
        let patch = let_go_patch(workflow, receipt);
        let written = self
            .patch::<Workflow>(&key_of(workflow), "workflows", &patch)
            .await;
        self.take_workflow(workflow, written)
    }

    /// Writes where the stream has the events of a task execution that was let go.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict if the name is another object's.
    pub async fn record_execution_receipt(
        &self,
        key: &Key,
        uid: &str,
        receipt: &MirrorPosition,
    ) -> Result<(), CallError> {
        let patch = receipt_patch(uid, receipt);
        let written = self
            .patch::<TaskExecution>(key, "taskexecutions", &patch)
            .await?;
        self.hub.execution(written);
        Ok(())
    }

    /// Writes where the stream has the events of a workflow that was let go.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict if the name is another object's.
    pub async fn record_workflow_receipt(
        &self,
        key: &Key,
        uid: &str,
        receipt: &MirrorPosition,
    ) -> Result<(), CallError> {
        let patch = receipt_patch(uid, receipt);
        let written = self.patch::<Workflow>(key, "workflows", &patch).await?;
        self.hub.workflow(written);
        Ok(())
    }

    /// What the API server has of a workflow now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch_workflow(&self, key: &Key) -> Result<Option<Workflow>, CallError> {
        let api = self.api::<Workflow>(key);
        found(self.call("get", "workflows", &key.1, api.get(&key.1)).await)
    }
}

/// Takes our finalizer off, and puts the receipt on.
fn let_go_patch<K: Resource>(object: &K, receipt: Option<&MirrorPosition>) -> serde_json::Value {
    let rest: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|held| *held != FINALIZER_EVENTS)
        .cloned()
        .collect();
    let mut patch = finalizers_patch(object, &rest);
    if let Some(receipt) = receipt {
        patch["metadata"]["annotations"] = receipt_annotation(receipt);
    }
    patch
}

/// Guarded by the UID: what the name stands for may have changed.
fn receipt_patch(uid: &str, receipt: &MirrorPosition) -> serde_json::Value {
    json!({"metadata": {"uid": uid, "annotations": receipt_annotation(receipt)}})
}

fn receipt_annotation(receipt: &MirrorPosition) -> serde_json::Value {
    json!({ANNOTATION_MIRRORED: json!(receipt).to_string()})
}
