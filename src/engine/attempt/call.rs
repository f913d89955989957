//! The plan of a task that calls a tool: one message, sent by the operator itself, and its answer.
//!
//! That a call is made, and by which process, is recorded before it is sent. Only that process
//! sends it, and once: whether another one had sent its call before it ended, nobody can know.
//! So whoever finds a call of another process listens, no more.
//!
//! | the call | then |
//! |---|---|
//! | is answered | the attempt ends with the answer, whatever else is wanted |
//! | has nobody to go to | the attempt fails |
//! | is one of an execution that was asked to end | it is given up: nothing can stop a tool |
//! | has had its time, or the execution has | unless it was never sent, stored answers are looked for; then it ends |
//! | was recorded by this process and not sent | it is sent |
//! | is not listened for | this process listens |
//! | began to be worked on a second ago | that is shown, once |

mod answer;

pub use answer::{Answer, Heard, hear};

use serde_json::Map;

use self::answer::{Silence, Tool, Verdict};
use super::{Execution, Plan, RUNNING_AFTER, Step, current_attempt, earliest, record::record};
use crate::{
    api::{
        self, CallRecord, Duration, ErrorCode, ErrorInfo, Stop, TaskEvent, TaskExecution,
        TaskExecutionStatus, Time, ToolCall, ToolSpec, TransitionData,
    },
    engine::{
        names,
        outcome::{Ended, Outcome},
    },
    protocol::tool::{ToolExecute, ToolSubjects},
};

/// Whether a Tool that was missing is there is looked at again after so long: nobody tells.
const TOOL_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether a tool that the operator serves takes calls is looked at again after so long.
const SERVED_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// A call that nobody took is sent again after so long.
const SEND_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// What is known of the tool that is to be called.
#[derive(Clone, Copy, Debug)]
pub enum ToolView<'a> {
    /// Nobody asked.
    Unasked,
    /// The API server, asked just now, does not have it.
    Missing,
    /// The operator serves it, and none of its pods takes calls.
    Unserved,
    /// The API server, asked just now, has it.
    Found(&'a ToolSpec),
}

impl<'a> ToolView<'a> {
    /// Of a tool; `served` says whether a pod of the operator's takes its calls.
    pub fn of(tool: &'a api::Tool, served: bool) -> ToolView<'a> {
        match tool.spec.handler.is_none() || served {
            true => ToolView::Found(&tool.spec),
            false => ToolView::Unserved,
        }
    }
}

/// What is known of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum CallView {
    /// There is no NATS in this installation.
    NoBus,
    /// This process has neither sent it nor listened for its answers.
    Unsent,
    /// This process listens, and there is no answer so far.
    Open {
        /// When the tool said that it has begun, if it did.
        started: Option<Time>,
        /// No answer is stored either, which was looked for after the deadline, or cannot be any
        /// more.
        given_up: bool,
    },
    /// Nobody was there to whom the call could go, so nobody has it.
    NoResponders {
        /// When NATS said so.
        since: Time,
    },
    /// It is over.
    Answered {
        /// When the tool said that it has begun, if it did.
        started: Option<Time>,
        /// When it answered.
        at: Time,
        /// What.
        answer: Answer,
    },
}

/// Decides the next steps of a task execution that calls a tool, from its object, what is known of
/// the tool, who this process is, what it knows of the current attempt's call (see
/// [`current_attempt`]), and the time.
pub fn plan_call(
    te: &TaskExecution,
    tool: ToolView,
    caller: &str,
    view: &CallView,
    now: Time,
) -> Plan {
    let status = te.status.clone().unwrap_or_default();
    if status.phase.is_final() {
        return Plan::default();
    }
    let execution = Execution::new(te, &status, now);
    if let Some(plan) = execution.toggled() {
        return plan;
    }
    match record_of(te) {
        Some(record) => Call {
            of: &execution,
            record,
            ours: record.caller == caller,
        }
        .plan(view),
        None => execution.without_call(tool, caller, *view == CallView::NoBus),
    }
}

/// The call of the current attempt, if one was recorded and it has not ended.
pub fn record_of(te: &TaskExecution) -> Option<&CallRecord> {
    let status = te.status.as_ref().filter(|it| !it.phase.is_final())?;
    let call = status.call.as_ref()?;
    (call.attempt == current_attempt(te)).then_some(call)
}

