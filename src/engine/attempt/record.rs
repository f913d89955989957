//! The statuses that an attempt's course leaves behind, transitions included.

use serde_json::Value;

use super::{Execution, Plan, Step, cancels, created_at, earliest};
use crate::{
    api::{
        AttemptRecord, Condition, Duration, ErrorCode, ErrorInfo, FailureClass, PARSED, Stop,
        Stopping, TaskEvent, TaskExecutionStatus, TaskPhase, TaskTransition, Time, TransitionData,
    },
    engine::{
        backoff, names,
        outcome::{Ended, Outcome},
    },
};

/// Ended attempts kept in status.
const KEPT_ATTEMPTS: usize = 10;

/// Transitions kept in status once they are in the stream. (Those that are not are all kept.)
const KEPT_TRANSITIONS: usize = 32;

impl Execution<'_> {
    /// What runs this attempt: its pod, the worker of a pool, or the tool that it calls.
    pub(super) fn executor(&self) -> String {
        if let Some(pool) = &self.te.spec.pool {
            return match self.worker {
                Some(worker) => format!("pool/{}/{worker}", pool.name),
                None => format!("pool/{}", pool.name),
            };
        }
        if let Some(tool) = &self.te.spec.tool {
            return format!("tool/{}", tool.name);
        }
        names::pod_name(
            self.te.metadata.name.as_deref().unwrap_or_default(),
            self.attempt,
        )
    }

    /// The present status with what every write says.
    pub(super) fn draft(&self) -> TaskExecutionStatus {
        let mut status = self.status.clone();
        status.conditions.retain(|seen| seen.kind != PARSED);
        prune(&mut status);
        status
    }

    pub(super) fn push(
        &self,
        status: &mut TaskExecutionStatus,
        event: TaskEvent,
        at: Time,
        data: TransitionData,
    ) {
        // Seq 1 is the creation.
        let seq = status.transitions.last().map_or(2, |last| last.seq + 1);
        status.transitions.push(TaskTransition {
            seq,
            event,
            attempt: self.attempt,
            at: self.not_before(status, at),
            data: data.write(),
        });
    }

    /// That time, or the last that the history speaks of, which does not go back: containers'
    /// times are whole seconds, and the clock of another leader, of a node or of the API server
    /// may be ahead of ours.
    fn not_before(&self, status: &TaskExecutionStatus, at: Time) -> Time {
        let last = status.transitions.last().map(|last| last.at);
        at.max(last.unwrap_or_else(|| created_at(self.te, at)))
    }

    /// When this attempt's event happened, if that was said before.
    pub(super) fn said(&self, event: TaskEvent) -> Option<Time> {
        let mut of_it = self.status.transitions.iter().rev();
        of_it
            .find(|seen| seen.event == event && seen.attempt == self.attempt)
            .map(|seen| seen.at)
    }

    /// The attempt's container runs; unless that was said before.
    fn push_started(&self, status: &mut TaskExecutionStatus, since: Time) {
        if self.said(TaskEvent::Started).is_some() {
            return;
        }
        let executor = self.executor();
        status.attempt = self.attempt;
        let started_at = self.not_before(status, since);
        status.started_at.get_or_insert(started_at);
        self.push(
            status,
            TaskEvent::Started,
            since,
            TransitionData {
                executor: Some(executor.clone()),
                ..TransitionData::default()
            },
        );
        status.executor = Some(executor);
    }

    pub(super) fn record_running(&self, since: Time) -> Plan {
        record(self.running_since(since))
    }

    /// The attempt runs.
    pub(super) fn running_since(&self, since: Time) -> TaskExecutionStatus {
        let mut status = self.draft();
        status.phase = TaskPhase::Running;
        status.reason = None;
        status.message = None;
        status.retry_at = None;
        self.push_started(&mut status, since);
        status
    }

    /// Shows what this attempt's pod waits for, once for each reason.
    pub(super) fn show_pod_waiting(&self, reason: &str, message: &str, wake: Option<Time>) -> Plan {
        let mut plan = self.show_waiting(reason, message, wake);
        if let [Step::Record(status)] = &mut plan.steps[..] {
            status.attempt = self.attempt;
            status.executor = Some(self.executor());
        }
        plan
    }

    /// Shows what an attempt without a pod waits for, once for each reason.
    pub(super) fn show_waiting(&self, reason: &str, message: &str, wake: Option<Time>) -> Plan {
        // The kubelet alternates between these two while it backs off; one write is enough.
        let same =
            |shown: &str| shown == reason || (is_pull_failure(shown) && is_pull_failure(reason));
        if self.status.reason.as_deref().is_some_and(same)
            && self.status.phase == TaskPhase::Pending
        {
            return Plan::wake(wake);
        }
        let mut status = self.draft();
        status.phase = TaskPhase::Pending;
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
        status.retry_at = None;
        Plan {
            wake,
            ..record(status)
        }
    }

    pub(super) fn record_stopping(&self, stop: &Stop) -> Plan {
        let mut status = self.draft();
        status.attempt = self.attempt;
        status.reason = Some(stop.code.clone());
        status.message = Some(stop.reason.clone());
        status.stopping = Some(Stopping {
            attempt: self.attempt,
            code: stop.code.clone(),
            reason: stop.reason.clone(),
            at: self.now,
        });
        record(status)
    }

    /// Ends an execution of which nothing runs.
    pub(super) fn record_stop(&self, stop: &Stop) -> Plan {
        let mut status = self.draft();
        self.end_stopped(&mut status, &stop.code, &stop.reason, None);
        record(status)
    }

    /// The attempt ended: success, another attempt, or the end.
    pub(super) fn record_end(&self, ended: &Ended) -> Plan {
        self.end(self.draft(), ended)
    }

    /// The same on top of a status that says more.
    pub(super) fn end(&self, mut status: TaskExecutionStatus, ended: &Ended) -> Plan {
        status.attempt = self.attempt;
        status.executor = Some(self.executor());
        status.retry_at = None;
        if let Some(since) = ended.started_at {
            self.push_started(&mut status, since);
        }
        match &ended.outcome {
            Outcome::Succeeded { outputs } => self.end_succeeded(&mut status, ended, outputs),
            Outcome::Stopped => self.end_attempt_stopped(&mut status, ended),
            Outcome::Failed {
                class,
                error,
                retryable,
            } => {
                self.end_failed(&mut status, ended, *class, error, *retryable);
            }
        }
        status.stopping = None;
        let wake = status.retry_at;
        Plan {
            wake: earliest([wake]),
            ..record(status)
        }
    }

    fn end_succeeded(&self, status: &mut TaskExecutionStatus, ended: &Ended, outputs: &Value) {
        self.keep_attempt(status, ended, None, "Completed", None);
        status.outputs = Some(outputs.clone());
        self.push(
            status,
            TaskEvent::Completed,
            self.now,
            TransitionData::default(),
        );
        self.finish(status, TaskPhase::Succeeded, "Completed", None);
    }

    /// The pod ended because we had decided so.
    fn end_attempt_stopped(&self, status: &mut TaskExecutionStatus, ended: &Ended) {
        let Some(stopping) = self.stopping() else {
            return;
        };
        if stopping.code == ErrorCode::Timeout.as_str() && self.stop.is_none() {
            let error = ErrorInfo::new(ErrorCode::Timeout, stopping.reason.clone());
            return self.end_failed(status, ended, FailureClass::Application, &error, true);
        }
        self.end_stopped(status, &stopping.code, &stopping.reason, Some(ended));
    }

    /// Ends the execution for good by a wish from outside, a deadline, or a spec that cannot run.
    pub(super) fn end_stopped(
        &self,
        status: &mut TaskExecutionStatus,
        code: &str,
        reason: &str,
        ended: Option<&Ended>,
    ) {
        if let Some(ended) = ended {
            self.keep_attempt(status, ended, None, code, Some(reason));
        }
        status.stopping = None;
        status.retry_at = None;
        if cancels(code) {
            self.push(
                status,
                TaskEvent::Cancelled,
                self.now,
                TransitionData {
                    reason: Some(reason.to_owned()),
                    ..TransitionData::default()
                },
            );
            status.error = Some(ErrorInfo {
                message: reason.to_owned(),
                code: code.to_owned(),
                details: None,
            });
            self.finish(status, TaskPhase::Cancelled, code, Some(reason));
        } else {
            let error = ErrorInfo {
                message: reason.to_owned(),
                code: code.to_owned(),
                details: None,
            };
            self.push_failed(status, &error, FailureClass::Application);
            status.error = Some(error);
            self.finish(status, TaskPhase::Failed, code, Some(reason));
        }
    }

    fn end_failed(
        &self,
        status: &mut TaskExecutionStatus,
        ended: &Ended,
        class: FailureClass,
        error: &ErrorInfo,
        retryable: bool,
    ) {
        self.keep_attempt(
            status,
            ended,
            Some(class),
            &error.code,
            Some(&error.message),
        );
        let (spent, budget) = match class {
            FailureClass::Application => {
                status.failures.application += 1;
                (
                    status.failures.application,
                    self.te.spec.retry.max_attempts.saturating_sub(1),
                )
            }
            FailureClass::Infrastructure => {
                status.failures.infrastructure += 1;
                (
                    status.failures.infrastructure,
                    self.te.spec.infrastructure_retries,
                )
            }
        };
        self.push_failed(status, error, class);
        if let Some(stop) = self.stop.as_ref().filter(|stop| cancels(&stop.code)) {
            // Nobody waits for this task any more; its failure is told, its end is the wish.
            return self.end_stopped(status, &stop.code, &stop.reason, None);
        }
        if retryable && spent <= budget && self.stop.is_none() {
            return self.schedule_retry(status, error, spent);
        }
        status.error = Some(error.clone());
        self.finish(status, TaskPhase::Failed, &error.code, Some(&error.message));
    }

    fn schedule_retry(&self, status: &mut TaskExecutionStatus, error: &ErrorInfo, failures: u32) {
        let uid = self.te.metadata.uid.as_deref().unwrap_or_default();
        let delay = backoff::delay(&self.te.spec.retry.backoff, failures, uid);
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let data = TransitionData {
            next_attempt_delay_ms: Some(millis),
            ..TransitionData::default()
        };
        self.push(status, TaskEvent::RetryScheduled, self.now, data);
        status.phase = TaskPhase::Retrying;
        // Suspended, the pause begins when the run goes on.
        status.retry_at = Some(status.suspension.clock(self.now).after(delay));
        status.reason = Some(error.code.clone());
        status.message = Some(error.message.clone());
    }

    fn push_failed(
        &self,
        status: &mut TaskExecutionStatus,
        error: &ErrorInfo,
        class: FailureClass,
    ) {
        let data = TransitionData {
            error: Some(error.clone()),
            class: Some(class),
            // Tries of the task's own: what infrastructure cost it does not count.
            current_attempt: Some(self.status.failures.application + 1),
            ..TransitionData::default()
        };
        self.push(status, TaskEvent::Failed, self.now, data);
    }

    fn keep_attempt(
        &self,
        status: &mut TaskExecutionStatus,
        ended: &Ended,
        class: Option<FailureClass>,
        reason: &str,
        message: Option<&str>,
    ) {
        if status.attempts.len() >= KEPT_ATTEMPTS {
            status.attempts.remove(0);
        }
        status.attempts.push(AttemptRecord {
            number: self.attempt,
            executor: self.executor(),
            started_at: ended.started_at,
            finished_at: ended.finished_at.unwrap_or(self.now),
            class,
            reason: reason.to_owned(),
            exit_code: ended.exit_code,
            message: message.map(str::to_owned),
        });
    }

    fn finish(
        &self,
        status: &mut TaskExecutionStatus,
        phase: TaskPhase,
        reason: &str,
        message: Option<&str>,
    ) {
        let at = self.not_before(status, self.now);
        status.phase = phase;
        status.reason = Some(reason.to_owned());
        status.message = message.map(str::to_owned);
        status.finished_at = Some(at);
        status.duration = status
            .started_at
            .map(|start| Duration::from(at.since(start)));
        status.conditions = Condition::finished(
            phase == TaskPhase::Succeeded,
            reason,
            message.unwrap_or_default(),
            at,
            self.te.metadata.generation,
        );
    }
}

fn is_pull_failure(reason: &str) -> bool {
    matches!(reason, "ErrImagePull" | "ImagePullBackOff")
}

pub(super) fn record(status: TaskExecutionStatus) -> Plan {
    Plan::step(Step::Record(Box::new(status)))
}

/// Lets go of old transitions that the stream has.
fn prune(status: &mut TaskExecutionStatus) {
    let mirrored = status.mirror.as_ref().map_or(0, |mirror| mirror.seq);
    let surplus = status.transitions.len().saturating_sub(KEPT_TRANSITIONS);
    let prunable = status
        .transitions
        .iter()
        .take(surplus)
        .take_while(|seen| seen.seq <= mirrored)
        .count();
    status.transitions.drain(..prunable);
}
