//! What `forEach` means.

use proptest::{prelude::*, sample::select};

use super::*;

fn item(index: u32) -> ExecutionIndex {
    ExecutionIndex::of_item(0, index)
}

/// One task with these items, and one that takes what it gives.
fn fan(for_each: Value, more: Value) -> Value {
    let mut first = task("fan", &[]);
    first["forEach"] = for_each;
    first["with"] = json!({"item": "${{ item }}", "index": "${{ index }}"});
    let mut second = task("after", &["fan"]);
    second["with"] = json!({"all": "${{ tasks.fan.outputs }}"});
    let mut spec = json!({"tasks": [first, second], "inputs": {"list": ["a", {"b": 1}, null]}});
    let more = more.as_object().unwrap().clone();
    for (key, value) in more {
        match key.as_str() {
            "onFailure" => spec["tasks"][0][key] = value,
            _ => spec[key] = value,
        }
    }
    spec
}

fn list() -> Value {
    json!({"items": "${{ inputs.list }}"})
}

impl World {
    fn started(&self) -> Vec<u32> {
        self.tasks.keys().filter_map(|which| which.item).collect()
    }

    fn counts(&self) -> crate::api::ItemCounts {
        self.status().tasks[0].items.unwrap()
    }

    /// The items end well, each with its index.
    fn succeed(&mut self, items: impl IntoIterator<Item = u32>) {
        for index in items {
            self.end(item(index), TaskPhase::Succeeded, json!({"n": index}));
            self.settle();
        }
    }
}

#[test]
fn every_item_has_an_execution_and_their_outputs_are_a_list_in_order() {
    let mut world = World::new(fan(list(), json!({})));
    world.settle();
    assert_eq!(world.started(), [0, 1, 2]);
    let te = world.te(item(1)).clone();
    assert_eq!(te.spec.inputs, Some(json!({"item": {"b": 1}, "index": 1})));
    assert_eq!(te.labels()[crate::api::LABEL_INDEX], "1");
    assert!(te.name_any().starts_with("w-fan-1-"), "{}", te.name_any());
    world.succeed([2, 0]);
    assert_eq!(world.status().done.as_deref(), Some("2/4"));
    assert_eq!(world.rows(), ["Running", "Waiting"]);
    world.succeed([1]);
    let all = json!({"all": [{"n": 0}, {"n": 1}, {"n": 2}]});
    assert_eq!(world.te(1).spec.inputs, Some(all));
    world.end(1, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Succeeded);
    assert_eq!(world.status().done.as_deref(), Some("4/4"));
    let counts = world.counts();
    assert_eq!((counts.total, counts.succeeded, counts.running), (3, 3, 0));
}

#[test]
fn no_items_succeed_at_once_with_an_empty_list() {
    let mut world = World::new(fan(json!({"items": []}), json!({})));
    world.settle();
    assert_eq!(world.te(1).spec.inputs, Some(json!({"all": []})));
    assert_eq!(world.rows(), ["Succeeded", "Pending"]);
}

#[test]
fn after_a_failure_no_further_item_starts_and_those_that_run_may_finish() {
    let mut world = World::new(fan(list(), json!({"parallelism": 2})));
    world.settle();
    world.end(item(0), TaskPhase::Failed, json!({}));
    world.settle();
    assert_eq!(world.started(), [0, 1]);
    assert!(world.te(item(1)).spec.stop.is_none());
    world.succeed([1]);
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(world.rows(), ["Failed", "Skipped"]);
    let counts = world.counts();
    assert_eq!((counts.succeeded, counts.failed, counts.skipped), (1, 1, 1));
    let error = world.status().error.clone().unwrap();
    assert_eq!(error.message, "task \"fan\" failed at item 0: boom");
    let details = error.details.unwrap();
    assert_eq!(details["failed_task_exec_id"], "t0-0");
    assert_eq!(details["failed_index"], 0);
}

