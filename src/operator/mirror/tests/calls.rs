//! The events of tools' calls have subjects of their own and take their turn among those of their task execution.

use super::*;
use crate::events::Entity;
use crate::operator::mirror::Standing;

/// What happens in an attempt, and of which of its calls an event tells.
type Attempt = [(&'static str, Option<&'static str>)];

/// How many events the tests tell: the creation, an attempt that fails, and one that is not through with its retry.
const ALL: u64 = 10;

const ONE_CALL: &Attempt = &[
    ("started", None),
    ("tool_started", Some("x")),
    ("tool_completed", Some("x")),
    ("failed", None),
    ("retry_scheduled", None),
];

const TWO_CALLS_AT_ONCE: &Attempt = &[
    ("started", None),
    ("tool_started", Some("x")),
    ("tool_started", Some("y")),
    ("tool_completed", Some("x")),
    ("tool_failed", Some("y")),
    ("failed", None),
    ("retry_scheduled", None),
];

/// A task execution whose every attempt calls a tool.
pub fn one_after_the_other(
    uid: &str,
    newest: u64,
    mirrored: Option<MirrorPosition>,
) -> TaskExecution {
    calling(uid, ONE_CALL, newest, 1, mirrored)
}

/// A task execution whose every attempt calls two tools at once.
pub fn two_at_once(uid: &str, newest: u64, mirrored: Option<MirrorPosition>) -> TaskExecution {
    calling(uid, TWO_CALLS_AT_ONCE, newest, 1, mirrored)
}

/// A task execution that went through `newest` events, so many seconds apart.
fn calling(
    uid: &str,
    course: &Attempt,
    newest: u64,
    apart: i64,
    mirrored: Option<MirrorPosition>,
) -> TaskExecution {
    let time = |seq: u64| {
        let second = 1_000 + seq.cast_signed() * apart;
        jiff::Timestamp::from_second(second).unwrap().to_string()
    };
    let transition = |seq: u64| {
        let (attempt, step) = (
            (seq - 2) / course.len() as u64 + 1,
            (seq - 2) as usize % course.len(),
        );
        let (event, call) = course[step];
        let exec_id = call.map(|call| format!("{uid}-{attempt}-{call}"));
        json!({"seq": seq, "event": event, "attempt": attempt, "at": time(seq),
               "data": exec_id.map(|exec_id| json!({"tool": {"id": "charge", "exec_id": exec_id}}))})
    };
    execution(
        uid,
        &time(1),
        (2..=newest).map(transition).collect(),
        mirrored,
    )
}

/// In which order the server looks, whether it still knows the messages' ids, and how many calls there are at once.
#[derive(Debug, Clone, Copy)]
struct World {
    clustered: bool,
    apart: i64,
    course: &'static Attempt,
}

fn worlds() -> impl Iterator<Item = World> {
    let servers = [false, true].into_iter();
    let windows = servers.flat_map(|clustered| [1, 1_000].map(|apart| (clustered, apart)));
    windows.flat_map(|(clustered, apart)| {
        [ONE_CALL, TWO_CALLS_AT_ONCE].map(|course| World {
            clustered,
            apart,
            course,
        })
    })
}

impl World {
    async fn stream(self) -> Arc<MemoryBus> {
        let bus = Arc::new(match self.clustered {
            true => MemoryBus::clustered(),
            false => MemoryBus::default(),
        });
        bus.ensure_streams().await.unwrap();
        bus
    }

    fn task(self, newest: u64, mirrored: Option<MirrorPosition>) -> TaskExecution {
        calling("a", self.course, newest, self.apart, mirrored)
    }

    /// A stream with the first `newest` events, who told them, and what was written down after each; 0 is nothing.
    async fn told(self, newest: u64) -> (Arc<MemoryBus>, Mirror, Vec<Option<MirrorPosition>>) {
        let bus = self.stream().await;
        let mirror = mirror(&bus);
        let mut positions = vec![None];
        for newest in 1..=newest {
            positions.push(settle(&mirror, &self.task(newest, None)).await.position);
        }
        (bus, mirror, positions)
    }
}

/// The sequences of the events in the stream, in its order.
fn sequences(bus: &MemoryBus) -> Vec<u64> {
    told(bus).remove("a").unwrap_or_default()
}

fn up_to(newest: u64) -> Vec<u64> {
    (1..=newest).collect()
}

