//! Objects that were let go are asked about when it is not known whether the stream still has their
//! events: after a start, and after it lost messages. What it lost is read from the API server, as
//! nothing of it is kept in memory, and told again.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    cluster::{CallError, Cluster},
    hub::{Hub, Mirrored},
    index::Key,
    mirror::Standing,
    publishing::{publish_run, publish_task, wake_run, wake_tasks},
};
use crate::{
    api::{MirrorPosition, TaskExecution, Workflow},
    events::{Entity, Object},
};

/// Asks about objects, and tells them again.
pub struct Retelling {
    /// What is known.
    pub hub: Arc<Hub>,
    /// Where the objects are.
    pub cluster: Cluster,
}

impl Retelling {
    /// Finds out whether the stream has an object's events, and sees to it that it has. Returns when
    /// to try again, if that is needed.
    ///
    /// # Errors
    /// A call that failed; trying again is safe.
    pub async fn settle(&self, owed: &Mirrored) -> Result<Option<Instant>, CallError> {
        let outbox = &self.hub.outbox;
        let Some(uid) = self.uid(owed).filter(|uid| outbox.is_owed(uid)) else {
            return Ok(None);
        };
        let (Some(receipt), Some(mirror)) = (self.hub.receipt_of(owed), outbox.mirror()) else {
            outbox.settled(&uid);
            return Ok(None);
        };
        let entity = match owed {
            Mirrored::Workflow(_) => Entity::Workflow,
            Mirrored::Execution(_) => Entity::Task,
        };
        match mirror.standing(entity, &uid, &receipt).await {
            Err(wait) => return Ok(Some(Instant::now() + wait)),
            Ok(Standing::Stands) => outbox.settled(&uid),
            Ok(Standing::Elsewhere(position)) => self.record(owed, &uid, &position).await?,
            Ok(Standing::Missing) => {
                let wait = match owed {
                    Mirrored::Workflow(key) => self.tell_run_again(owed, key, &uid).await?,
                    Mirrored::Execution(key) => self.tell_task_again(owed, key, &uid).await?,
                };
                if wait.is_some() {
                    return Ok(wait.map(|wait| Instant::now() + wait));
                }
            }
        }
        if !outbox.is_owed(&uid) {
            self.wake(owed, &uid);
        }
        Ok(None)
    }

    async fn tell_run_again(
        &self,
        owed: &Mirrored,
        key: &Key,
        uid: &str,
    ) -> Result<Option<Duration>, CallError> {
        let found = self.cluster.fetch_workflow(key).await?;
        let Some(workflow) = found.filter(|found| found.uid().as_deref() == Some(uid)) else {
            self.hub.outbox.settled(uid);
            return Ok(None);
        };
        let wait = publish_run(&self.hub, key, &workflow).await;
        self.conclude(owed, Object::Workflow(&workflow)).await?;
        Ok(wait)
    }

    async fn tell_task_again(
        &self,
        owed: &Mirrored,
        key: &Key,
        uid: &str,
    ) -> Result<Option<Duration>, CallError> {
        let found = self.cluster.fetch_execution(key).await?;
        let Some(execution) = found.filter(|found| found.uid().as_deref() == Some(uid)) else {
            self.hub.outbox.settled(uid);
            return Ok(None);
        };
        let wait = publish_task(&self.hub, key, &execution).await;
        self.conclude(owed, Object::Task(&execution)).await?;
        Ok(wait)
    }

    /// Writes down where the events are, if all are told.
    async fn conclude(&self, owed: &Mirrored, object: Object<'_>) -> Result<(), CallError> {
        let outbox = &self.hub.outbox;
        if !outbox.is_complete(object) {
            return Ok(());
        }
        if let Some(position) = outbox.position(object.uid()) {
            self.record(owed, object.uid(), &position).await?;
        }
        // A loss that was noticed meanwhile counts.
        if outbox.is_complete(object) {
            outbox.settled(object.uid());
        }
        Ok(())
    }

    async fn record(
        &self,
        owed: &Mirrored,
        uid: &str,
        position: &MirrorPosition,
    ) -> Result<(), CallError> {
        let cluster = &self.cluster;
        let written = match owed {
            Mirrored::Workflow(key) => cluster.record_receipt::<Workflow>(key, uid, position).await,
            Mirrored::Execution(key) => {
                cluster
                    .record_receipt::<TaskExecution>(key, uid, position)
                    .await
            }
        };
        match written {
            // Gone, or another object of that name.
            Err(error) if error.is_not_found() || error.is_conflict() => {
                self.hub.outbox.settled(uid);
                Ok(())
            }
            other => other,
        }
    }

    /// Whoever waited for an object's events may go on.
    fn wake(&self, owed: &Mirrored, uid: &str) {
        match owed {
            Mirrored::Workflow(key) => wake_tasks(&self.hub, key, uid),
            Mirrored::Execution(key) => {
                if let Some(execution) = self.hub.index.execution(key) {
                    wake_run(&self.hub, key, &execution.spec.workflow);
                }
            }
        }
    }

    fn uid(&self, owed: &Mirrored) -> Option<String> {
        match owed {
            Mirrored::Workflow(key) => self.hub.index.workflow(key)?.uid(),
            Mirrored::Execution(key) => self.hub.index.execution(key)?.uid(),
        }
    }
}