#[test]
fn cancel_ends_the_items_that_run_and_not_other_tasks() {
    let mut spec = fan(list(), json!({"failurePolicy": "Complete"}));
    spec["tasks"][0]["forEach"]["failurePolicy"] = json!("Cancel");
    spec["tasks"][1] = task("beside", &[]);
    let mut world = World::new(spec);
    world.settle();
    world.end(item(1), TaskPhase::Failed, json!({}));
    world.settle();
    for running in [0, 2] {
        let stop = world.te(item(running)).spec.stop.clone().unwrap();
        assert_eq!(stop.code, "CANCELLED");
        assert!(stop.reason.contains("item 1 failed"), "{}", stop.reason);
        world.end(item(running), TaskPhase::Cancelled, json!({}));
    }
    assert!(world.te(1).spec.stop.is_none());
    world.settle();
    assert_eq!(world.rows(), ["Failed", "Pending"]);
    world.end(1, TaskPhase::Succeeded, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Failed);
}

#[test]
fn complete_runs_every_item_and_then_the_task_has_failed() {
    let mut spec = fan(list(), json!({"parallelism": 1}));
    spec["tasks"][0]["forEach"]["failurePolicy"] = json!("Complete");
    let mut world = World::new(spec);
    world.settle();
    world.end(item(0), TaskPhase::Failed, json!({}));
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Running);
    world.succeed([1, 2]);
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(world.rows(), ["Failed", "Skipped"]);
    let details = world.status().error.clone().unwrap().details.unwrap();
    assert_eq!(details["failed_index"], 0);
}

#[test]
fn under_continue_all_run_and_null_stands_for_one_that_failed() {
    let spec = fan(list(), json!({"parallelism": 1, "onFailure": "Continue"}));
    let mut world = World::new(spec);
    world.settle();
    world.end(item(0), TaskPhase::Failed, json!({}));
    world.settle();
    world.succeed([1, 2]);
    let all = json!({"all": [null, {"n": 1}, {"n": 2}]});
    assert_eq!(world.te(1).spec.inputs, Some(all));
    assert_eq!(world.rows(), ["Succeeded", "Pending"]);
    assert_eq!(world.counts().failed, 1);
}

#[test]
fn both_limits_bind() {
    for (parallelism, most, expected) in [(2, 3, 2), (3, 2, 2)] {
        let for_each = json!({"items": [1, 2, 3, 4], "maxParallel": most});
        let mut world = World::new(fan(for_each, json!({"parallelism": parallelism})));
        world.settle();
        assert_eq!(world.started().len(), expected);
        world.succeed([0]);
        assert_eq!(world.started().len(), expected + 1);
    }
}

#[test]
fn what_are_no_items_fails_the_task_and_says_why() {
    for (items, code, says) in [
        (
            "${{ inputs.list[1] }}",
            "EXPRESSION_ERROR",
            "spec.tasks[0].forEach.items: the expression gives a map, and a list is needed",
        ),
        (
            "${{ inputs.missing }}",
            "EXPRESSION_ERROR",
            "spec.tasks[0].forEach.items: no such key",
        ),
    ] {
        let mut world = World::new(fan(json!({"items": items}), json!({})));
        world.settle();
        let stop = world.te(0).spec.stop.clone().unwrap();
        assert_eq!(stop.code, code);
        assert!(stop.reason.contains(says), "{}", stop.reason);
        world.end(0, TaskPhase::Failed, json!({}));
        world.settle();
        assert_eq!(world.status().phase, RunPhase::Failed);
        assert_eq!(world.rows(), ["Failed", "Skipped"]);
    }
}

#[test]
fn more_items_than_the_installation_allows_fail_the_task() {
    let spec = fan(list(), json!({}));
    let mut world = World::new(spec.clone());
    let installation = Installation {
        max_items: 2,
        ..Installation::default()
    };
    let spec = serde_json::from_value(spec).unwrap();
    let definition = Definition::compile(&spec, &installation).unwrap();
    let run = Run::new(&definition);
    world.graph = Ok((definition, run));
    world.expand();
    world.settle();
    let stop = world.te(0).spec.stop.clone().unwrap();
    assert_eq!(stop.code, "TOO_MANY_ITEMS");
    let says = "spec.tasks[0].forEach.items: there are 3 items, the limit is 2";
    assert!(stop.reason.starts_with(says), "{}", stop.reason);
}

#[test]
fn a_cancelled_run_ends_its_items_and_starts_no_other() {
    let mut world = World::new(fan(list(), json!({"parallelism": 2})));
    world.settle();
    world.workflow.spec.cancel = Some(Default::default());
    world.settle();
    for running in [0, 1] {
        assert!(world.te(item(running)).spec.stop.is_some());
        world.end(item(running), TaskPhase::Cancelled, json!({}));
    }
    world.settle();
    assert_eq!(world.status().phase, RunPhase::Cancelled);
    assert_eq!(world.rows(), ["Cancelled", "Skipped"]);
    assert_eq!((world.started().len(), world.counts().skipped), (2, 1));
}

