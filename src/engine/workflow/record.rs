//! The statuses that a run's course leaves behind, transitions included.

use serde_json::json;

use super::{Halt, Observed, Plan, Step, decided};
use crate::{
    api::{
        Condition, Duration, ErrorCode, ErrorInfo, PARSED, RunPhase, TaskPhase, TaskRow, Time,
        TransitionData, WorkflowEvent, WorkflowStatus, WorkflowTransition,
    },
    engine::{
        field_error::FieldError,
        resolve::{RunData, SKIPPED},
        run::{ExecutionIndex, Failure, NodeState, TaskIndex},
        spec_hash::spec_hash,
    },
};

/// Above so many tasks status lists only the failed ones and those under way.
const MAX_ROWS: usize = 500;

/// Transitions kept in status once they are in NATS. (Those that are not are all kept.)
const KEPT_TRANSITIONS: usize = 32;

/// The reason of a run whose spec cannot be run.
const INVALID_SPEC: &str = "InvalidSpec";

impl Observed<'_> {
    /// The run begins. A spec that cannot be run begins and fails in one write.
    pub(super) fn begin(&self) -> Plan {
        let mut status = WorkflowStatus {
            phase: RunPhase::Running,
            observed_generation: self.workflow.metadata.generation,
            spec_hash: spec_hash(&self.workflow.spec).ok(),
            started_at: Some(self.not_before(&WorkflowStatus::default())),
            ..WorkflowStatus::default()
        };
        self.push(
            &mut status,
            WorkflowEvent::Started,
            TransitionData::default(),
        );
        match self.graph {
            Err(errors) => self.end_invalid(&status, errors),
            Ok((definition, run)) => {
                let data = RunData {
                    workflow: self.workflow,
                    definition,
                    run,
                    lookup: self.lookup,
                };
                if self.wants_suspension() && self.halt(&status).is_none() {
                    self.push_suspended(&mut status);
                }
                show_progress(&mut status, &data);
                record(status)
            }
        }
    }

    pub(super) fn end_invalid(&self, status: &WorkflowStatus, errors: &[FieldError]) -> Plan {
        let listed: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let message = listed.join("; ");
        let mut status = status.clone();
        status.error = Some(ErrorInfo::new(ErrorCode::InvalidSpec, message.clone()));
        status
            .done
            .get_or_insert_with(|| format!("0/{}", self.workflow.spec.tasks.len()));
        self.show_ended(&mut status.tasks);
        self.push(
            &mut status,
            WorkflowEvent::Failed,
            TransitionData::default(),
        );
        self.finish(&mut status, RunPhase::Failed, INVALID_SPEC, &message);
        record(status)
    }

    /// What the rows of a run say that has ended and has no graph to ask.
    fn show_ended(&self, rows: &mut [TaskRow]) {
        for row in rows {
            if let Some(items) = &mut row.items {
                items.failed += std::mem::take(&mut items.running);
                items.skipped = items.total - items.succeeded - items.failed;
                if matches!(row.phase.as_str(), "Waiting" | "Pending" | "Running") {
                    row.phase = TaskPhase::Cancelled.as_str().to_owned();
                }
                continue;
            }
            let mut names = self.workflow.spec.tasks.iter().map(|task| &task.name);
            let execution = names
                .position(|name| *name == row.name)
                .and_then(|task| (self.lookup)(task.into()));
            let phase = execution.map(|te| te.status.clone().unwrap_or_default().phase);
            row.phase = phase.map_or(SKIPPED, TaskPhase::as_str).to_owned();
        }
    }

    /// The status with the tasks' present state, if that differs.
    pub(super) fn progress(
        &self,
        status: &WorkflowStatus,
        data: &RunData,
    ) -> Option<WorkflowStatus> {
        let mut next = status.clone();
        show_progress(&mut next, data);
        (next != *status).then_some(next)
    }

    /// All tasks ended by themselves.
    pub(super) fn end(&self, status: &WorkflowStatus, data: &RunData) -> Plan {
        let mut status = status.clone();
        show_progress(&mut status, data);
        if let Some(failure) = data.run.first_failure() {
            let recorded = status.error.take();
            let error = recorded.unwrap_or_else(|| task_error(data, failure.of));
            return self.end_failed(status, error);
        }
        match data.outputs() {
            Err(error) => self.end_failed(
                status,
                ErrorInfo::new(ErrorCode::ExpressionError, error.to_string()),
            ),
            Ok(outputs) => {
                status.outputs = outputs;
                self.push(
                    &mut status,
                    WorkflowEvent::Completed,
                    TransitionData::default(),
                );
                self.finish(&mut status, RunPhase::Succeeded, "Succeeded", "");
                record(status)
            }
        }
    }

    /// The failure that ends the run, while tasks still run.
    pub(super) fn record_failure(
        &self,
        status: &WorkflowStatus,
        data: &RunData,
        failure: Failure,
    ) -> Plan {
        let mut status = status.clone();
        status.error = Some(task_error(data, failure.of));
        show_progress(&mut status, data);
        record(status)
    }

    fn end_failed(&self, mut status: WorkflowStatus, error: ErrorInfo) -> Plan {
        self.push(
            &mut status,
            WorkflowEvent::Failed,
            TransitionData::default(),
        );
        self.finish(&mut status, RunPhase::Failed, &error.code, &error.message);
        status.error = Some(error);
        record(status)
    }

    /// The decision to end the run, while tasks still run.
    pub(super) fn record_halt(&self, status: &WorkflowStatus, data: &RunData, halt: &Halt) -> Plan {
        let mut status = status.clone();
        show_progress(&mut status, data);
        self.push_halt(&mut status, halt);
        status.phase = RunPhase::Stopping;
        record(status)
    }

    /// The decision to end the run was taken and nothing runs any more.
    pub(super) fn end_halted(&self, status: &WorkflowStatus, data: &RunData, halt: &Halt) -> Plan {
        let mut status = status.clone();
        if decided(&status).is_none() {
            self.push_halt(&mut status, halt);
        }
        let (phase, reason, code) = match halt.event {
            WorkflowEvent::TimedOut => (RunPhase::TimedOut, "TimedOut", ErrorCode::Timeout),
            _ => (RunPhase::Cancelled, "Cancelled", ErrorCode::Cancelled),
        };
        show_progress(&mut status, data);
        status.error = Some(ErrorInfo::new(code, halt.reason.clone()));
        self.finish(&mut status, phase, reason, &halt.reason);
        record(status)
    }

    fn push_halt(&self, status: &mut WorkflowStatus, halt: &Halt) {
        status.message = Some(halt.reason.clone());
        status.suspension.end(self.now);
        let reason = (halt.event == WorkflowEvent::Cancelled).then(|| halt.reason.clone());
        let data = TransitionData {
            reason,
            ..TransitionData::default()
        };
        self.push(status, halt.event, data);
    }

    /// The time, or the last that the run's history speaks of, which does not go back: another
    /// leader's clock or the API server's may be ahead of ours.
    fn not_before(&self, status: &WorkflowStatus) -> Time {
        let created = self.workflow.metadata.creation_timestamp.as_ref();
        let last = status.transitions.last().map(|last| last.at);
        let floor = last.or_else(|| created.map(|created| Time(created.0)));
        floor.map_or(self.now, |floor| self.now.max(floor))
    }

    pub(super) fn push(
        &self,
        status: &mut WorkflowStatus,
        event: WorkflowEvent,
        data: TransitionData,
    ) {
        if self.told {
            let surplus = status.transitions.len().saturating_sub(KEPT_TRANSITIONS);
            status.transitions.drain(..surplus);
        }
        let seq = status.transitions.last().map_or(1, |last| last.seq + 1);
        status.transitions.push(WorkflowTransition {
            seq,
            event,
            at: self.not_before(status),
            data: data.write(),
        });
    }

    fn finish(&self, status: &mut WorkflowStatus, phase: RunPhase, reason: &str, message: &str) {
        let at = self.not_before(status);
        status.phase = phase;
        status.suspension.end(self.now);
        status.observed_generation = self.workflow.metadata.generation;
        status.finished_at = Some(at);
        status.duration = status
            .started_at
            .map(|start| Duration::from(at.since(start)));
        status.message = (!message.is_empty()).then(|| message.to_owned());
        status.conditions = Condition::finished(
            phase == RunPhase::Succeeded,
            reason,
            message,
            at,
            self.workflow.metadata.generation,
        );
    }
}

