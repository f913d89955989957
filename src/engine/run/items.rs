//! The items of one task with `forEach`: which have begun, how they ended.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::api::{ItemCounts, TaskPhase, Time};

/// The items of a task. Taking in the change of one of them costs the same however many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Items {
    /// The items, once they are known. One that exists may be seen before.
    values: Option<Arc<[Value]>>,
    /// The last phase seen of each item that has begun.
    phases: Vec<Option<TaskPhase>>,
    /// Items that were not seen to begin, once the items are known.
    fresh: BTreeSet<u32>,
    running: u32,
    succeeded: u32,
    failed: u32,
    cancelled: u32,
    /// Those that ended others come before those that were ended.
    first_failed: Option<(bool, Time, u32)>,
    last_end: Option<(Time, u32)>,
    /// A failed item keeps the others from starting.
    pub(super) cut_short: bool,
    /// What the task waited for did not end well, so nobody can say what its items were.
    pub(super) unknowable: bool,
}

impl Items {
    pub(super) fn know(&mut self, values: Vec<Value>) {
        self.fresh = (0..length(values.len()))
            .filter(|item| self.phase(*item).is_none())
            .collect();
        self.values = Some(values.into());
    }

    /// Takes in what an item's execution shows. Whether that is news: a final phase is never left.
    pub(super) fn observe(&mut self, item: u32, phase: TaskPhase, ended_at: Time) -> bool {
        let before = self.phase(item);
        if before.is_some_and(TaskPhase::is_final) || before == Some(phase) {
            return false;
        }
        self.fresh.remove(&item);
        self.running -= u32::from(before.is_some());
        let place = item as usize;
        if self.phases.len() <= place {
            self.phases.resize(place + 1, None);
        }
        self.phases[place] = Some(phase);
        match phase {
            TaskPhase::Succeeded => self.succeeded += 1,
            TaskPhase::Failed => self.failed += 1,
            TaskPhase::Cancelled => self.cancelled += 1,
            _ => self.running += 1,
        }
        if phase.is_final() {
            self.last_end = self.last_end.max(Some((ended_at, item)));
            if phase != TaskPhase::Succeeded {
                let failed = (phase == TaskPhase::Cancelled, ended_at, item);
                let first = self.first_failed.map_or(failed, |first| first.min(failed));
                self.first_failed = Some(first);
            }
        }
        true
    }

    pub(super) fn phase(&self, item: u32) -> Option<TaskPhase> {
        self.phases.get(item as usize).copied().flatten()
    }

    pub(super) fn value(&self, item: u32) -> Option<&Value> {
        self.values.as_deref()?.get(item as usize)
    }

    pub(super) fn is_known(&self) -> bool {
        self.values.is_some()
    }

    /// How many there are, as far as is known.
    pub(super) fn total(&self) -> u32 {
        let known = self.values.as_ref().map_or(0, |values| values.len());
        length(known.max(self.phases.len()))
    }

    /// Those that have begun, in order.
    pub(super) fn begun(&self) -> impl Iterator<Item = u32> + '_ {
        (0..)
            .zip(&self.phases)
            .filter_map(|(item, phase)| phase.map(|_| item))
    }

    pub(super) fn has_begun(&self) -> bool {
        self.running + self.ended() > 0
    }

    pub(super) fn running(&self) -> u32 {
        self.running
    }

    pub(super) fn ended(&self) -> u32 {
        self.succeeded + self.failed + self.cancelled
    }

    /// Those that were not seen to begin, in order.
    pub(super) fn fresh(&self) -> impl Iterator<Item = u32> + '_ {
        self.fresh.iter().copied()
    }

    /// Whether nothing of the task runs and nothing of it will.
    pub(super) fn is_over(&self) -> bool {
        let started = self.cut_short || self.fresh.is_empty();
        self.running == 0 && (self.unknowable || self.is_known() && started)
    }

    /// When and which item failed first.
    pub(super) fn first_failed(&self) -> Option<(Time, u32)> {
        self.first_failed.map(|(_, at, item)| (at, item))
    }

    /// When and which item ended last.
    pub(super) fn last_end(&self) -> Option<(Time, u32)> {
        self.last_end
    }

    /// How the task ends of which nothing runs any more. Items that fail may be `tolerated`.
    pub(super) fn outcome(&self, tolerated: bool) -> TaskPhase {
        let all_ended = self.is_known() && self.fresh.is_empty() && self.cancelled == 0;
        match self.failed {
            0 if all_ended => TaskPhase::Succeeded,
            _ if all_ended && tolerated => TaskPhase::Succeeded,
            0 => TaskPhase::Cancelled,
            _ if tolerated => TaskPhase::Cancelled,
            _ => TaskPhase::Failed,
        }
    }

    /// How they are, as far as is known. If nothing more starts the others are skipped.
    pub(super) fn counts(&self, nothing_starts: bool) -> Option<ItemCounts> {
        let seen = self.is_known() || self.has_begun();
        seen.then(|| ItemCounts {
            total: self.total(),
            succeeded: self.succeeded,
            failed: self.failed + self.cancelled,
            skipped: match nothing_starts || self.cut_short {
                true => self.total() - self.running - self.ended(),
                false => 0,
            },
            running: self.running,
            begun: self.first_fresh(),
        })
    }

    /// The first that was not seen to begin.
    fn first_fresh(&self) -> u32 {
        if self.is_known() {
            return self.fresh.first().copied().unwrap_or(self.total());
        }
        let begun = self.phases.iter().take_while(|phase| phase.is_some());
        length(begun.count())
    }
}

/// A list is far shorter than that.
fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
