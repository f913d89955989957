//! Kubernetes Events, only for what a person must see. They are written beside the work: a
//! reconciler never waits for one, and none is worth more than one try.

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tracing::warn;

use super::{fence::Fence, metrics::Metrics};
use crate::{
    api::{self, TaskExecution, Workflow},
    engine::notice::Notice,
};

/// Events that wait to be written; what comes beyond that is only counted.
const MOST_WAITING: usize = 256;
/// Told notices that are remembered. Beyond that some may be told again.
const MOST_REMEMBERED: usize = 4096;
/// An Event is worth no longer wait.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Takes in what is to be told.
#[derive(Clone)]
pub struct Warnings {
    waiting: mpsc::Sender<Warning>,
    metrics: Arc<Metrics>,
}

/// What is to be told, about which object.
struct Warning {
    about: ObjectReference,
    related: Option<ObjectReference>,
    notice: Notice,
}

impl Warnings {
    /// With what writes them.
    pub fn new(metrics: Arc<Metrics>) -> (Warnings, Writer) {
        let (waiting, warnings) = mpsc::channel(MOST_WAITING);
        (Warnings { waiting, metrics }, Writer(warnings))
    }

    /// Something about a run.
    pub fn about_run(&self, workflow: &Workflow, notice: Notice) {
        self.add(workflow.object_ref(&()), None, notice);
    }

    /// Something about a task. It stands at the run, where a person looks.
    pub fn about_task(&self, execution: &TaskExecution, notice: Notice) {
        let owner = &execution.spec.workflow;
        let run = ObjectReference {
            api_version: Some(Workflow::api_version(&()).into_owned()),
            kind: Some(Workflow::kind(&()).into_owned()),
            name: Some(owner.name.clone()),
            namespace: execution.metadata.namespace.clone(),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        };
        self.add(run, Some(execution.object_ref(&())), notice);
    }

    /// A deleted object was let go before NATS had all of its events.
    pub fn let_go<K: Resource<DynamicType = ()>>(&self, object: &K, grace: api::Duration) {
        let note = format!(
            "NATS was away for {grace} after the deletion; events of this object were not published"
        );
        let notice = Notice {
            reason: "EventsLost".to_owned(),
            action: "LetGo",
            note,
        };
        self.add(object.object_ref(&()), None, notice);
    }

    fn add(&self, about: ObjectReference, related: Option<ObjectReference>, notice: Notice) {
        let warning = Warning {
            about,
            related,
            notice,
        };
        if self.waiting.try_send(warning).is_err() {
            self.metrics.count_dropped_warning();
        }
    }
}

/// Writes Events, one after the other.
pub struct Writer(mpsc::Receiver<Warning>);

impl Writer {
    /// Writes Events for ever, which say that they come from `instance`, as long as `fence`
    /// allows. Of one object each reason is told once.
    pub async fn write(mut self, client: Client, fence: Fence, instance: String) {
        let reporter = Reporter {
            controller: "compozy-operator".into(),
            instance: Some(instance),
        };
        let recorder = Recorder::new(client, reporter);
        let mut told = HashSet::new();
        while let Some(warning) = self.0.recv().await {
            let about = warning.about.uid.clone().unwrap_or_default();
            if told.len() >= MOST_REMEMBERED {
                told.clear();
            }
            if told.insert((about, warning.notice.reason.clone()))
                && let Some(left) = fence.left()
            {
                publish(&recorder, warning, left.min(TIMEOUT)).await;
            }
        }
    }
}

async fn publish(recorder: &Recorder, warning: Warning, bound: Duration) {
    let event = Event {
        type_: EventType::Warning,
        reason: warning.notice.reason,
        note: Some(short(warning.notice.note)),
        action: warning.notice.action.to_owned(),
        secondary: warning.related,
    };
    match tokio::time::timeout(bound, recorder.publish(&event, &warning.about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "an Event could not be written"),
        Err(_) => warn!("an Event could not be written in time"),
    }
}

/// The API server takes no note over 1 KiB.
fn short(mut note: String) -> String {
    const MOST: usize = 1000;
    if note.len() > MOST {
        let end = (0..=MOST).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or(0));
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::operator::testing::client;

    fn workflow(uid: &str) -> Workflow {
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": "n", "uid": uid},
            "spec": {"tasks": []},
        }))
        .unwrap()
    }

    fn notice(reason: &str) -> Notice {
        Notice {
            reason: reason.to_owned(),
            action: "Wait",
            note: "ü".repeat(2000),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_told_once_of_each_run_and_nobody_waits_for_it() {
        let metrics = Arc::new(Metrics::new(|_| ()));
        let (warnings, writer) = Warnings::new(metrics.clone());
        for _ in 0..MOST_WAITING {
            warnings.about_run(&workflow("a"), notice("RunFailed"));
        }
        warnings.about_run(&workflow("a"), notice("Dropped"));
        assert!(metrics.encode().unwrap().contains("events_dropped_total 1"));
        let written = Arc::new(Mutex::new(Vec::new()));
        let seen = written.clone();
        let client = client(move |asked| {
            let reason = asked.body["reason"].as_str().unwrap().to_owned();
            assert!(asked.body["note"].as_str().unwrap().len() <= 1024);
            seen.lock().unwrap().push(reason);
            async move { (201, asked.body) }
        });
        let fence = Fence::default();
        fence.open_until(Instant::now() + Duration::from_secs(60));
        let writing = tokio::spawn(writer.write(client, fence, "i".to_owned()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        warnings.about_run(&workflow("a"), notice("ErrImagePull"));
        warnings.about_run(&workflow("b"), notice("RunFailed"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            *written.lock().unwrap(),
            ["RunFailed", "ErrImagePull", "RunFailed"]
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        warnings.about_run(&workflow("c"), notice("RunFailed"));
        drop(warnings);
        writing.await.unwrap();
        assert_eq!(written.lock().unwrap().len(), 3, "the lease had run out");
    }
}
