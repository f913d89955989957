//! Task executions that call a tool instead of running a pod.

use std::time::Duration;

use tracing::debug;

use super::{CallError, Executions, Key, is_ended, sibling};
use crate::{
    api::{TaskExecution, Time, ToolRef},
    engine::attempt::{self, Plan, Step, UNREACHABLE_GRACE, call},
};

/// What NATS could not do is tried again after so long.
const CALL_AGAIN: Duration = Duration::from_secs(1);

impl Executions {
    /// The tool is looked at once for each call, just before that is recorded.
    pub(super) async fn plan_call(
        &self,
        key: &Key,
        execution: &TaskExecution,
        tool: &ToolRef,
    ) -> Result<Plan, CallError> {
        let tool = match call::record_of(execution) {
            None if !is_ended(execution) => {
                let tool = sibling(key, &tool.name);
                self.cluster.fetch_tool(&tool).await?
            }
            _ => None,
        };
        let tool = tool.as_ref().map(|tool| &tool.spec);
        let now = Time(self.clock.now());
        let (caller, view) = match &self.calls {
            Some(calls) => (calls.caller(), calls.view(execution)),
            None => ("", call::CallView::NoBus),
        };
        Ok(call::plan_call(execution, tool, caller, view, now))
    }

    /// Sends a call, listens for its answers, or looks for those that were not heard. Returns when
    /// to try again what could not be done.
    pub(super) async fn call(
        &self,
        key: &Key,
        execution: &TaskExecution,
        step: &Step,
    ) -> Option<Time> {
        let calls = self.calls.as_ref()?;
        let done = match step {
            Step::Call(_) => calls.send(execution).await,
            Step::Listen(_) => calls.listen(execution).await,
            _ => calls.confirm(execution).await,
        };
        let now = Time(self.clock.now());
        match done {
            Ok(()) => {
                if matches!(step, Step::Call(_))
                    && let Some(gap) = self.hub.gaps.close(key)
                {
                    self.metrics.observe_step_gap(gap);
                }
                None
            }
            // Nothing waits for ever, not for NATS either.
            Err(_) if is_hopeless(execution, now) => {
                calls.give_up(execution);
                None
            }
            Err(error) => {
                debug!(%error, attempt = attempt::current_attempt(execution), "NATS does not take the call");
                Some(now.after(CALL_AGAIN))
            }
        }
    }

    pub(super) fn forget_call(&self, key: &Key) {
        if let Some(calls) = &self.calls {
            calls.forget(key);
        }
    }
}

/// Whether the time of a call has been over for so long that its answer is not waited for any more.
fn is_hopeless(execution: &TaskExecution, now: Time) -> bool {
    call::record_of(execution)
        .is_some_and(|record| now >= record.deadline.after(UNREACHABLE_GRACE))
}
