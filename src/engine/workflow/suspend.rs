//! A run is suspended and resumed: recorded first, then passed on to the tasks under way.

use kube::ResourceExt;

use super::{
    Observed, Plan, Step,
    record::{record, show_progress},
};
use crate::{
    api::{Duration, TransitionData, WorkflowEvent, WorkflowStatus},
    engine::resolve::RunData,
};

/// With so many events in status that NATS does not have, the run stays as it is until some of
/// them are there: whoever suspends and resumes it for ever must not make it grow for ever.
const MAX_UNTOLD: usize = 64;

impl Observed<'_> {
    /// Whether the run is to be suspended.
    pub(super) fn wants_suspension(&self) -> bool {
        self.workflow.spec.suspend == Some(true)
    }

    /// Whether nothing may start: it is suspended, or will be as soon as that can be recorded.
    pub(super) fn is_held_back(&self, status: &WorkflowStatus) -> bool {
        status.suspension.is_on() || self.wants_suspension()
    }

    /// The run is suspended, or goes on, if its spec says other than its status.
    pub(super) fn toggle(&self, status: &WorkflowStatus, data: &RunData) -> Option<Plan> {
        let wanted = self.wants_suspension();
        let has_room = self.told || status.transitions.len() < MAX_UNTOLD;
        if wanted == status.suspension.is_on() || !has_room {
            return None;
        }
        let mut status = status.clone();
        if wanted {
            self.push_suspended(&mut status);
        } else {
            self.push_resumed(&mut status);
        }
        status.observed_generation = self.workflow.metadata.generation;
        show_progress(&mut status, data);
        Some(record(status))
    }

    pub(super) fn push_suspended(&self, status: &mut WorkflowStatus) {
        status.suspension.begin(self.now);
        self.push(
            status,
            WorkflowEvent::WaitingStarted,
            TransitionData::default(),
        );
    }

    fn push_resumed(&self, status: &mut WorkflowStatus) {
        let length = Duration::from(status.suspension.end(self.now));
        let data = TransitionData {
            suspended_ms: Some(length.millis()),
            ..TransitionData::default()
        };
        self.push(status, WorkflowEvent::WaitingEnded, data);
    }

    /// Tells the tasks under way. A run that never was suspended has nothing to look for.
    pub(super) fn pass_on(&self, status: &WorkflowStatus, data: &RunData) -> Vec<Step> {
        if status.suspension.is_none() {
            return Vec::new();
        }
        let suspended = status.suspension.is_on();
        self.running(data)
            .iter()
            .filter(|te| te.spec.suspend != suspended && te.spec.stop.is_none())
            .map(|te| Step::Suspend(te.name_any(), suspended))
            .collect()
    }
}
