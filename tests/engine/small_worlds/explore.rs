//! Every state of a small world, each looked at once.

use std::collections::{HashMap, VecDeque};

use compozy::{
    api::Workflow,
    engine::definition::{Definition, Installation},
};
use serde_json::{Value, json};

use super::{
    moves::{Moves, begin},
    state::{Left, State},
};

/// A world that grew beyond this is not small.
const MAX_STATES: usize = 15_000;

/// What is known of the states seen so far; they are numbered as they are found.
struct Seen {
    /// From which state each was found, and by what.
    found: Vec<(usize, String)>,
    /// States from which each follows with nobody's help.
    before: Vec<Vec<usize>>,
    ends: Vec<usize>,
}

impl Seen {
    /// What happened up to a state, a line each.
    fn story(&self, mut state: usize) -> String {
        let mut lines = Vec::new();
        while state != 0 {
            let (from, label) = &self.found[state];
            lines.push(label.as_str());
            state = *from;
        }
        lines.reverse();
        lines.join("\n  ")
    }

    /// A state from which no end can be reached.
    fn wedged(&self) -> Option<usize> {
        let mut reaches = vec![false; self.found.len()];
        let mut open = self.ends.clone();
        while let Some(state) = open.pop() {
            if !std::mem::replace(&mut reaches[state], true) {
                open.extend(&self.before[state]);
            }
        }
        reaches.iter().position(|reaches| !reaches)
    }
}

/// Visits every state of the world that begins with this spec. Returns how many there are.
pub fn explore(name: &str, spec: &Value, left: Left, progress: bool) -> usize {
    let workflow: Workflow = serde_json::from_value(json!({
        "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
        "metadata": {"name": "w", "namespace": "n", "uid": "run", "generation": 1},
        "spec": spec,
    }))
    .unwrap();
    let definition = Definition::compile(&workflow.spec, &Installation::default()).unwrap();
    let mut moves = Moves::new(&definition, progress);
    let first = begin(workflow, &definition, left);
    let mut numbers = HashMap::from([(first.digest(&definition), 0)]);
    let mut open: VecDeque<(usize, State)> = VecDeque::from([(0, first)]);
    let mut seen = Seen {
        found: vec![(0, String::new())],
        before: vec![Vec::new()],
        ends: Vec::new(),
    };
    while let Some((number, state)) = open.pop_front() {
        let mut alone = true;
        let next_moves = moves.of(&state);
        if let Some(how) = moves.broken.take() {
            panic!("{name}: {how}, after\n  {}", seen.story(number));
        }
        for next in next_moves {
            alone &= !next.needed;
            let digest = next.state.digest(&definition);
            let known = numbers.len();
            let follower = *numbers.entry(digest).or_insert(known);
            if follower == known {
                seen.found.push((number, next.label.clone()));
                seen.before.push(Vec::new());
                if let Some(how) = next.state.broken() {
                    panic!("{name}: {how}, after\n  {}", seen.story(follower));
                }
                open.push_back((follower, next.state));
            }
            if next.needed {
                seen.before[follower].push(number);
            }
        }
        if alone && state.is_over() {
            seen.ends.push(number);
        }
        assert!(
            numbers.len() < MAX_STATES,
            "{name}: more than {MAX_STATES} states"
        );
    }
    if let Some(state) = seen.wedged() {
        panic!("{name}: no way to an end after\n  {}", seen.story(state));
    }
    numbers.len()
}
