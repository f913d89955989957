//! The mirror on a stream in memory, whatever goes wrong.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Mirror, MirrorMetrics, Progress, When};
use crate::api::{MirrorPosition, TaskExecution, TaskPhase};
use crate::events::{Object, Subjects};
use crate::ports::memory::{Fault, MemoryBus};
use crate::ports::{Bus, PublishError};

mod calls;
mod losses;

fn mirror(bus: &Arc<MemoryBus>) -> Mirror {
    let bus: Arc<dyn Bus> = bus.clone();
    Mirror::new(bus, Subjects::new("compozy"), MirrorMetrics::default())
}

async fn stream() -> Arc<MemoryBus> {
    let bus = Arc::new(MemoryBus::default());
    bus.ensure_streams().await.unwrap();
    bus
}

/// A task execution that went through `newest` events, the creation included, from the given second on.
fn task_from(
    uid: &str,
    newest: u64,
    second: i64,
    mirrored: Option<MirrorPosition>,
) -> TaskExecution {
    let time = |after: i64| {
        jiff::Timestamp::from_second(second + after)
            .unwrap()
            .to_string()
    };
    let transitions = (2..=newest)
        .map(|seq| json!({"seq": seq, "event": "started", "attempt": seq, "at": time(seq.cast_signed())}));
    execution(uid, &time(0), transitions.collect(), mirrored)
}

fn execution(
    uid: &str,
    created: &str,
    transitions: Vec<Value>,
    mirrored: Option<MirrorPosition>,
) -> TaskExecution {
    serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
        "metadata": {"name": uid, "namespace": "team", "uid": uid, "creationTimestamp": created},
        "spec": {
            "workflow": {"name": "w", "uid": "w", "id": "w"}, "task": "t",
            "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "5m", "jitter": 0.1}},
            "infrastructureRetries": 3, "imagePullTimeout": "10m",
        },
        "status": {"phase": "Running", "transitions": transitions, "mirror": mirrored},
    }))
    .unwrap()
}

fn task(uid: &str, newest: u64) -> TaskExecution {
    task_from(uid, newest, 1_000, None)
}

async fn publish(mirror: &Mirror, task: &TaskExecution) -> Progress {
    mirror
        .publish_pending(Object::Task(task), When::Always)
        .await
}

/// Publishes until it is done, as the work queue would.
async fn settle(mirror: &Mirror, task: &TaskExecution) -> Progress {
    for _ in 0..50 {
        let progress = publish(mirror, task).await;
        match progress.retry_after {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return progress,
        }
    }
    panic!("the mirror does not settle");
}

/// The sequences of each object's stored events, in the order of the stream.
fn told(bus: &MemoryBus) -> HashMap<String, Vec<u64>> {
    let mut told: HashMap<String, Vec<u64>> = HashMap::new();
    for message in bus.messages() {
        let (uid, sequence) = message.id.split_once(':').unwrap();
        told.entry(uid.to_owned())
            .or_default()
            .push(sequence.parse().unwrap());
    }
    told
}

#[tokio::test(start_paused = true)]
async fn what_is_new_is_published_and_the_position_told() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    let progress = publish(&mirror, &task("a", 3)).await;
    assert!(progress.is_complete());
    assert_eq!(progress.retry_after, None);
    let position = MirrorPosition {
        seq: 3,
        stream: "incarnation 1".into(),
        stream_seq: 3,
    };
    assert_eq!(progress.position, Some(position));
    assert!(publish(&mirror, &task("a", 5)).await.is_complete());
    assert_eq!(told(&bus)["a"], [1, 2, 3, 4, 5]);
    assert_eq!(mirror.metrics.published.get(), 5);
    assert_eq!(mirror.metrics.wrong_last.get(), 0);
}

/// It may be let go then, and its receipt is the only word of where its events were.
#[tokio::test(start_paused = true)]
async fn what_is_complete_tells_its_position_also_when_the_server_is_away() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    let position = publish(&mirror, &task("a", 3)).await.position;
    bus.set_away(true);
    assert!(!publish(&mirror, &task("b", 1)).await.is_complete());
    let progress = publish(&mirror, &task("a", 3)).await;
    assert!(progress.is_complete());
    assert!(position.is_some());
    assert_eq!(progress.position, position);
}

