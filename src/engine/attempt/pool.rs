//! The plan of a task that a pool's worker runs: one message in the pool's queue, and what the worker reports.
//!
//! The message is the attempt: it is delivered at most once, and its name keeps a second one out for as long as it is
//! in the queue. So nothing is recorded before it is sent. Who does not know whether it was sent looks first.
//!
//! | the attempt | then |
//! |---|---|
//! | has ended, as its worker says | it ends so, whatever else is wanted |
//! | was with a worker that is lost | it ends by no fault of the task |
//! | is not to go on, and may be in the queue | it is taken back, or its worker is asked to end it |
//! | may be with a worker, and left the queue | its worker is asked to end it: nobody would miss it |
//! | may have been sent by another process | that is looked for |
//! | was not sent | it is sent, if there is such a pool |
//! | began a second ago | that is shown, once |
//! | waits in the queue while no worker is there | that is shown, once |

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    Execution, Plan, RUNNING_AFTER, Step, current_attempt, earliest,
    given::{bounded, outputs_of},
    record::record,
    wanted_stop,
};
use crate::{
    api::{ErrorCode, ErrorInfo, FailureClass, Stop, TaskEvent, TaskExecution, TaskPhase, Time},
    engine::outcome::{Ended, Outcome},
    protocol::pool::{LEASE, TaskExecute, TaskNews, TaskReport},
};

/// Whether a pool is there, or a worker of it, is looked at again after so long.
const POOL_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// A worker is asked to end an attempt again after so long: it may not have heard it.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Who has been asked for so long to end an attempt and says nothing does not have it, or is lost.
const SILENT_AFTER: std::time::Duration = LEASE.saturating_mul(2);

/// What is known of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// There is none of that name.
    Missing,
    /// None of its workers takes commands.
    Unserved,
    /// A worker takes its commands, or nobody can know.
    Served,
}

/// What is known of the current attempt's command.
#[derive(Clone, Debug, PartialEq)]
pub enum PoolView {
    /// There is no NATS in this installation.
    NoBus,
    /// This process did not send it, and does not know whether another one did.
    Unknown,
    /// It was not sent, or was taken back before a worker had it.
    Unsent,
    /// It is in the queue, or with a worker.
    Sent {
        /// When this process sent or found it.
        since: Time,
        /// Who said to have begun, if somebody did.
        taken: Option<Taken>,
        /// It left the queue, or nobody can know that it did not.
        delivered: bool,
        /// Since when its worker is asked to end it, if it is.
        asked: Option<Asked>,
    },
    /// The worker's last word.
    Ended(Arc<TaskReport>),
    /// It was delivered, and whoever had it let its lease run out.
    Lost {
        /// Who said to have begun, if somebody did.
        taken: Option<Taken>,
    },
}

/// A worker that has begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Its name.
    pub worker: Arc<str>,
    /// When.
    pub at: Time,
}

/// The wish that a worker ends an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// When it was told first.
    pub first: Time,
    /// When it was told last.
    pub last: Time,
}

/// The command of the current attempt, complete.
pub fn command(te: &TaskExecution, attempt: u32) -> TaskExecute {
    let spec = &te.spec;
    let pool = spec.pool.clone().unwrap_or_default();
    let timeout = spec.timeout.map(|timeout| timeout.get().as_millis());
    TaskExecute {
        task_exec_id: te.metadata.uid.clone().unwrap_or_default(),
        attempt,
        inputs: spec.inputs.clone().unwrap_or_else(|| Map::new().into()),
        handler: pool.handler,
        timeout_ms: timeout.map(|millis| u64::try_from(millis).unwrap_or(u64::MAX)),
        task_id: spec.task.clone(),
        workflow_id: spec.workflow.id.clone(),
        workflow_exec_id: spec.workflow.uid.clone(),
        namespace: te.metadata.namespace.clone().unwrap_or_default(),
        pool: pool.name,
    }
}

/// Whether the current attempt is recorded to have begun.
pub fn has_begun(te: &TaskExecution) -> bool {
    let attempt = current_attempt(te);
    let mut seen = te.status.iter().flat_map(|status| &status.transitions);
    seen.any(|seen| seen.event == TaskEvent::Started && seen.attempt == attempt)
}

