//! A run's graph in motion: which tasks may start, which are skipped, whether all has ended.
//!
//! Incremental: observing a task costs its dependents, not the size of the run, and observing one
//! item of a `forEach` costs the same however many there are. The state is rebuilt from the task
//! executions alone; nothing here is stored anywhere else.

mod for_each;
mod items;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::items::Items;
use crate::{
    api::{FailurePolicy, OnFailure, Stop, TaskPhase, Time},
    engine::definition::Definition,
};

/// Position of a task in `spec.tasks`.
pub type TaskIndex = usize;

/// Which task execution of a run: that of a task, or that of one item of its `forEach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionIndex {
    /// The task.
    pub task: TaskIndex,
    /// The item, from 0. A task with `forEach` has an execution without one only to say why it has
    /// no items.
    pub item: Option<u32>,
}

impl ExecutionIndex {
    /// That of an item.
    pub fn of_item(task: TaskIndex, item: u32) -> ExecutionIndex {
        let item = Some(item);
        ExecutionIndex { task, item }
    }
}

impl From<TaskIndex> for ExecutionIndex {
    fn from(task: TaskIndex) -> ExecutionIndex {
        ExecutionIndex { task, item: None }
    }
}

/// Where a task is in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Some dependency has not ended.
    Waiting,
    /// May start as soon as there is room.
    Ready,
    /// Its task execution exists; the last phase seen. Of a task with items, some have begun.
    Active(TaskPhase),
    /// Its task execution ended; all that it has.
    Ended(TaskPhase),
    /// Will not start.
    Skipped,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    state: NodeState,
    /// Whether its failure counts as success.
    tolerated: bool,
    /// Dependencies that have not ended.
    blockers: usize,
    /// Whether its dependents know of its end: they learn it once.
    settled: bool,
    /// For how much it counts: each item is one.
    size: usize,
    /// How much of that has ended or will not start.
    done: usize,
}

/// A task execution that failed the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// When its task had failed.
    pub at: Time,
    /// Which.
    pub of: ExecutionIndex,
}

/// The state of one run.
#[derive(Clone, Debug)]
pub struct Run {
    nodes: Vec<Node>,
    /// Of tasks with `forEach`: shared by copies of the run until one of them changes.
    items: BTreeMap<TaskIndex, Arc<Items>>,
    /// Tasks that may start as soon as their items are known.
    unexpanded: BTreeSet<TaskIndex>,
    /// Why a task cannot have items.
    refused: BTreeMap<TaskIndex, Stop>,
    ready: BTreeSet<TaskIndex>,
    /// Tasks of which a failed item keeps others from starting.
    cut_short: BTreeSet<TaskIndex>,
    active: BTreeSet<ExecutionIndex>,
    size: usize,
    done: usize,
    halted: bool,
    /// The failure of each task that failed the run.
    failed: BTreeMap<TaskIndex, Failure>,
    /// The same in their order.
    failures: BTreeSet<Failure>,
    /// Tasks, edges and items looked at so far: what the run has cost.
    visits: usize,
}

impl Run {
    /// A run of which nothing has been seen yet.
    pub fn new(definition: &Definition) -> Run {
        let nodes: Vec<Node> = definition
            .tasks()
            .iter()
            .map(|task| Node {
                state: NodeState::Waiting,
                tolerated: task.on_failure == OnFailure::Continue,
                blockers: task.dependencies.len(),
                settled: false,
                size: 1,
                done: 0,
            })
            .collect();
        let mut run = Run {
            items: BTreeMap::new(),
            unexpanded: BTreeSet::new(),
            refused: BTreeMap::new(),
            ready: BTreeSet::new(),
            cut_short: BTreeSet::new(),
            active: BTreeSet::new(),
            size: nodes.len(),
            done: 0,
            halted: false,
            visits: 0,
            failed: BTreeMap::new(),
            failures: BTreeSet::new(),
            nodes,
        };
        for task in 0..run.nodes.len() {
            run.make_ready_if_free(definition, task);
        }
        run
    }

