//! A task execution's next step: dispatch, wait, stop, record, retry.
//!
//! [`plan`] is total and pure. Applying its steps in order and planning again yields the next
//! steps, and at rest none. What it may never do: start an attempt while the pod of an earlier
//! one may still run, take a pod for gone or for running too long on a cache's word, or leave a
//! final phase.

mod pods;
mod record;
#[cfg(test)]
mod tests;

pub use pods::{is_held, is_ours, is_owned};

use k8s_openapi::api::core::v1::Pod;

use self::pods::{attempt_of, let_go, lingers};
use crate::{
    api::{ErrorCode, Stop, Stopping, TaskExecution, TaskExecutionStatus, TaskPhase, Time},
    engine::{
        outcome::{self, PodState, WaitKind},
        plan,
    },
};

/// A run that is being ended goes final after so long even if a pod cannot be confirmed dead
/// (its node does not answer).
pub const UNREACHABLE_GRACE: std::time::Duration = std::time::Duration::from_secs(300);

/// An attempt that ends sooner has no status write of its own for having started.
pub const RUNNING_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// What `startedAt` of a container is precise to (`metav1.Time`).
const START_PRECISION: std::time::Duration = std::time::Duration::from_secs(1);

/// What a pod waits for is shown when it has waited for so long.
const VISIBLE_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// The same while nothing is known to be wrong: on a busy node many healthy pods take long to
/// start, and each would cost a write.
const STARTING_VISIBLE_AFTER: std::time::Duration = std::time::Duration::from_secs(30);

/// A pod of somebody else that has the name of ours is looked for again after so long: nothing
/// need tell that it is gone.
pub const NAMESAKE_AGAIN: std::time::Duration = std::time::Duration::from_secs(15);

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
}

/// One effect, with nothing left to choose.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this status with the resourceVersion that it was decided from.
    Record(Box<TaskExecutionStatus>),
    /// Create the pod of this attempt.
    CreatePod(u32),
    /// Ask the API server whether the pod of this attempt exists, and plan again.
    ConfirmPod(u32),
    /// Delete the pod of this attempt, gracefully.
    DeletePod(u32),
    /// Take the outcome finalizer from the pod of this attempt.
    ReleasePod(u32),
}

/// Steps to apply in order.
pub type Plan = plan::Plan<Step>;

/// What it means that the API server refused the pod, in words of its own: a plan that either
/// ends the execution, or shows why it waits and is to be tried again.
pub fn plan_refused(te: &TaskExecution, message: &str, now: Time) -> Plan {
    let status = te.status.clone().unwrap_or_default();
    if status.phase.is_final() {
        return Plan::default();
    }
    let attempt = current_attempt(te);
    let stop = wanted_stop(te, &status, now);
    let execution = Execution {
        te,
        status: &status,
        attempt,
        now,
        blocked: false,
        cached: false,
        stop,
    };
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

/// A task execution that has not ended while its run has, or is gone: it was created by a request
/// that nobody knew of any more. No pod of it may start, and it is asked to end.
pub fn outliving(te: &TaskExecution) -> TaskExecution {
    let mut te = te.clone();
    let deleted = te.metadata.deletion_timestamp.is_some();
    if !deleted && te.spec.stop.is_none() {
        te.spec.stop = Some(Stop {
            code: ErrorCode::Cancelled.as_str().to_owned(),
            reason: "its run is over".to_owned(),
        });
    }
    te
}

/// The attempt whose pod matters now: the one that runs or is next to run, or the last one of an
/// execution that ended.
pub fn current_attempt(te: &TaskExecution) -> u32 {
    match &te.status {
        Some(status) if status.phase.is_final() => status.attempt,
        Some(status) => status.failures.application + status.failures.infrastructure + 1,
        None => 1,
    }
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
            PodView::Unseen | PodView::Gone => None,
        };
        return let_go(others.into_iter().chain(last), te).unwrap_or_default();
    }
    // The status may be older than a pod, so only those before are surely not wanted any more.
    others.retain(|(number, _)| *number < attempt);
    if let Some(plan) = let_go(others.iter().copied(), te) {
        return plan;
    }
    if let Some(toggled) = toggled(te, &status, now) {
        return Plan::step(Step::Record(Box::new(toggled)));
    }
    let execution = Execution {
        te,
        status: &status,
        attempt,
        now,
        blocked: others.iter().any(|(_, pod)| lingers(pod)),
        cached: matches!(pod, PodView::Cached(_)),
        stop: wanted_stop(te, &status, now),
    };
    match pod {
        PodView::Unseen => execution.without_pod(false),
        PodView::Gone => execution.without_pod(true),
        PodView::Present(pod) | PodView::Cached(pod) if !is_ours(pod, te, attempt) => {
            execution.with_namesake(pod)
        }
        PodView::Present(pod) | PodView::Cached(pod) => execution.with_pod(pod),
    }
}

