//! What a user may rely on of one run.

mod failing;
mod for_each;
mod properties;
mod suspending;
mod tools;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{RunPhase, TaskExecution, TaskPhase, WorkflowEvent},
    engine::{
        definition::{Definition, Installation},
        resolve,
        run::{ExecutionIndex, Run},
    },
};

const START: &str = "2026-01-01T00:00:00Z";

fn at(millis: u64) -> Time {
    Time(START.parse().unwrap()).after(std::time::Duration::from_millis(millis))
}

/// A run with everything that the reconciler would keep around it.
struct World {
    workflow: Workflow,
    graph: Result<(Definition, Run), Vec<FieldError>>,
    tasks: BTreeMap<ExecutionIndex, Arc<TaskExecution>>,
    now: u64,
    writes: usize,
    /// Whether no task execution can be there that was not seen.
    all_seen: bool,
    /// Whether NATS has everything.
    told: bool,
}

impl World {
    fn new(spec: Value) -> World {
        let workflow: Workflow = serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": "n", "uid": "wu", "generation": 1,
                         "finalizers": [FINALIZER_EVENTS]},
            "spec": spec,
        }))
        .unwrap();
        let graph =
            Definition::compile(&workflow.spec, &Installation::default()).map(|definition| {
                let run = Run::new(&definition);
                (definition, run)
            });
        let mut world = World {
            workflow,
            graph,
            tasks: BTreeMap::new(),
            now: 0,
            writes: 0,
            all_seen: true,
            told: true,
        };
        world.expand();
        world
    }

    fn expand(&mut self) {
        let tasks = &self.tasks;
        if let Ok((definition, run)) = &mut self.graph {
            let lookup = |which| tasks.get(&which).cloned();
            resolve::expand(&self.workflow, definition, run, &lookup);
        }
    }

    fn te(&self, which: impl Into<ExecutionIndex>) -> &TaskExecution {
        &self.tasks[&which.into()]
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            workflow: &self.workflow,
            graph: self
                .graph
                .as_ref()
                .map(|(definition, run)| (definition, run))
                .map_err(Vec::as_slice),
            lookup: &|task| self.tasks.get(&task).cloned(),
            unended: &[],
            all_seen: self.all_seen,
            told: self.told,
            last_progress: None,
            now: at(self.now),
        })
    }

    /// Applies plans until one is empty.
    fn settle(&mut self) {
        for _ in 0..100 {
            let steps = self.plan().steps;
            if steps.is_empty() {
                return;
            }
            for step in steps {
                self.apply(step);
            }
        }
        panic!("does not come to rest: {:?}", self.plan());
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Hold => panic!("is held"),
            Step::ConfirmTasks => self.all_seen = true,
            Step::Record(status) => {
                self.writes += 1;
                self.workflow.status = Some(*status);
            }
            Step::Create(which, mut te) => {
                assert!(
                    !self.tasks.contains_key(&which),
                    "{which:?} was created twice"
                );
                assert_eq!(te.spec.index, which.item);
                let item = which.item.map(|item| format!("-{item}"));
                let uid = format!("t{}{}", which.task, item.unwrap_or_default());
                te.metadata.uid = Some(uid);
                self.tasks.insert(which, Arc::new(*te));
                self.observe(which);
            }
            Step::Suspend(name, suspend) => self.change(&name, |te| te.spec.suspend = suspend),
            Step::Stop(name, stop) => self.change(&name, |te| te.spec.stop = Some(stop)),
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut TaskExecution)) {
        let te = self.tasks.values_mut().find(|te| te.name_any() == name);
        change(Arc::make_mut(te.unwrap()));
    }

    fn suspend(&mut self, suspend: bool) {
        self.workflow.spec.suspend = Some(suspend);
    }

    fn end(&mut self, which: impl Into<ExecutionIndex>, phase: TaskPhase, outputs: Value) {
        self.now += 1;
        let which = which.into();
        let mut te = (*self.tasks[&which]).clone();
        let error =
            (phase == TaskPhase::Failed).then(|| json!({"code": "TASK_FAILED", "message": "boom"}));
        te.status = Some(serde_json::from_value(json!({
            "phase": phase, "attempt": 1, "outputs": outputs, "error": error, "finishedAt": at(self.now),
        })).unwrap());
        self.tasks.insert(which, Arc::new(te));
        self.observe(which);
    }

    fn observe(&mut self, which: ExecutionIndex) {
        let te = self.tasks[&which].clone();
        let (definition, run) = self.graph.as_mut().unwrap();
        let status = te.status.clone().unwrap_or_default();
        run.observe(
            definition,
            which,
            status.phase,
            status.finished_at.unwrap_or(at(0)),
        );
        self.expand();
    }

    fn status(&self) -> &WorkflowStatus {
        self.workflow.status.as_ref().unwrap()
    }

    fn events(&self) -> Vec<WorkflowEvent> {
        self.status()
            .transitions
            .iter()
            .map(|seen| seen.event)
            .collect()
    }

    fn rows(&self) -> Vec<&str> {
        self.status()
            .tasks
            .iter()
            .map(|row| row.phase.as_str())
            .collect()
    }
}

