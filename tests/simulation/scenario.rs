//! What users want of a world: workflows, what their pods do, and what users do meanwhile. Drawn
//! from a seed; the script of a pod depends on its task and attempt alone.

use std::sync::Arc;

use compozy::api::{Duration, LABEL_ATTEMPT, LABEL_INDEX, LABEL_TASK, LABEL_WORKFLOW};
use fastrand::Rng;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use crate::{
    corpus::{
        Case,
        script::{
            Attempt, Before, Evicted, Evictor, Exits, Fate, Hangs, Lack, Loss, NeverStarts,
            NodeLost, Nothing, Reason, Soon, Succeeds, Vanishes,
        },
    },
    pools::POOLS,
    tools::TOOL,
    trace::fingerprint,
};

/// What tells the chance of tools from that of everything else.
const SALT_OF_TOOLS: u64 = 0x7001;

/// What tells the chance of items from that of everything else.
const SALT_OF_ITEMS: u64 = 0xe0b3;

/// What tells the chance of pools from that of everything else.
const SALT_OF_POOLS: u64 = 0x9001;

/// A workflow and when it is created, in milliseconds.
#[derive(Clone, Debug)]
pub struct Planned {
    pub name: String,
    pub at: u64,
    pub spec: Value,
}

/// What a user does to a workflow.
#[derive(Clone, Debug)]
pub enum Act {
    /// Changes its spec by a merge patch.
    Patch(Value),
    Delete,
}

/// What a world is about.
#[derive(Clone, Debug)]
pub struct Scenario {
    seed: u64,
    pub workflows: Vec<Planned>,
    /// When, to which workflow, and what.
    pub acts: Vec<(u64, String, Act)>,
    /// The case of the corpus that is played; its script then says what pods and users do.
    pub case: Option<Arc<Case>>,
    /// How often pods end well, of 10.
    good: u8,
    /// When faults stop.
    pub quiet_at: u64,
    pub replicas: usize,
    /// How long a deleted object waits for NATS, in seconds.
    pub grace: u64,
    /// Some tasks call a tool.
    pub tools: bool,
    /// Some tasks are run by a pool.
    pub pools: bool,
}

impl Scenario {
    /// One workflow whose pods all succeed.
    pub fn hello() -> Scenario {
        let spec = json!({"tasks": [
            {"name": "greet", "container": {"image": "busybox:1.36"}},
            {"name": "shout", "container": {"image": "busybox:1.36"}, "dependsOn": ["greet"],
             "with": {"text": "${{ tasks.greet.outputs.n }}"}},
        ]});
        Scenario {
            seed: 0,
            workflows: vec![Planned {
                name: "hello".to_owned(),
                at: 100,
                spec,
            }],
            acts: Vec::new(),
            case: None,
            good: 10,
            quiet_at: 0,
            replicas: 1,
            grace: 300,
            tools: false,
            pools: false,
        }
    }

