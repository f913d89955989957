//! The calls that let ended objects go, with a receipt that says where the stream has their events.

use kube::{Resource, ResourceExt};
use serde_json::json;

use super::{CallError, Cluster, finalizers_patch};
use crate::{
    api::{ANNOTATION_MIRRORED, FINALIZER_EVENTS, MirrorPosition},
    operator::{
        index::{Key, key_of},
        watch::Watched,
    },
};

impl Cluster {
    /// Takes our finalizer from an object. If its events are in the stream, `receipt` says where.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn release<K: Watched>(
        &self,
        object: &K,
        receipt: Option<&MirrorPosition>,
    ) -> Result<(), CallError> {
        let key = key_of(object);
        let patch = let_go_patch(object, receipt);
        let written = self.patch::<K>(&key, &patch).await;
        self.take(&key, object.uid().as_deref(), written)
    }

    /// Writes where the stream has the events of an object that was let go.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict if the name is another object's.
    pub async fn record_receipt<K: Watched>(
        &self,
        key: &Key,
        uid: &str,
        receipt: &MirrorPosition,
    ) -> Result<(), CallError> {
        let written = self.patch::<K>(key, &receipt_patch(uid, receipt)).await?;
        written.seen(&self.hub);
        Ok(())
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
