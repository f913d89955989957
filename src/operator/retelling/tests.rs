//! What was let go is told again when the stream loses it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use super::*;
use crate::{
    api::ANNOTATION_MIRRORED,
    events::Subjects,
    operator::{
        fence::Fence,
        metrics::Metrics,
        mirror::{Mirror, MirrorMetrics},
        outbox::Outbox,
        testing::{Answer, Asked, client, refusal},
    },
    ports::memory::MemoryBus,
};

fn at(second: u32) -> String {
    format!("2026-01-01T00:00:{second:02}.000Z")
}

/// The receipt of an object with two events.
fn meta(name: &str, uid: &str, receipt: &MirrorPosition) -> Value {
    json!({
        "name": name, "namespace": "n", "uid": uid, "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {ANNOTATION_MIRRORED: json!(receipt).to_string()},
    })
}

fn run(receipt: &MirrorPosition) -> Value {
    json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow", "metadata": meta("w", "wu", receipt),
        "spec": {"tasks": []},
        "status": {"phase": "Succeeded", "transitions": [
            {"seq": 1, "event": "started", "at": at(0)}, {"seq": 2, "event": "completed", "at": at(9)}]},
    })
}

fn task(name: &str, receipt: &MirrorPosition) -> Value {
    json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution", "metadata": meta(name, name, receipt),
        "spec": {
            "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": name, "container": {"image": "x"},
            "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
            "infrastructureRetries": 1, "imagePullTimeout": "10m",
        },
        "status": {"phase": "Succeeded", "transitions": [
            {"seq": 2, "event": "completed", "attempt": 1, "at": at(5)}]},
    })
}

/// The objects by the last part of their path, and what was asked for.
#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    asked: Vec<String>,
}

impl Store {
    fn answer(&mut self, asked: &Asked) -> Answer {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        self.asked.push(format!("{} {name}", asked.method));
        let Some(object) = self.objects.get_mut(name) else {
            return refusal(404, "NotFound");
        };
        if asked.method == "PATCH" {
            object["metadata"]["annotations"] = asked.body["metadata"]["annotations"].clone();
            let version = object["metadata"]["resourceVersion"].as_str();
            let version = version
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
                + 1;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
        }
        (200, object.clone())
    }
}

struct Installation {
    hub: Arc<Hub>,
    bus: Arc<MemoryBus>,
    store: Arc<Mutex<Store>>,
    retelling: Retelling,
}

impl Installation {
    /// An operator that knows nothing, and a run of two tasks with these receipts.
    fn new(bus: Arc<MemoryBus>, receipt: impl Fn(&str) -> MirrorPosition) -> Installation {
        let objects = [
            ("w", run(&receipt("w"))),
            ("t1", task("t1", &receipt("t1"))),
            ("t2", task("t2", &receipt("t2"))),
        ];
        let store = Arc::new(Mutex::new(Store {
            objects: objects
                .map(|(name, object)| (name.to_owned(), object))
                .into(),
            asked: Vec::new(),
        }));
        let answers = store.clone();
        let client = client(move |asked| {
            let mut store = answers.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = store.answer(&asked);
            async move { answer }
        });
        let mirror = Mirror::new(
            bus.clone(),
            Subjects::new("compozy"),
            MirrorMetrics::default(),
        );
        let hub = Arc::new(Hub::new(Outbox::new(Some(mirror))));
        let fence = Fence::default();
        fence.open_until(Instant::now() + Duration::from_secs(3600));
        let metrics = Arc::new(Metrics::new(|_| ()));
        let cluster = Cluster::new(client, hub.clone(), metrics, fence);
        let installation = Installation {
            retelling: Retelling {
                hub: hub.clone(),
                cluster,
            },
            hub,
            bus,
            store,
        };
        installation.list();
        installation
    }

    fn list(&self) {
        let store = self.store.lock().unwrap();
        for object in store.objects.values() {
            match object["kind"].as_str() {
                Some("Workflow") => self
                    .hub
                    .workflow(serde_json::from_value(object.clone()).unwrap()),
                _ => self
                    .hub
                    .execution(serde_json::from_value(object.clone()).unwrap()),
            }
        }
    }

    async fn settle(&self) {
        while self.hub.owed.depth() > 0 {
            let next = self.hub.owed.next().await;
            let due = self.retelling.settle(&next).await.unwrap();
            assert_eq!(due, None, "{next:?}");
            self.hub.owed.done(&next);
        }
        for uid in ["wu", "t1", "t2"] {
            assert!(self.hub.outbox.is_settled(uid), "{uid}");
        }
    }

    /// Publishes what held objects have to tell.
    async fn publish(&self) {
        while self.hub.mirrored.depth() > 0 {
            let next = self.hub.mirrored.next().await;
            crate::operator::publishing::publish(&self.hub, next.clone()).await;
            self.hub.mirrored.done(&next);
        }
    }

    /// The stream is gone, and the operator notices.
    async fn lose_stream(&self) {
        self.bus.delete_stream();
        assert!(self.hub.outbox.mirror().unwrap().refresh().await);
        self.hub.start_over();
    }

    fn told(&self) -> Vec<String> {
        self.bus
            .messages()
            .into_iter()
            .map(|message| message.id)
            .collect()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.store.lock().unwrap().asked)
    }
}

