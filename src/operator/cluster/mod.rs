//! Every call that the operator makes to the API server: each has a timeout, is counted by
//! resource and verb, leaves its answer in the hub, and is made only by the leader.

mod call;
mod error;
mod letting_go;
mod pace;
mod run;
mod servers;
#[cfg(test)]
mod tests;

use std::{future::Future, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use self::call::Calls;
use self::error::found;
pub use self::error::{Asked, CallError};
use super::{
    fence::Fence,
    hub::Hub,
    index::{Key, key_of},
    metrics::Metrics,
    unparsable::Unparsable,
    watch::Watched,
};
use crate::api::{
    FINALIZER_EVENTS, FINALIZER_OUTCOME, Stop, TaskExecution, TaskExecutionStatus, Workflow,
    WorkflowStatus,
};

/// The cluster, as far as the operator writes to it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    hub: Arc<Hub>,
    calls: Arc<Calls>,
}

impl Cluster {
    /// Calls go through `client`, as long as `fence` allows, answers into `hub`.
    pub fn new(client: Client, hub: Arc<Hub>, metrics: Arc<Metrics>, fence: Fence) -> Cluster {
        Cluster {
            client,
            hub,
            calls: Arc::new(Calls::new(metrics, fence)),
        }
    }

    /// Creates a task execution.
    ///
    /// # Errors
    /// See [`CallError`]; AlreadyExists too.
    pub async fn create_execution(
        &self,
        execution: &TaskExecution,
    ) -> Result<TaskExecution, CallError> {
        let api = self.api::<TaskExecution>(&key_of(execution));
        let name = execution.name_any();
        let created = self
            .call(
                "create",
                "taskexecutions",
                &name,
                api.create(&PostParams::default(), execution),
            )
            .await?;
        // Before anybody can see it.
        self.hub.fresh.add(&created);
        self.hub.execution(created.clone());
        Ok(created)
    }