/// Why the execution should end now, if it should.
fn wanted_stop(te: &TaskExecution, status: &TaskExecutionStatus, now: Time) -> Option<Stop> {
    if let Some(stop) = &te.spec.stop {
        return Some(stop.clone());
    }
    let stop = |code: ErrorCode, reason: String| Stop {
        code: code.as_str().to_owned(),
        reason,
    };
    if te.metadata.deletion_timestamp.is_some() {
        return Some(stop(
            ErrorCode::Deleted,
            "the task execution was deleted".to_owned(),
        ));
    }
    let deadline = te.spec.deadline?;
    (now >= deadline_at(te, status, now)?).then(|| {
        stop(
            ErrorCode::DeadlineExceeded,
            format!("the task took longer than its deadline of {deadline}"),
        )
    })
}

/// When the execution as a whole has taken too long.
fn deadline_at(te: &TaskExecution, status: &TaskExecutionStatus, now: Time) -> Option<Time> {
    let deadline = te.spec.deadline?;
    status
        .suspension
        .due(created_at(te, now).after(deadline.get()))
}

/// The status with the wish of `spec.suspend` in it, if it is not there yet: from then on the
/// deadline and the pause before a retry stand still, or go on.
fn toggled(
    te: &TaskExecution,
    status: &TaskExecutionStatus,
    now: Time,
) -> Option<TaskExecutionStatus> {
    if te.spec.suspend == status.suspension.is_on() {
        return None;
    }
    let mut status = status.clone();
    if te.spec.suspend {
        status.suspension.begin(now);
    } else {
        let length = status.suspension.end(now);
        status.retry_at = status.retry_at.map(|at| at.after(length));
    }
    Some(status)
}

/// Whether a stop with this code ends the execution as Cancelled.
fn cancels(code: &str) -> bool {
    code == ErrorCode::Cancelled.as_str() || code == ErrorCode::Deleted.as_str()
}

fn created_at(te: &TaskExecution, now: Time) -> Time {
    te.metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |time| Time(time.0))
}

/// An execution that has not ended, at one point in time.
struct Execution<'a> {
    te: &'a TaskExecution,
    status: &'a TaskExecutionStatus,
    attempt: u32,
    /// Something of an earlier attempt still runs.
    blocked: bool,
    /// The pod is as the cache has it.
    cached: bool,
    now: Time,
    stop: Option<Stop>,
}

impl Execution<'_> {
    /// The recorded decision to stop this very attempt.
    fn stopping(&self) -> Option<&Stopping> {
        self.status
            .stopping
            .as_ref()
            .filter(|stopping| stopping.attempt == self.attempt)
    }

    /// Whether this attempt's pod is known to have existed.
    fn has_begun(&self) -> bool {
        self.status.attempt == self.attempt || self.stopping().is_some()
    }

    fn deadline(&self) -> Option<Time> {
        deadline_at(self.te, self.status, self.now)
    }

    fn without_pod(&self, confirmed: bool) -> Plan {
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
        if self.status.suspension.is_on() {
            return self.held_back();
        }
        match self.status.retry_at {
            Some(at) if at > self.now => Plan::wake(earliest([Some(at), self.deadline()])),
            // A container that somebody injected may outlive the task's.
            _ if self.blocked => Plan::wake(self.deadline()),
            _ => Plan::step(Step::CreatePod(self.attempt)),
        }
    }

    /// The run is suspended: no attempt starts, and nothing is due.
    fn held_back(&self) -> Plan {
        if self.status.phase == TaskPhase::Retrying {
            return Plan::default();
        }
        self.show_waiting("Suspended", "the run is suspended", None)
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

    fn with_pod(&self, pod: &Pod) -> Plan {
        match outcome::observe(pod, self.stopping()) {
            PodState::Ended(ended) if ended.lingers => self
                .record_end(&ended)
                .then(Step::DeletePod(self.attempt))
                .then(Step::ReleasePod(self.attempt)),
            PodState::Ended(ended) => self.record_end(&ended).then(Step::ReleasePod(self.attempt)),
            PodState::Running { since } => self.running(pod, since),
            PodState::Waiting {
                kind,
                reason,
                message,
                since,
            } => self.waiting(pod, kind, since, &reason, &message),
        }
    }

    fn running(&self, pod: &Pod, since: Time) -> Plan {
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
            return self.stop_pod(pod, &stop);
        }
        if self.stopping().is_some() {
            return self.delete_once(pod);
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

    fn waiting(&self, pod: &Pod, kind: WaitKind, since: Time, reason: &str, message: &str) -> Plan {
        if let Some(stop) = &self.stop {
            return self.stop_pod(pod, stop);
        }
        if self.stopping().is_some() {
            return self.delete_once(pod);
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
            return self.stop_pod(pod, &self.never_started(code, reason, message));
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
    fn stop_pod(&self, pod: &Pod, stop: &Stop) -> Plan {
        match self.stopping() {
            None if self.cached => Plan::step(Step::ConfirmPod(self.attempt)),
            None => self.record_stopping(stop),
            Some(stopping) => {
                let give_up = stopping.at.after(UNREACHABLE_GRACE);
                if self.te.spec.stop.is_some() && self.now >= give_up {
                    return self.record_end(&outcome::gone(Some(stopping)));
                }
                let mut plan = self.delete_once(pod);
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

fn earliest<const N: usize>(times: [Option<Time>; N]) -> Option<Time> {
    times.into_iter().flatten().min()
}