fn receipt(stream: &str, stream_seq: u64) -> MirrorPosition {
    MirrorPosition {
        seq: 2,
        stream: stream.to_owned(),
        stream_seq,
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_let_go_is_told_again_in_its_order() {
    let bus = Arc::new(MemoryBus::default());
    let first = Installation::new(bus.clone(), |_| receipt("one that is gone", 7));
    first.settle().await;
    let told = first.told();
    assert_eq!(told.len(), 6, "{told:?}");
    assert_eq!((told[0].as_str(), told[5].as_str()), ("wu:1", "wu:2"));
    for uid in ["t1", "t2"] {
        let own: Vec<_> = told.iter().filter(|id| id.starts_with(uid)).collect();
        assert_eq!(own, [&format!("{uid}:1"), &format!("{uid}:2")]);
    }
    let written = first
        .asked()
        .into_iter()
        .filter(|asked| asked.starts_with("PATCH"));
    assert_eq!(written.count(), 3, "one receipt for each object");

    // Lost once more, and noticed while it runs.
    first.lose_stream().await;
    first.settle().await;
    assert_eq!(first.told().len(), 6);
    let last = first.told().pop();
    assert_eq!(last.as_deref(), Some("wu:2"));
}

#[tokio::test(start_paused = true)]
async fn what_the_stream_has_is_only_asked_about() {
    let bus = Arc::new(MemoryBus::default());
    Installation::new(bus.clone(), |_| receipt("none", 1))
        .settle()
        .await;
    let told = bus.messages();
    let place = |name: &str| {
        let uid = if name == "w" { "wu" } else { name };
        let place = told
            .iter()
            .position(|message| message.id == format!("{uid}:2"));
        receipt("incarnation 1", place.unwrap() as u64 + 1)
    };
    let restarted = Installation::new(bus.clone(), place);
    restarted.settle().await;
    assert_eq!(restarted.asked(), Vec::<String>::new());
    assert_eq!(bus.messages(), told);

    // And what had its time is left in peace.
    bus.retain(0);
    let restarted = Installation::new(bus.clone(), place);
    restarted.settle().await;
    assert_eq!(restarted.asked(), Vec::<String>::new());
    assert!(bus.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_stream_lost_while_no_operator_ran_is_told_again() {
    for grown in [0, 9] {
        let bus = Arc::new(MemoryBus::default());
        let first = Installation::new(bus.clone(), |_| receipt("none", 1));
        first.settle().await;
        let told = first.told();
        let place = |name: &str| {
            let uid = if name == "w" { "wu" } else { name };
            let place = told.iter().position(|id| *id == format!("{uid}:2"));
            receipt("incarnation 1", place.unwrap() as u64 + 1)
        };
        bus.lose(3);
        // Others may have written since: the stream looks as long as it was.
        for number in 0..grown {
            let stranger = crate::ports::Message {
                subject: format!("compozy.events.task.instance.other{number}.started"),
                filter: format!("compozy.events.task.instance.other{number}.>"),
                id: format!("other{number}:1"),
                ..bus.messages()[0].clone()
            };
            crate::ports::Bus::publish(&*bus, &stranger, 0)
                .await
                .unwrap();
        }
        let restarted = Installation::new(bus, place);
        restarted.settle().await;
        let mut again = restarted.told();
        again.retain(|id| !id.starts_with("other"));
        assert_eq!(again.last().map(String::as_str), Some("wu:2"), "{again:?}");
        again.sort();
        assert_eq!(again, ["t1:1", "t1:2", "t2:1", "t2:2", "wu:1", "wu:2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_is_just_being_written_does_not_settle_a_loss() {
    let bus = Arc::new(MemoryBus::default());
    let installation = Installation::new(bus.clone(), |_| receipt("none", 1));
    installation.settle().await;
    let hub = &installation.hub;
    // Told and held, until the write that lets it go is answered.
    let mut held = run(&receipt("none", 1));
    held["metadata"]["uid"] = json!("w2");
    held["metadata"]["name"] = json!("w2");
    let mut let_go = held.clone();
    held["metadata"]["finalizers"] = json!([crate::api::FINALIZER_EVENTS]);
    hub.workflow(serde_json::from_value(held).unwrap());
    installation.publish().await;
    installation.lose_stream().await;
    let_go["metadata"]["resourceVersion"] = json!("6");
    hub.workflow(serde_json::from_value(let_go).unwrap());
    assert!(hub.outbox.is_owed("w2"));
}

/// The write was decided upon before the loss, and refused until now.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_let_go_while_its_tasks_are_told_again_is_owed_its_end() {
    let bus = Arc::new(MemoryBus::default());
    let installation = Installation::new(bus.clone(), |_| receipt("none", 1));
    installation.settle().await;
    let hub = &installation.hub;
    let held = |mut object: Value| {
        object["metadata"]["finalizers"] = json!([crate::api::FINALIZER_EVENTS]);
        object
    };
    let mut let_go = run(&receipt("none", 1));
    let_go["metadata"]["uid"] = json!("w2");
    let_go["metadata"]["name"] = json!("w2");
    let mut task = held(task("t3", &receipt("none", 1)));
    task["spec"]["workflow"] = json!({"name": "w2", "uid": "w2", "id": "w2"});
    hub.workflow(serde_json::from_value(held(let_go.clone())).unwrap());
    hub.execution(serde_json::from_value(task).unwrap());
    installation.publish().await;
    installation.lose_stream().await;
    let run: Key = ("n".into(), "w2".into());
    crate::operator::publishing::publish(hub, Mirrored::Workflow(run)).await;
    assert_eq!(installation.told(), ["w2:1"], "its task was not told again");
    let_go["metadata"]["resourceVersion"] = json!("6");
    hub.workflow(serde_json::from_value(let_go).unwrap());
    assert!(hub.outbox.is_owed("w2"));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_owed_nothing() {
    let bus = Arc::new(MemoryBus::default());
    let installation = Installation::new(bus, |_| receipt("none", 1));
    installation.store.lock().unwrap().objects.clear();
    installation.settle().await;
    assert!(installation.told().is_empty());
}