    /// Takes in what a task execution shows. `ended_at` is its `finishedAt`.
    ///
    /// Observing the same again changes nothing; a final phase is never left.
    pub fn observe(
        &mut self,
        definition: &Definition,
        which: impl Into<ExecutionIndex>,
        phase: TaskPhase,
        ended_at: Time,
    ) {
        let which = which.into();
        match which.item {
            None => self.observe_whole(definition, which.task, phase, ended_at),
            Some(item) => self.observe_item(definition, which.task, item, phase, ended_at),
        }
    }

    fn observe_whole(
        &mut self,
        definition: &Definition,
        task: TaskIndex,
        phase: TaskPhase,
        ended_at: Time,
    ) {
        // One that was skipped exists after all: a run halted by an older view of the world, or a
        // task whose dependencies were seen later than itself. What exists counts.
        if phase.is_final() {
            self.active.remove(&task.into());
        }
        if matches!(self.nodes[task].state, NodeState::Ended(_)) {
            return;
        }
        self.unexpanded.remove(&task);
        self.ready.remove(&task);
        if !phase.is_final() {
            self.nodes[task].state = NodeState::Active(phase);
            self.active.insert(task.into());
            self.count(task);
            return;
        }
        self.nodes[task].state = NodeState::Ended(phase);
        self.count(task);
        let good = phase == TaskPhase::Succeeded || self.nodes[task].tolerated;
        if !good {
            let of = task.into();
            self.fail(definition, Failure { at: ended_at, of });
        }
        self.settle_dependents(definition, task, good);
    }

    /// Nothing new starts from now on.
    pub fn halt(&mut self) {
        self.halted = true;
    }

    /// The task executions to start now, in the order of the spec, as many as `parallelism` and
    /// each task's `maxParallel` have room for. They count as started only once observed.
    pub fn startable(&self, definition: &Definition) -> Vec<ExecutionIndex> {
        let mut starts = Vec::new();
        if self.halted {
            return starts;
        }
        let room = definition.parallelism().saturating_sub(self.active.len());
        for &task in &self.ready {
            let left = room - starts.len();
            if left == 0 {
                break;
            }
            let for_each = definition.tasks()[task].for_each.as_ref();
            match (for_each, self.items.get(&task)) {
                (Some(for_each), Some(items)) if items.is_known() => {
                    let running = items.running() as usize;
                    let most = for_each.max_parallel.saturating_sub(running);
                    let next = items.fresh().take(left.min(most));
                    starts.extend(next.map(|item| ExecutionIndex::of_item(task, item)));
                }
                _ if self.unexpanded.contains(&task) => {}
                _ => starts.push(task.into()),
            }
        }
        starts
    }

