//! Task executions that a pool's worker runs.

use std::time::Duration;

use tracing::debug;

use super::{CallError, Executions, Key, sibling};
use crate::{
    api::{PoolRef, TaskExecution, Time},
    engine::attempt::{self, Plan, PoolState, PoolView, Step},
    operator::{dispatches::Dispatches, progress::is_ended},
};

/// What NATS could not do is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);

impl Executions {
    /// The engine's plan. What this process did not send is looked for first.
    pub(super) async fn plan_pool(
        &self,
        key: &Key,
        execution: &TaskExecution,
        pool: &PoolRef,
    ) -> Result<Plan, CallError> {
        let mut pool = self.pool_state(key, pool);
        let Some(dispatches) = self.dispatches.as_ref() else {
            return Ok(self.decide_pool(execution, pool, &PoolView::NoBus));
        };
        if is_ended(execution) {
            return Ok(Plan::default());
        }
        if pool == PoolState::Unserved && dispatches.is_served(execution) {
            pool = PoolState::Served;
        }
        let view = dispatches.view(execution).await;
        let plan = self.decide_pool(execution, pool, &view);
        let [Step::FindCommand(_)] = plan.steps[..] else {
            return Ok(plan);
        };
        match dispatches.find(execution).await {
            Ok(true) => {}
            Ok(false) => {
                return self
                    .look_for_its_end(key, execution, pool, dispatches)
                    .await;
            }
            Err(error) => {
                debug!(%error, "NATS cannot be asked for a command");
                return Ok(Plan::wake(Some(Time(self.clock.now()).after(AGAIN))));
            }
        }
        let view = dispatches.view(execution).await;
        Ok(self.decide_pool(execution, pool, &view))
    }

    /// There is nothing of the command in NATS. If its end is recorded the cache may not know that.
    async fn look_for_its_end(
        &self,
        key: &Key,
        execution: &TaskExecution,
        pool: PoolState,
        dispatches: &Dispatches,
    ) -> Result<Plan, CallError> {
        let found = self.cluster.fetch_execution(key).await?;
        let version = |te: &TaskExecution| te.metadata.resource_version.clone();
        match found {
            Some(found) if version(&found) == version(execution) => {
                dispatches.is_nowhere(execution);
                let view = dispatches.view(execution).await;
                Ok(self.decide_pool(execution, pool, &view))
            }
            Some(newer) => {
                self.hub.execution(newer);
                Ok(Plan::wake(Some(Time(self.clock.now()))))
            }
            // The watch tells.
            None => Ok(Plan::wake(Some(Time(self.clock.now()).after(AGAIN)))),
        }
    }

    /// An operator that serves no pools cannot know whether there are workers: their commands wait.
    fn pool_state(&self, key: &Key, pool: &PoolRef) -> PoolState {
        if !self.serves {
            return PoolState::Served;
        }
        match self.hub.pools.pool(&sibling(key, &pool.name)) {
            None => PoolState::Missing,
            Some(pool) if self.hub.pools.is_served(&pool) => PoolState::Served,
            Some(_) => PoolState::Unserved,
        }
    }

    fn decide_pool(&self, execution: &TaskExecution, pool: PoolState, view: &PoolView) -> Plan {
        attempt::plan_pool(execution, pool, view, Time(self.clock.now()))
    }

    /// Applies a step of a pool's task. Returns when to try again what could not be done.
    pub(super) async fn dispatch(
        &self,
        key: &Key,
        execution: &TaskExecution,
        step: &Step,
    ) -> Option<Time> {
        let dispatches = self.dispatches.as_ref()?;
        let done = match step {
            Step::Dispatch(_) => {
                let sent = dispatches.send(execution).await;
                if sent.is_ok()
                    && let Some(gap) = self.hub.gaps.close(key)
                {
                    self.metrics.observe_step_gap(gap);
                }
                sent.map_err(|error| error.to_string())
            }
            Step::Withdraw(_) => {
                let withdrawn = dispatches.withdraw(execution).await;
                withdrawn.map_err(|error| error.to_string())
            }
            Step::Cancel(_) => {
                let asked = dispatches.cancel(execution).await;
                asked.map_err(|error| error.to_string())
            }
            _ => Ok(()),
        };
        done.err().map(|error| {
            debug!(error, "NATS does not do what a pool needs");
            Time(self.clock.now()).after(AGAIN)
        })
    }
}