/// The call that was recorded, as it is sent.
pub fn execute(te: &TaskExecution, call: &CallRecord, subjects: &ToolSubjects) -> ToolExecute {
    let namespace = te.metadata.namespace.clone().unwrap_or_default();
    let task_exec_id = te.metadata.uid.clone().unwrap_or_default();
    let inputs = te.spec.inputs.clone();
    ToolExecute {
        tool_id: tool_name(te).to_owned(),
        tool_exec_id: call.tool_exec_id.clone(),
        input_args: inputs.unwrap_or_else(|| Map::new().into()),
        reply_to_subject: subjects.result(&namespace, &task_exec_id, &call.tool_exec_id),
        deadline: call.deadline,
        namespace,
        workflow_id: te.spec.workflow.id.clone(),
        workflow_exec_id: te.spec.workflow.uid.clone(),
        task_id: te.spec.task.clone(),
        task_exec_id,
        attempt: call.attempt,
    }
}

fn tool_name(te: &TaskExecution) -> &str {
    te.spec.tool.as_ref().map_or("", |tool| tool.name.as_str())
}

impl Execution<'_> {
    /// No call of this attempt was recorded, so none was sent.
    fn without_call(&self, tool: ToolView, caller: &str, no_bus: bool) -> Plan {
        if let Some(stop) = &self.stop {
            return self.record_stop(stop);
        }
        if let Some(plan) = self.not_yet() {
            return plan;
        }
        if no_bus {
            let message = "tools are called over NATS, and this installation has none: an administrator can \
                           set nats.enabled or nats.external.url in the chart's values (the operator's flag --nats-url)";
            return self.show_waiting("NatsMissing", message, self.deadline());
        }
        match tool {
            ToolView::Unasked => Plan::step(Step::FindTool),
            ToolView::Missing => self.without_tool(),
            ToolView::Unserved => self.unserved(),
            ToolView::Found(tool) => self.record_call(tool, caller),
        }
    }

    fn without_tool(&self) -> Plan {
        let message = format!(
            "there is no Tool {:?} in this namespace: create it with kubectl apply, and the task goes on",
            tool_name(self.te)
        );
        let again = Some(self.now.after(TOOL_AGAIN));
        self.show_waiting("ToolMissing", &message, earliest([again, self.deadline()]))
    }

    fn unserved(&self) -> Plan {
        let name = tool_name(self.te);
        // The same at all times: it is written once.
        let message = format!(
            "no pod takes the calls of the Tool {name:?}: kubectl describe tool {name} says why"
        );
        let again = Some(self.now.after(SERVED_AGAIN));
        self.show_waiting("ToolNotReady", &message, earliest([again, self.deadline()]))
    }

    fn record_call(&self, tool: &ToolSpec, caller: &str) -> Plan {
        let uid = self.te.metadata.uid.as_deref().unwrap_or_default();
        let own = self.te.spec.timeout.map(Duration::get);
        let patience = own.into_iter().fold(tool.patience().get(), Ord::min);
        let mut status = self.running_since(self.now);
        status.call = Some(CallRecord {
            attempt: self.attempt,
            tool_exec_id: names::tool_exec_id(uid, self.attempt),
            caller: caller.to_owned(),
            deadline: self.now.after(patience),
            handled: tool.handler.is_some(),
        });
        record(status)
    }
}

/// The call of the current attempt.
struct Call<'a> {
    of: &'a Execution<'a>,
    record: &'a CallRecord,
    /// This process recorded it.
    ours: bool,
}