#[tokio::test(start_paused = true)]
async fn the_events_of_calls_stand_between_those_of_their_task() {
    for world in worlds() {
        let bus = world.stream().await;
        let mirror = mirror(&bus);
        let progress = publish(&mirror, &world.task(ALL, None)).await;
        assert!(progress.is_complete(), "{world:?}");
        let position = progress.position.unwrap();
        assert_eq!((position.seq, position.stream_seq), (ALL, ALL));
        assert_eq!(sequences(&bus), up_to(ALL));
        assert_eq!(
            mirror.metrics.wrong_last.get(),
            match world.course.len() {
                5 => 0,
                // The second call has taken the place of the first one in memory.
                _ => 2,
            }
        );
    }
    let (bus, ..) = World {
        clustered: false,
        apart: 1,
        course: ONE_CALL,
    }
    .told(6)
    .await;
    let subjects: Vec<_> = bus
        .messages()
        .into_iter()
        .map(|message| (message.subject, message.filter))
        .collect();
    let events = [
        "task.instance.a.scheduled",
        "task.instance.a.started",
        "tool.instance.a-1-x.started",
        "tool.instance.a-1-x.completed",
        "task.instance.a.failed",
        "task.instance.a.retry_scheduled",
    ];
    let expected = events.map(|event| {
        let (instance, _) = event.rsplit_once('.').unwrap();
        (
            format!("compozy.events.{event}"),
            format!("compozy.events.{instance}.*"),
        )
    });
    assert_eq!(subjects, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_told_twice_is_stored_once() {
    for world in worlds() {
        let (bus, ..) = world.told(ALL).await;
        let stored = bus.messages();
        let other = mirror(&bus);
        assert!(settle(&other, &world.task(ALL, None)).await.is_complete());
        assert_eq!(bus.messages(), stored, "{world:?}");
        assert_eq!(other.metrics.published.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_lost_answer_to_any_event_stores_nothing_twice() {
    for world in worlds() {
        for newest in 0..ALL {
            let (bus, mirror, _) = world.told(newest).await;
            bus.fail_with([Fault::LoseAnswer]);
            settle(&mirror, &world.task(newest + 1, None)).await;
            assert!(settle(&mirror, &world.task(ALL, None)).await.is_complete());
            assert_eq!(sequences(&bus), up_to(ALL), "{world:?} {newest}");
            assert_eq!(mirror.metrics.streams_lost.get(), 0, "{world:?} {newest}");
        }
        let bus = world.stream().await;
        bus.fail_with(vec![Fault::LoseAnswer; ALL as usize]);
        assert!(
            settle(&mirror(&bus), &world.task(ALL, None))
                .await
                .is_complete()
        );
        assert_eq!(sequences(&bus), up_to(ALL), "{world:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_after_any_event_goes_on_behind_it() {
    for world in worlds() {
        for newest in 0..=ALL {
            for written in 0..=newest {
                let (bus, _, positions) = world.told(newest).await;
                let mirrored = positions[written as usize].clone();
                let restarted = mirror(&bus);
                let task = world.task(ALL, mirrored);
                assert!(settle(&restarted, &task).await.is_complete());
                assert_eq!(sequences(&bus), up_to(ALL), "{world:?} {newest} {written}");
                let metrics = &restarted.metrics;
                assert_eq!((metrics.streams_lost.get(), metrics.lost.get()), (0, 0));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_lost_behind_any_event_is_told_again_in_order() {
    for world in worlds() {
        for newest in 1..=ALL {
            for left in 0..newest {
                let (bus, mirror, _) = world.told(newest).await;
                bus.lose(left as usize);
                let task = world.task(ALL, None);
                settle(&mirror, &task).await;
                assert!(mirror.refresh().await);
                assert!(settle(&mirror, &task).await.is_complete());
                assert_eq!(sequences(&bus), up_to(ALL), "{world:?} {newest} {left}");
                let metrics = &mirror.metrics;
                assert_eq!(
                    (metrics.streams_lost.get(), metrics.lost.get()),
                    (1, 0),
                    "{world:?} {newest} {left}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_lost_is_found_out_though_it_is_as_long_as_before() {
    for world in worlds() {
        for newest in 1..ALL {
            for left in 0..newest {
                let (bus, mirror, _) = world.told(newest).await;
                bus.lose(left as usize);
                let other = super::mirror(&bus);
                settle(&other, &task_from("other", 20, 1_000, None)).await;
                settle(&mirror, &world.task(ALL, None)).await;
                assert!(mirror.refresh().await, "{world:?} {newest} {left}");
                assert_eq!(sequences(&bus), up_to(ALL), "{world:?} {newest} {left}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_lost_while_no_operator_ran_is_told_again() {
    for world in worlds() {
        for newest in 1..=ALL {
            for left in 0..newest {
                for written in [0, left, newest] {
                    let (bus, _, positions) = world.told(newest).await;
                    bus.lose(left as usize);
                    let task = world.task(ALL, positions[written as usize].clone());
                    assert!(settle(&mirror(&bus), &task).await.is_complete());
                    assert_eq!(
                        sequences(&bus),
                        up_to(ALL),
                        "{world:?} {newest} {left} {written}"
                    );
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_made_anew_gets_the_events_of_calls_too() {
    for world in worlds() {
        for newest in 1..=ALL {
            let (bus, mirror, positions) = world.told(newest).await;
            bus.delete_stream();
            let task = world.task(ALL, positions[newest as usize].clone());
            settle(&mirror, &task).await;
            assert!(mirror.refresh().await);
            assert!(settle(&mirror, &task).await.is_complete());
            assert_eq!(sequences(&bus), up_to(ALL), "{world:?} {newest}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_calls_that_had_their_time_do_not_come_back() {
    for world in worlds() {
        for newest in 1..ALL {
            for left in 0..=newest {
                let (bus, remembering, positions) = world.told(newest).await;
                bus.retain(left as usize);
                let (task, next) = (
                    world.task(ALL, positions[newest as usize].clone()),
                    world.task(newest + 1, None),
                );
                let kept = newest - left + 1..=ALL;
                settle(&remembering, &next).await;
                assert!(settle(&mirror(&bus), &task).await.is_complete());
                assert_eq!(
                    sequences(&bus),
                    kept.collect::<Vec<_>>(),
                    "{world:?} {newest} {left}"
                );
                assert_eq!(remembering.metrics.streams_lost.get(), 0);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_speaks_for_the_calls_of_its_task_too() {
    for world in worlds() {
        // The creation, an attempt with its calls, and its failure.
        let newest = world.course.len() as u64;
        for left in 0..=newest {
            let (bus, _, positions) = world.told(newest).await;
            let receipt = positions[newest as usize].clone().unwrap();
            bus.lose(left as usize);
            let restarted = mirror(&bus);
            let standing = restarted
                .standing(Entity::Task, "a", &receipt)
                .await
                .unwrap();
            let expected = match left == newest {
                true => Standing::Stands,
                false => Standing::Missing,
            };
            assert_eq!(standing, expected, "{world:?} {left}");
            let written = positions[2].clone();
            settle(&restarted, &world.task(newest, written)).await;
            assert_eq!(sequences(&bus), up_to(newest), "{world:?} {left}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_less_gets_the_call_by_reference_and_then_goes_on() {
    for world in worlds() {
        let (bus, mirror, _) = world.told(3).await;
        bus.fail_with([Fault::Refuse(PublishError::TooLarge("64 KiB".into()))]);
        assert!(settle(&mirror, &world.task(ALL, None)).await.is_complete());
        assert_eq!(sequences(&bus), up_to(ALL));
        let referenced = |message: &crate::ports::Message| {
            message
                .headers
                .iter()
                .any(|(name, _)| *name == "ce-dataref")
        };
        let by_reference: Vec<_> = bus.messages().iter().map(referenced).collect();
        let expected: Vec<_> = (1..=ALL).map(|sequence| sequence == 4).collect();
        assert_eq!(by_reference, expected);
    }
}

/// A server that takes its time to say what it has.
struct SlowBus(Arc<MemoryBus>);

#[async_trait::async_trait]
impl Bus for SlowBus {
    async fn publish(
        &self,
        message: &crate::ports::Message,
        expected_last: u64,
    ) -> Result<crate::ports::PublishAck, PublishError> {
        self.0.publish(message, expected_last).await
    }

    async fn last(
        &self,
        filter: &str,
    ) -> Result<Option<crate::ports::Stored>, crate::ports::BusError> {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        self.0.last(filter).await
    }

    async fn ensure_streams(&self) -> Result<crate::ports::StreamIdentity, crate::ports::BusError> {
        self.0.ensure_streams().await
    }

    fn connected(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_to_answer_is_told_all_the_same() {
    let bus = Arc::new(MemoryBus::default());
    let metrics = MirrorMetrics::default();
    let slow = Arc::new(SlowBus(bus.clone()));
    let mirror = Mirror::new(slow, Subjects::new("compozy"), metrics);
    let progress = settle(&mirror, &one_after_the_other("a", ALL, None)).await;
    assert!(progress.is_complete());
    assert_eq!(sequences(&bus), up_to(ALL));
}
