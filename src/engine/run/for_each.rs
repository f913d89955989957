//! The tasks of a run that have items.

use std::sync::Arc;

use serde_json::Value;

use super::{ExecutionIndex, Failure, NodeState, Run, TaskIndex};
use crate::{
    api::{ItemCounts, ItemFailurePolicy, Stop, TaskPhase, Time},
    engine::definition::Definition,
};

impl Run {
    /// The items of a task are known; or why it cannot have any, which its one execution tells.
    pub fn expand(
        &mut self,
        definition: &Definition,
        task: TaskIndex,
        items: Result<Vec<Value>, Stop>,
    ) {
        if !self.unexpanded.remove(&task) {
            return;
        }
        match items {
            Ok(values) => {
                self.visits += values.len();
                Arc::make_mut(self.items.entry(task).or_default()).know(values);
                self.look_at_items(definition, task);
            }
            Err(stop) => {
                self.refused.insert(task, stop);
            }
        }
    }

    /// A task that may start as soon as its items are known: see [`Run::expand`].
    pub fn unexpanded(&self) -> Option<TaskIndex> {
        self.unexpanded.first().copied()
    }

    pub(super) fn observe_item(
        &mut self,
        definition: &Definition,
        task: TaskIndex,
        item: u32,
        phase: TaskPhase,
        ended_at: Time,
    ) {
        let Some(for_each) = &definition.tasks()[task].for_each else {
            return;
        };
        self.visits += 1;
        let skipped = self.nodes[task].state == NodeState::Skipped;
        let items = Arc::make_mut(self.items.entry(task).or_default());
        if !items.observe(item, phase, ended_at) {
            return;
        }
        items.unknowable |= skipped;
        let of = ExecutionIndex::of_item(task, item);
        match phase.is_final() {
            true => self.active.remove(&of),
            false => self.active.insert(of),
        };
        let bad = phase.is_final() && phase != TaskPhase::Succeeded && !self.nodes[task].tolerated;
        // Otherwise the task has failed only when all its items have ended.
        if bad && for_each.failure_policy != ItemFailurePolicy::Complete {
            items.cut_short = true;
            if let Some((at, item)) = items.first_failed() {
                let of = ExecutionIndex::of_item(task, item);
                self.fail(definition, Failure { at, of });
            }
        }
        self.look_at_items(definition, task);
    }

    /// The tasks of which a failed item keeps others from starting, or ends them.
    pub fn cut_short(&self) -> impl Iterator<Item = TaskIndex> + '_ {
        self.cut_short.iter().copied()
    }

    /// An item, if the items of the task are known.
    pub fn item(&self, task: TaskIndex, item: u32) -> Option<&Value> {
        self.items.get(&task)?.value(item)
    }

    /// How many items a task has, as far as is known.
    pub fn item_count(&self, task: TaskIndex) -> Option<u32> {
        self.items.get(&task).map(|items| items.total())
    }

    /// The items of a task that were not seen to begin.
    pub fn fresh_items(&self, task: TaskIndex) -> impl Iterator<Item = u32> + '_ {
        let items = self.items.get(&task);
        items.into_iter().flat_map(|items| items.fresh())
    }

    /// The item of a task that ended last.
    pub fn last_item(&self, task: TaskIndex) -> Option<u32> {
        let (_, item) = self.items.get(&task)?.last_end()?;
        Some(item)
    }

    /// The item of a task that failed first.
    pub fn first_failed_item(&self, task: TaskIndex) -> Option<u32> {
        let (_, item) = self.items.get(&task)?.first_failed()?;
        Some(item)
    }

    /// Whether items of a task have begun, as far as was seen.
    pub fn has_begun_items(&self, task: TaskIndex) -> bool {
        self.items.get(&task).is_some_and(|items| items.has_begun())
    }

    /// How the items of a task are, as far as is known.
    pub fn item_counts(&self, task: TaskIndex) -> Option<ItemCounts> {
        self.items.get(&task)?.counts(self.halted)
    }

    /// Why a task cannot have items.
    pub fn refusal(&self, task: TaskIndex) -> Option<&Stop> {
        self.refused.get(&task)
    }

    /// What follows from the items of a task, one of which changed.
    fn look_at_items(&mut self, definition: &Definition, task: TaskIndex) {
        if let Some(good) = self.judge_items(definition, task) {
            self.settle_dependents(definition, task, good);
        }
    }

    /// The state of a task by its items. Whether it is good for its dependents, once that is certain.
    fn judge_items(&mut self, definition: &Definition, task: TaskIndex) -> Option<bool> {
        let items = self.items.get(&task)?.clone();
        let tolerated = self.nodes[task].tolerated;
        let over = items.is_over();
        self.nodes[task].state = match over {
            true => NodeState::Ended(items.outcome(tolerated)),
            false if items.has_begun() => NodeState::Active(TaskPhase::Running),
            false => NodeState::Ready,
        };
        self.count(task);
        if items.cut_short {
            self.cut_short.insert(task);
        }
        let starts = items.is_known() && !items.cut_short && items.fresh().next().is_some();
        if starts {
            self.ready.insert(task);
        } else if !self.unexpanded.contains(&task) && !self.refused.contains_key(&task) {
            self.ready.remove(&task);
        }
        // Some of its items may still run, or be unseen.
        if items.cut_short || items.unknowable {
            return Some(false);
        }
        if !over {
            return None;
        }
        let failed = items.first_failed().filter(|_| !tolerated);
        if let Some(((_, item), (at, _))) = failed.zip(items.last_end()) {
            let of = ExecutionIndex::of_item(task, item);
            self.fail(definition, Failure { at, of });
        }
        Some(tolerated || items.outcome(tolerated) == TaskPhase::Succeeded)
    }

    /// Items of a task were seen before what it waited for, which ended now. Whether the task ended
    /// well, if that ends it.
    pub(super) fn settle_items(
        &mut self,
        definition: &Definition,
        task: TaskIndex,
        good: bool,
    ) -> Option<bool> {
        let free = self.nodes[task].blockers == 0;
        let items = Arc::make_mut(self.items.get_mut(&task)?);
        items.unknowable |= !good;
        if items.unknowable {
            return self.judge_items(definition, task);
        }
        if free {
            self.unexpanded.insert(task);
            self.ready.insert(task);
        }
        None
    }
}
