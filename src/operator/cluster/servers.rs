//! What the operator serves, and the Deployments for that.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};

use super::{CallError, Cluster, found};
use crate::{
    api::{ServerStatus, Tool},
    operator::{
        index::{Key, key_of},
        servers::ServedHere,
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
        let api = self.api::<Deployment>(key);
        let asked = self.call("get", "deployments", &key.1, api.get(&key.1));
        found(asked.await)
    }

    /// Makes the Deployment of a `K` so, or creates it. Fields that are not named stay as others set them, such as an
    /// autoscaler the replicas. With a UID it is that one or a conflict, and named fields that others have changed are set
    /// back.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn apply_deployment<K: ServedHere>(
        &self,
        wanted: &Deployment,
    ) -> Result<Deployment, CallError> {
        let api = self.api::<Deployment>(&key_of(wanted));
        let params = PatchParams {
            force: wanted.metadata.uid.is_some(),
            ..PatchParams::apply(FIELD_MANAGER)
        };
        let (name, patch) = (wanted.name_any(), Patch::Apply(wanted));
        let applied = api.patch(&name, &params, &patch);
        let applied = self.call("patch", "deployments", &name, applied).await?;
        Watched::<K>::seen(applied.clone(), &self.hub);
        Ok(applied)
    }

    /// Writes the status of what the operator serves, guarded by the resourceVersion of `served`.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn record_served<K: ServedHere>(
        &self,
        served: &K,
        status: ServerStatus,
    ) -> Result<(), CallError> {
        let api = self.api::<K>(&key_of(served));
        let mut wanted = served.clone();
        *wanted.status_mut() = Some(status);
        let (name, params) = (served.name_any(), PostParams::default());
        let written = api.replace_status(&name, &params, &wanted);
        let written = self.call("update", K::STATUS_PATH, &name, written).await;
        self.take(&key_of(served), served.uid().as_deref(), written)
    }
}
