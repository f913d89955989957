//! Which of a run's events go out when: a workflow's `started` before its tasks' events, its
//! `completed` or `failed` after the last of them. Beyond that no order is kept across objects.

use tokio::time::Instant;

use super::{
    hub::{Hub, Mirrored},
    index::{Key, is_held, sibling},
};
use crate::{
    api::{RunPhase, Workflow},
    events::Object,
};

/// Publishes what may go out of an object, and tells whoever waited for that. Returns when to try
/// again, if that is needed.
pub async fn publish(hub: &Hub, mirrored: Mirrored) -> Option<Instant> {
    let retry_after = match &mirrored {
        Mirrored::Workflow(key) => publish_workflow(hub, key).await,
        Mirrored::Execution(key) => publish_execution(hub, key).await,
    };
    retry_after.map(|wait| Instant::now() + wait)
}

async fn publish_workflow(hub: &Hub, key: &Key) -> Option<std::time::Duration> {
    let workflow = hub.index.workflow(key)?;
    let uid = workflow.metadata.uid.as_deref().unwrap_or_default();
    let begun = hub.outbox.has_begun(uid);
    let retry_after = if ends_by_its_tasks(&workflow) && !tasks_are_told(hub, key, uid) {
        let mut unended = (*workflow).clone();
        if let Some(status) = &mut unended.status {
            status.transitions.pop();
        }
        hub.outbox.publish(Object::Workflow(&unended)).await
    } else {
        hub.outbox.publish(Object::Workflow(&workflow)).await
    };
    if !begun && hub.outbox.has_begun(uid) {
        for name in hub.index.children(uid) {
            hub.mirrored.add(Mirrored::Execution(sibling(key, &name)));
        }
    }
    if hub.outbox.is_complete(Object::Workflow(&workflow)) {
        hub.workflows.add(key.clone());
    }
    retry_after
}

async fn publish_execution(hub: &Hub, key: &Key) -> Option<std::time::Duration> {
    let execution = hub.index.execution(key)?;
    let owner = &execution.spec.workflow;
    let workflow_key = sibling(key, &owner.name);
    let held = || {
        hub.index.workflow(&workflow_key).filter(|workflow| {
            workflow.metadata.uid.as_deref() == Some(&owner.uid) && is_held(&**workflow)
        })
    };
    if held().is_some() && !hub.outbox.has_begun(&owner.uid) {
        return None;
    }
    let retry_after = hub.outbox.publish(Object::Task(&execution)).await;
    if hub.outbox.is_complete(Object::Task(&execution)) {
        hub.executions.add(key.clone());
        // Looked at anew: the run may have ended while this was published, and its end may have
        // been held back for it.
        if held().is_some_and(|workflow| ends_by_its_tasks(&workflow)) {
            hub.mirrored.add(Mirrored::Workflow(workflow_key));
        }
    }
    retry_after
}

/// Whether the run's last event is the outcome of its tasks, and not a decision about them.
fn ends_by_its_tasks(workflow: &Workflow) -> bool {
    let phase = workflow.status.as_ref().map(|status| status.phase);
    matches!(phase, Some(RunPhase::Succeeded | RunPhase::Failed))
}