/// Whether the task execution is to end.
pub fn is_to_end(te: &TaskExecution, now: Time) -> bool {
    let status = te.status.clone().unwrap_or_default();
    wanted_stop(te, &status, now).is_some()
}

/// By what the queue recognises a command that it had before. One that was taken back because the run was suspended
/// is another one when it goes on.
pub fn command_id(te: &TaskExecution, attempt: u32) -> String {
    let uid = te.metadata.uid.as_deref().unwrap_or_default();
    let status = te.status.as_ref();
    let paused = status.map_or(0, |status| status.suspension.total().as_millis());
    match paused {
        0 => format!("{uid}:{attempt}"),
        paused => format!("{uid}:{attempt}:{paused}"),
    }
}

/// Decides the next steps of a task execution that a pool's worker runs, from its object, what is known of the pool and
/// of the current attempt's command (see [`current_attempt`]), and the time.
pub fn plan_pool(te: &TaskExecution, pool: PoolState, view: &PoolView, now: Time) -> Plan {
    let status = te.status.clone().unwrap_or_default();
    if status.phase.is_final() {
        return Plan::default();
    }
    let mut execution = Execution::new(te, &status, now);
    if let Some(plan) = execution.toggled() {
        return plan;
    }
    execution.worker = view.worker();
    match view {
        PoolView::Ended(report) => execution.end_reported(report),
        PoolView::Lost { taken } => execution.end_lost(taken.as_ref()),
        PoolView::Sent { asked, taken, .. } if execution.stop.is_some() || asked.is_some() => {
            execution.end_sent(*asked, taken.as_ref())
        }
        PoolView::Sent {
            taken: Some(taken), ..
        } => execution.under_way(taken),
        PoolView::Sent {
            delivered: false, ..
        } if status.suspension.is_on() => Plan::step(Step::Withdraw(execution.attempt)),
        PoolView::Sent { since, .. } => execution.queued(pool, *since),
        PoolView::NoBus | PoolView::Unknown | PoolView::Unsent => execution.unsent(pool, view),
    }
}

impl PoolView {
    fn worker(&self) -> Option<&str> {
        match self {
            PoolView::Sent { taken, .. } | PoolView::Lost { taken } => {
                taken.as_ref().map(|taken| &*taken.worker)
            }
            PoolView::Ended(report) => Some(&report.worker),
            PoolView::NoBus | PoolView::Unknown | PoolView::Unsent => None,
        }
    }
}