#[tokio::test(start_paused = true)]
async fn without_a_server_it_waits_and_then_catches_up() {
    let bus = Arc::new(MemoryBus::default());
    bus.set_away(true);
    let mirror = mirror(&bus);
    for _ in 0..10 {
        let progress = publish(&mirror, &task("a", 3)).await;
        assert_eq!(progress.pending, 3);
        assert!(!progress.is_complete());
        let pause = progress.retry_after.unwrap();
        assert!(pause <= super::RETRY_LONGEST);
        tokio::time::sleep(pause).await;
    }
    assert_eq!(mirror.metrics.lag.get(), 3);
    bus.set_away(false);
    assert!(settle(&mirror, &task("a", 3)).await.is_complete());
    assert_eq!(told(&bus)["a"], [1, 2, 3]);
    assert_eq!(mirror.metrics.lag.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_stores_nothing_twice() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    bus.fail_with([Fault::LoseAnswer]);
    let progress = publish(&mirror, &task("a", 2)).await;
    assert_eq!(progress.pending, 2);
    assert!(settle(&mirror, &task("a", 2)).await.is_complete());
    assert_eq!(told(&bus)["a"], [1, 2]);
    assert_eq!(mirror.metrics.wrong_last.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_the_stream_is() {
    let bus = stream().await;
    let position = publish(&mirror(&bus), &task("a", 2)).await.position;
    publish(&mirror(&bus), &task("a", 3)).await;
    // The status lags behind the stream, or says nothing.
    for mirrored in [position, None] {
        let restarted = mirror(&bus);
        assert!(
            publish(&restarted, &task_from("a", 4, 1_000, mirrored))
                .await
                .is_complete()
        );
    }
    assert_eq!(told(&bus)["a"], [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_old_version_of_the_object_is_not_let_go() {
    let bus = stream().await;
    publish(&mirror(&bus), &task("a", 4)).await;
    let position = MirrorPosition {
        seq: 1,
        stream: "incarnation 1".into(),
        stream_seq: 1,
    };
    let progress = publish(&mirror(&bus), &task_from("a", 2, 1_000, Some(position))).await;
    assert!(progress.outdated && !progress.is_complete());
    assert_eq!(told(&bus)["a"], [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn retention_does_not_bring_old_events_back() {
    let bus = stream().await;
    let first = mirror(&bus);
    let position = publish(&first, &task("a", 2)).await.position;
    publish(&first, &task_from("b", 1, 100_000, None)).await;
    bus.retain(1);
    // The one that remembers and one that was restarted.
    assert!(settle(&first, &task("a", 3)).await.is_complete());
    bus.retain(1);
    let restarted = mirror(&bus);
    let later = position.map(|position| MirrorPosition { seq: 3, ..position });
    publish(&first, &task_from("b", 2, 100_000, None)).await;
    bus.retain(1);
    assert!(
        settle(&restarted, &task_from("a", 4, 1_000, later))
            .await
            .is_complete()
    );
    assert_eq!(told(&bus)["a"], [4]);
    assert_eq!(
        first.metrics.streams_lost.get() + restarted.metrics.streams_lost.get(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_made_anew_gets_everything_that_is_left() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    settle(&mirror, &task("a", 3)).await;
    settle(&mirror, &task("b", 2)).await;
    assert!(!mirror.refresh().await);
    bus.delete_stream();
    // Found out by the next event of one object …
    assert!(settle(&mirror, &task("a", 4)).await.is_complete());
    assert_eq!(told(&bus)["a"], [1, 2, 3, 4]);
    // … and the others are queued again, one of which was pruned.
    assert!(mirror.refresh().await);
    assert!(!mirror.refresh().await);
    assert!(settle(&mirror, &task("b", 2)).await.is_complete());
    assert_eq!(told(&bus)["b"], [1, 2]);
    assert_eq!(mirror.metrics.streams_lost.get(), 1);
    assert_eq!(mirror.metrics.lost.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_again_is_counted() {
    let bus = stream().await;
    let first = mirror(&bus);
    let mut pruned = task("a", 5);
    let position = settle(&first, &pruned).await.position;
    pruned.status.as_mut().unwrap().transitions.drain(..2);
    bus.delete_stream();
    assert!(first.refresh().await);
    assert!(settle(&first, &pruned).await.is_complete());
    assert_eq!(told(&bus)["a"], [1, 4, 5]);
    assert_eq!(first.metrics.lost.get(), 2);
    assert_eq!(position.unwrap().seq, 5);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lost_its_end_is_noticed_by_whoever_comes_first() {
    for refreshed in [true, false] {
        let bus = stream().await;
        let mirror = mirror(&bus);
        for uid in ["a", "b", "c"] {
            settle(&mirror, &task(uid, 2)).await;
        }
        bus.lose(3);
        if refreshed {
            assert!(mirror.refresh().await);
        } else {
            settle(&mirror, &task("d", 1)).await;
            assert!(mirror.refresh().await);
        }
        for uid in ["a", "b", "c"] {
            assert!(settle(&mirror, &task(uid, 2)).await.is_complete());
            assert_eq!(told(&bus)[uid], [1, 2], "{uid}");
        }
        assert_eq!(mirror.metrics.streams_lost.get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lost_its_end_while_the_operator_was_down_is_noticed() {
    let bus = stream().await;
    let before = mirror(&bus);
    settle(&before, &task_from("old", 1, 0, None)).await;
    let a = settle(&before, &task("a", 3)).await.position;
    let b = settle(&before, &task("b", 1)).await.position;
    // Left: all of `old`, the first two of `a`, nothing of `b`.
    bus.lose(3);
    let restarted = mirror(&bus);
    settle(&restarted, &task_from("a", 3, 1_000, a)).await;
    settle(&restarted, &task_from("b", 2, 1_000, b)).await;
    assert_eq!(told(&bus)["a"], [1, 2, 3]);
    assert_eq!(told(&bus)["b"], [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_gone_object_leaves_no_trace() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    bus.set_away(true);
    publish(&mirror, &task("a", 3)).await;
    assert_eq!(mirror.metrics.lag.get(), 3);
    mirror.forget("a");
    mirror.forget("b");
    assert_eq!(mirror.metrics.lag.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_says_nothing_is_not_remembered() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    let mut stripped = task("a", 1);
    stripped.status.as_mut().unwrap().phase = TaskPhase::Succeeded;
    assert!(publish(&mirror, &stripped).await.is_complete());
    assert!(bus.messages().is_empty());
    assert_eq!(mirror.books().len(), 0);
}

/// Something that happens to three objects, two operators and their server.
#[derive(Debug, Clone)]
enum Act {
    /// An object changes.
    Change(usize),
    /// An operator looks at an object as it was so many changes ago.
    Look {
        operator: usize,
        object: usize,
        ago: u64,
    },
    /// An operator is restarted.
    Restart(usize),
    /// An object's position is written down with its next change.
    WriteDown(usize),
    /// The coming attempts go wrong.
    Fail(Vec<Fault>),
    /// The server goes or comes back.
    Away(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let fault = prop_oneof![
        3 => Just(Fault::LoseAnswer),
        1 => Just(Fault::Refuse(PublishError::Timeout)),
        1 => Just(Fault::Refuse(PublishError::InFlight)),
        1 => Just(Fault::Refuse(PublishError::StreamMissing)),
        1 => Just(Fault::Refuse(PublishError::WrongLastSequence)),
        1 => Just(Fault::Refuse(PublishError::TooLarge("x".into()))),
    ];
    prop_oneof![
        4 => (0_usize..3).prop_map(Act::Change),
        6 => (0_usize..2, 0_usize..3, 0_u64..3).prop_map(|(operator, object, ago)| Act::Look { operator, object, ago }),
        1 => (0_usize..2).prop_map(Act::Restart),
        1 => (0_usize..3).prop_map(Act::WriteDown),
        1 => prop::collection::vec(fault, 1..4).prop_map(Act::Fail),
        1 => any::<bool>().prop_map(Act::Away),
    ]
}

proptest! {
    #[test]
    fn each_object_is_told_once_and_in_order(acts in prop::collection::vec(act(), 0..60), clustered: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(acts, clustered));
    }
}

async fn play(acts: Vec<Act>, clustered: bool) {
    let uids = ["a", "b", "c"];
    let version = |object: usize, newest: u64, mirrored: Option<MirrorPosition>| match object {
        0 => task_from(uids[0], newest, 1_000, mirrored),
        1 => calls::one_after_the_other(uids[1], newest, mirrored),
        _ => calls::two_at_once(uids[2], newest, mirrored),
    };
    let bus = Arc::new(match clustered {
        true => MemoryBus::clustered(),
        false => MemoryBus::default(),
    });
    let mut operators = [mirror(&bus), mirror(&bus)];
    let mut newest = [1_u64; 3];
    let mut mirrored: [Option<MirrorPosition>; 3] = Default::default();
    let mut positions = mirrored.clone();
    for act in acts {
        match act {
            Act::Change(object) => newest[object] += 1,
            Act::Look {
                operator,
                object,
                ago,
            } => {
                let seen = newest[object].saturating_sub(ago).max(1);
                let version = version(object, seen, mirrored[object].clone());
                let progress = publish(&operators[operator], &version).await;
                let stored = told(&bus).get(uids[object]).map_or(0, Vec::len) as u64;
                assert!(
                    !progress.is_complete() || stored >= seen,
                    "complete, but {stored} of {seen} stored"
                );
                assert!(
                    progress
                        .position
                        .as_ref()
                        .is_none_or(|position| position.seq <= stored)
                );
                positions[object] = progress.position.or(positions[object].take());
            }
            Act::Restart(operator) => operators[operator] = mirror(&bus),
            Act::WriteDown(object) => mirrored[object] = positions[object].clone(),
            Act::Fail(faults) => bus.fail_with(faults),
            Act::Away(away) => bus.set_away(away),
        }
    }
    bus.set_away(false);
    for (object, uid) in uids.iter().enumerate() {
        let version = version(object, newest[object], mirrored[object].clone());
        assert!(settle(&operators[0], &version).await.is_complete());
        assert_eq!(told(&bus)[*uid], (1..=newest[object]).collect::<Vec<_>>());
    }
    assert_eq!(operators[0].metrics.lost.get(), 0);
}
