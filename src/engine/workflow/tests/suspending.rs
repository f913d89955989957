//! What suspending and resuming a run means.

use super::*;
use WorkflowEvent::{
    Cancelled, Completed, Failed, Started, TimedOut, WaitingEnded, WaitingStarted,
};

fn chain() -> Value {
    json!({"tasks": [task("a", &[]), task("b", &["a"])]})
}

#[test]
fn a_suspended_run_starts_nothing_and_goes_on_when_resumed() {
    let mut world = World::new(chain());
    world.settle();
    world.suspend(true);
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Suspended);
    assert!(world.te(0).spec.suspend, "what is under way is told");
    assert!(world.te(0).spec.stop.is_none(), "and goes on");
    world.end(0, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(world.tasks.len(), 1);
    assert_eq!(world.status().phase, RunPhase::Suspended);
    world.suspend(false);
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Running);
    assert_eq!(world.tasks.len(), 2);
    world.end(1, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(
        world.events(),
        [Started, WaitingStarted, WaitingEnded, Completed]
    );
}

#[test]
fn what_runs_is_told_that_it_goes_on() {
    let mut world = World::new(chain());
    world.settle();
    for suspend in [true, false, true, false] {
        // Without a moment in between, as with a clock that steps back.
        world.suspend(suspend);
        world.settle();
        assert_eq!(world.te(0).spec.suspend, suspend);
    }
}

#[test]
fn a_run_that_is_suspended_from_the_start_begins_and_waits_in_one_write() {
    let mut world = World::new(chain());
    world.suspend(true);
    world.settle();
    assert_eq!((world.writes, world.tasks.len()), (1, 0));
    assert_eq!(world.status().phase, RunPhase::Suspended);
    assert_eq!(world.events(), [Started, WaitingStarted]);
    world.suspend(false);
    world.settle();
    assert_eq!(world.tasks.len(), 1);
}

#[test]
fn the_timeout_stands_still_and_nothing_is_due_meanwhile() {
    let mut world = World::new(json!({"timeout": "10s", "tasks": [task("a", &[])]}));
    world.settle();
    world.now = 4_000;
    world.suspend(true);
    world.settle();
    assert_eq!(world.plan(), Plan::default());
    world.now = 100_000;
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Suspended);
    world.suspend(false);
    world.settle();
    assert_eq!(world.plan().wake, Some(at(106_000)));
    let resumed = world.status().transitions.last().unwrap();
    assert_eq!(resumed.data, Some(json!({"suspended_ms": 96_000})));
    world.now = 106_000;
    world.settle();
    assert_eq!(world.events().last(), Some(&TimedOut));
}

#[test]
fn a_run_whose_last_task_has_ended_ends_although_it_is_suspended() {
    let mut world = World::new(json!({"tasks": [task("a", &[])]}));
    world.settle();
    world.suspend(true);
    world.end(0, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Succeeded);
    assert_eq!(world.events(), [Started, Completed]);
    world.suspend(false);
    assert_eq!(world.plan(), Plan::default(), "an ended run ignores it");
}

#[test]
fn a_task_that_ends_in_a_suspended_run_may_end_the_run() {
    let mut world = World::new(json!({"tasks": [task("a", &[])]}));
    world.settle();
    world.suspend(true);
    world.settle();
    world.now = 5_000;
    world.end(0, TaskPhase::Failed, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(world.events(), [Started, WaitingStarted, Failed]);
    assert!(!world.status().suspension.is_on());
}

#[test]
fn a_suspended_run_can_be_cancelled() {
    let mut world = World::new(chain());
    world.settle();
    world.suspend(true);
    world.settle();
    world.workflow.spec.cancel = Some(Default::default());
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Stopping);
    assert!(world.te(0).spec.stop.is_some());
    world.end(0, TaskPhase::Cancelled, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Cancelled);
    assert_eq!(world.events(), [Started, WaitingStarted, Cancelled]);
}

#[test]
fn a_run_that_is_cancelled_from_the_start_never_waits() {
    let mut world = World::new(chain());
    world.suspend(true);
    world.workflow.spec.cancel = Some(Default::default());
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Cancelled);
    assert_eq!(world.events(), [Started, Cancelled]);
}

#[test]
fn a_suspended_run_can_be_deleted() {
    let mut world = World::new(chain());
    world.suspend(true);
    world.settle();
    world.workflow.metadata.deletion_timestamp = serde_json::from_value(json!(START)).unwrap();
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Cancelled);
}

#[test]
fn a_spec_that_cannot_be_run_fails_although_it_is_suspended() {
    let mut world = World::new(json!({"tasks": [task("a", &["a"])]}));
    world.suspend(true);
    world.settle();
    assert_eq!(world.events(), [Started, Failed]);
}

#[test]
fn without_nats_it_is_not_suspended_and_resumed_for_ever() {
    let mut world = World::new(chain());
    world.settle();
    world.told = false;
    for round in 0..200 {
        world.now += 1;
        world.suspend(round % 2 == 0);
        world.settle();
    }
    assert_eq!(world.status().transitions.len(), 64);
    let recorded = world.status().phase;
    world.suspend(true);
    world.settle();
    assert_eq!(world.status().phase, recorded, "the wish waits");
    world.end(0, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(
        world.tasks.len(),
        1,
        "but what it wants to hold back waits too"
    );

    // Once NATS has all, it is done; and what NATS has goes.
    world.told = true;
    world.suspend(recorded != RunPhase::Suspended);
    world.settle();
    assert_ne!(world.status().phase, recorded);
    assert!(world.status().transitions.len() < 64);
    let sequences = world.status().transitions.iter().map(|seen| seen.seq);
    assert!(
        sequences
            .clone()
            .zip(sequences.skip(1))
            .all(|(one, next)| next == one + 1)
    );
}
