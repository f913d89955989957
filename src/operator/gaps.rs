//! How long steps take to follow each other: from a pod seen finished to the create call of the
//! next step's pod answered. Measured for every step that has a dependency.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::index::Key;

/// The open gaps. An entry goes with its task execution.
#[derive(Debug, Default)]
pub struct StepGaps(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// When a task execution's pod was first seen finished.
    ended: HashMap<Key, Instant>,
    /// When the last dependency of a task execution ended.
    freed: HashMap<Key, Instant>,
}

impl StepGaps {
    /// The pod of a task execution was seen finished.
    pub fn ended(&self, execution: &Key) {
        self.lock()
            .ended
            .entry(execution.clone())
            .or_insert_with(Instant::now);
    }

    /// A task execution was created because these ended.
    pub fn freed(&self, execution: Key, dependencies: impl Iterator<Item = Key>) {
        let mut open = self.lock();
        let last = dependencies
            .filter_map(|dependency| open.ended.get(&dependency).copied())
            .max();
        if let Some(last) = last {
            open.freed.insert(execution, last);
        }
    }

    /// A task execution's first pod was created: the gap in seconds, if it had a dependency.
    pub fn close(&self, execution: &Key) -> Option<f64> {
        let since = self.lock().freed.remove(execution)?;
        Some(since.elapsed().as_secs_f64())
    }

    /// A task execution is gone.
    pub fn forget(&self, execution: &Key) {
        let mut open = self.lock();
        open.ended.remove(execution);
        open.freed.remove(execution);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