fn task(name: &str, after: &[&str]) -> Value {
    json!({"name": name, "dependsOn": after, "container": {"image": "x"}})
}

#[test]
fn a_chain_passes_outputs_with_their_types() {
    let mut second = task("b", &["a"]);
    second["with"] =
        json!({"n": "${{ tasks.a.outputs.n }}", "text": "n is ${{ tasks.a.outputs.n }}"});
    let mut world = World::new(
        json!({"tasks": [task("a", &[]), second], "outputs": {"list": "${{ tasks.b.outputs.list }}"}}),
    );
    world.settle();
    assert_eq!(world.tasks.len(), 1);
    world.end(0, TaskPhase::Succeeded, json!({"n": 3}));
    world.settle();
    assert_eq!(
        world.te(1).spec.inputs,
        Some(json!({"n": 3, "text": "n is 3"}))
    );
    world.end(1, TaskPhase::Succeeded, json!({"list": [1, {"x": null}]}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Succeeded);
    assert_eq!(
        world.status().outputs,
        Some(json!({"list": [1, {"x": null}]}))
    );
    assert_eq!(
        world.events(),
        [WorkflowEvent::Started, WorkflowEvent::Completed]
    );
    assert_eq!(world.status().done.as_deref(), Some("2/2"));
}

#[test]
fn fail_fast_starts_nothing_new_and_lets_the_rest_end() {
    let mut world = World::new(
        json!({"parallelism": 2, "tasks": [task("a", &[]), task("b", &[]), task("c", &[])]}),
    );
    world.settle();
    world.end(0, TaskPhase::Failed, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Stopping);
    assert_eq!(world.tasks.len(), 2);
    world.end(1, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(world.rows(), ["Failed", "Succeeded", "Skipped"]);
    let error = world.status().error.clone().unwrap();
    assert_eq!(error.message, "task \"a\" failed: boom");
    assert_eq!(error.details.unwrap()["failed_task_exec_id"], "t0");
}

#[test]
fn complete_lets_independent_branches_go_on() {
    let mut world = World::new(json!({"failurePolicy": "Complete", "parallelism": 1,
        "tasks": [task("a", &[]), task("after-a", &["a"]), task("b", &[]), task("after-b", &["b"])]}));
    world.settle();
    world.end(0, TaskPhase::Failed, json!({}));
    world.settle();
    world.end(2, TaskPhase::Succeeded, json!({}));
    world.settle();
    world.end(3, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(
        world.rows(),
        ["Failed", "Skipped", "Succeeded", "Succeeded"]
    );
    assert_eq!(world.status().phase, RunPhase::Failed);
}

#[test]
fn a_failure_that_is_to_be_continued_over_counts_as_success() {
    let mut first = task("a", &[]);
    first["onFailure"] = json!("Continue");
    let mut second = task("b", &["a"]);
    second["with"] = json!("${{ tasks.a.phase }}");
    let mut world = World::new(json!({"tasks": [first, second]}));
    world.settle();
    world.end(0, TaskPhase::Failed, json!({}));
    world.settle();
    assert_eq!(world.te(1).spec.inputs, Some(json!("Failed")));
    world.end(1, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Succeeded);
}

#[test]
fn cancelling_is_told_at_the_decision_and_final_after_the_last_task() {
    let mut world = World::new(json!({"tasks": [task("a", &[]), task("b", &["a"])]}));
    world.settle();
    world.workflow.spec.cancel = Some(serde_json::from_value(json!({"reason": "enough"})).unwrap());
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Stopping);
    assert_eq!(
        world.events(),
        [WorkflowEvent::Started, WorkflowEvent::Cancelled]
    );
    assert_eq!(world.te(0).spec.stop.as_ref().unwrap().reason, "enough");
    world.end(0, TaskPhase::Cancelled, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Cancelled);
    assert_eq!(world.rows(), ["Cancelled", "Skipped"]);
    assert_eq!(
        world.events(),
        [WorkflowEvent::Started, WorkflowEvent::Cancelled]
    );
}

#[test]
fn a_run_that_takes_too_long_is_timed_out() {
    let mut world = World::new(json!({"timeout": "2s", "tasks": [task("a", &[])]}));
    world.settle();
    assert_eq!(world.plan().wake, Some(at(2000)));
    world.now = 2000;
    world.settle();
    world.end(0, TaskPhase::Cancelled, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::TimedOut);
    assert_eq!(
        world.events(),
        [WorkflowEvent::Started, WorkflowEvent::TimedOut]
    );
}

#[test]
fn a_spec_that_cannot_be_run_begins_and_fails_in_one_write() {
    let mut world = World::new(json!({"tasks": [task("a", &["b"]), task("b", &["a"])]}));
    world.settle();
    assert_eq!(world.writes, 1);
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(
        world.events(),
        [WorkflowEvent::Started, WorkflowEvent::Failed]
    );
    assert_eq!(world.status().conditions[0].reason, "InvalidSpec");
}

#[test]
fn a_run_whose_spec_changed_shows_no_task_as_under_way_at_its_end() {
    let mut world = World::new(json!({"tasks": [task("a", &[]), task("b", &["a"])]}));
    world.settle();
    world.end(0, TaskPhase::Cancelled, json!({}));
    world.graph = Err(vec![FieldError::new("spec", "changed")]);
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(world.rows(), ["Cancelled", "Skipped"]);
}

#[test]
fn data_that_does_not_suit_an_expression_fails_that_task() {
    let mut second = task("b", &["a"]);
    second["with"] = json!({"n": "${{ tasks.a.outputs.missing }}"});
    let mut world = World::new(json!({"tasks": [task("a", &[]), second]}));
    world.settle();
    world.end(0, TaskPhase::Succeeded, json!({}));
    world.settle();
    let stop = world.te(1).spec.stop.clone().unwrap();
    assert_eq!(stop.code, "EXPRESSION_ERROR");
    assert!(
        stop.reason.contains("spec.tasks[1].with.n") && stop.reason.contains("has("),
        "{}",
        stop.reason
    );
}

#[test]
fn a_deleted_run_is_cancelled_first() {
    let mut world = World::new(json!({"tasks": [task("a", &[])]}));
    world.settle();
    world.workflow.metadata.deletion_timestamp = serde_json::from_value(json!(START)).unwrap();
    world.settle();
    assert!(world.te(0).spec.stop.is_some());
    world.end(0, TaskPhase::Cancelled, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Cancelled);
}

#[test]
fn the_cost_of_an_event_is_what_it_touches() {
    let size = 2000;
    let tasks: Vec<_> = (0..size)
        .map(|n| {
            let after: Vec<String> = (n > 0).then(|| format!("t{}", n - 1)).into_iter().collect();
            json!({"name": format!("t{n}"), "dependsOn": after, "container": {"image": "x"}})
        })
        .collect();
    let spec = serde_json::from_value(json!({"tasks": tasks})).unwrap();
    let definition = Definition::compile(&spec, &Installation::default()).unwrap();
    let mut run = Run::new(&definition);
    for task in 0..size {
        assert_eq!(run.startable(&definition), [task.into()]);
        run.observe(&definition, task, TaskPhase::Pending, at(0));
        run.observe(&definition, task, TaskPhase::Succeeded, at(0));
    }
    assert_eq!(
        run.visits(),
        2 * size - 1,
        "one visit for each task and one for each edge"
    );
}

#[test]
fn a_history_does_not_go_back_with_the_clock_of_a_new_leader() {
    let mut world = World::new(json!({"tasks": [{"name": "a", "container": {"image": "x"}}]}));
    world.now = 60_000;
    world.settle();
    world.workflow.spec.cancel = Some(crate::api::Cancel { reason: None });
    world.now = 1_000;
    world.settle();
    let status = world.workflow.status.unwrap();
    let times: Vec<_> = status.transitions.iter().map(|seen| seen.at).collect();
    assert_eq!(times, [at(60_000), at(60_000)]);
}
