//! What holds of every run, whatever its graph and whatever happens to it.

use proptest::{prelude::*, sample::select};

use super::*;

/// Graphs of up to twelve tasks whose edges point backwards.
fn graphs() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1usize..12).prop_flat_map(|size| {
        (0..size)
            .map(|task| {
                proptest::collection::vec(0..task.max(1), 0..3).prop_map(move |after| {
                    after
                        .into_iter()
                        .filter(|&other| other < task)
                        .collect::<Vec<_>>()
                })
            })
            .collect::<Vec<_>>()
    })
}

fn policies() -> impl Strategy<Value = &'static str> {
    select(&["FailFast", "Complete", "Cancel"])
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// One of the tasks under way ends.
    End(usize, TaskPhase),
    /// The run is suspended, or resumed.
    Toggle,
}

fn acts(count: usize) -> impl Strategy<Value = Vec<Act>> {
    let act = (0usize..12, 0u8..6).prop_map(|(pick, fate)| match fate {
        0 => Act::End(pick, TaskPhase::Failed),
        1 => Act::Toggle,
        _ => Act::End(pick, TaskPhase::Succeeded),
    });
    proptest::collection::vec(act, count)
}

fn spec_of(graph: &[Vec<usize>], parallelism: usize, policy: &str) -> Value {
    let tasks: Vec<_> = graph
        .iter()
        .enumerate()
        .map(|(n, after)| {
            let after: Vec<_> = after.iter().map(|other| format!("t{other}")).collect();
            json!({"name": format!("t{n}"), "dependsOn": after, "container": {"image": "x"}})
        })
        .collect();
    json!({"parallelism": parallelism, "tasks": tasks, "failurePolicy": policy})
}

impl World {
    fn open(&self) -> Vec<ExecutionIndex> {
        let open = self.tasks.iter().filter(|(_, te)| te.status.is_none());
        open.map(|(&which, _)| which).collect()
    }

    fn is_suspended(&self) -> bool {
        self.workflow.spec.suspend == Some(true)
    }

    fn act(&mut self, act: Act) {
        self.now += 1;
        match act {
            Act::Toggle => self.suspend(!self.is_suspended()),
            Act::End(pick, phase) => {
                let open = self.open();
                let Some(&which) = open.get(pick % open.len().max(1)) else {
                    return;
                };
                // What was asked to end may also have succeeded just before.
                let asked = self.te(which).spec.stop.is_some();
                let phase = match phase {
                    TaskPhase::Failed if asked => TaskPhase::Cancelled,
                    other => other,
                };
                self.end(which, phase, json!({}));
            }
        }
        self.settle();
    }

    fn has(&self, phase: TaskPhase) -> bool {
        let mut seen = self.tasks.values().filter_map(|te| te.status.as_ref());
        seen.any(|status| status.phase == phase)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn every_run_ends_in_order_within_its_parallelism(
        graph in graphs(), parallelism in 1usize..5, policy in policies(), acts in acts(30),
    ) {
        let mut world = World::new(spec_of(&graph, parallelism, policy));
        world.settle();
        let ends = (0..graph.len()).map(|_| Act::End(0, TaskPhase::Succeeded));
        let resumed = acts.iter().filter(|act| matches!(act, Act::Toggle)).count() % 2 == 0;
        let resume = (!resumed).then_some(Act::Toggle);
        for act in acts.into_iter().chain(resume).chain(ends) {
            let open = world.open();
            prop_assert!(open.len() <= parallelism, "{open:?} run at once");
            for &which in &open {
                let spec = &world.te(which).spec;
                prop_assert!(spec.stop.is_some() || spec.suspend == world.is_suspended());
                for &dependency in &graph[which.task] {
                    let te = world.tasks.get(&dependency.into());
                    let ended = te.and_then(|te| te.status.as_ref());
                    prop_assert_eq!(ended.map(|status| status.phase), Some(TaskPhase::Succeeded));
                }
            }
            let (existed, was_suspended) = (world.tasks.len(), world.is_suspended());
            world.act(act);
            if was_suspended && world.is_suspended() {
                prop_assert_eq!(world.tasks.len(), existed, "nothing starts in a suspended run");
            }
        }
        let failed = world.has(TaskPhase::Failed);
        let expected = if failed { RunPhase::Failed } else { RunPhase::Succeeded };
        prop_assert_eq!(world.status().phase, expected);
        prop_assert_eq!(world.plan(), Plan::default(), "an ended run plans nothing");
        if !failed {
            prop_assert_eq!(world.tasks.len(), graph.len());
        }
        prop_assert!(failed || !world.has(TaskPhase::Cancelled), "only a failure ends others");
    }

    #[test]
    fn a_run_rebuilt_in_any_order_plans_the_same(
        graph in graphs(), parallelism in 1usize..5, policy in policies(), acts in acts(12),
        stop_after in 0usize..12, seed: u64,
    ) {
        let mut world = World::new(spec_of(&graph, parallelism, policy));
        world.settle();
        for act in acts.into_iter().take(stop_after) {
            world.act(act);
        }
        let mut order: Vec<ExecutionIndex> = world.tasks.keys().copied().collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        let (definition, _) = world.graph.as_ref().unwrap();
        let rebuilt = Run::new(definition);
        let definition = Definition::compile(&world.workflow.spec, &Installation::default()).unwrap();
        world.graph = Ok((definition, rebuilt));
        for which in order {
            world.observe(which);
        }
        world.expand();
        prop_assert_eq!(world.plan().steps, vec![], "a rebuilt run has nothing to do at rest");
    }
}
