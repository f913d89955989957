//! The plan of a task with a container: each attempt is a pod of its own.

use k8s_openapi::api::core::v1::Pod;

use super::{
    Execution, Plan, RUNNING_AFTER, Step, current_attempt, earliest,
    pods::{attempt_of, is_ours, is_owned, let_go, lingers},
};
use crate::{
    api::{ErrorCode, Stop, TaskExecution, TaskPhase, Time},
    engine::outcome::{self, PodState, WaitKind},
};

/// A run that is being ended goes final after so long even if a pod cannot be confirmed dead
/// (its node does not answer).
pub(super) const UNREACHABLE_GRACE: std::time::Duration = std::time::Duration::from_secs(300);

/// What `startedAt` of a container is precise to (`metav1.Time`).
const START_PRECISION: std::time::Duration = std::time::Duration::from_secs(1);

/// What a pod waits for is shown when it has waited for so long.
const VISIBLE_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// The same while nothing is known to be wrong: on a busy node many healthy pods take long to
/// start, and each would cost a write.
const STARTING_VISIBLE_AFTER: std::time::Duration = std::time::Duration::from_secs(30);

/// A pod of somebody else that has the name of ours is looked for again after so long: nothing
/// need tell that it is gone.
pub(super) const NAMESAKE_AGAIN: std::time::Duration = std::time::Duration::from_secs(15);

/// What is known of a pod.
#[derive(Clone, Copy, Debug)]
pub enum PodView<'a> {
    /// The API server, asked just now, has it.
    Present(&'a Pod),
    /// The cache has it. Meanwhile it may have ended.
    Cached(&'a Pod),
    /// The cache does not have it, which proves nothing.
    Unseen,
    /// The API server, asked just now, does not have it.
    Gone,
    /// The same, and it was there.
    Lost,
}

/// The attempt's pod, and whether it is only as the cache has it.
#[derive(Clone, Copy)]
struct Seen<'a> {
    pod: &'a Pod,
    cached: bool,
}

/// What it means that the API server refused the pod, in words of its own: a plan that either
/// ends the execution, or shows why it waits and is to be tried again.
pub fn plan_refused(te: &TaskExecution, message: &str, now: Time) -> Plan {
    let status = te.status.clone().unwrap_or_default();
    if status.phase.is_final() {
        return Plan::default();
    }
    let execution = Execution::new(te, &status, now);
    if let Some(stop) = &execution.stop {
        return execution.record_stop(stop);
    }
    let end = |code: ErrorCode, reason: String| {
        execution.record_stop(&Stop {
            code: code.as_str().to_owned(),
            reason,
        })
    };
    if message.contains("is being terminated") {
        return end(
            ErrorCode::Deleted,
            "the namespace is being deleted".to_owned(),
        );
    }
    // Not the task's fault, and an administrator can mend both.
    if message.contains("exceeded quota") {
        return execution.show_waiting("QuotaExceeded", message, None);
    }
    if message.contains("cannot create resource") {
        return execution.show_waiting("Forbidden", message, None);
    }
    end(
        ErrorCode::PodRefused,
        format!("the API server refused the pod: {message}"),
    )
}

/// Decides a task execution's next steps from its object, its current pod (see
/// [`current_attempt`]), whatever else of its pods is known, and the time.
pub fn plan<'a>(
    te: &TaskExecution,
    pod: PodView,
    pods: impl IntoIterator<Item = &'a Pod>,
    now: Time,
) -> Plan {
    let status = te.status.clone().unwrap_or_default();
    let attempt = current_attempt(te);
    let mut others: Vec<_> = pods
        .into_iter()
        .filter_map(|pod| Some((attempt_of(pod, te)?, pod)))
        .collect();
    if status.phase.is_final() {
        let last = match pod {
            PodView::Present(pod) | PodView::Cached(pod) => Some((attempt, pod)),
            PodView::Unseen | PodView::Gone | PodView::Lost => None,
        };
        return let_go(others.into_iter().chain(last), te).unwrap_or_default();
    }
    // The status may be older than a pod, so only those before are surely not wanted any more.
    others.retain(|(number, _)| *number < attempt);
    if let Some(plan) = let_go(others.iter().copied(), te) {
        return plan;
    }
    let execution = Execution::new(te, &status, now);
    if let Some(plan) = execution.toggled() {
        return plan;
    }
    let blocked = others.iter().any(|(_, pod)| lingers(pod));
    match pod {
        PodView::Unseen => execution.without_pod(false, blocked),
        PodView::Gone => execution.without_pod(true, blocked),
        // Whoever takes pods away by force before their status is recorded does not go on for ever.
        PodView::Lost => execution.record_end(&outcome::gone(execution.stopping())),
        PodView::Present(pod) | PodView::Cached(pod) if !is_ours(pod, te, attempt) => {
            execution.with_namesake(pod)
        }
        PodView::Present(pod) => execution.with_pod(Seen { pod, cached: false }),
        PodView::Cached(pod) => execution.with_pod(Seen { pod, cached: true }),
    }
}

