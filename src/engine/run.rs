//! A run's graph in motion: which tasks may start, which are skipped, whether all has ended.
//!
//! Incremental: observing a task costs its dependents, not the size of the run. The state is
//! rebuilt from the task executions alone; nothing here is stored anywhere else.

use std::collections::BTreeSet;

use crate::{
    api::{FailurePolicy, OnFailure, TaskPhase, Time},
    engine::definition::Definition,
};

/// Position of a task in `spec.tasks`.
pub type TaskIndex = usize;

/// Where a task is in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Some dependency has not ended.
    Waiting,
    /// May start as soon as there is room.
    Ready,
    /// Its task execution exists; the last phase seen.
    Active(TaskPhase),
    /// Its task execution ended.
    Ended(TaskPhase),
    /// Will not start.
    Skipped,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    state: NodeState,
    /// Dependencies that have not ended.
    blockers: usize,
    /// Whether its dependents know of its end: they learn it once.
    settled: bool,
}

/// A task that failed the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailedTask {
    /// When it ended.
    pub at: Time,
    /// Which task.
    pub task: TaskIndex,
}

/// The state of one run.
#[derive(Clone, Debug)]
pub struct Run {
    nodes: Vec<Node>,
    ready: BTreeSet<TaskIndex>,
    active: BTreeSet<TaskIndex>,
    ended: usize,
    halted: bool,
    first_failure: Option<FailedTask>,
    /// Tasks and edges looked at so far: what the run has cost.
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
                blockers: task.dependencies.len(),
                settled: false,
            })
            .collect();
        let mut run = Run {
            ready: BTreeSet::new(),
            active: BTreeSet::new(),
            ended: 0,
            halted: false,
            visits: 0,
            first_failure: None,
            nodes,
        };
        for task in 0..run.nodes.len() {
            run.make_ready_if_free(task);
        }
        run
    }

    /// Takes in what a task execution shows. `ended_at` is its `finishedAt`.
    ///
    /// Observing the same again changes nothing; a final phase is never left.
    pub fn observe(
        &mut self,
        definition: &Definition,
        task: TaskIndex,
        phase: TaskPhase,
        ended_at: Time,
    ) {
        match self.nodes[task].state {
            NodeState::Ended(_) => return,
            // It exists after all: a run halted by an older view of the world, or a task whose
            // dependencies were seen later than itself. What exists counts.
            NodeState::Skipped => self.ended -= 1,
            NodeState::Waiting | NodeState::Ready | NodeState::Active(_) => {}
        }
        self.ready.remove(&task);
        if !phase.is_final() {
            self.nodes[task].state = NodeState::Active(phase);
            self.active.insert(task);
            return;
        }
        self.active.remove(&task);
        self.nodes[task].state = NodeState::Ended(phase);
        self.ended += 1;
        let tolerated = definition.tasks()[task].on_failure == OnFailure::Continue;
        let good = phase == TaskPhase::Succeeded || tolerated;
        if !good {
            let failure = FailedTask { at: ended_at, task };
            self.first_failure = Some(
                self.first_failure
                    .map_or(failure, |first| first.min(failure)),
            );
            if definition.failure_policy() != FailurePolicy::Complete {
                self.halted = true;
            }
        }
        self.settle_dependents(definition, task, good);
    }

    /// Nothing new starts from now on.
    pub fn halt(&mut self) {
        self.halted = true;
    }

    /// The tasks to start now, in the order of the spec, as many as `parallelism` has room for.
    /// They count as started only once observed.
    pub fn startable(&self, definition: &Definition) -> Vec<TaskIndex> {
        if self.halted {
            return Vec::new();
        }
        let room = definition.parallelism().saturating_sub(self.active.len());
        self.ready.iter().copied().take(room).collect()
    }

    /// The tasks whose execution has not ended.
    pub fn active(&self) -> impl Iterator<Item = TaskIndex> + '_ {
        self.active.iter().copied()
    }

    /// Whether nothing runs and nothing will.
    pub fn is_over(&self) -> bool {
        self.active.is_empty() && (self.halted || self.ready.is_empty())
    }

    /// Whether there are tasks whose time had come that were not seen to start.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether nothing new starts.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// The failure that fails the run: the earliest one.
    pub fn first_failure(&self) -> Option<FailedTask> {
        self.first_failure
    }

    /// How many tasks and edges were looked at since the run began: linear in the graph.
    pub fn visits(&self) -> usize {
        self.visits
    }

    /// How many tasks have ended or were skipped.
    pub fn done(&self) -> usize {
        if self.is_over() {
            self.nodes.len()
        } else {
            self.ended
        }
    }

    /// A task's state as people see it: what will not start any more is skipped.
    pub fn state(&self, task: TaskIndex) -> NodeState {
        match self.nodes[task].state {
            NodeState::Waiting | NodeState::Ready if self.halted => NodeState::Skipped,
            state => state,
        }
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
                        self.ended += 1;
                        settled.push((dependent, false));
                    }
                    NodeState::Waiting => self.make_ready_if_free(dependent),
                    _ => {}
                }
            }
        }
    }

    fn make_ready_if_free(&mut self, task: TaskIndex) {
        if self.nodes[task].blockers == 0 {
            self.nodes[task].state = NodeState::Ready;
            self.ready.insert(task);
        }
    }
}
