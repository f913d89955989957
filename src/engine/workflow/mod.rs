//! A run's next step: begin, start tasks, decide to stop, end.
//!
//! [`plan`] is pure. Decisions are recorded before they are acted upon, and the final phase comes
//! after the last task execution has ended.

mod record;
mod suspend;
#[cfg(test)]
mod tests;
mod ttl;

pub use ttl::expires_at;

use std::sync::Arc;

use kube::ResourceExt;

use crate::{
    api::{
        ErrorCode, FINALIZER_EVENTS, FailurePolicy, ItemFailurePolicy, Stop, TaskExecution, Time,
        Workflow, WorkflowEvent, WorkflowStatus,
    },
    engine::{
        definition::Definition,
        field_error::FieldError,
        plan,
        resolve::{Lookup, RunData},
        run::{ExecutionIndex, Failure, Run, TaskIndex},
        spec_hash::spec_hash,
    },
};

/// Progress is written at most once in this time.
pub const PROGRESS_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// One effect, with nothing left to choose.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Put our finalizer on the workflow.
    Hold,
    /// Write this status with the resourceVersion that it was decided from.
    Record(Box<WorkflowStatus>),
    /// Create this task execution.
    Create(ExecutionIndex, Box<TaskExecution>),
    /// Tell the task execution of this name whether it is suspended.
    Suspend(String, bool),
    /// Ask the task execution of this name to end.
    Stop(String, Stop),
    /// Ask the API server which task executions of the run exist, and plan again.
    ConfirmTasks,
}

/// Steps to apply in order.
pub type Plan = plan::Plan<Step>;

/// What a decision is taken from.
pub struct Observed<'a> {
    /// The object.
    pub workflow: &'a Workflow,
    /// Its tasks and where they are, or what is wrong with the spec.
    pub graph: Result<(&'a Definition, &'a Run), &'a [FieldError]>,
    /// The task executions.
    pub lookup: Lookup<'a>,
    /// The task executions that have not ended, wanted only if the spec cannot be run.
    pub unended: &'a [Arc<TaskExecution>],
    /// Whether every task execution is seen: none can be there that an earlier leader created.
    pub all_seen: bool,
    /// Whether NATS has every event of the run, or there is no NATS.
    pub told: bool,
    /// When progress was last written by this process.
    pub last_progress: Option<Time>,
    /// The time.
    pub now: Time,
}

/// Decides a workflow's next steps. A run does not end before all its task executions are seen.
pub fn plan(observed: &Observed) -> Plan {
    let plan = decide(observed);
    if !observed.all_seen && plan.steps.iter().any(ends) {
        return Plan::step(Step::ConfirmTasks);
    }
    plan
}

/// Whether the run is over after this step.
fn ends(step: &Step) -> bool {
    matches!(step, Step::Record(status) if status.phase.is_final())
}

fn decide(observed: &Observed) -> Plan {
    let status = observed.workflow.status.clone().unwrap_or_default();
    if status.phase.is_final() {
        return Plan::default();
    }
    let deleted = observed.workflow.metadata.deletion_timestamp.is_some();
    if deleted && status.started_at.is_none() {
        return Plan::default();
    }
    if !deleted && !is_held(observed.workflow) {
        return Plan::step(Step::Hold);
    }
    if status.started_at.is_none() {
        return observed.begin();
    }
    match observed.graph {
        Err(errors) => observed.fail_spec(&status, errors),
        Ok((definition, run)) => {
            let data = RunData {
                workflow: observed.workflow,
                definition,
                run,
                lookup: observed.lookup,
            };
            observed.go_on(&status, &data)
        }
    }
}

/// Whether a workflow carries our finalizer.
pub fn is_held(workflow: &Workflow) -> bool {
    workflow
        .finalizers()
        .iter()
        .any(|name| name == FINALIZER_EVENTS)
}

/// A decision to end a run before its tasks are done.
#[derive(Clone, Debug)]
struct Halt {
    event: WorkflowEvent,
    reason: String,
}