#[test]
fn items_whose_origin_was_taken_away_end_and_are_remembered() {
    let mut spec = fan(
        json!({"items": "${{ tasks.origin.outputs.list }}"}),
        json!({}),
    );
    spec["failurePolicy"] = json!("Complete");
    spec["tasks"][0]["dependsOn"] = json!(["origin"]);
    spec["tasks"]
        .as_array_mut()
        .unwrap()
        .push(task("origin", &[]));
    let mut world = World::new(spec);
    world.settle();
    world.end(2, TaskPhase::Succeeded, json!({"list": [1, 2]}));
    world.settle();
    assert_eq!(world.started(), [0, 1]);
    world.succeed([0]);
    // The next operator finds only that it had begun, and then that it is gone.
    world.tasks.remove(&2.into());
    let order: Vec<_> = world.tasks.keys().copied().collect();
    world.rebuild_in(&order);
    let (definition, run) = world.graph.as_mut().unwrap();
    run.observe(definition, 2, TaskPhase::Cancelled, at(9));
    world.settle();
    assert_eq!(world.rows(), ["Running", "Skipped", "Cancelled"]);
    let counts = world.counts();
    assert_eq!((counts.total, counts.begun, counts.running), (2, 2, 1));
    world.succeed([1]);
    assert_eq!(world.status().phase, RunPhase::Failed);
    assert_eq!(world.rows(), ["Cancelled", "Skipped", "Cancelled"]);
}

/// What a run with so many items costs from its beginning to its end.
fn cost(items: u32) -> usize {
    let list: Vec<u32> = (0..items).collect();
    let for_each = json!({"items": list, "maxParallel": 20});
    let world = World::new(fan(for_each, json!({})));
    let (definition, mut run) = world.graph.unwrap();
    for index in 0..items {
        let startable = run.startable(&definition);
        let most = 20.min(items - index) as usize;
        assert_eq!(startable.len(), most, "no more is looked at than starts");
        run.observe(&definition, item(index), TaskPhase::Pending, at(0));
        run.observe(&definition, item(index), TaskPhase::Running, at(0));
        run.observe(&definition, item(index), TaskPhase::Succeeded, at(0));
    }
    assert_eq!(run.startable(&definition), [1.into()]);
    run.visits()
}

#[test]
fn the_cost_of_an_item_does_not_grow_with_their_number() {
    for items in [1_000, 10_000] {
        // It becomes known, and changes three times; the task and its dependent once.
        assert_eq!(cost(items), 4 * items as usize + 2);
    }
}

#[test]
fn the_status_of_many_items_is_small() {
    let list: Vec<u32> = (0..10_000).collect();
    let mut world = World::new(fan(json!({"items": list}), json!({"parallelism": 5000})));
    world.settle();
    let size = serde_json::to_vec(world.status()).unwrap().len();
    assert!(size < 2_000, "{size} bytes");
}

#[derive(Clone, Debug)]
struct Shape {
    before: bool,
    items: u32,
    most: Option<u32>,
    parallelism: u32,
    of_run: &'static str,
    of_items: &'static str,
    tolerated: bool,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let policy = || select(&["FailFast", "Complete", "Cancel"]);
    let limits = (proptest::option::of(1u32..4), 1u32..5);
    (
        any::<bool>(),
        0u32..7,
        limits,
        policy(),
        policy(),
        any::<bool>(),
    )
        .prop_map(
            |(before, items, (most, parallelism), of_run, of_items, tolerated)| Shape {
                before,
                items,
                most,
                parallelism,
                of_run,
                of_items,
                tolerated,
            },
        )
}