    /// The same, run by a pool.
    pub fn hello_pool() -> Scenario {
        let mut hello = Scenario::hello();
        let tasks = hello.workflows[0].spec["tasks"].as_array_mut();
        for task in tasks.into_iter().flatten() {
            task["container"].take();
            task["pool"] = json!({"name": POOLS[0]});
        }
        hello.pools = true;
        hello
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A case of the corpus.
    pub fn of(case: &Arc<Case>) -> Scenario {
        Scenario {
            workflows: vec![Planned {
                name: case.name.clone(),
                // The operator is there by then.
                at: 1000,
                spec: json!(case.workflow.spec),
            }],
            case: Some(case.clone()),
            ..Scenario::hello()
        }
    }

    /// What this seed is about.
    pub fn draw(seed: u64) -> Scenario {
        let mut dice = Rng::with_seed(seed ^ 0x5ce0);
        let quiet_at = dice.u64(20_000..150_000);
        let count = 1 + usize::from(dice.u8(..3) == 0) + usize::from(dice.u8(..4) == 0);
        let mut workflows: Vec<_> = (0..count)
            .map(|index| Planned {
                name: format!("w{index}"),
                at: dice.u64(100..quiet_at / 2),
                spec: workflow(&mut dice),
            })
            .collect();
        let mut acts: Vec<_> = workflows
            .iter()
            .flat_map(|planned| acts(&mut dice, planned, quiet_at))
            .collect();
        // Of chance of its own: worlds without items stay what they are.
        let mut dice_of_items = Rng::with_seed(seed ^ SALT_OF_ITEMS);
        if one_in(&mut dice_of_items, 4) {
            for planned in &mut workflows {
                give_items(&mut dice_of_items, &mut planned.spec);
            }
        }
        let mut dice_of_tools = Rng::with_seed(seed ^ SALT_OF_TOOLS);
        let tools = one_in(&mut dice_of_tools, 4);
        if tools {
            for planned in &mut workflows {
                give_tools(&mut dice_of_tools, &mut planned.spec);
            }
        }
        let mut dice_of_pools = Rng::with_seed(seed ^ SALT_OF_POOLS);
        let pools = dice_of_pools.bool();
        if pools {
            for index in 0..dice_of_pools.u8(1..3) {
                let planned = Planned {
                    name: format!("p{index}"),
                    at: dice_of_pools.u64(100..quiet_at / 2),
                    spec: workflow(&mut dice_of_pools),
                };
                acts.extend(self::acts(&mut dice_of_pools, &planned, quiet_at));
                workflows.push(planned);
            }
            for planned in &mut workflows {
                give_pools(&mut dice_of_pools, &mut planned.spec);
            }
        }
        Scenario {
            seed,
            workflows,
            acts,
            case: None,
            good: dice.u8(2..10),
            quiet_at,
            replicas: 1 + usize::from(dice.bool()),
            grace: dice.choice([5, 60, 300]).unwrap_or(300),
            tools,
            pools,
        }
    }

    /// The script of a pod; none if it is a stranger's.
    pub fn attempt(&self, pod: &Pod) -> Option<Attempt> {
        let labels = pod.metadata.labels.as_ref()?;
        let workflow = labels.get(LABEL_WORKFLOW)?;
        let task = labels.get(LABEL_TASK)?;
        let attempt: u32 = labels.get(LABEL_ATTEMPT)?.parse().ok()?;
        let item = labels.get(LABEL_INDEX);
        let of = item.map(|item| format!("{task}/{item}"));
        let task = of.as_ref().unwrap_or(task);
        if let Some(case) = &self.case {
            return case.attempt(task, attempt).cloned();
        }
        if self.seed == 0 {
            return Some(Attempt {
                before: Before::default(),
                fate: succeeds_at_once(),
            });
        }
        let of = fingerprint(&(self.seed, workflow, task, attempt));
        Some(script(&mut Rng::with_seed(of), self.good))
    }
}

fn one_in(dice: &mut Rng, count: u32) -> bool {
    dice.u32(..count) == 0
}

fn workflow(dice: &mut Rng) -> Value {
    let count = dice.usize(1..7);
    let mut tasks: Vec<Value> = Vec::new();
    for index in 0..count {
        tasks.push(task(dice, index));
    }
    let mut spec = json!({"tasks": tasks, "inputs": {"who": "world"}});
    if one_in(dice, 2) {
        spec["parallelism"] = json!(dice.u32(1..4));
    }
    if one_in(dice, 3) {
        spec["timeout"] = json!(format!("{}s", dice.u32(5..300)));
    }
    if one_in(dice, 3) {
        spec["failurePolicy"] = json!(dice.choice(["FailFast", "Complete", "Cancel"]));
    }
    if one_in(dice, 5) {
        spec["ttl"] = json!({});
        for after in ["afterSucceeded", "afterFailed"] {
            if dice.bool() {
                spec["ttl"][after] = json!(format!("{}s", dice.u32(0..90)));
            }
        }
    }
    if one_in(dice, 12) {
        spec["suspend"] = json!(true);
    }
    if one_in(dice, 4) {
        spec["outputs"] = json!({"last": format!("${{{{ tasks.t{}.outputs.n }}}}", count - 1)});
    }
    spec
}

fn task(dice: &mut Rng, index: usize) -> Value {
    let mut task = json!({"name": format!("t{index}"), "container": {"image": "busybox:1.36"}});
    let mut needs = Vec::new();
    for other in 0..index {
        if one_in(dice, 3) {
            needs.push(format!("t{other}"));
        }
    }
    if let Some(first) = needs.first()
        && one_in(dice, 3)
    {
        task["with"] = json!({"n": format!("${{{{ tasks.{first}.outputs.n }}}}")});
    }
    if !needs.is_empty() {
        task["dependsOn"] = json!(needs);
    }
    if one_in(dice, 2) {
        let backoff = json!({"initial": format!("{}s", dice.u32(1..8)), "max": "30s"});
        task["retry"] = json!({"maxAttempts": dice.u32(1..5), "backoff": backoff});
    }
    if one_in(dice, 2) {
        task["infrastructureRetries"] = json!(dice.u32(0..4));
    }
    if one_in(dice, 4) {
        task["timeout"] = json!(format!("{}s", dice.u32(2..30)));
    }
    if one_in(dice, 6) {
        task["deadline"] = json!(format!("{}s", dice.u32(10..200)));
    }
    if one_in(dice, 3) {
        task["imagePullTimeout"] = json!(format!("{}s", dice.u32(5..60)));
    }
    if one_in(dice, 5) {
        task["onFailure"] = json!("Continue");
    }
    task
}

/// One of the tasks, or more, runs once for each item.
fn give_items(dice: &mut Rng, spec: &mut Value) {
    let count = spec["tasks"].as_array().map_or(0, Vec::len);
    let mut chosen = vec![dice.usize(..count)];
    if one_in(dice, 3) {
        chosen.push(dice.usize(..count));
    }
    for index in chosen {
        let task = &mut spec["tasks"][index];
        let items: Vec<u32> = (0..dice.u32(..6)).collect();
        let first = task["dependsOn"][0].as_str().map(str::to_owned);
        let items = match first.filter(|_| dice.bool()) {
            Some(first) => json!(format!("${{{{ {items:?} + [tasks.{first}.outputs.n] }}}}")),
            None => json!(items),
        };
        task["forEach"] = json!({"items": items});
        if dice.bool() {
            task["forEach"]["maxParallel"] = json!(dice.u32(1..4));
        }
        if dice.bool() {
            let policy = dice.choice(["FailFast", "Complete", "Cancel"]);
            task["forEach"]["failurePolicy"] = json!(policy);
        }
        if task["with"].is_null() {
            task["with"] = json!({"item": "${{ item }}", "index": "${{ index }}"});
        }
        // Whoever takes what it gives gets a list.
        let (one, all) = (
            format!("tasks.t{index}.outputs.n"),
            format!("tasks.t{index}.outputs"),
        );
        let text = spec.to_string().replace(&one, &all);
        *spec = serde_json::from_str(&text).unwrap_or_default();
    }
}

/// Some of the tasks call a tool instead of running a pod.
fn give_tools(dice: &mut Rng, spec: &mut Value) {
    for task in spec["tasks"].as_array_mut().into_iter().flatten() {
        if let Some(task) = task.as_object_mut().filter(|_| dice.bool()) {
            task.remove("container");
            task.remove("imagePullTimeout");
            task.insert("tool".to_owned(), json!({"name": TOOL}));
        }
    }
}

/// Some of the tasks that have a pod are run by a pool's worker instead.
fn give_pools(dice: &mut Rng, spec: &mut Value) {
    for task in spec["tasks"].as_array_mut().into_iter().flatten() {
        let chosen = dice.u8(..3) > 0;
        let pool = dice.choice(POOLS);
        if let Some(task) = task.as_object_mut().filter(|_| chosen)
            && task.remove("container").is_some()
        {
            task.remove("imagePullTimeout");
            task.insert("pool".to_owned(), json!({"name": pool}));
        }
    }
}

fn acts(dice: &mut Rng, planned: &Planned, quiet_at: u64) -> Vec<(u64, String, Act)> {
    let mut acts = Vec::new();
    let mut add = |dice: &mut Rng, act: Act| {
        let at = dice.u64(planned.at + 50..quiet_at + 20_000);
        acts.push((at, planned.name.clone(), act));
    };
    if one_in(dice, 5) {
        let cancel = json!({"spec": {"cancel": {"reason": "enough"}}});
        add(dice, Act::Patch(cancel));
    }
    if one_in(dice, 8) {
        add(dice, Act::Delete);
    }
    if planned.spec["suspend"] == true || one_in(dice, 5) {
        for _ in 0..dice.u8(1..4) {
            for suspend in [true, false] {
                add(dice, Act::Patch(json!({"spec": {"suspend": suspend}})));
            }
        }
        // Whoever suspends a run lets it go on in the end.
        let resume = Act::Patch(json!({"spec": {"suspend": false}}));
        acts.push((quiet_at + 20_000, planned.name.clone(), resume));
    }
    acts
}

fn seconds(dice: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(dice.u64(200..most * 1000))
}

/// What a pod does.
fn script(dice: &mut Rng, good: u8) -> Attempt {
    let mut before = Before::default();
    if one_in(dice, 8) {
        before.unscheduled = Some(seconds(dice, 40));
    }
    if one_in(dice, 10) {
        before.pull_fails = Some(seconds(dice, 40));
    }
    if one_in(dice, 3) {
        before.starting = Some(seconds(dice, 12));
    }
    before.injected = one_in(dice, 12);
    let fate = match dice.u8(..10) < good {
        true => succeeds(dice),
        false => fails(dice),
    };
    Attempt { before, fate }
}

fn succeeds_at_once() -> Fate {
    let outputs = Map::from_iter([("n".to_owned(), json!(1))]);
    Fate::Succeeds(Succeeds {
        outputs: Some(outputs),
        writes: None,
        fills: None,
        after: Duration::from_secs(1),
    })
}

fn succeeds(dice: &mut Rng) -> Fate {
    let outputs = Map::from_iter([("n".to_owned(), json!(dice.u32(..100)))]);
    Fate::Succeeds(Succeeds {
        outputs: Some(outputs),
        writes: None,
        fills: None,
        after: seconds(dice, 20),
    })
}

fn fails(dice: &mut Rng) -> Fate {
    let soon = |dice: &mut Rng| Soon {
        after: seconds(dice, 15),
    };
    match dice.u8(..20) {
        0..4 => Fate::Exits(Exits {
            code: dice.choice([1, 2, 137, 143]).unwrap_or(1),
            log: "it went wrong".to_owned(),
            writes: None,
            after: seconds(dice, 15),
        }),
        4 => Fate::OutOfMemory(soon(dice)),
        5..8 => Fate::Evicted(Evicted {
            by: dice
                .choice([
                    Evictor::Api,
                    Evictor::Preemption,
                    Evictor::Taint,
                    Evictor::Pressure,
                    Evictor::OwnLimit,
                ])
                .unwrap_or(Evictor::Api),
            after: seconds(dice, 15),
        }),
        8..11 => Fate::NodeLost(NodeLost {
            how: dice
                .choice([Loss::Removed, Loss::Shutdown, Loss::Forgotten, Loss::Silent])
                .unwrap_or(Loss::Removed),
            after: seconds(dice, 15),
        }),
        11 => Fate::RefusedByNode(Reason {
            reason: "OutOfcpu".to_owned(),
            message: "Pod was rejected: Node didn't have enough resource: cpu".to_owned(),
        }),
        12 => Fate::CannotStart(Reason {
            reason: "StartError".to_owned(),
            message: "exec: \"no-such-program\": not found".to_owned(),
        }),
        13 => Fate::NeverStarts(NeverStarts {
            lacks: dice
                .choice([
                    Lack::Node,
                    Lack::Image,
                    Lack::ImageName,
                    Lack::User,
                    Lack::Secret,
                    Lack::Volume,
                ])
                .unwrap_or(Lack::Node),
            message: String::new(),
        }),
        14 => Fate::InitFails(Nothing {}),
        15 => Fate::Deleted(soon(dice)),
        16 => Fate::Vanishes(Vanishes {
            after: soon(dice).after,
            name_taken: None,
        }),
        17 => Fate::Overstays(soon(dice)),
        18 => Fate::Hangs(Hangs {
            ignores_term: dice.bool(),
        }),
        _ => Fate::Succeeds(Succeeds {
            outputs: None,
            writes: dice.bool().then(|| "not json".to_owned()),
            fills: Some(dice.usize(4000..6000)),
            after: seconds(dice, 10),
        }),
    }
}
