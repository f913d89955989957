//! What a run as a whole can be asked and told: which tasks it has, that it is suspended, and that
//! its time is over.

use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};
use serde_json::json;

use super::{CallError, Cluster};
use crate::{
    api::{LABEL_WORKFLOW_UID, TaskExecution, Workflow},
    operator::index::{Key, key_of},
};

impl Cluster {
    /// The names of the task executions that the run with this UID has now.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_executions(&self, run: &Key, uid: &str) -> Result<Vec<String>, CallError> {
        let api = self.api::<TaskExecution>(run);
        let params = ListParams::default().labels(&format!("{LABEL_WORKFLOW_UID}={uid}"));
        let listed = api.list_metadata(&params);
        let listed = self.call("list", "taskexecutions", &run.1, listed).await?;
        Ok(listed.items.iter().map(ResourceExt::name_any).collect())
    }

    /// Tells a task execution whether it is suspended, guarded by its resourceVersion: what an
    /// earlier leader wanted must not come after what is wanted now.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too.
    pub async fn suspend_execution(
        &self,
        execution: &TaskExecution,
        suspend: bool,
    ) -> Result<(), CallError> {
        let patch = json!({
            "metadata": {"resourceVersion": execution.metadata.resource_version},
            "spec": {"suspend": suspend},
        });
        let key = key_of(execution);
        let written = self.patch::<TaskExecution>(&key, &patch).await;
        self.take(&key, execution.uid().as_deref(), written)
    }

    /// Deletes a workflow with all that belongs to it: this very one, as it was seen.
    ///
    /// # Errors
    /// See [`CallError`]; a conflict too. That it is gone already is none.
    pub async fn delete_workflow(&self, workflow: &Workflow) -> Result<(), CallError> {
        let api = self.api::<Workflow>(&key_of(workflow));
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: workflow.uid(),
                resource_version: workflow.resource_version(),
            }),
            ..DeleteParams::background()
        };
        let name = workflow.name_any();
        let deleted = self
            .call("delete", "workflows", &name, api.delete(&name, &params))
            .await;
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}