impl Shape {
    /// The task with items is the first; one beside it may give them, one follows it.
    fn spec(&self) -> Value {
        let list: Vec<u32> = (0..self.items).collect();
        let mut for_each = json!({"items": list, "failurePolicy": self.of_items});
        if let Some(most) = self.most {
            for_each["maxParallel"] = json!(most);
        }
        let mut spec = fan(
            for_each,
            json!({"parallelism": self.parallelism, "failurePolicy": self.of_run}),
        );
        if self.tolerated {
            spec["tasks"][0]["onFailure"] = json!("Continue");
        }
        let beside = task("beside", &[]);
        if self.before {
            spec["tasks"][0]["dependsOn"] = json!(["beside"]);
            spec["tasks"][0]["forEach"]["items"] = json!("${{ tasks.beside.outputs.list }}");
        }
        spec["tasks"].as_array_mut().unwrap().push(beside);
        spec
    }
}

fn fates() -> impl Strategy<Value = Vec<(usize, bool)>> {
    proptest::collection::vec((0usize..12, proptest::bool::weighted(0.8)), 12)
}

impl World {
    /// One of what is open ends, well or not.
    fn end_one(&mut self, shape: &Shape, pick: usize, good: bool) {
        let open = self.tasks.iter().filter(|(_, te)| te.status.is_none());
        let open: Vec<_> = open.map(|(which, _)| *which).collect();
        let Some(&which) = open.get(pick % open.len().max(1)) else {
            return;
        };
        let phase = match (good, self.te(which).spec.stop.is_some()) {
            (true, _) => TaskPhase::Succeeded,
            (false, true) => TaskPhase::Cancelled,
            (false, false) => TaskPhase::Failed,
        };
        let list: Vec<u32> = (0..shape.items).collect();
        self.end(which, phase, json!({"n": which.item, "list": list}));
        self.settle();
    }

    fn rebuild_in(&mut self, order: &[ExecutionIndex]) {
        let (definition, run) = self.graph.as_mut().unwrap();
        *run = Run::new(definition);
        self.expand();
        for which in order {
            self.observe(*which);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_run_with_items_ends_within_its_limits(
        shape in shapes(), fates in fates(), seed: u64,
    ) {
        let mut world = World::new(shape.spec());
        world.settle();
        let more = (0..20).map(|_| (0, true));
        let mut dice = fastrand::Rng::with_seed(seed);
        for (pick, good) in fates.into_iter().chain(more) {
            world.end_one(&shape, pick, good);
            let open = |te: &&Arc<TaskExecution>| te.status.is_none();
            let under_way = world.tasks.values().filter(open).count();
            prop_assert!(under_way <= shape.parallelism as usize);
            let items = world.tasks.values().filter(open).filter(|te| te.spec.index.is_some()).count();
            prop_assert!(items <= shape.most.unwrap_or(u32::MAX) as usize);
            let started: Vec<u32> = world.started();
            prop_assert_eq!(&started, &(0..started.len() as u32).collect::<Vec<_>>(), "in order");

            let mut order: Vec<ExecutionIndex> = world.tasks.keys().copied().collect();
            dice.shuffle(&mut order);
            world.rebuild_in(&order);
            prop_assert_eq!(world.plan().steps, vec![], "a rebuilt run has nothing to do at rest");
        }
        let status = world.status();
        prop_assert!(status.phase.is_final(), "{:?}", status);
        let counts = status.tasks[0].items;
        if let Some(counts) = counts {
            let sum = counts.succeeded + counts.failed + counts.skipped;
            prop_assert_eq!((sum, counts.running), (counts.total, 0));
        }
        let ended_well = |te: &Arc<TaskExecution>| {
            te.status.as_ref().is_some_and(|status| status.phase == TaskPhase::Succeeded)
        };
        let bad = |te: &&Arc<TaskExecution>| {
            !(ended_well(te) || shape.tolerated && te.spec.task == "fan")
        };
        let failed = world.tasks.values().any(|te| bad(&te));
        let expected = if failed { RunPhase::Failed } else { RunPhase::Succeeded };
        prop_assert_eq!(status.phase, expected);
        if !failed {
            prop_assert_eq!(world.started().len(), shape.items as usize);
            let all = world.te(1).spec.inputs.clone().unwrap();
            let outputs = world.tasks.iter().filter(|(which, _)| which.item.is_some());
            let outputs = outputs.map(|(which, te)| match ended_well(te) {
                true => json!(which.item),
                false => Value::Null,
            });
            let seen = all["all"].as_array().unwrap().iter().map(|output| output["n"].clone());
            prop_assert_eq!(seen.collect::<Vec<_>>(), outputs.collect::<Vec<_>>());
        }
    }
}
