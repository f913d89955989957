//! What is remembered of commands, and when it is forgotten.

use serde_json::json;

use super::known::*;
use crate::{
    api::Time,
    engine::attempt::PoolView,
    operator::index::Key,
    ports::{Place, Receipt},
    protocol::pool::{TaskNews, TaskReport},
};

fn now() -> Time {
    serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap()
}

fn key() -> Key {
    ("shop".into(), "te".into())
}

fn at(attempt: u32) -> Place {
    Place {
        namespace: "shop".to_owned(),
        pool: "text".to_owned(),
        task_exec_id: "uid".to_owned(),
        attempt,
    }
}

fn report(attempt: u32, news: TaskNews) -> TaskReport {
    TaskReport {
        task_exec_id: "uid".to_owned(),
        attempt,
        worker: "w1".to_owned(),
        at: now(),
        started_at: None,
        news,
    }
}

fn receipt(name: &str) -> Receipt {
    Receipt(name.to_owned())
}

fn asked_about(attempt: u32) -> Known {
    let mut known = Known::default();
    known.attach(&key(), &at(attempt), now());
    known
}

fn sent() -> Known {
    let mut known = asked_about(1);
    known.sent(&at(1), 7, now());
    known
}

#[test]
fn an_end_is_acknowledged_when_it_is_recorded_and_not_before() {
    let mut known = sent();
    let begun = known.report(&at(1), report(1, TaskNews::Started), receipt("a"), now());
    assert_eq!(begun.wake, Some(key()));
    assert_eq!(begun.settled.acknowledge, [], "it stays for a moment");
    let later = known.beginning_due().unwrap();
    assert_eq!(
        known.beginnings_due(later).acknowledge,
        [receipt("a")],
        "its end says it again"
    );
    let ended = known.report(&at(1), report(1, TaskNews::Stopped), receipt("b"), now());
    assert_eq!(ended.wake, Some(key()));
    assert!(ended.ended && ended.settled == Settled::default());
    assert!(matches!(known.view(&at(1)), PoolView::Ended(_)));
    assert_eq!(known.forget(&key()).acknowledge, [receipt("b")]);
    assert_eq!(known.view(&at(1)), PoolView::Unknown);
}

#[test]
fn the_first_end_of_an_attempt_counts() {
    let mut known = sent();
    known.report(&at(1), report(1, TaskNews::Stopped), receipt("a"), now());
    let again = known.report(&at(1), report(1, TaskNews::HandedBack), receipt("b"), now());
    assert!(!again.ended);
    let PoolView::Ended(first) = known.view(&at(1)) else {
        panic!("it has ended");
    };
    assert_eq!(first.news, TaskNews::Stopped);
    assert_eq!(
        known.forget(&key()).acknowledge,
        [receipt("a"), receipt("b")]
    );
}

#[test]
fn what_is_said_of_an_earlier_attempt_changes_nothing() {
    let mut known = asked_about(2);
    known.sent(&at(2), 9, now());
    let late = known.report(&at(1), report(1, TaskNews::Stopped), receipt("a"), now());
    assert_eq!((late.wake, late.ended), (None, false));
    assert_eq!(late.settled.acknowledge, [receipt("a")]);
    let lost = known.lost(at(1), None, receipt("b"), now());
    assert_eq!(
        lost.settled.remove,
        [at(1)],
        "nobody else takes it out of the queue"
    );
    assert!(matches!(known.view(&at(2)), PoolView::Sent { .. }));
}

#[test]
fn a_lost_attempt_is_over_and_its_command_is_removed_with_it() {
    let mut known = sent();
    known.report(&at(1), report(1, TaskNews::Started), receipt("a"), now());
    let lost = known.lost(at(1), None, receipt("b"), now());
    assert!(lost.ended);
    assert!(matches!(
        known.view(&at(1)),
        PoolView::Lost { taken: Some(_) }
    ));
    let settled = known.attach(&key(), &at(2), now());
    assert_eq!(settled.remove, [at(1)]);
    assert_eq!(settled.acknowledge, [receipt("b")]);
    assert_eq!(
        known.view(&at(2)),
        PoolView::Unknown,
        "of the next one nothing is known"
    );
}

#[test]
fn an_end_that_comes_before_anybody_asks_is_kept_until_somebody_does() {
    let mut known = Known::default();
    let early = known.report(&at(1), report(1, TaskNews::Stopped), receipt("a"), now());
    assert_eq!(early.wake, None);
    let beginning = known.report(&at(3), report(3, TaskNews::Started), receipt("b"), now());
    assert_eq!(beginning, Heard::default(), "the queue says it too");
    known.attach(&key(), &at(1), now());
    assert!(matches!(known.view(&at(1)), PoolView::Ended(_)));
}