    /// Writes a task execution's status, guarded by the resourceVersion of `execution`.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn record_execution(
        &self,
        execution: &TaskExecution,
        status: TaskExecutionStatus,
    ) -> Result<(), CallError> {
        let api = self.api::<TaskExecution>(&key_of(execution));
        let mut wanted = execution.clone();
        wanted.status = Some(status);
        let name = execution.name_any();
        let written = self
            .call(
                "update",
                "taskexecutions/status",
                &name,
                api.replace_status(&name, &PostParams::default(), &wanted),
            )
            .await;
        self.take(&key_of(execution), execution.uid().as_deref(), written)
    }

    /// Asks a task execution to end.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn stop_execution(&self, key: &Key, stop: &Stop) -> Result<(), CallError> {
        let known = self.hub.index.execution(key);
        let patch = json!({"spec": {"stop": stop}});
        let written = self.patch::<TaskExecution>(key, &patch).await;
        let uid = known.and_then(|known| known.metadata.uid.clone());
        self.take(key, uid.as_deref(), written)
    }

    /// The answer to a write. That the object is gone the watch may have missed; one that was
    /// made under its name meanwhile stays.
    fn take<K: Watched>(
        &self,
        key: &Key,
        uid: Option<&str>,
        written: Result<K, CallError>,
    ) -> Result<(), CallError> {
        if written.as_ref().is_err_and(CallError::is_not_found) && uid.is_some() {
            K::gone(&self.hub, key, uid);
        }
        written.map(|written| written.seen(&self.hub))
    }

    /// What the API server has of a task execution now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch_execution(&self, key: &Key) -> Result<Option<TaskExecution>, CallError> {
        self.fetch(key).await
    }

    /// What the API server has of a workflow now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch_workflow(&self, key: &Key) -> Result<Option<Workflow>, CallError> {
        self.fetch(key).await
    }

    async fn fetch<K: Watched>(&self, key: &Key) -> Result<Option<K>, CallError> {
        let api = self.api::<K>(key);
        found(self.call("get", K::PLURAL, &key.1, api.get(&key.1)).await)
    }

    /// Writes a workflow's status, guarded by the resourceVersion of `workflow`.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn record_workflow(
        &self,
        workflow: &Workflow,
        status: WorkflowStatus,
    ) -> Result<(), CallError> {
        let api = self.api::<Workflow>(&key_of(workflow));
        let mut wanted = workflow.clone();
        wanted.status = Some(status);
        let name = workflow.name_any();
        let written = self
            .call(
                "update",
                "workflows/status",
                &name,
                api.replace_status(&name, &PostParams::default(), &wanted),
            )
            .await;
        self.take(&key_of(workflow), workflow.uid().as_deref(), written)
    }

    /// Puts our finalizer on a workflow.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn hold_workflow(&self, workflow: &Workflow) -> Result<(), CallError> {
        let mut finalizers = workflow.finalizers().to_vec();
        finalizers.push(FINALIZER_EVENTS.to_owned());
        let key = key_of(workflow);
        let patch = finalizers_patch(workflow, &finalizers);
        let written = self.patch::<Workflow>(&key, &patch).await;
        self.take(&key, workflow.uid().as_deref(), written)
    }

    /// Creates a pod.
    ///
    /// # Errors
    /// See [`CallError`]; AlreadyExists too.
    pub async fn create_pod(&self, pod: &Pod) -> Result<(), CallError> {
        let api = self.api::<Pod>(&key_of(pod));
        let asked = Instant::now();
        let created = self
            .call(
                "create",
                "pods",
                &pod.name_any(),
                api.create(&PostParams::default(), pod),
            )
            .await?;
        self.hub.answered_pod(created, asked);
        Ok(())
    }

    /// Creates the ConfigMap of a task's inputs, unless it is there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ensure_inputs(&self, inputs: &ConfigMap) -> Result<(), CallError> {
        let api = self.api::<ConfigMap>(&key_of(inputs));
        let created = self
            .call(
                "create",
                "configmaps",
                &inputs.name_any(),
                api.create(&PostParams::default(), inputs),
            )
            .await;
        match created {
            Err(error) if error.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes a pod gracefully, this very one. Another one of its name, or none, is told to the
    /// hub: whatever the answer, it is no proof of more than that.
    ///
    /// # Errors
    /// See [`CallError`]; that it is gone already is none.
    pub async fn delete_pod(&self, pod: &Pod) -> Result<(), CallError> {
        let key = key_of(pod);
        let api = self.api::<Pod>(&key);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let asked = Instant::now();
        match self
            .call("delete", "pods", &key.1, api.delete(&key.1, &params))
            .await
        {
            Ok(answer) => {
                if let Some(pod) = answer.left() {
                    self.hub.answered_pod(pod, asked);
                }
                Ok(())
            }
            Err(error) => self.unless_gone(&key, pod, error).await,
        }
    }

    /// Takes our finalizer from a pod. The kubelet writes to pods all the time, so this is a
    /// strategic merge, which needs no resourceVersion, only the UID.
    ///
    /// # Errors
    /// See [`CallError`]; that it is gone already is none.
    pub async fn release_pod(&self, pod: &Pod) -> Result<(), CallError> {
        let key = key_of(pod);
        let api = self.api::<Pod>(&key);
        let patch = Patch::Strategic(json!({"metadata": {
            "uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [FINALIZER_OUTCOME],
        }}));
        let params = PatchParams::default();
        let asked = Instant::now();
        let released = api.patch(&key.1, &params, &patch);
        match self.call("patch", "pods", &key.1, released).await {
            Ok(pod) => {
                self.hub.answered_pod(pod, asked);
                Ok(())
            }
            Err(error) => self.unless_gone(&key, pod, error).await,
        }
    }

    /// Takes the refusal of a call about this very pod for its absence only if the API server has
    /// none of that name, or another one.
    async fn unless_gone(&self, key: &Key, pod: &Pod, error: CallError) -> Result<(), CallError> {
        let uid = pod.metadata.uid.as_deref();
        let gone = match error.code() {
            Some(404) => error.is_not_found(),
            // By UID or by resourceVersion: the answer does not tell.
            Some(409 | 422) => {
                let found = self.fetch_pod(key).await?;
                found.is_none_or(|found| found.metadata.uid.as_deref() != uid)
            }
            _ => false,
        };
        if !gone {
            return Err(error);
        }
        self.hub.pod_gone(key, uid);
        Ok(())
    }

    /// What the API server has of a pod now; the hub learns it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch_pod(&self, key: &Key) -> Result<Option<Pod>, CallError> {
        let asked = Instant::now();
        let pod: Option<Pod> = self.fetch(key).await?;
        if let Some(pod) = &pod {
            self.hub.answered_pod(pod.clone(), asked);
        }
        Ok(pod)
    }

    /// Whether a workflow with this UID exists now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn workflow_exists(&self, key: &Key, uid: &str) -> Result<bool, CallError> {
        let api = self.api::<Workflow>(key);
        let asked = self.call("get", "workflows", &key.1, api.get_metadata(&key.1));
        let workflow = found(asked.await)?;
        Ok(workflow.is_some_and(|workflow| workflow.metadata.uid.as_deref() == Some(uid)))
    }

    /// What the API server has of an object that cannot be parsed.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fetch_unparsable(
        &self,
        object: &Unparsable,
    ) -> Result<Option<DynamicObject>, CallError> {
        let (api, name) = (self.api_of(object), &object.key.1);
        found(
            self.call("get", object.kind.plural(), name, api.get(name))
                .await,
        )
    }

    /// Patches the status of an object that cannot be parsed.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn show_unparsable(
        &self,
        object: &Unparsable,
        patch: &serde_json::Value,
    ) -> Result<(), CallError> {
        let (api, name) = (self.api_of(object), &object.key.1);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = api.patch_status(name, &params, &patch);
        self.call("patch", object.kind.status(), name, patched)
            .await
            .map(drop)
    }

    fn api_of(&self, object: &Unparsable) -> Api<DynamicObject> {
        let resource = object.kind.resource();
        Api::namespaced_with(self.client.clone(), &object.key.0, &resource)
    }

    /// The client, for what is not counted.
    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn patch<K: Watched>(
        &self,
        key: &Key,
        patch: &serde_json::Value,
    ) -> Result<K, CallError> {
        let api = self.api::<K>(key);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = api.patch(&key.1, &params, &patch);
        self.call("patch", K::PLURAL, &key.1, patched).await
    }

    fn api<K>(&self, key: &Key) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &key.0)
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        resource: &'static str,
        name: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        let asked = Asked {
            verb,
            resource,
            name: name.to_owned(),
        };
        self.calls.call(asked, request).await
    }
}

/// Guarded by the resourceVersion: the list is written whole.
fn finalizers_patch<K: Resource>(object: &K, finalizers: &[String]) -> serde_json::Value {
    json!({"metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": if finalizers.is_empty() { serde_json::Value::Null } else { json!(finalizers) },
    }})
}