pub(super) fn record(status: WorkflowStatus) -> Plan {
    Plan::step(Step::Record(Box::new(status)))
}

/// The run's error is the failed task's, with the task's name before it.
fn task_error(data: &RunData, of: ExecutionIndex) -> ErrorInfo {
    let name = &data.definition.tasks()[of.task].spec.name;
    let te = (data.lookup)(of);
    let error = te
        .as_ref()
        .and_then(|te| te.status.as_ref())
        .and_then(|status| status.error.clone());
    let error = error.unwrap_or_else(|| {
        ErrorInfo::new(
            ErrorCode::Deleted,
            "its task execution was deleted before it ended",
        )
    });
    let mut details = json!({
        "failed_task_id": name,
        "failed_task_exec_id": te.as_ref().and_then(|te| te.metadata.uid.clone()),
        "task_error": error,
    });
    let item = of.item.map(|index| {
        details["failed_index"] = json!(index);
        format!(" at item {index}")
    });
    let item = item.unwrap_or_default();
    ErrorInfo {
        message: format!("task {name:?} failed{item}: {}", error.message),
        code: error.code,
        details: Some(details),
    }
}

pub(super) fn show_progress(status: &mut WorkflowStatus, data: &RunData) {
    let total = data.run.size();
    status.conditions.retain(|seen| seen.kind != PARSED);
    status.done = Some(format!("{}/{total}", data.run.done()));
    let ending = data.run.is_halted() && !data.run.is_over();
    status.phase = match ending {
        _ if status.suspension.is_on() => RunPhase::Suspended,
        true => RunPhase::Stopping,
        false => RunPhase::Running,
    };
    if let Some(failure) = data.run.first_failure().filter(|_| ending) {
        status
            .message
            .get_or_insert_with(|| task_error(data, failure.of).message);
    }
    status.tasks = rows(data);
}

/// One row a task; above [`MAX_ROWS`] tasks only the failed ones and those under way.
fn rows(data: &RunData) -> Vec<TaskRow> {
    let total = data.definition.tasks().len();
    let unusual = |task: &TaskIndex| {
        total <= MAX_ROWS
            || matches!(
                data.run.state(*task),
                NodeState::Active(_) | NodeState::Ended(TaskPhase::Failed | TaskPhase::Cancelled)
            )
    };
    (0..total)
        .filter(unusual)
        .take(MAX_ROWS)
        .map(|task| TaskRow {
            name: data.definition.tasks()[task].spec.name.clone(),
            phase: row_phase(data.run.state(task)).to_owned(),
            items: data.run.item_counts(task),
        })
        .collect()
}

fn row_phase(state: NodeState) -> &'static str {
    match state {
        NodeState::Waiting => "Waiting",
        // About to be created: told apart, it would cost a write of its own.
        NodeState::Ready => TaskPhase::Pending.as_str(),
        NodeState::Active(phase) | NodeState::Ended(phase) => phase.as_str(),
        NodeState::Skipped => SKIPPED,
    }
}