#[test]
fn what_nobody_asks_about_is_dropped_after_a_while() {
    let mut known = Known::default();
    known.report(&at(1), report(1, TaskNews::Stopped), receipt("a"), now());
    let patience = std::time::Duration::from_secs(300);
    let soon = now().after(patience / 2);
    assert_eq!(known.drop_unasked(soon, patience), Settled::default());
    let dropped = known.drop_unasked(now().after(patience), patience);
    assert_eq!(dropped.acknowledge, [receipt("a")]);
    assert_eq!(
        known.drop_unasked(now().after(patience), patience),
        Settled::default()
    );
}

#[test]
fn after_a_lost_connection_all_that_was_sent_is_looked_for() {
    let mut known = sent();
    assert_eq!(known.doubt_what_was_sent(), [key()]);
    assert_eq!(known.view(&at(1)), PoolView::Unknown);
    assert_eq!(
        known.doubt_what_was_sent(),
        [],
        "it is not known to be sent"
    );
}

#[test]
fn what_is_nowhere_was_never_sent_unless_somebody_had_begun() {
    let mut known = asked_about(1);
    known.nowhere(&at(1), false);
    assert_eq!(known.view(&at(1)), PoolView::Unsent);

    let mut known = sent();
    known.report(&at(1), report(1, TaskNews::Started), receipt("a"), now());
    known.doubt_what_was_sent();
    known.nowhere(&at(1), false);
    assert!(matches!(known.view(&at(1)), PoolView::Lost { .. }));

    let mut known = asked_about(1);
    known.nowhere(&at(1), true);
    assert!(matches!(known.view(&at(1)), PoolView::Lost { .. }));
}

#[test]
fn a_command_whose_worker_could_not_acknowledge_it_is_removed_with_its_end() {
    let mut known = sent();
    known.report(&at(1), report(1, TaskNews::Stopped), receipt("a"), now());
    known.lost(at(1), None, receipt("b"), now());
    assert!(matches!(known.view(&at(1)), PoolView::Ended(_)));
    let settled = known.forget(&key());
    assert_eq!(settled.remove, [at(1)], "nobody else takes it out");
    assert_eq!(settled.acknowledge, [receipt("a"), receipt("b")]);
}

#[test]
fn who_reported_an_end_before_its_lease_ran_out_is_not_lost() {
    let mut known = sent();
    let said = Some(report(1, TaskNews::Stopped));
    assert!(known.lost(at(1), said, receipt("a"), now()).ended);
    assert!(matches!(known.view(&at(1)), PoolView::Ended(_)));

    let mut known = sent();
    known.lost(
        at(1),
        Some(report(1, TaskNews::Started)),
        receipt("a"),
        now(),
    );
    assert!(matches!(
        known.view(&at(1)),
        PoolView::Lost { taken: Some(_) }
    ));
}

#[test]
fn what_a_worker_may_have_was_sent_though_it_is_nowhere() {
    let mut known = sent();
    known.asked(&at(1), now());
    known.doubt_what_was_sent();
    known.nowhere(&at(1), false);
    assert!(matches!(
        known.view(&at(1)),
        PoolView::Sent { asked: Some(_), .. }
    ));
}

#[test]
fn what_could_not_be_done_is_to_be_done_later_and_once() {
    let mut known = sent();
    let settled = known.gone(&key());
    known.settle_later(settled);
    assert_eq!(known.unsettled().remove, [at(1)]);
    assert_eq!(known.unsettled(), Settled::default());
}

#[test]
fn nobody_works_on_a_task_execution_that_was_taken_away() {
    let mut known = sent();
    let settled = known.gone(&key());
    assert_eq!((settled.stale, settled.remove), (vec![at(1)], vec![at(1)]));
}

/// NATS lets a worker report for its own pool alone, so where it reports says whose it is.
#[test]
fn nobody_can_report_for_another_pool_or_ahead_of_an_attempt() {
    let foreign = Place {
        namespace: "bank".to_owned(),
        ..at(1)
    };
    let mut known = sent();
    for elsewhere in [&foreign, &at(7)] {
        let attempt = elsewhere.attempt;
        let heard = known.report(
            elsewhere,
            report(attempt, TaskNews::Stopped),
            receipt("a"),
            now(),
        );
        assert_eq!((heard.wake, heard.ended), (None, false));
        assert_eq!(heard.settled.acknowledge, [receipt("a")]);
        assert!(matches!(known.view(&at(1)), PoolView::Sent { .. }));
    }
    // Nor before anybody asked.
    let mut known = Known::default();
    known.report(&foreign, report(1, TaskNews::Stopped), receipt("a"), now());
    known.attach(&key(), &at(1), now());
    assert_eq!(known.view(&at(1)), PoolView::Unknown);
}
