//! The mirror against a real NATS server that crashes, loses what it stored and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer};
use compozy::api::TaskExecution;
use compozy::events::{Object, Subjects};
use compozy::operator::mirror::{Mirror, MirrorMetrics, Progress, When};
use compozy::ports::{Bus, NatsBus};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::server::NatsServer;

fn task(uid: &str, newest: u64) -> TaskExecution {
    let transition = |seq: u64| json!({"seq": seq, "event": "started", "attempt": seq, "at": "2026-01-01T10:00:00Z"});
    execution(uid, (2..=newest).map(transition).collect())
}

/// A task execution whose every attempt calls a tool.
fn calling(uid: &str, newest: u64) -> TaskExecution {
    let course = [
        "started",
        "tool_started",
        "tool_completed",
        "failed",
        "retry_scheduled",
    ];
    let transition = |seq: u64| {
        let attempt = (seq - 2) / 5 + 1;
        let event = course[(seq as usize - 2) % 5];
        let call = json!({"tool": {"id": "charge", "exec_id": format!("{uid}-{attempt}")}});
        let data = event.starts_with("tool").then_some(call);
        json!({"seq": seq, "event": event, "attempt": attempt, "at": "2026-01-01T10:00:00Z", "data": data})
    };
    execution(uid, (2..=newest).map(transition).collect())
}

fn execution(uid: &str, transitions: Vec<Value>) -> TaskExecution {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
        "metadata": {"name": uid, "namespace": "team", "uid": uid, "creationTimestamp": "2026-01-01T10:00:00Z"},
        "spec": {
            "workflow": {"name": "w", "uid": "w", "id": "w"}, "task": "t",
            "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "5m", "jitter": 0.1}},
            "infrastructureRetries": 3, "imagePullTimeout": "10m",
        },
        "status": {"phase": "Running", "transitions": transitions},
    }))
    .unwrap()
}

fn mirror(bus: &NatsBus) -> Mirror {
    Mirror::new(
        Arc::new(bus.clone()),
        Subjects::new("compozy"),
        MirrorMetrics::default(),
    )
}

/// Publishes until it is done, as the work queue would.
async fn settle(mirror: &Mirror, task: &TaskExecution) -> Progress {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        let progress = mirror
            .publish_pending(Object::Task(task), When::Always)
            .await;
        match progress.retry_after {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return progress,
        }
    }
    panic!("the mirror does not settle");
}

/// The events of each object in the stream, in its order, as another client reads them.
async fn told(server: &NatsServer) -> BTreeMap<String, Vec<u64>> {
    let context = jetstream::new(server.client().await);
    let mut stream = context.get_stream("COMPOZY_EVENTS").await.unwrap();
    let count = stream.info().await.unwrap().state.messages;
    let config = consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer
        .messages()
        .await
        .unwrap()
        .take(count.try_into().unwrap());
    let mut told: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while let Some(message) = messages.next().await {
        let headers = message.unwrap().headers.clone().unwrap();
        let (uid, sequence) = headers
            .get("ce-id")
            .unwrap()
            .as_str()
            .split_once(':')
            .unwrap();
        assert_eq!(headers.get("ce-sequence").unwrap().as_str(), sequence);
        told.entry(uid.to_owned())
            .or_default()
            .push(sequence.parse().unwrap());
    }
    told
}

