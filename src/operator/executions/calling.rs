//! Task executions that call a tool instead of running a pod.

use std::time::Duration;

use tracing::debug;

use super::{CallError, Executions, Key, is_ended, sibling};
use crate::{
    api::{TaskExecution, Time, Tool, ToolRef},
    engine::attempt::{self, CallView, Plan, Step},
    operator::calls::CallsUnderWay,
    ports::BusError,
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
        let Some(calls) = &self.calls else {
            return Ok(self.decide_call(execution, None, &CallView::NoBus));
        };
        if attempt::record_of(execution).is_none() && !is_ended(execution) {
            let tool = self.cluster.fetch_tool(&sibling(key, &tool.name)).await?;
            return Ok(self.decide_call(execution, tool.as_ref(), &CallView::Unsent));
        }
        let plan = self.decide_call(execution, None, &calls.view(execution));
        let [Step::ConfirmCall(_)] = plan.steps[..] else {
            return Ok(plan);
        };
        let now = Time(self.clock.now());
        match calls.confirm(execution).await {
            Ok(view) => Ok(self.decide_call(execution, None, &view)),
            Err(_) if is_hopeless(execution, now) => {
                let silent = CallView::Open {
                    started: None,
                    given_up: true,
                };
                Ok(self.decide_call(execution, None, &silent))
            }
            Err(error) => {
                debug!(%error, "NATS cannot be asked for an answer");
                Ok(Plan::wake(Some(now.after(CALL_AGAIN))))
            }
        }
    }

    /// Sends a call, or listens for its answers. Returns when to try again what could not be done.
    pub(super) async fn call(
        &self,
        key: &Key,
        execution: &TaskExecution,
        step: &Step,
    ) -> Option<Time> {
        let calls = self.calls.as_ref()?;
        match self.called(calls, execution, step).await {
            Ok(()) => {
                if let Some(gap) = self.hub.gaps.close(key) {
                    self.metrics.observe_step_gap(gap);
                }
                None
            }
            Err(error) => {
                debug!(%error, "NATS does not take the call");
                Some(Time(self.clock.now()).after(CALL_AGAIN))
            }
        }
    }

    async fn called(
        &self,
        calls: &CallsUnderWay,
        execution: &TaskExecution,
        step: &Step,
    ) -> Result<(), BusError> {
        match step {
            Step::Call(_) => calls.send(execution).await,
            Step::Listen(_) => calls.listen(execution).await,
            _ => Ok(()),
        }
    }

    fn decide_call(&self, execution: &TaskExecution, tool: Option<&Tool>, view: &CallView) -> Plan {
        let caller = self.calls.as_ref().map_or("", CallsUnderWay::caller);
        let tool = tool.map(|tool| &tool.spec);
        attempt::plan_call(execution, tool, caller, view, Time(self.clock.now()))
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