    /// The task executions that have not ended.
    pub fn active(&self) -> impl Iterator<Item = ExecutionIndex> + '_ {
        self.active.iter().copied()
    }

    /// Those of one task.
    pub fn active_of(&self, task: TaskIndex) -> impl Iterator<Item = ExecutionIndex> + '_ {
        let all = ExecutionIndex::from(task)..ExecutionIndex::from(task + 1);
        self.active.range(all).copied()
    }

    /// Every task execution that has begun.
    pub fn begun(&self) -> impl Iterator<Item = ExecutionIndex> + '_ {
        let items = self.items.iter();
        let items = items.flat_map(|(&task, items)| {
            let begun = items.begun();
            begun.map(move |item| ExecutionIndex::of_item(task, item))
        });
        let whole = (0..self.nodes.len()).map(ExecutionIndex::from);
        whole.filter(|which| self.has_begun(*which)).chain(items)
    }

    /// Whether a task execution has begun.
    pub fn has_begun(&self, which: ExecutionIndex) -> bool {
        let items = self.items.get(&which.task);
        match (which.item, items) {
            (Some(item), Some(items)) => items.phase(item).is_some(),
            (None, None) => matches!(
                self.nodes[which.task].state,
                NodeState::Active(_) | NodeState::Ended(_)
            ),
            _ => false,
        }
    }

    /// Whether a task execution is under way.
    pub fn is_active(&self, which: ExecutionIndex) -> bool {
        self.active.contains(&which)
    }

    /// Whether nothing runs and nothing will.
    pub fn is_over(&self) -> bool {
        self.active.is_empty() && (self.halted || self.ready.is_empty())
    }

    /// Whether there are task executions whose time had come that were not seen to start.
    pub fn has_ready(&self) -> bool {
        let unseen = |task: &TaskIndex| self.items[task].fresh().next().is_some();
        !self.ready.is_empty() || self.cut_short.iter().any(unseen)
    }

    /// Whether nothing new starts.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// The failure that fails the run: the earliest one.
    pub fn first_failure(&self) -> Option<Failure> {
        self.failures.first().copied()
    }

    /// How many tasks, edges and items were looked at since the run began: linear in the graph.
    pub fn visits(&self) -> usize {
        self.visits
    }

    /// How many tasks there are. Where items are known each of them counts.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many of them have ended or were skipped.
    pub fn done(&self) -> usize {
        if self.is_over() { self.size } else { self.done }
    }

    /// A task's state as people see it: what will not start any more is skipped.
    pub fn state(&self, task: TaskIndex) -> NodeState {
        match self.nodes[task].state {
            NodeState::Waiting | NodeState::Ready if self.halted => NodeState::Skipped,
            NodeState::Active(phase) if self.halted => match self.items.get(&task) {
                // Its other items will not start.
                Some(items) if items.has_begun() && items.running() == 0 => {
                    NodeState::Ended(items.outcome(self.nodes[task].tolerated))
                }
                _ => NodeState::Active(phase),
            },
            state => state,
        }
    }

    fn fail(&mut self, definition: &Definition, failure: Failure) {
        if let Some(before) = self.failed.insert(failure.of.task, failure) {
            self.failures.remove(&before);
        }
        self.failures.insert(failure);
        if definition.failure_policy() != FailurePolicy::Complete {
            self.halted = true;
        }
    }

    /// Keeps the sums right after a change of this task.
    fn count(&mut self, task: TaskIndex) {
        let items = self.items.get(&task).filter(|items| items.total() > 0);
        let node = &mut self.nodes[task];
        let (size, done) = (node.size, node.done);
        node.size = items.map_or(1, |items| items.total() as usize);
        node.done = match node.state {
            NodeState::Ended(_) | NodeState::Skipped => node.size,
            _ => items.map_or(0, |items| items.ended() as usize),
        };
        self.size = self.size + node.size - size;
        self.done = self.done + node.done - done;
    }

    /// After `task` ended: its dependents lose a blocker, or are skipped with all that follows.
    fn settle_dependents(&mut self, definition: &Definition, task: TaskIndex, good: bool) {
        let mut settled = vec![(task, good)];
        while let Some((task, good)) = settled.pop() {
            if std::mem::replace(&mut self.nodes[task].settled, true) {
                continue;
            }
            self.visits += 1;
            for &dependent in &definition.tasks()[task].dependents {
                self.visits += 1;
                let node = &mut self.nodes[dependent];
                node.blockers -= 1;
                match node.state {
                    NodeState::Waiting | NodeState::Ready if !good => {
                        node.state = NodeState::Skipped;
                        self.ready.remove(&dependent);
                        self.unexpanded.remove(&dependent);
                        self.count(dependent);
                        settled.push((dependent, false));
                    }
                    NodeState::Waiting => self.make_ready_if_free(definition, dependent),
                    NodeState::Active(_) => {
                        let ended = self.settle_items(definition, dependent, good);
                        settled.extend(ended.map(|good| (dependent, good)));
                    }
                    _ => {}
                }
            }
        }
    }

    fn make_ready_if_free(&mut self, definition: &Definition, task: TaskIndex) {
        if self.nodes[task].blockers == 0 {
            self.nodes[task].state = NodeState::Ready;
            self.ready.insert(task);
            if definition.tasks()[task].for_each.is_some() {
                self.unexpanded.insert(task);
            }
        }
    }
}
