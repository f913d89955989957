//! What `failurePolicy: Cancel` means.

use super::*;

fn side_by_side() -> Value {
    json!({"failurePolicy": "Cancel", "parallelism": 3, "tasks": [
        task("a", &[]), task("b", &[]), task("c", &[]), task("d", &[]), task("after-a", &["a"])]})
}

#[test]
fn the_first_failure_ends_what_runs_and_is_the_runs_error() {
    let mut world = World::new(side_by_side());
    world.settle();
    world.end(1, TaskPhase::Failed, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Stopping);
    assert_eq!(world.events(), [WorkflowEvent::Started]);
    for running in [0, 2] {
        let stop = world.te(running).spec.stop.clone().unwrap();
        assert_eq!(stop.code, "CANCELLED");
        assert!(stop.reason.contains("task \"b\" failed"), "{}", stop.reason);
    }
    world.end(0, TaskPhase::Cancelled, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Stopping);
    world.end(2, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(
        world.rows(),
        ["Cancelled", "Failed", "Succeeded", "Skipped", "Skipped"]
    );
    assert_eq!(
        world.events(),
        [WorkflowEvent::Started, WorkflowEvent::Failed]
    );
    let error = world.status().error.clone().unwrap();
    assert_eq!(error.message, "task \"b\" failed: boom");
    assert_eq!(error.details.unwrap()["failed_task_id"], "b");
}

#[test]
fn the_decision_is_recorded_before_anything_is_asked_to_end() {
    let mut world = World::new(side_by_side());
    world.settle();
    world.end(0, TaskPhase::Failed, json!({}));
    let plan = world.plan();
    let [Step::Record(status)] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(status.phase, RunPhase::Stopping);
    assert_eq!(status.error.as_ref().unwrap().code, "TASK_FAILED");
}

#[test]
fn the_error_stays_that_of_the_failure_that_ended_the_others() {
    let mut world = World::new(side_by_side());
    world.settle();
    world.now = 5_000;
    world.end(1, TaskPhase::Failed, json!({}));
    world.settle();
    // The clock of another operator: it ended after and says before.
    world.now = 1_000;
    world.end(0, TaskPhase::Cancelled, json!({}));
    world.end(2, TaskPhase::Cancelled, json!({}));
    world.settle();
    let details = world.status().error.clone().unwrap().details.unwrap();
    assert_eq!(details["failed_task_id"], "b");
}

#[test]
fn a_failure_of_a_suspended_run_ends_it_too() {
    let mut world = World::new(side_by_side());
    world.settle();
    world.suspend(true);
    world.settle();
    world.end(0, TaskPhase::Failed, json!({}));
    world.settle();
    for running in [1, 2] {
        assert!(world.te(running).spec.stop.is_some());
        world.end(running, TaskPhase::Cancelled, json!({}));
    }
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Failed);
}

#[test]
fn a_failure_that_is_to_be_continued_over_ends_nothing() {
    let mut spec = side_by_side();
    spec["tasks"][0]["onFailure"] = json!("Continue");
    let mut world = World::new(spec);
    world.settle();
    world.end(0, TaskPhase::Failed, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Running);
    assert!(world.tasks.values().all(|te| te.spec.stop.is_none()));
}

#[test]
fn a_run_that_fails_can_still_be_cancelled() {
    let mut world = World::new(side_by_side());
    world.settle();
    world.end(0, TaskPhase::Failed, json!({}));
    world.settle();
    world.workflow.spec.cancel = Some(Default::default());
    world.settle();
    for running in [1, 2] {
        world.end(running, TaskPhase::Cancelled, json!({}));
    }
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Cancelled);
    assert_eq!(
        world.events(),
        [WorkflowEvent::Started, WorkflowEvent::Cancelled]
    );
    assert_eq!(world.status().error.as_ref().unwrap().code, "CANCELLED");
}

#[test]
fn a_run_does_not_end_before_all_its_task_executions_are_seen() {
    let mut world = World::new(side_by_side());
    world.settle();
    for task in 0..3 {
        world.end(task, TaskPhase::Failed, json!({}));
    }
    world.all_seen = false;
    world.plan().steps.iter().for_each(|step| {
        let decision = matches!(step, Step::Record(status) if !status.phase.is_final());
        assert!(decision || *step == Step::ConfirmTasks, "{step:?}");
    });
    world.settle();
    assert!(world.all_seen, "it was asked");
    assert_eq!(world.status().phase, RunPhase::Failed);
}
