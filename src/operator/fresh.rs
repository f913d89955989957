//! Task executions that this process created: of these it knows that nobody has dispatched them.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;

use crate::api::TaskExecution;

/// UIDs of task executions for pools whose creation was answered, until they are dispatched or gone.
#[derive(Debug, Default)]
pub struct Fresh(Mutex<HashSet<String>>);

impl Fresh {
    /// The API server said that it created this one.
    pub fn add(&self, execution: &TaskExecution) {
        if execution.spec.pool.is_some() {
            self.lock().extend(execution.uid());
        }
    }

    /// Whether it was created by this process, and nobody asked before.
    pub fn take(&self, uid: &str) -> bool {
        self.lock().remove(uid)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
