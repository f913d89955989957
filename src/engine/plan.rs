//! What a decision comes out as.

use crate::api::Time;

/// Steps to apply in order, and when to look again if nothing else happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<S> {
    /// The steps.
    pub steps: Vec<S>,
    /// The next point in time at which something is due.
    pub wake: Option<Time>,
}

impl<S> Default for Plan<S> {
    fn default() -> Self {
        Plan {
            steps: Vec::new(),
            wake: None,
        }
    }
}

impl<S> Plan<S> {
    /// One step.
    pub fn step(step: S) -> Self {
        Plan {
            steps: vec![step],
            wake: None,
        }
    }

    /// Nothing but to look again.
    pub fn wake(at: Option<Time>) -> Self {
        Plan {
            steps: Vec::new(),
            wake: at,
        }
    }

    /// This plan with one more step at its end.
    #[must_use]
    pub fn then(mut self, step: S) -> Self {
        self.steps.push(step);
        self
    }
}