impl Execution<'_> {
    fn pool_name(&self) -> &str {
        let pool = self.te.spec.pool.as_ref();
        pool.map_or("", |pool| pool.name.as_str())
    }

    /// As far as this process knows, nobody has the command.
    fn unsent(&self, pool: PoolState, view: &PoolView) -> Plan {
        let sure = *view != PoolView::Unknown;
        if let Some(stop) = self.stop.as_ref().filter(|_| sure) {
            return self.record_stop(stop);
        }
        // Before its time no process sends it, and what waits may be in the queue already.
        let waits = self.status.retry_at.is_some_and(|at| at > self.now) && self.stop.is_none();
        if !sure && !waits {
            return Plan::step(Step::FindCommand(self.attempt));
        }
        if let Some(plan) = self.not_yet() {
            return plan;
        }
        if *view == PoolView::NoBus {
            let message = "pools are fed over NATS, and this installation has none: an administrator can set \
                           nats.enabled or nats.external.url in the chart's values (the operator's flag --nats-url)";
            return self.show_waiting("NatsMissing", message, self.deadline());
        }
        if pool == PoolState::Missing {
            let message = format!(
                "there is no ExecutorPool {:?} in this namespace: create it with kubectl apply, and the task goes on",
                self.pool_name()
            );
            return self.show_waiting("PoolMissing", &message, self.soon());
        }
        Plan::step(Step::Dispatch(self.attempt))
    }

    fn soon(&self) -> Option<Time> {
        earliest([Some(self.now.after(POOL_AGAIN)), self.deadline()])
    }

    /// Nobody waits for it any more. Who takes it back finds out whether somebody has it.
    fn end_sent(&self, asked: Option<Asked>, taken: Option<&Taken>) -> Plan {
        let Some(asked) = asked else {
            return Plan::step(Step::Withdraw(self.attempt));
        };
        if self.now >= asked.first.after(SILENT_AFTER) {
            return match &self.stop {
                Some(stop) => self.record_stop(stop),
                None => self.end_lost(taken),
            };
        }
        let again = asked.last.after(ASK_AGAIN);
        match self.now >= again {
            true => Plan::step(Step::Cancel(self.attempt)),
            false => Plan::wake(Some(again)),
        }
    }

    fn under_way(&self, taken: &Taken) -> Plan {
        let show_at = taken.at.after(RUNNING_AFTER);
        if self.status.phase == TaskPhase::Running {
            return Plan::wake(self.deadline());
        }
        match self.now >= show_at {
            true => self.record_running(taken.at),
            false => Plan::wake(earliest([Some(show_at), self.deadline()])),
        }
    }

    fn queued(&self, pool: PoolState, since: Time) -> Plan {
        if pool == PoolState::Served {
            return Plan::wake(self.deadline());
        }
        // A pool that begins to work has no time to waste on this.
        let show_at = since.after(RUNNING_AFTER);
        if self.now < show_at {
            return Plan::wake(earliest([Some(show_at), self.deadline()]));
        }
        let name = self.pool_name();
        // The same at all times: it is written once.
        let message = format!(
            "no worker of the ExecutorPool {name:?} takes tasks: kubectl describe executorpool {name} says why"
        );
        self.show_waiting("NoWorkers", &message, self.soon())
    }

    fn end_reported(&self, report: &TaskReport) -> Plan {
        let outcome = match &report.news {
            TaskNews::Succeeded { outputs } => {
                let who = format!("the pool {:?}", self.pool_name());
                match outputs_of(&who, outputs.clone()) {
                    Ok(outputs) => Outcome::Succeeded { outputs },
                    Err(error) => by_the_task(error),
                }
            }
            TaskNews::Failed { error } => by_the_task(bounded(error.clone())),
            TaskNews::Stopped => match &self.stop {
                Some(stop) => return self.end_by_wish(stop, report),
                None => by_the_pool("its worker ended it before it was done"),
            },
            TaskNews::HandedBack => by_the_pool("its worker had to end before the task did"),
            // Its beginning is no end.
            TaskNews::Started => return Plan::wake(self.deadline()),
        };
        self.record_end(&ended(report.started_at, Some(report.at), outcome))
    }

    /// It ended as was wanted.
    fn end_by_wish(&self, stop: &Stop, report: &TaskReport) -> Plan {
        let mut status = self.draft();
        status.attempt = self.attempt;
        status.executor = Some(self.executor());
        let ended = ended(report.started_at, Some(report.at), Outcome::Stopped);
        self.end_stopped(&mut status, &stop.code, &stop.reason, Some(&ended));
        record(status)
    }

    fn end_lost(&self, taken: Option<&Taken>) -> Plan {
        let message = match taken {
            Some(taken) => format!("its worker {} was lost", taken.worker),
            None => "the worker that took it was lost before it began".to_owned(),
        };
        let began = taken.map(|taken| taken.at);
        self.record_end(&ended(began, None, by_the_pool(&message)))
    }
}

fn ended(started_at: Option<Time>, finished_at: Option<Time>, outcome: Outcome) -> Ended {
    Ended {
        started_at,
        finished_at,
        exit_code: None,
        outcome,
        lingers: false,
    }
}

fn by_the_task(error: ErrorInfo) -> Outcome {
    failed(FailureClass::Application, error)
}

fn by_the_pool(message: &str) -> Outcome {
    failed(
        FailureClass::Infrastructure,
        ErrorInfo::new(ErrorCode::WorkerLost, message.to_owned()),
    )
}

fn failed(class: FailureClass, error: ErrorInfo) -> Outcome {
    let mut details = match error.details.clone() {
        Some(Value::Object(details)) => details,
        _ => Map::new(),
    };
    details
        .entry("class")
        .or_insert_with(|| serde_json::json!(class));
    Outcome::Failed {
        class,
        error: error.with_details(details.into()),
        retryable: true,
    }
}