impl Call<'_> {
    fn plan(&self, view: &CallView) -> Plan {
        match view {
            CallView::Answered {
                started,
                at,
                answer,
            } => self.end(*started, *at, self.tool().meant_by(answer)),
            CallView::NoResponders { since } => self.untaken(*since),
            CallView::Open { started, given_up } => self.unanswered(view, *started, *given_up),
            CallView::NoBus => self.unanswered(view, None, true),
            CallView::Unsent => self.unanswered(view, None, self.ours),
        }
    }

    /// Nobody took the call. Whoever the operator runs comes back: after NATS, or a node, was gone. So it is sent once more,
    /// and once more; it was never delivered.
    fn untaken(&self, since: Time) -> Plan {
        let again = since.after(SEND_AGAIN);
        let in_time = self.of.stop.is_none() && again < self.record.deadline;
        if !(self.record.handled && self.ours && in_time) {
            return self.end(None, self.of.now, self.tool().not_served());
        }
        match self.of.now >= again {
            true => Plan::step(Step::Call(self.of.attempt)),
            false => Plan::wake(earliest([Some(again), self.of.deadline()])),
        }
    }

    /// There is no answer as far as is known; `surely` if there is no use in looking for one.
    fn unanswered(&self, view: &CallView, started: Option<Time>, surely: bool) -> Plan {
        let of_time = |stop: &&Stop| stop.code == ErrorCode::DeadlineExceeded.as_str();
        let stop = self.of.stop.as_ref();
        if let Some(stop) = stop.filter(|stop| surely || !of_time(stop)) {
            return self.give_up(started, stop);
        }
        let attempt = self.of.attempt;
        if stop.is_some() || self.of.now >= self.record.deadline {
            return match surely {
                true => self.end(started, self.of.now, self.too_late(view)),
                false => Plan::step(Step::ConfirmCall(attempt)),
            };
        }
        match view {
            CallView::Unsent if self.ours => Plan::step(Step::Call(attempt)),
            CallView::Unsent => Plan::step(Step::Listen(attempt)),
            _ => self.wait(started),
        }
    }

    /// The tool may take its time. That it has begun is worth a write if it takes longer.
    fn wait(&self, started: Option<Time>) -> Plan {
        let untold = started.filter(|_| self.of.said(TaskEvent::ToolStarted).is_none());
        let show_at = untold.map(|started| started.after(RUNNING_AFTER));
        if show_at.is_some_and(|at| self.of.now >= at) {
            let mut status = self.of.draft();
            self.push_started(&mut status, untold);
            return record(status);
        }
        Plan::wake(earliest([
            show_at,
            Some(self.record.deadline),
            self.of.deadline(),
        ]))
    }

    fn too_late(&self, view: &CallView) -> Verdict {
        let why = match view {
            _ if !self.ours => Silence::Restarted,
            CallView::Unsent => Silence::Unsent,
            _ => Silence::Unbroken,
        };
        let patience = self.record.deadline.since(self.begun_at());
        self.tool().silent(patience.into(), why)
    }

    /// The execution ends, and whatever the tool does or answers from now on is nobody's.
    fn give_up(&self, started: Option<Time>, stop: &Stop) -> Plan {
        let told = ErrorInfo {
            message: stop.reason.clone(),
            code: stop.code.clone(),
            details: None,
        };
        let mut status = self.of.draft();
        self.push_started(&mut status, started);
        self.push(&mut status, TaskEvent::ToolFailed, self.of.now, Some(told));
        let ended = self.ended(self.of.now, Outcome::Stopped);
        self.of
            .end_stopped(&mut status, &stop.code, &stop.reason, Some(&ended));
        record(status)
    }

    fn end(&self, started: Option<Time>, at: Time, verdict: Verdict) -> Plan {
        let mut status = self.of.draft();
        let answered = verdict.event == TaskEvent::ToolCompleted;
        let begun = started.or_else(|| answered.then(|| self.begun_at()));
        self.push_started(&mut status, begun);
        self.push(&mut status, verdict.event, at, verdict.told);
        self.of.end(status, &self.ended(at, verdict.outcome))
    }

    fn ended(&self, at: Time, outcome: Outcome) -> Ended {
        Ended {
            started_at: Some(self.begun_at()),
            finished_at: Some(at),
            exit_code: None,
            outcome,
            lingers: false,
        }
    }

    /// When the call was recorded.
    fn begun_at(&self) -> Time {
        self.of.said(TaskEvent::Started).unwrap_or(self.of.now)
    }

    /// The tool has begun, if it has; unless that was said before.
    fn push_started(&self, status: &mut TaskExecutionStatus, at: Option<Time>) {
        if let Some(at) = at.filter(|_| self.of.said(TaskEvent::ToolStarted).is_none()) {
            self.push(status, TaskEvent::ToolStarted, at, None);
        }
    }

    fn push(
        &self,
        status: &mut TaskExecutionStatus,
        event: TaskEvent,
        at: Time,
        error: Option<ErrorInfo>,
    ) {
        let took = at.since(self.begun_at()).as_millis();
        let ended = event == TaskEvent::ToolCompleted;
        let tool = self.tool();
        let data = TransitionData {
            error,
            tool: Some(ToolCall {
                id: tool.name.to_owned(),
                exec_id: tool.call.to_owned(),
                duration_ms: ended.then(|| u64::try_from(took).unwrap_or(u64::MAX)),
            }),
            ..TransitionData::default()
        };
        self.of.push(status, event, at, data);
    }

    fn tool(&self) -> Tool<'_> {
        Tool {
            name: tool_name(self.of.te),
            call: &self.record.tool_exec_id,
        }
    }
}
