//! A task execution's next step: dispatch, wait, stop, record, retry.
//!
//! [`plan`] is for tasks with a container, [`plan_pool`] for those that a pool's worker runs,
//! [`plan_call`] for those that call a tool; all are total and pure. Applying the steps in order and
//! planning again yields the next steps, and at rest none.
//! What they may never do: start an attempt while the pod of an earlier one may still run, send a
//! call twice, take a pod for gone or for running too long on a cache's word, or leave a final
//! phase.

mod call;
mod container;
mod given;
mod pods;
mod pool;
mod record;
#[cfg(test)]
mod tests;

pub use call::{Answer, CallView, Heard, ToolView, execute, hear, plan_call, record_of};
pub use container::{PodView, plan, plan_refused};
pub use pods::{is_held, is_ours, is_owned};
pub use pool::{
    Asked, PoolState, PoolView, Taken, command, command_id, has_begun, is_to_end, plan_pool,
};

use crate::{
    api::{ErrorCode, Stop, Stopping, TaskExecution, TaskExecutionStatus, TaskPhase, Time},
    engine::plan,
};

/// An attempt that ends sooner has no status write of its own for having started.
pub const RUNNING_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

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
    /// Ask the API server for the tool that is to be called, and plan again.
    FindTool,
    /// Listen for the answers to the call of this attempt, then send it.
    Call(u32),
    /// Listen for the answers to the call of this attempt, then look for those that came before.
    Listen(u32),
    /// Look for answers to the call of this attempt, and plan again.
    ConfirmCall(u32),
    /// Look whether the command of this attempt was sent, and plan again.
    FindCommand(u32),
    /// Put the command of this attempt into its pool's queue.
    Dispatch(u32),
    /// Take the command of this attempt back if no worker has it.
    Withdraw(u32),
    /// Ask the worker that has the command of this attempt to end it.
    Cancel(u32),
}

/// Steps to apply in order.
pub type Plan = plan::Plan<Step>;

/// A task execution that has not ended while its run has, or is gone: it was created by a request
/// that nobody knew of any more. No attempt of it may start, and it is asked to end.
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

/// The attempt that matters now: the one that runs or is next to run, or the last one of an
/// execution that ended.
pub fn current_attempt(te: &TaskExecution) -> u32 {
    match &te.status {
        Some(status) if status.phase.is_final() => status.attempt,
        Some(status) => status.failures.application + status.failures.infrastructure + 1,
        None => 1,
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
    now: Time,
    stop: Option<Stop>,
    /// Who of a pool has the attempt, as far as is known.
    worker: Option<&'a str>,
}

impl<'a> Execution<'a> {
    fn new(te: &'a TaskExecution, status: &'a TaskExecutionStatus, now: Time) -> Execution<'a> {
        Execution {
            te,
            status,
            attempt: current_attempt(te),
            now,
            stop: wanted_stop(te, status, now),
            worker: None,
        }
    }

    /// The recorded decision to stop this very attempt.
    fn stopping(&self) -> Option<&Stopping> {
        self.status
            .stopping
            .as_ref()
            .filter(|stopping| stopping.attempt == self.attempt)
    }

    fn deadline(&self) -> Option<Time> {
        deadline_at(self.te, self.status, self.now)
    }

    /// Records the wish of `spec.suspend`, if that is not done yet: from then on the deadline and
    /// the pause before a retry stand still, or go on.
    fn toggled(&self) -> Option<Plan> {
        if self.te.spec.suspend == self.status.suspension.is_on() {
            return None;
        }
        let mut status = self.status.clone();
        if self.te.spec.suspend {
            status.suspension.begin(self.now);
        } else {
            let length = status.suspension.end(self.now);
            status.retry_at = status.retry_at.map(|at| at.after(length));
        }
        Some(Plan::step(Step::Record(Box::new(status))))
    }

    /// What to do instead of starting the next attempt, while that may not be: the run is suspended,
    /// or the pause before a retry is not over.
    fn not_yet(&self) -> Option<Plan> {
        if self.status.suspension.is_on() {
            return Some(self.held_back());
        }
        let at = self.status.retry_at.filter(|at| *at > self.now)?;
        Some(Plan::wake(earliest([Some(at), self.deadline()])))
    }

    /// The run is suspended: no attempt starts, and nothing is due.
    fn held_back(&self) -> Plan {
        if self.status.phase == TaskPhase::Retrying {
            return Plan::default();
        }
        self.show_waiting("Suspended", "the run is suspended", None)
    }
}

fn earliest<const N: usize>(times: [Option<Time>; N]) -> Option<Time> {
    times.into_iter().flatten().min()
}
