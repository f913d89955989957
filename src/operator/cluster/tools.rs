//! Tools, and the Deployments that serve them.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};

use super::{CallError, Cluster};
use crate::{
    api::{Tool, ToolStatus},
    operator::{
        index::{Key, key_of},
        watch::Watched,
    },
};

/// Who writes Deployments, in their managed fields.
const FIELD_MANAGER: &str = "compozy";

impl Cluster {
    /// What the API server has of a tool now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch_tool(&self, key: &Key) -> Result<Option<Tool>, CallError> {
        self.fetch(key).await
    }

    /// What the API server has of a Deployment now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch_deployment(&self, key: &Key) -> Result<Option<Deployment>, CallError> {
        self.fetch(key).await
    }

    /// Makes a Deployment so, or creates it. Fields that are not named stay as others set them, such as an autoscaler the
    /// replicas. With a UID it is that one or a conflict, and named fields that others have changed are set back.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn apply_deployment(&self, wanted: &Deployment) -> Result<Deployment, CallError> {
        let api = self.api::<Deployment>(&key_of(wanted));
        let params = PatchParams {
            force: wanted.metadata.uid.is_some(),
            ..PatchParams::apply(FIELD_MANAGER)
        };
        let (name, patch) = (wanted.name_any(), Patch::Apply(wanted));
        let applied = api.patch(&name, &params, &patch);
        let applied = self.call("patch", "deployments", &name, applied).await?;
        applied.clone().seen(&self.hub);
        Ok(applied)
    }

    /// Writes a tool's status, guarded by the resourceVersion of `tool`.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn record_tool(&self, tool: &Tool, status: ToolStatus) -> Result<(), CallError> {
        let api = self.api::<Tool>(&key_of(tool));
        let wanted = Tool {
            status: Some(status),
            ..tool.clone()
        };
        let (name, params) = (tool.name_any(), PostParams::default());
        let written = api.replace_status(&name, &params, &wanted);
        let written = self.call("update", "tools/status", &name, written).await;
        self.take(&key_of(tool), tool.uid().as_deref(), written)
    }
}
