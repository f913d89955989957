//! What a run as a whole can be told: that it is suspended, and that its time is over.

use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
};
use serde_json::json;

use super::{CallError, Cluster};
use crate::{
    api::{TaskExecution, Workflow},
    operator::index::{Key, key_of},
};

impl Cluster {
    /// Tells a task execution whether it is suspended.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn suspend_execution(&self, key: &Key, suspend: bool) -> Result<(), CallError> {
        let patch = json!({"spec": {"suspend": suspend}});
        let written = self
            .patch::<TaskExecution>(key, "taskexecutions", &patch)
            .await?;
        self.hub.execution(written);
        Ok(())
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
