//! What the stream lost, and who finds out.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::events::Entity;
use crate::operator::mirror::Standing;

/// What the stream says of an object that was let go with this receipt.
async fn standing(mirror: &Mirror, uid: &str, receipt: &MirrorPosition) -> Standing {
    mirror.standing(Entity::Task, uid, receipt).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_receipt_tells_what_was_lost_from_what_had_its_time() {
    let bus = stream().await;
    let before = mirror(&bus);
    let a = settle(&before, &task("a", 2)).await.position.unwrap();
    let b = settle(&before, &task("b", 2)).await.position.unwrap();
    let c = settle(&before, &task("c", 2)).await.position.unwrap();
    bus.retain(4);
    bus.lose(3);
    // Left: all of `b` and the first of `c`. An operator that knows nothing but the receipts.
    let restarted = mirror(&bus);
    assert_eq!(standing(&restarted, "a", &a).await, Standing::Stands);
    assert_eq!(standing(&restarted, "b", &b).await, Standing::Stands);
    assert_eq!(standing(&restarted, "c", &c).await, Standing::Missing);
    settle(&restarted, &task("c", 2)).await;
    // It was told again, and the operator ended before it wrote that down.
    bus.delete_stream();
    assert!(restarted.refresh().await);
    settle(&restarted, &task("c", 2)).await;
    let Standing::Elsewhere(found) = standing(&restarted, "c", &c).await else {
        panic!("the receipt is of another stream");
    };
    assert_eq!((found.seq, found.stream_seq), (2, 2));
    assert_ne!(found.stream, c.stream);
    assert_eq!(standing(&restarted, "c", &found).await, Standing::Stands);
    assert_eq!(standing(&restarted, "a", &a).await, Standing::Missing);
    bus.set_away(true);
    assert!(restarted.standing(Entity::Task, "c", &found).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_loss_as_long_as_what_was_sent_without_an_answer_is_noticed() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    settle(&mirror, &task("a", 2)).await;
    settle(&mirror, &task("b", 1)).await;
    assert!(!mirror.refresh().await);
    // The end of the stream is lost, and what takes its place is not acknowledged.
    bus.lose(2);
    bus.fail_with([Fault::LoseAnswer]);
    settle(&mirror, &task("a", 3)).await;
    assert!(mirror.refresh().await);
    settle(&mirror, &task("b", 1)).await;
    assert_eq!(told(&bus)["a"], [1, 2, 3]);
    assert_eq!(told(&bus)["b"], [1]);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_lost_what_was_acknowledged_speaks_for_all() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    settle(&mirror, &task("a", 2)).await;
    settle(&mirror, &task("b", 2)).await;
    let epoch = mirror.epoch();
    bus.lose(1);
    // Another operator fills up what was lost with something else.
    let other = super::mirror(&bus);
    settle(&other, &task("c", 5)).await;
    settle(&mirror, &task("a", 3)).await;
    assert!(mirror.refresh().await);
    assert_eq!(mirror.epoch(), epoch + 1);
    settle(&mirror, &task("b", 2)).await;
    assert_eq!(told(&bus)["a"], [1, 2, 3]);
    assert_eq!(told(&bus)["b"], [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_in_another_life_of_the_stream_than_wanted() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    let epoch = mirror.confirm().await.unwrap();
    bus.delete_stream();
    assert_ne!(mirror.confirm().await.unwrap(), epoch);
    let held = |when| {
        let mirror = &mirror;
        async move {
            let task = task("a", 2);
            mirror.publish_pending(Object::Task(&task), when).await
        }
    };
    let late = held(When::In(epoch)).await;
    assert_eq!((late.pending, late.retry_after.is_some()), (2, true));
    let held_back = held(When::Later).await;
    assert_eq!((held_back.pending, held_back.retry_after), (2, None));
    assert!(bus.messages().is_empty());
    assert!(held(When::In(mirror.epoch())).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_not_taken_for_stored_before_the_stream_says_so() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    let last = settle(&mirror, &task("a", 3)).await;
    bus.lose(1);
    assert!(mirror.refresh().await);
    let task = task_from("a", 3, 1_000, last.position);
    let held_back = mirror.publish_pending(Object::Task(&task), When::Later);
    assert!(!held_back.await.is_complete());
    // Nor while it cannot be asked.
    bus.set_away(true);
    assert!(!publish(&mirror, &task).await.is_complete());
    bus.set_away(false);
    assert!(settle(&mirror, &task).await.is_complete());
    assert_eq!(told(&bus)["a"], [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn who_looks_after_the_stream_wakes_up_for_news() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    settle(&mirror, &task("a", 2)).await;
    let long = Duration::from_secs(30);
    let start = Instant::now();
    assert!(!mirror.until_news(long).await);
    assert_eq!(start.elapsed(), long);
    bus.lose(1);
    let start = Instant::now();
    settle(&mirror, &task("b", 1)).await;
    assert!(!mirror.until_news(long).await);
    assert!(start.elapsed() < Duration::from_secs(1));

    bus.set_away(true);
    let back = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        bus.set_away(false);
    };
    let start = Instant::now();
    let (came_back, ()) = tokio::join!(mirror.until_news(long), back);
    assert!(came_back && start.elapsed() < Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn the_age_is_that_of_the_oldest_event_that_waits() {
    let bus = stream().await;
    let mirror = mirror(&bus);
    settle(&mirror, &task_from("old", 1, 0, None)).await;
    bus.set_away(true);
    publish(&mirror, &task_from("old", 3, 0, None)).await;
    publish(&mirror, &task_from("new", 2, 50, None)).await;
    mirror.show_age(jiff::Timestamp::from_second(62).unwrap());
    assert_eq!(mirror.metrics.oldest_pending.get(), 60.0);
    bus.set_away(false);
    settle(&mirror, &task_from("old", 3, 0, None)).await;
    settle(&mirror, &task_from("new", 2, 50, None)).await;
    mirror.show_age(jiff::Timestamp::from_second(62).unwrap());
    assert_eq!(mirror.metrics.oldest_pending.get(), 0.0);
}
