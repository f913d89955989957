//! The systematic mode: a case is played undisturbed, and then again once for every place in its
//! course at which something can go wrong. Whatever it was and wherever, the end is the same.

pub mod disturbance;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use disturbance::{Disturbance, Place};
use serde_json::Value;

use crate::{
    cases::{self, UnderWay},
    corpus::Case,
    given,
    seed::Outcome,
};

/// Cases of which every place is tried.
const CORE: [&str; 9] = [
    "one-task",
    "diamond-with-retry",
    "cancel-while-it-runs",
    "cancel-on-failure",
    "suspended-while-it-runs",
    "workflow-deleted",
    "ttl-over",
    "no-attempt-has-less-than-its-timeout",
    "pod-vanished",
];

/// Cases whose end depends on how soon the operator does something, and what it has to be in time
/// for. Nothing is tried there that holds it up.
const TIMED: &[(&str, &str)] = &[
    (
        "attempt-timeout-counts-while-suspended",
        "the timeout, before the run goes on",
    ),
    (
        "cancel-after-the-end",
        "the end of the run, before the cancel",
    ),
    ("cancel-after-the-timeout", "the timeout, before the cancel"),
    (
        "cancel-while-the-image-is-pulled",
        "the pod, before the cancel",
    ),
    ("cancel-without-a-node", "the pod, before the cancel"),
    (
        "cancelled-while-suspended",
        "the suspension, before the cancel",
    ),
    ("deadline-in-a-pause", "the failure, before the deadline"),
    (
        "deadline-stands-still-while-suspended",
        "the failure, before the deadline",
    ),
    ("deadline-while-it-runs", "the start, before the deadline"),
    ("fail-fast", "the failure, before the other task ends"),
    ("item-fails", "the failure, before the other item ends"),
    (
        "item-fails-and-ends-the-others",
        "the start of an item, before the other fails",
    ),
    (
        "items-cancelled",
        "the start of the items, before the cancel",
    ),
    (
        "items-suspended",
        "the first item, before the run is suspended",
    ),
    (
        "name-taken-after-it-had-begun",
        "the pod's start, before it vanishes",
    ),
    ("pod-vanished", "the pod's start, before it vanishes"),
    ("run-timeout", "the start, before the timeout"),
    (
        "run-timeout-on-a-node-that-does-not-answer",
        "the start, before the timeout",
    ),
    (
        "run-timeout-stands-still-while-suspended",
        "the start, before the timeout",
    ),
    (
        "task-execution-taken-away",
        "the task execution, before it is taken away",
    ),
];

/// Of the other cases one place of so many is tried, of the core cases so many times as many.
/// `STRIDE` says otherwise: `make sim` plays all of the core cases, on optimised code.
const STRIDE: u64 = 800;
const CORE_WEIGHT: u64 = 20;
/// In one case at least one place of so many: the fewer places, the fewer cases.
const IN_A_CASE: u64 = 50;

/// So many that went wrong are told in full.
const ENOUGH: usize = 10;

/// Lines of a trace before and after the place.
const BEFORE: usize = 15;
const AFTER: usize = 45;

type Ending = BTreeMap<String, Value>;

/// A place in a case's course, and how the case ends undisturbed.
struct Trial {
    case: Arc<Case>,
    place: Place,
    ending: Arc<Ending>,
}

/// Every place of a case, and how it ends undisturbed.
fn trials(case: &Arc<Case>) -> Vec<Trial> {
    let alone = cases::play(case, false, None);
    let beside_a_standby = cases::play(case, true, None);
    let ending = Arc::new(ending(&alone));
    let mut trials = Vec::new();
    for what in wanted() {
        let course = match what.has_standby() {
            true => &beside_a_standby,
            false => &alone,
        };
        assert!(
            course.broken.is_empty(),
            "{}: {:?}",
            case.name,
            course.broken
        );
        if what.holds_up() && TIMED.iter().any(|(name, _)| *name == case.name) {
            continue;
        }
        let places = 1..=course.world.lock().course.passed(what.spot());
        trials.extend(places.map(|at| Trial {
            case: case.clone(),
            place: Place { what, at },
            ending: ending.clone(),
        }));
    }
    trials
}

/// All disturbances, or the one that `DISTURBANCE` names.
fn wanted() -> Vec<Disturbance> {
    let named = std::env::var("DISTURBANCE").ok();
    match named.filter(|named| !named.is_empty()) {
        Some(named) => vec![named.parse().unwrap()],
        None => Disturbance::ALL.to_vec(),
    }
}

fn ending(outcome: &Outcome) -> Ending {
    let world = outcome.world.lock();
    world
        .case
        .as_ref()
        .map(UnderWay::ending)
        .unwrap_or_default()
}