#[tokio::test]
async fn a_server_that_comes_late_gets_everything() {
    let mut server = NatsServer::stopped("");
    let bus = NatsBus::connect(server.options()).await.unwrap();
    let mirror = mirror(&bus);
    let progress = mirror
        .publish_pending(Object::Task(&task("a", 5)), When::Always)
        .await;
    assert_eq!(progress.pending, 5);
    server.run();
    assert!(settle(&mirror, &task("a", 5)).await.is_complete());
    assert_eq!(told(&server).await["a"], [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_of_server_and_operator_lose_and_repeat_nothing() {
    const OBJECTS: usize = 20;
    const EVENTS: u64 = 10;
    let mut server = NatsServer::start("");
    let bus = server.bus(server.options()).await;
    let uids: Vec<String> = (0..OBJECTS).map(|number| format!("u{number}")).collect();
    for round in 0..4 {
        // An operator that knows nothing, while the server is killed in the midst of its work.
        let mirror = mirror(&bus);
        let newest = EVENTS * (round + 1) / 4;
        let versions: Vec<_> = uids.iter().map(|uid| task(uid, newest)).collect();
        let work = futures::stream::iter(&versions)
            .for_each_concurrent(8, |version| async { drop(settle(&mirror, version).await) });
        let crash = async {
            tokio::time::sleep(Duration::from_millis(5 * (round + 1))).await;
            server.crash();
            server.run();
        };
        tokio::join!(work, crash);
    }
    let told = told(&server).await;
    assert_eq!(told.len(), OBJECTS);
    for (uid, sequences) in told {
        assert_eq!(sequences, (1..=EVENTS).collect::<Vec<_>>(), "{uid}");
    }
}

#[tokio::test]
async fn a_store_that_went_back_is_filled_again() {
    let mut server = NatsServer::start("");
    let bus = server.bus(server.options()).await;
    let mirror = mirror(&bus);
    settle(&mirror, &task("a", 2)).await;
    server.crash();
    server.save_store();
    server.run();
    server.wait_connected(&bus).await;
    settle(&mirror, &task("a", 4)).await;
    settle(&mirror, &task("b", 2)).await;

    // As after a power failure: the last writes are gone.
    server.crash();
    server.restore_store();
    server.run();
    while !mirror.refresh().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(settle(&mirror, &task("a", 4)).await.is_complete());
    assert!(settle(&mirror, &task("b", 2)).await.is_complete());
    let again = told(&server).await;
    assert_eq!((&again["a"], &again["b"]), (&vec![1, 2, 3, 4], &vec![1, 2]));

    // And once more with nothing left at all.
    server.crash();
    server.lose_store();
    server.run();
    assert!(settle(&mirror, &task("a", 5)).await.is_complete());
    assert_eq!(told(&server).await["a"], [1, 2, 3, 4, 5]);
    assert!(mirror.refresh().await);
}

#[tokio::test]
async fn events_of_calls_keep_their_turn_across_restarts_and_losses() {
    let mut server = NatsServer::start("");
    let bus = server.bus(server.options()).await;
    let first = mirror(&bus);
    // An operator that ends after each event, and one that knows nothing.
    for newest in 1..=4 {
        settle(&mirror(&bus), &calling("a", newest)).await;
    }
    settle(&first, &calling("a", 4)).await;
    server.crash();
    server.save_store();
    server.run();
    server.wait_connected(&bus).await;
    settle(&first, &calling("a", 9)).await;
    assert_eq!(told(&server).await["a"], (1..=9).collect::<Vec<_>>());

    // The end is gone, from the failure of the attempt on.
    server.crash();
    server.restore_store();
    server.run();
    while !first.refresh().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(settle(&first, &calling("a", 9)).await.is_complete());
    assert_eq!(told(&server).await["a"], (1..=9).collect::<Vec<_>>());

    // And all of it.
    server.crash();
    server.lose_store();
    server.run();
    assert!(settle(&first, &calling("a", 11)).await.is_complete());
    assert!(settle(&mirror(&bus), &calling("a", 11)).await.is_complete());
    assert_eq!(told(&server).await["a"], (1..=11).collect::<Vec<_>>());
}

#[tokio::test]
async fn limits_of_the_stream_do_not_confuse_a_long_run() {
    let server = NatsServer::start("");
    let mut options = server.options();
    options.stream.max_messages = 3;
    let bus = server.bus(options).await;
    let remembering = mirror(&bus);
    let position = settle(&remembering, &task("a", 2)).await.position;
    settle(&remembering, &task("b", 3)).await;
    let mut restarted = task("a", 3);
    if let Some(status) = &mut restarted.status {
        status.mirror = position;
    }
    assert!(settle(&mirror(&bus), &restarted).await.is_complete());
    assert_eq!(told(&server).await["a"], [3]);
    settle(&remembering, &task("b", 6)).await;
    assert_eq!(told(&server).await["b"], [4, 5, 6]);
    assert!(settle(&remembering, &task("a", 4)).await.is_complete());
    assert_eq!(told(&server).await["a"], [4]);
}

/// Publishes many objects to their end, as many at once as the operator does.
async fn settle_all(mirror: &Mirror, versions: &[TaskExecution]) {
    futures::stream::iter(versions)
        .for_each_concurrent(256, |version| async {
            assert!(settle(mirror, version).await.is_complete());
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_that_waited_are_stored_in_seconds() {
    const EVENTS: u64 = 10_000;
    let mut server = NatsServer::stopped("");
    let bus = NatsBus::connect(server.options()).await.unwrap();
    let mirror = mirror(&bus);
    let uids = (0..EVENTS / 4).map(|number| format!("u{number}"));
    let versions: Vec<_> = uids.map(|uid| task(&uid, 4)).collect();
    for version in &versions {
        mirror
            .publish_pending(Object::Task(version), When::Always)
            .await;
    }
    server.run();
    server.wait_connected(&bus).await;
    let started = Instant::now();
    settle_all(&mirror, &versions).await;
    let took = started.elapsed();
    println!("{EVENTS} events in {took:?}");
    // A tenth of it on a machine that has nothing else to do.
    assert!(took < Duration::from_secs(60), "{took:?}");
    let context = jetstream::new(server.client().await);
    let mut stream = context.get_stream("COMPOZY_EVENTS").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, EVENTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_slows_one_object_and_not_all_of_them() {
    const DELAY: Duration = Duration::from_millis(500);
    let server = NatsServer::start("");
    let mut options = server.options();
    options.connection.servers = format!("nats://127.0.0.1:{}", server.slow(DELAY).await);
    let bus = server.bus(options).await;
    let mirror = mirror(&bus);
    let uids = (0..200).map(|number| format!("u{number}"));
    let versions: Vec<_> = uids.map(|uid| task(&uid, 3)).collect();
    let started = Instant::now();
    settle_all(&mirror, &versions).await;
    let took = started.elapsed();
    // One after the other they would take five minutes.
    assert!(took > DELAY * 3 && took < DELAY * 60, "{took:?}");
    let told = told(&server).await;
    assert_eq!(told.len(), versions.len());
    assert!(
        told.values().all(|sequences| *sequences == [1, 2, 3]),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_server_without_room_gets_the_rest_once_it_has_room() {
    let mut server = NatsServer::stopped("");
    server.set_room(Some(64 * 1024));
    server.run();
    let context = jetstream::new(server.client().await);
    let config = jetstream::stream::Config {
        name: "COMPOZY_EVENTS".into(),
        subjects: vec!["compozy.events.>".into()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let mut options = server.options();
    options.manage_streams = false;
    let bus = server.bus(options).await;
    let mirror = mirror(&bus);
    let long = task("a", 500);
    let progress = mirror
        .publish_pending(Object::Task(&long), When::Always)
        .await;
    assert!(
        progress.pending > 0 && progress.pending < 500,
        "{progress:?}"
    );
    assert!(progress.retry_after.is_some());
    server.crash();
    server.set_room(None);
    server.run();
    assert!(settle(&mirror, &long).await.is_complete());
    assert_eq!(told(&server).await["a"], (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_that_somebody_else_makes_late_gets_everything() {
    let server = NatsServer::start("");
    let mut options = server.options();
    options.manage_streams = false;
    let bus = server.bus(options).await;
    let mirror = mirror(&bus);
    let progress = mirror
        .publish_pending(Object::Task(&task("a", 3)), When::Always)
        .await;
    assert_eq!(progress.pending, 3);
    server
        .bus(server.options())
        .await
        .ensure_streams()
        .await
        .unwrap();
    assert!(settle(&mirror, &task("a", 3)).await.is_complete());
    assert_eq!(told(&server).await["a"], [1, 2, 3]);
}

#[tokio::test]
async fn two_operators_store_each_event_once() {
    let server = NatsServer::start("");
    let (bus, other) = (
        server.bus(server.options()).await,
        server.bus(server.options()).await,
    );
    let (first, second) = (mirror(&bus), mirror(&other));
    for newest in 1..=10 {
        let version = task("a", newest);
        let (one, two) = tokio::join!(settle(&first, &version), settle(&second, &version));
        assert!(one.is_complete() && two.is_complete());
    }
    assert_eq!(told(&server).await["a"], (1..=10).collect::<Vec<_>>());
}
