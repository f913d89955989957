//! Task executions that call a tool instead of running a pod.

use std::time::Duration;

use tracing::debug;

use super::{CallError, Executions, Key, sibling};
use crate::{
    api::{TaskExecution, Time, Tool, ToolRef},
    engine::attempt::{self, CallView, Plan, Step, ToolView},
    operator::calls::CallsUnderWay,
};

/// What NATS could not do is tried again after so long.
const CALL_AGAIN: Duration = Duration::from_secs(1);

/// So long after a call's time is over it ends even if NATS cannot be asked for an answer: nothing
/// waits for ever.
const HOPELESS_AFTER: Duration = Duration::from_secs(300);

impl Executions {
    /// The engine's plan. The tool is looked at just before a call of it is recorded; a call whose
    /// time is over ends only after its answer was looked for.
    pub(super) async fn plan_call(
        &self,
        key: &Key,
        execution: &TaskExecution,
        tool: &ToolRef,
    ) -> Result<Plan, CallError> {
        let calls = self.calls.as_ref();
        let view = calls.map_or(CallView::NoBus, |calls| calls.view(execution));
        let plan = self.decide_call(execution, ToolView::Unasked, &view);
        match (&plan.steps[..], calls) {
            ([Step::FindTool], _) => {
                let tool = sibling(key, &tool.name);
                // Who waits for a pod of it looks again and again, which costs no call.
                if let Some(known) = self.hub.tools.tool(&tool)
                    && let unserved @ ToolView::Unserved = self.look_at(&known)
                {
                    return Ok(self.decide_call(execution, unserved, &view));
                }
                let tool = self.cluster.fetch_tool(&tool).await?;
                let tool = tool.as_ref().map(|tool| self.look_at(tool));
                let tool = tool.unwrap_or(ToolView::Missing);
                Ok(self.decide_call(execution, tool, &view))
            }
            ([Step::ConfirmCall(_)], Some(calls)) => Ok(self.confirm_call(execution, calls).await),
            _ => Ok(plan),
        }
    }

    /// An operator that serves no tools cannot know whether somebody takes their calls: NATS says so.
    fn look_at<'a>(&self, tool: &'a Tool) -> ToolView<'a> {
        let served = !self.serves || self.hub.tools.is_served(tool);
        ToolView::of(tool, served)
    }

    async fn confirm_call(&self, execution: &TaskExecution, calls: &CallsUnderWay) -> Plan {
        let now = Time(self.clock.now());
        let view = match calls.confirm(execution).await {
            Ok(view) => view,
            Err(_) if is_hopeless(execution, now) => CallView::Open {
                started: None,
                given_up: true,
            },
            Err(error) => {
                debug!(%error, "NATS cannot be asked for an answer");
                return Plan::wake(Some(now.after(CALL_AGAIN)));
            }
        };
        self.decide_call(execution, ToolView::Unasked, &view)
    }

    fn decide_call(&self, execution: &TaskExecution, tool: ToolView, view: &CallView) -> Plan {
        let caller = self.calls.as_ref().map_or("", CallsUnderWay::caller);
        attempt::plan_call(execution, tool, caller, view, Time(self.clock.now()))
    }

    /// Sends a call. Returns when to try again what could not be done.
    pub(super) async fn call(&self, key: &Key, execution: &TaskExecution) -> Option<Time> {
        let calls = self.calls.as_ref()?;
        if let Err(error) = calls.send(execution).await {
            debug!(%error, "NATS does not take the call");
            return Some(Time(self.clock.now()).after(CALL_AGAIN));
        }
        if let Some(gap) = self.hub.gaps.close(key) {
            self.metrics.observe_step_gap(gap);
        }
        None
    }

    /// Listens for the answers to a call. Returns when to try again what could not be done.
    pub(super) async fn listen(&self, execution: &TaskExecution) -> Option<Time> {
        let listened = self.calls.as_ref()?.listen(execution).await;
        listened.err().map(|error| {
            debug!(%error, "NATS cannot be listened to");
            Time(self.clock.now()).after(CALL_AGAIN)
        })
    }

    pub(super) fn forget_call(&self, key: &Key) {
        if let Some(calls) = &self.calls {
            calls.forget(key);
        }
    }
}

/// Whether the time of a call has been over for so long that no answer is waited for any more.
fn is_hopeless(execution: &TaskExecution, now: Time) -> bool {
    attempt::record_of(execution).is_some_and(|record| now >= record.deadline.after(HOPELESS_AFTER))
}