impl Execution<'_> {
    /// Whether this attempt's pod is known to have existed.
    fn has_begun(&self) -> bool {
        self.status.attempt == self.attempt || self.stopping().is_some()
    }

    /// Nothing is known of a pod of this attempt. While `blocked`, something of an earlier one still
    /// runs.
    fn without_pod(&self, confirmed: bool, blocked: bool) -> Plan {
        if self.has_begun() {
            return if confirmed {
                self.record_end(&outcome::gone(self.stopping()))
            } else {
                Plan::step(Step::ConfirmPod(self.attempt))
            };
        }
        if let Some(stop) = &self.stop {
            return if confirmed || self.te.spec.container.is_none() {
                self.record_stop(stop)
            } else {
                Plan::step(Step::ConfirmPod(self.attempt))
            };
        }
        match self.not_yet() {
            Some(plan) => plan,
            // A container that somebody injected may outlive the task's.
            None if blocked => Plan::wake(self.deadline()),
            None => Plan::step(Step::CreatePod(self.attempt)),
        }
    }

    /// Somebody else's pod has our name. If the attempt had begun, its own is gone for certain. Else
    /// wait until the name is free, as long as the deadline allows.
    fn with_namesake(&self, pod: &Pod) -> Plan {
        if self.has_begun() && !is_owned(pod, self.te) {
            return self.record_end(&outcome::gone(self.stopping()));
        }
        if let Some(stop) = &self.stop {
            return self.record_stop(stop);
        }
        let message = &format!(
            "the pod {} is not of this attempt and has its name: delete it, and the task goes on",
            self.executor(),
        );
        let again = self.now.after(NAMESAKE_AGAIN);
        self.show_waiting(
            "NameTaken",
            message,
            earliest([Some(again), self.deadline()]),
        )
    }

    fn with_pod(&self, seen: Seen) -> Plan {
        match outcome::observe(seen.pod, self.stopping()) {
            PodState::Ended(ended) if ended.lingers => self
                .record_end(&ended)
                .then(Step::DeletePod(self.attempt))
                .then(Step::ReleasePod(self.attempt)),
            PodState::Ended(ended) => self.record_end(&ended).then(Step::ReleasePod(self.attempt)),
            PodState::Running { since } => self.running(seen, since),
            PodState::Waiting {
                kind,
                reason,
                message,
                since,
            } => self.waiting(seen, kind, since, &reason, &message),
        }
    }

    fn running(&self, seen: Seen, since: Time) -> Plan {
        // Kubernetes drops the fraction: the container may have started up to a second later, and
        // no attempt shall have less than its timeout.
        let latest = since.after(START_PRECISION);
        let timeout_at = self
            .te
            .spec
            .timeout
            .map(|timeout| latest.after(timeout.get()));
        let overdue = timeout_at.is_some_and(|at| self.now >= at);
        if let Some(stop) = self
            .stop
            .clone()
            .or_else(|| overdue.then(|| self.timed_out()))
        {
            return self.stop_pod(seen, &stop);
        }
        if self.stopping().is_some() {
            return self.delete_once(seen.pod);
        }
        let shown = self.status.phase == TaskPhase::Running && self.status.attempt == self.attempt;
        let show_at = latest.after(RUNNING_AFTER);
        if !shown && self.now >= show_at {
            return self.record_running(since);
        }
        Plan::wake(earliest([
            (!shown).then_some(show_at),
            timeout_at,
            self.deadline(),
        ]))
    }

    fn timed_out(&self) -> Stop {
        let timeout = self
            .te
            .spec
            .timeout
            .map(|timeout| timeout.to_string())
            .unwrap_or_default();
        Stop {
            code: ErrorCode::Timeout.as_str().to_owned(),
            reason: format!("the attempt ran longer than its timeout of {timeout}"),
        }
    }

    fn waiting(
        &self,
        seen: Seen,
        kind: WaitKind,
        since: Time,
        reason: &str,
        message: &str,
    ) -> Plan {
        if let Some(stop) = &self.stop {
            return self.stop_pod(seen, stop);
        }
        if self.stopping().is_some() {
            return self.delete_once(seen.pod);
        }
        let visible_at = match kind {
            WaitKind::Image => since,
            WaitKind::Starting if reason == outcome::STARTING => {
                since.after(STARTING_VISIBLE_AFTER)
            }
            WaitKind::Scheduling | WaitKind::Starting => since.after(VISIBLE_AFTER),
        };
        let bound = kind
            .overdue()
            .map(|code| (code, since.after(self.te.spec.image_pull_timeout.get())));
        if let Some((code, _)) = bound.filter(|(_, at)| self.now >= *at) {
            return self.stop_pod(seen, &self.never_started(code, reason, message));
        }
        let due = earliest([bound.map(|(_, at)| at), self.deadline()]);
        if self.now >= visible_at {
            return self.show_pod_waiting(reason, message, due);
        }
        Plan::wake(earliest([Some(visible_at), due]))
    }

    fn never_started(&self, code: ErrorCode, reason: &str, message: &str) -> Stop {
        Stop {
            code: code.as_str().to_owned(),
            reason: format!(
                "the container did not start within imagePullTimeout ({}): {reason}: {message}",
                self.te.spec.image_pull_timeout
            ),
        }
    }

    /// First the decision is recorded, then the pod is deleted: our own deletion must never be
    /// taken for somebody else's. A pod that has ended meanwhile is not stopped any more, which a
    /// watch that is late cannot know.
    fn stop_pod(&self, seen: Seen, stop: &Stop) -> Plan {
        match self.stopping() {
            None if seen.cached => Plan::step(Step::ConfirmPod(self.attempt)),
            None => self.record_stopping(stop),
            Some(stopping) => {
                let give_up = stopping.at.after(UNREACHABLE_GRACE);
                if self.te.spec.stop.is_some() && self.now >= give_up {
                    return self.record_end(&outcome::gone(Some(stopping)));
                }
                let mut plan = self.delete_once(seen.pod);
                plan.wake = self.te.spec.stop.is_some().then_some(give_up);
                plan
            }
        }
    }

    fn delete_once(&self, pod: &Pod) -> Plan {
        match pod.metadata.deletion_timestamp {
            Some(_) => Plan::default(),
            None => Plan::step(Step::DeletePod(self.attempt)),
        }
    }
}