/// Whether every event of every task is in the stream. What was let go is.
fn tasks_are_told(hub: &Hub, key: &Key, uid: &str) -> bool {
    let children = hub.index.children(uid);
    let mut held = children
        .iter()
        .filter_map(|name| hub.index.execution(&sibling(key, name)))
        .filter(|execution| is_held(&**execution));
    held.all(|execution| hub.outbox.is_complete(Object::Task(&execution)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::registry::Registry;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::{FINALIZER_EVENTS, TaskExecution},
        events::Subjects,
        operator::{
            mirror::{Mirror, MirrorMetrics},
            outbox::Outbox,
        },
        ports::{
            Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity,
            memory::MemoryBus,
        },
    };

    fn workflow(phase: &str, transitions: Value) -> Workflow {
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": "n", "uid": "wu", "finalizers": [FINALIZER_EVENTS],
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"tasks": []},
            "status": {"phase": phase, "transitions": transitions},
        }))
        .unwrap()
    }

    fn execution(phase: &str) -> TaskExecution {
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
            "metadata": {"name": "t", "namespace": "n", "uid": "tu", "finalizers": [FINALIZER_EVENTS],
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t", "container": {"image": "x"},
                "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
                "infrastructureRetries": 1, "imagePullTimeout": "10m",
            },
            "status": {"phase": phase, "transitions": [
                {"seq": 2, "event": "completed", "attempt": 1, "at": "2026-01-01T00:00:01Z"}]},
        }))
        .unwrap()
    }

    fn started() -> Value {
        json!({"seq": 1, "event": "started", "at": "2026-01-01T00:00:00Z"})
    }

    async fn settle(hub: &Hub) {
        while hub.mirrored.depth() > 0 {
            let next = hub.mirrored.next().await;
            publish(hub, next.clone()).await;
            hub.mirrored.done(&next);
        }
    }

    fn hub() -> (Hub, Arc<MemoryBus>) {
        let bus = Arc::new(MemoryBus::default());
        let metrics = MirrorMetrics::register(&mut Registry::default());
        let mirror = Mirror::new(bus.clone(), Subjects::new("compozy"), metrics);
        (Hub::new(Outbox::new(Some(mirror))), bus)
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_told_from_its_start_over_its_tasks_to_its_end() {
        let (hub, bus) = hub();
        let completed = json!({"seq": 2, "event": "completed", "at": "2026-01-01T00:00:02Z"});
        // The worst order to hear of them.
        hub.execution(execution("Succeeded"));
        hub.workflow(workflow("Succeeded", json!([started(), completed])));
        settle(&hub).await;
        let subjects = bus.messages().into_iter().map(|message| message.subject);
        let told: Vec<_> = subjects
            .map(|subject| subject.replace("compozy.events.", ""))
            .collect();
        assert_eq!(
            told,
            [
                "workflow.instance.wu.started",
                "task.instance.tu.scheduled",
                "task.instance.tu.completed",
                "workflow.instance.wu.completed",
            ]
        );
    }

    /// A bus on which the run ends just while its last task's end is being published.
    #[derive(Default)]
    struct EndingMeanwhile {
        bus: MemoryBus,
        hub: std::sync::OnceLock<Arc<Hub>>,
    }

    #[async_trait::async_trait]
    impl Bus for EndingMeanwhile {
        async fn publish(
            &self,
            message: &Message,
            expected_last: u64,
        ) -> Result<PublishAck, PublishError> {
            if message.subject.ends_with("task.instance.tu.completed") {
                let hub = self.hub.get().unwrap();
                let completed =
                    json!({"seq": 2, "event": "completed", "at": "2026-01-01T00:00:02Z"});
                hub.workflow(workflow("Succeeded", json!([started(), completed])));
                let next = hub.mirrored.next().await;
                super::publish(hub, next.clone()).await;
                hub.mirrored.done(&next);
            }
            self.bus.publish(message, expected_last).await
        }
        async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
            self.bus.last(filter).await
        }
        async fn ensure_streams(&self) -> Result<StreamIdentity, BusError> {
            self.bus.ensure_streams().await
        }
        fn connected(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_ends_while_its_last_task_is_published_is_told_to_its_end() {
        let bus = Arc::new(EndingMeanwhile::default());
        let metrics = MirrorMetrics::register(&mut Registry::default());
        let mirror = Mirror::new(bus.clone(), Subjects::new("compozy"), metrics);
        let hub = Arc::new(Hub::new(Outbox::new(Some(mirror))));
        bus.hub.set(hub.clone()).ok().unwrap();
        hub.workflow(workflow("Running", json!([started()])));
        settle(&hub).await;
        hub.execution(execution("Succeeded"));
        settle(&hub).await;
        let last = bus.bus.messages().pop().unwrap();
        assert_eq!(
            last.subject,
            "compozy.events.workflow.instance.wu.completed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_run_says_so_before_its_tasks_have_ended() {
        let (hub, bus) = hub();
        let cancelled = json!({"seq": 2, "event": "cancelled", "at": "2026-01-01T00:00:02Z"});
        hub.workflow(workflow("Stopping", json!([started(), cancelled])));
        settle(&hub).await;
        assert_eq!(bus.messages().len(), 2);
    }
}