impl Observed<'_> {
    fn go_on(&self, status: &WorkflowStatus, data: &RunData) -> Plan {
        if let Some(halt) = self.halt(status) {
            let mut run = data.run.clone();
            run.halt();
            return self.stop(status, &RunData { run: &run, ..*data }, &halt);
        }
        if data.run.is_over() {
            return self.end(status, data);
        }
        let decision = self
            .decide_to_fail(status, data)
            .or_else(|| self.toggle(status, data));
        if let Some(decision) = decision {
            return decision;
        }
        let mut steps = self.stops_for_failure(status, data);
        steps.extend(self.stops_for_items(data));
        steps.extend(self.pass_on(status, data));
        if !self.is_held_back(status) {
            steps.extend(starts(data));
        }
        let mut plan = Plan {
            steps,
            wake: self.timeout_at(status),
        };
        if let Some(progress) = self.progress(status, data) {
            match self.last_progress.map(|last| last.after(PROGRESS_EVERY)) {
                Some(due) if due > self.now => {
                    plan.wake = Some(plan.wake.map_or(due, |wake| wake.min(due)));
                }
                _ => plan.steps.push(Step::Record(Box::new(progress))),
            }
        }
        plan
    }

    /// Whether the run is to be ended: decided earlier, or now.
    fn halt(&self, status: &WorkflowStatus) -> Option<Halt> {
        if let Some(halt) = decided(status) {
            return Some(halt);
        }
        let cancelled = |reason: String| {
            Some(Halt {
                event: WorkflowEvent::Cancelled,
                reason,
            })
        };
        if self.workflow.metadata.deletion_timestamp.is_some() {
            return cancelled("the workflow was deleted".to_owned());
        }
        if let Some(cancel) = &self.workflow.spec.cancel {
            return cancelled(
                cancel
                    .reason
                    .clone()
                    .unwrap_or_else(|| "cancelled by spec.cancel".to_owned()),
            );
        }
        let timeout = self.workflow.spec.timeout?;
        let overdue = self.timeout_at(status).is_some_and(|at| self.now >= at);
        overdue.then(|| Halt {
            event: WorkflowEvent::TimedOut,
            reason: format!("the workflow ran longer than its timeout of {timeout}"),
        })
    }

    fn timeout_at(&self, status: &WorkflowStatus) -> Option<Time> {
        let timeout = self.workflow.spec.timeout?;
        status
            .suspension
            .due(status.started_at?.after(timeout.get()))
    }

    /// The decision is recorded first; then each task that runs is asked to end; when the last
    /// has ended the phase becomes final.
    fn stop(&self, status: &WorkflowStatus, data: &RunData, halt: &Halt) -> Plan {
        if data.run.active().next().is_none() {
            return self.end_halted(status, data, halt);
        }
        if decided(status).is_none() {
            return self.record_halt(status, data, halt);
        }
        Plan {
            steps: stops(&self.running(data), &halt.reason),
            wake: None,
        }
    }

    /// Under `failurePolicy: Cancel` the first failure is recorded before what runs is asked to
    /// end: their ends must not be taken for it.
    fn decide_to_fail(&self, status: &WorkflowStatus, data: &RunData) -> Option<Plan> {
        let failure = self.ending_failure(data)?;
        status
            .error
            .is_none()
            .then(|| self.record_failure(status, data, failure))
    }

    fn stops_for_failure(&self, status: &WorkflowStatus, data: &RunData) -> Vec<Step> {
        let recorded = status.error.as_ref();
        let Some((error, _)) = recorded.zip(self.ending_failure(data)) else {
            return Vec::new();
        };
        let failed = error
            .details
            .as_ref()
            .and_then(|details| details.get("failed_task_id"));
        let failed = failed.map(ToString::to_string).unwrap_or_default();
        let reason = format!("task {failed} failed, and the failurePolicy is Cancel");
        stops(&self.running(data), &reason)
    }

    /// Where a failed item ends the others of its task, those are asked to end.
    fn stops_for_items(&self, data: &RunData) -> Vec<Step> {
        let tasks = data.definition.tasks();
        let cancels = |task: &TaskIndex| {
            let for_each = tasks[*task].for_each.as_ref();
            for_each.is_some_and(|it| it.failure_policy == ItemFailurePolicy::Cancel)
        };
        let tasks = data.run.cut_short().filter(cancels);
        tasks
            .flat_map(|task| {
                let running = data.run.active_of(task).filter_map(self.lookup);
                let item = data.run.first_failed_item(task).unwrap_or_default();
                let reason =
                    format!("item {item} failed, and the failurePolicy of forEach is Cancel");
                stops(&running.collect::<Vec<_>>(), &reason)
            })
            .collect()
    }

    /// The failure that ends what runs, if the policy wants that.
    fn ending_failure(&self, data: &RunData) -> Option<Failure> {
        let failure = data.run.first_failure()?;
        (data.definition.failure_policy() == FailurePolicy::Cancel).then_some(failure)
    }

    fn running(&self, data: &RunData) -> Vec<Arc<TaskExecution>> {
        data.run.active().filter_map(self.lookup).collect()
    }

    /// What is wrong with the spec, or that it is no longer the one that the run began with.
    fn fail_spec(&self, status: &WorkflowStatus, errors: &[FieldError]) -> Plan {
        if self.unended.is_empty() {
            return self.end_invalid(status, errors);
        }
        Plan {
            steps: stops(self.unended, "the workflow's spec cannot be run"),
            wake: None,
        }
    }
}

/// Creates the tasks that may start.
fn starts<'a>(data: &'a RunData) -> impl Iterator<Item = Step> + 'a {
    let executions = data.run.startable(data.definition).into_iter();
    executions.map(|which| Step::Create(which, Box::new(data.task_execution(which))))
}

/// Asks those that were not asked yet to end.
fn stops(tasks: &[Arc<TaskExecution>], reason: &str) -> Vec<Step> {
    let stop = Stop {
        code: ErrorCode::Cancelled.as_str().to_owned(),
        reason: reason.to_owned(),
    };
    tasks
        .iter()
        .filter(|te| te.spec.stop.is_none())
        .map(|te| Step::Stop(te.name_any(), stop.clone()))
        .collect()
}

/// The error of a run whose spec changed under it.
pub fn changed_spec(workflow: &Workflow) -> Option<FieldError> {
    let pinned = workflow.status.as_ref()?.spec_hash.as_ref()?;
    let now = spec_hash(&workflow.spec).ok()?;
    (*pinned != now).then(|| {
        FieldError::new("spec", "changed after the run had begun, which is not allowed: delete the workflow and create it anew")
    })
}

/// The decision to end the run that status already holds.
fn decided(status: &WorkflowStatus) -> Option<Halt> {
    status.transitions.iter().find_map(|seen| match seen.event {
        WorkflowEvent::Cancelled | WorkflowEvent::TimedOut => Some(Halt {
            event: seen.event,
            reason: status.message.clone().unwrap_or_default(),
        }),
        _ => None,
    })
}
