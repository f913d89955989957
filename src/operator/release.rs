//! `operator release-finalizers`: takes our finalizers from every object.

use std::{fmt::Debug, time::Duration};

use futures::TryStreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::{NamespaceResourceScope, PartialObjectMeta},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::info;

use super::{Error, settings::ReleaseFinalizers};
use crate::api::{
    FINALIZER_EVENTS, FINALIZER_OUTCOME, LABEL_WORKFLOW_UID, TaskExecution, Workflow,
};

/// A list is read in pages of this size.
const PAGE: u32 = 500;
/// How long the operator may take to end after it was scaled to zero.
const SCALE_DOWN: Duration = Duration::from_secs(60);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Scales the operator down, if it is named, then releases workflows, task executions and pods.
///
/// # Errors
/// A call that failed; running it again goes on where it stopped.
pub async fn release_finalizers(client: Client, options: &ReleaseFinalizers) -> Result<(), Error> {
    if let Some(name) = &options.deployment {
        scale_down(Api::namespaced(client.clone(), &options.namespace), name).await?;
    }
    let workflows = release::<Workflow>(&client, "", FINALIZER_EVENTS).await?;
    let executions = release::<TaskExecution>(&client, "", FINALIZER_EVENTS).await?;
    let pods = release::<Pod>(&client, LABEL_WORKFLOW_UID, FINALIZER_OUTCOME).await?;
    info!(workflows, executions, pods, "finalizers released");
    Ok(())
}

async fn scale_down(api: Api<Deployment>, name: &str) -> Result<(), Error> {
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let scaled = tokio::time::timeout(
        CALL_TIMEOUT,
        api.patch_scale(name, &PatchParams::default(), &none),
    )
    .await?;
    match scaled {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        other => other.map(drop)?,
    }
    let stopped = async {
        loop {
            let scale = api.get_scale(name).await?;
            if scale.status.is_none_or(|status| status.replicas == 0) {
                return Ok::<_, Error>(());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(SCALE_DOWN, stopped).await?
}

/// Releases all objects of a kind; a kind that is not installed has none.
async fn release<K>(client: &Client, label: &str, finalizer: &str) -> Result<usize, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let all = Api::<K>::all(client.clone());
    let mut released = 0;
    let mut params = ListParams::default().labels(label).limit(PAGE);
    loop {
        let page = match tokio::time::timeout(CALL_TIMEOUT, all.list_metadata(&params)).await? {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(released),
            other => other?,
        };
        let held = page
            .items
            .into_iter()
            .filter(|object| object.finalizers().iter().any(|held| held == finalizer));
        released += futures::stream::iter(held.map(Ok::<_, Error>))
            .try_fold(0, |count, object| async move {
                release_one::<K>(client, &object, finalizer).await?;
                Ok(count + 1)
            })
            .await?;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(released),
        }
    }
}

async fn release_one<K>(
    client: &Client,
    object: &PartialObjectMeta<K>,
    finalizer: &str,
) -> Result<(), Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let rest: Vec<_> = object
        .finalizers()
        .iter()
        .filter(|held| *held != finalizer)
        .cloned()
        .collect();
    let patch = Patch::Merge(json!({"metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": rest,
    }}));
    let name = object.name_any();
    match tokio::time::timeout(
        CALL_TIMEOUT,
        api.patch_metadata(&name, &PatchParams::default(), &patch),
    )
    .await?
    {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