impl Trial {
    /// What is wrong, if anything is.
    fn run(&self) -> Option<String> {
        let played = catch_unwind(AssertUnwindSafe(|| self.play()));
        let Ok(outcome) = played else {
            return Some(self.describe(&["a panic, see above".to_owned()], &[]));
        };
        let mut wrong = outcome.broken.clone();
        if !outcome.world.lock().course.happened {
            wrong.push("the course never came there".to_owned());
        }
        if !self.place.what.takes_from_the_end() {
            wrong.extend(differences(&self.ending, &ending(&outcome)));
        }
        (!wrong.is_empty()).then(|| self.describe(&wrong, &outcome.trace))
    }

    fn play(&self) -> Outcome {
        let standby = self.place.what.has_standby();
        cases::play(&self.case, standby, Some(self.place))
    }

    fn describe(&self, wrong: &[String], trace: &[String]) -> String {
        let place = trace.iter().position(|line| line.contains(" fault "));
        let place = place.unwrap_or(trace.len());
        let around = place.saturating_sub(BEFORE)..trace.len().min(place + AFTER);
        format!(
            "{} {}:\n  {}\n{}\nall of it: make sim PLACE='{} {}'\n",
            self.case.name,
            self.place,
            wrong.join("\n  "),
            trace[around].join("\n"),
            self.case.name,
            self.place,
        )
    }
}

fn differences(undisturbed: &Ending, disturbed: &Ending) -> Vec<String> {
    let parts: BTreeSet<_> = undisturbed.keys().chain(disturbed.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    parts
        .into_iter()
        .map(|part| (part, undisturbed.get(part), disturbed.get(part)))
        .filter(|(_, undisturbed, disturbed)| undisturbed != disturbed)
        .map(|(part, undisturbed, disturbed)| {
            let (undisturbed, disturbed) = (shown(undisturbed), shown(disturbed));
            format!("{part}: undisturbed {undisturbed}, disturbed {disturbed}")
        })
        .collect()
}

/// Tries one place of `stride`, side by side, and says how many there were.
fn try_some(what: &str, cases: &[Arc<Case>], stride: u64) {
    let began = Instant::now();
    let all = cases.iter().flat_map(trials).zip(0..);
    let some = all.filter(|(_, number)| number % stride == 0);
    let trials: Vec<_> = some.map(|(trial, _)| trial).collect();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = trial.run();
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    println!(
        "{} places in {} {what} in {:.1} s",
        trials.len(),
        cases.len(),
        began.elapsed().as_secs_f64()
    );
    let wrong = wrong.into_inner().unwrap();
    let told = wrong.iter().take(ENOUGH).cloned().collect::<Vec<_>>();
    let rest = wrong.iter().skip(ENOUGH);
    let rest: Vec<_> = rest.filter_map(|wrong| wrong.lines().next()).collect();
    assert!(
        wrong.is_empty(),
        "\n{}\n{}",
        told.join("\n"),
        rest.join("\n")
    );
}

/// The one place that `PLACE` names, told in full; whether one was named.
fn try_named(cases: &[Arc<Case>]) -> bool {
    let Ok(named) = std::env::var("PLACE") else {
        return false;
    };
    let words: Vec<_> = named.split(' ').collect();
    let [name, what, at] = words[..] else {
        panic!("{named:?} is not like `one-task CrashBefore 3`");
    };
    let case = cases.iter().find(|case| case.name == name);
    let Some(case) = case else {
        let all = cases::all();
        assert!(all.iter().any(|case| case.name == name), "no case {name}");
        return true;
    };
    let place = Place {
        what: what.parse().unwrap(),
        at: at.parse().unwrap(),
    };
    let trial = Trial {
        case: case.clone(),
        place,
        ending: Arc::new(ending(&cases::play(case, false, None))),
    };
    println!("{}", trial.play().trace.join("\n"));
    let wrong = trial.run();
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    true
}

fn is_core(case: &Case) -> bool {
    CORE.contains(&case.name.as_str())
}

#[test]
fn core_cases_end_as_undisturbed_wherever_something_goes_wrong() {
    let cases: Vec<_> = cases::all()
        .into_iter()
        .filter(|case| is_core(case))
        .collect();
    assert_eq!(cases.len(), CORE.len());
    if !try_named(&cases) {
        let stride = given("STRIDE").unwrap_or(STRIDE) / CORE_WEIGHT;
        try_some("core cases", &cases, stride.max(1));
    }
}

#[test]
fn other_cases_end_as_undisturbed_wherever_something_goes_wrong() {
    let all = cases::all();
    for (name, why) in TIMED {
        let known = all.iter().any(|case| case.name == *name);
        assert!(known, "there is no case {name}, which waits for {why}");
    }
    let cases: Vec<_> = all.into_iter().filter(|case| !is_core(case)).collect();
    if !try_named(&cases) {
        let stride = given("STRIDE").unwrap_or(STRIDE).max(1);
        let some = cases.into_iter().zip(0..);
        let some = some.filter(|(_, number)| number % (stride / IN_A_CASE).max(1) == 0);
        let some: Vec<_> = some.map(|(case, _)| case).collect();
        try_some("other cases", &some, stride.min(IN_A_CASE));
    }
}
