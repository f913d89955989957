//! Which of a run's events go out when: a workflow's `started` before its tasks' events, its
//! `completed` or `failed` after the last of them. Beyond that no order is kept across objects.
//!
//! An event that has to stand behind those of another object is sent only after the stream was asked
//! whether it is still the one that has them: it may have lost them meanwhile.

use std::{ops::Bound, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    hub::{Hub, Mirrored},
    index::{Key, is_held, sibling},
    mirror::When,
};
use crate::{
    api::{RunPhase, TaskExecution, Workflow, WorkflowRef},
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

async fn publish_workflow(hub: &Hub, key: &Key) -> Option<Duration> {
    let workflow = hub.index.workflow(key).filter(|known| is_held(&**known))?;
    let retry_after = publish_run(hub, key, &workflow).await;
    if hub.outbox.is_complete(Object::Workflow(&workflow)) {
        hub.workflows.add(key.clone());
    }
    retry_after
}

async fn publish_execution(hub: &Hub, key: &Key) -> Option<Duration> {
    let execution = hub.index.execution(key).filter(|known| is_held(&**known))?;
    let retry_after = publish_task(hub, key, &execution).await;
    if hub.outbox.is_complete(Object::Task(&execution)) {
        hub.executions.add(key.clone());
        wake_run(hub, key, &execution.spec.workflow);
    }
    retry_after
}

/// Publishes a run, as far as its tasks are told.
pub async fn publish_run(hub: &Hub, key: &Key, workflow: &Workflow) -> Option<Duration> {
    let uid = workflow.metadata.uid.as_deref().unwrap_or_default();
    let begun = hub.outbox.begun_in(uid);
    let retry_after = match end_may_be_told(hub, key, workflow).await {
        Ok(when) => hub.outbox.publish(Object::Workflow(workflow), when).await,
        // Of many tasks each one that is told comes here: a copy of a long spec for each is too much.
        Err(wait) if hub.outbox.lacks_the_last_alone(Object::Workflow(workflow)) => wait,
        Err(wait) => {
            let mut unended = workflow.clone();
            if let Some(status) = &mut unended.status {
                status.transitions.pop();
            }
            let unended = Object::Workflow(&unended);
            hub.outbox.publish(unended, When::Always).await.or(wait)
        }
    };
    // In an epoch that began meanwhile its tasks wait anew.
    let now_begun = hub.outbox.begun_in(uid);
    if now_begun.is_some() && now_begun != begun {
        wake_tasks(hub, key, uid);
    }
    retry_after
}

/// Publishes a task execution, if its run has begun.
pub async fn publish_task(hub: &Hub, key: &Key, execution: &TaskExecution) -> Option<Duration> {
    let uid = execution.metadata.uid.as_deref().unwrap_or_default();
    let owner = &execution.spec.workflow;
    let (when, wait) = if hub.outbox.has_begun(uid) {
        (When::Always, None)
    } else if !run_has_begun(hub, key, owner) {
        (When::Later, None)
    } else {
        match confirm(hub).await {
            Ok(when) if run_has_begun(hub, key, owner) => (when, None),
            Ok(_) => (When::Later, None),
            Err(wait) => (When::Later, Some(wait)),
        }
    };
    hub.outbox
        .publish(Object::Task(execution), when)
        .await
        .or(wait)
}

/// Lets the run that a task execution belongs to go on, if it may have waited for that.
pub fn wake_run(hub: &Hub, key: &Key, owner: &WorkflowRef) {
    let key = sibling(key, &owner.name);
    let Some(workflow) = run_of(hub, &key, owner) else {
        return;
    };
    if !ends_by_its_tasks(&workflow) {
        return;
    }
    if is_held(&*workflow) {
        hub.mirrored.add(Mirrored::Workflow(key));
    } else if hub.outbox.is_owed(&owner.uid) {
        hub.owed.add(Mirrored::Workflow(key));
    }
}

/// Lets the tasks of a run go on that may have waited for its beginning.
pub fn wake_tasks(hub: &Hub, key: &Key, uid: &str) {
    for name in hub.index.children(uid) {
        let key = sibling(key, &name);
        let Some(execution) = hub.index.execution(&key) else {
            continue;
        };
        if is_held(&*execution) {
            hub.mirrored.add(Mirrored::Execution(key));
        } else if hub
            .outbox
            .is_owed(execution.metadata.uid.as_deref().unwrap_or_default())
        {
            hub.owed.add(Mirrored::Execution(key));
        }
    }
}

/// In which life of the stream the run may be told whole. Otherwise when to try again, if nobody
/// will say so.
async fn end_may_be_told(
    hub: &Hub,
    key: &Key,
    workflow: &Workflow,
) -> Result<When, Option<Duration>> {
    let uid = workflow.metadata.uid.as_deref().unwrap_or_default();
    if !ends_by_its_tasks(workflow) || hub.outbox.is_complete(Object::Workflow(workflow)) {
        return Ok(When::Always);
    }
    if !tasks_are_told(hub, key, uid) {
        return Err(None);
    }
    let when = confirm(hub).await.map_err(Some)?;
    match tasks_are_told(hub, key, uid) {
        true => Ok(when),
        false => Err(None),
    }
}

/// Asks the stream whether it is still the one that it was.
async fn confirm(hub: &Hub) -> Result<When, Duration> {
    match hub.outbox.mirror() {
        Some(mirror) => mirror.confirm().await.map(When::In),
        None => Ok(When::Always),
    }
}

/// Whether the run's last event is the outcome of its tasks, and not a decision about them.
fn ends_by_its_tasks(workflow: &Workflow) -> bool {
    let phase = workflow.status.as_ref().map(|status| status.phase);
    matches!(phase, Some(RunPhase::Succeeded | RunPhase::Failed))
}

/// Whether the stream has every event of every task. It is asked whenever one of them is told, so
/// it looks on from where it ended the last time, and over all of them only when it seems so.
fn tasks_are_told(hub: &Hub, key: &Key, uid: &str) -> bool {
    let untold = match hub.outbox.awaited(uid) {
        Some(awaited) => first_untold(hub, key, uid, Bound::Included(&awaited)),
        None => None,
    };
    let untold = untold.or_else(|| first_untold(hub, key, uid, Bound::Unbounded));
    let all_told = untold.is_none();
    hub.outbox.awaits(uid, untold);
    all_told
}

/// The first task execution of a run, from one on, of which the stream does not have every event.
fn first_untold(hub: &Hub, key: &Key, uid: &str, from: Bound<&str>) -> Option<Arc<str>> {
    let mut next = hub.index.child_from(uid, from);
    while let Some(name) = next {
        let execution = hub.index.execution(&sibling(key, &name));
        if execution.is_some_and(|execution| !is_told(hub, &execution)) {
            return Some(name);
        }
        next = hub.index.child_from(uid, Bound::Excluded(&name));
    }
    None
}

fn is_told(hub: &Hub, execution: &TaskExecution) -> bool {
    match is_held(execution) {
        true => hub.outbox.is_complete(Object::Task(execution)),
        false => hub
            .outbox
            .is_settled(execution.metadata.uid.as_deref().unwrap_or_default()),
    }
}

/// Whether the stream has the first event of a task execution's run; that of one that is gone will
/// never come.
fn run_has_begun(hub: &Hub, key: &Key, owner: &WorkflowRef) -> bool {
    let key = sibling(key, &owner.name);
    run_of(hub, &key, owner).is_none_or(|workflow| {
        hub.outbox.has_begun(&owner.uid)
            || (!is_held(&*workflow) && hub.outbox.is_settled(&owner.uid))
    })
}

fn run_of(hub: &Hub, key: &Key, owner: &WorkflowRef) -> Option<Arc<Workflow>> {
    let workflow = hub.index.workflow(key);
    workflow.filter(|workflow| workflow.metadata.uid.as_deref() == Some(&owner.uid))
}

#[cfg(test)]
mod tests {
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
            memory::{Fault, MemoryBus},
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

    /// A bus on which something else is published just while a message is under way.
    #[derive(Default)]
    struct Meanwhile {
        bus: MemoryBus,
        hub: std::sync::OnceLock<Arc<Hub>>,
        /// Which message; and what becomes of the run first.
        when: std::sync::Mutex<Option<(&'static str, Option<Workflow>)>>,
    }

    impl Meanwhile {
        fn hub() -> (Arc<Hub>, Arc<Meanwhile>) {
            let bus = Arc::new(Meanwhile::default());
            let metrics = MirrorMetrics::register(&mut Registry::default());
            let mirror = Mirror::new(bus.clone(), Subjects::new("compozy"), metrics);
            let hub = Arc::new(Hub::new(Outbox::new(Some(mirror))));
            bus.hub.set(hub.clone()).ok().unwrap();
            (hub, bus)
        }

        fn expect(&self, message: &'static str, run: Option<Workflow>) {
            *self.when.lock().unwrap() = Some((message, run));
        }
    }

    #[async_trait::async_trait]
    impl Bus for Meanwhile {
        async fn publish(
            &self,
            message: &Message,
            expected_last: u64,
        ) -> Result<PublishAck, PublishError> {
            let now = self
                .when
                .lock()
                .unwrap()
                .take_if(|(awaited, _)| *awaited == message.id);
            if let Some((_, run)) = now {
                let hub = self.hub.get().unwrap();
                run.into_iter().for_each(|run| hub.workflow(run));
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
        let (hub, bus) = Meanwhile::hub();
        hub.workflow(workflow("Running", json!([started()])));
        settle(&hub).await;
        let completed = json!({"seq": 2, "event": "completed", "at": "2026-01-01T00:00:02Z"});
        let ended = workflow("Succeeded", json!([started(), completed]));
        bus.expect("tu:2", Some(ended));
        hub.execution(execution("Succeeded"));
        settle(&hub).await;
        let last = bus.bus.messages().pop().unwrap();
        assert_eq!(
            last.subject,
            "compozy.events.workflow.instance.wu.completed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_finds_the_stream_anew_just_before_its_run_does_is_told() {
        let (hub, bus) = Meanwhile::hub();
        hub.workflow(workflow("Running", json!([started()])));
        settle(&hub).await;
        // The task cannot be told, and then the stream is gone: asked for by the run.
        let refused = PublishError::Unavailable("x".to_owned());
        bus.bus.fail_with([Fault::Refuse(refused)]);
        hub.execution(execution("Succeeded"));
        settle(&hub).await;
        bus.bus.delete_stream();
        bus.expect("wu:1", None);
        hub.mirrored
            .add(Mirrored::Execution(("n".into(), "t".into())));
        publish(&hub, Mirrored::Workflow(("n".into(), "w".into()))).await;
        settle(&hub).await;
        let told = bus.bus.messages();
        let told: Vec<_> = told.iter().map(|message| message.id.as_str()).collect();
        assert_eq!(told, ["wu:1", "tu:1", "tu:2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_run_waits_until_what_the_stream_lost_is_told_again() {
        let (hub, bus) = hub();
        let completed = json!({"seq": 2, "event": "completed", "at": "2026-01-01T00:00:02Z"});
        let ended = workflow("Succeeded", json!([started(), completed]));
        hub.workflow(workflow("Running", json!([started()])));
        hub.execution(execution("Succeeded"));
        settle(&hub).await;
        assert_eq!(bus.messages().len(), 3);
        // The run ends, and only its end finds out that nothing is left of what was told before.
        bus.delete_stream();
        hub.workflow(ended.clone());
        settle(&hub).await;
        assert!(hub.outbox.mirror().unwrap().refresh().await);
        hub.start_over();
        settle(&hub).await;
        let told: Vec<_> = bus
            .messages()
            .into_iter()
            .map(|message| message.id)
            .collect();
        assert_eq!(told, ["wu:1", "tu:1", "tu:2", "wu:2"]);
        assert!(hub.outbox.is_complete(Object::Workflow(&ended)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_was_lost_is_told_again_after_what_its_tasks_lost() {
        // So many messages are left of: the run's start, the task's two, the run's end.
        for left in 0..4 {
            let (hub, bus) = hub();
            let completed = json!({"seq": 2, "event": "completed", "at": "2026-01-01T00:00:02Z"});
            let ended = workflow("Succeeded", json!([started(), completed]));
            hub.workflow(ended.clone());
            hub.execution(execution("Succeeded"));
            settle(&hub).await;
            assert_eq!(bus.messages().len(), 4);
            bus.lose(left);
            // Nobody has noticed, and somebody's write makes both look again: nothing is to be told.
            publish(&hub, Mirrored::Workflow(("n".into(), "w".into()))).await;
            assert!(hub.outbox.mirror().unwrap().refresh().await);
            // It is noticed, and the run comes before its task.
            publish(&hub, Mirrored::Workflow(("n".into(), "w".into()))).await;
            hub.start_over();
            settle(&hub).await;
            let told = bus.messages();
            let told: Vec<_> = told.iter().map(|message| message.id.as_str()).collect();
            assert_eq!(told, ["wu:1", "tu:1", "tu:2", "wu:2"], "{left} were left");
            assert!(hub.outbox.is_complete(Object::Workflow(&ended)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_run_waits_for_one_task_after_the_other() {
        let (hub, bus) = hub();
        let names = ["t1", "t2", "t3"];
        for name in names {
            let mut execution = execution("Succeeded");
            execution.metadata.name = Some(name.to_owned());
            execution.metadata.uid = Some(name.to_owned());
            hub.execution(execution);
        }
        let completed = json!({"seq": 2, "event": "completed", "at": "2026-01-01T00:00:02Z"});
        let ended = workflow("Succeeded", json!([started(), completed]));
        hub.workflow(ended.clone());
        // The order is this test's.
        while hub.mirrored.depth() > 0 {
            let next = hub.mirrored.next().await;
            hub.mirrored.done(&next);
        }
        let run = || Mirrored::Workflow(("n".into(), "w".into()));
        for name in names {
            publish(&hub, run()).await;
            assert_eq!(hub.outbox.awaited("wu").as_deref(), Some(name));
            assert!(hub.outbox.lacks_the_last_alone(Object::Workflow(&ended)));
            publish(&hub, Mirrored::Execution(("n".into(), name.into()))).await;
        }
        // One that it had passed is untold again.
        bus.delete_stream();
        assert!(hub.outbox.mirror().unwrap().refresh().await);
        publish(&hub, run()).await;
        assert_eq!(hub.outbox.awaited("wu").as_deref(), Some("t3"));
        publish(&hub, Mirrored::Execution(("n".into(), "t3".into()))).await;
        publish(&hub, run()).await;
        assert_eq!(hub.outbox.awaited("wu").as_deref(), Some("t1"));
        hub.start_over();
        settle(&hub).await;
        assert!(hub.outbox.is_complete(Object::Workflow(&ended)));
        assert_eq!(hub.outbox.awaited("wu"), None);
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
