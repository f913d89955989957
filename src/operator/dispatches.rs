//! The commands for pools that this process sent or found, and what their workers reported.
//!
//! Nothing here is needed to go on: who begins anew finds the commands in the queues, and hears again what was reported
//! and not acknowledged. A report is acknowledged when what it says is recorded, that of a beginning after a moment.

mod beginnings;
mod known;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use kube::ResourceExt;
use tokio::time::{Instant, interval};
use tracing::{debug, warn};

use self::known::{Known, Settled};
use super::{
    fence::Fence,
    hub::Hub,
    index::{Key, key_of},
};
use crate::{
    api::{TaskExecution, Time},
    engine::attempt::{self, PoolView},
    ports::{BusError, Clock, Found, Place, PoolNews, Pools, PublishError, Withdrawn},
    protocol::pool::Order,
};

/// A connection that was lost, or cannot be used, is tried again after so long.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// How often is looked for what nobody asks about.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// A pool counts as served for so long after one of its workers has reported.
const SERVED_FOR: Duration = Duration::from_secs(30);

/// What concerns no task execution that is known is dropped after so long.
const UNASKED: Duration = Duration::from_secs(300);

/// Commands of pools.
pub struct Dispatches {
    pools: Arc<dyn Pools>,
    fence: Fence,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

impl Dispatches {
    /// No command is known yet. Commands are sent as long as `fence` allows.
    pub fn new(
        pools: Arc<dyn Pools>,
        fence: Fence,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
    ) -> Dispatches {
        Dispatches {
            pools,
            fence,
            hub,
            clock,
            known: Mutex::default(),
        }
    }

    /// Hears the workers, for ever.
    pub async fn run(&self) {
        let mut sweep = interval(SWEEP_EVERY);
        let mut why_not = String::new();
        loop {
            match self.open().await {
                Ok(mut news) => {
                    why_not.clear();
                    self.begin_anew();
                    loop {
                        tokio::select! {
                            biased;
                            heard = news.next() => match heard {
                                Some(heard) => if self.hear(heard).await.is_err() { break },
                                None => break,
                            },
                            () = self.beginning_due() => {
                                let settled = self.lock().beginnings_due(self.now());
                                self.settle(settled).await;
                            }
                            _ = sweep.tick() => self.sweep().await,
                        }
                    }
                }
                Err(error) if error.to_string() != why_not => {
                    warn!(%error, "pools cannot be fed, nor their workers heard");
                    why_not = error.to_string();
                }
                // It was said before.
                Err(_) => {}
            }
            tokio::time::sleep(OPEN_AGAIN).await;
        }
    }

    /// Whoever opens them takes them from whoever has them, and that does not know it: so only who leads does.
    async fn open(&self) -> Result<BoxStream<'static, PoolNews>, BusError> {
        match self.fence.left() {
            Some(_) => self.pools.open().await,
            None => Err(BusError::Unavailable("the lease is lost".to_owned())),
        }
    }

    /// The connection was lost, and the server may have lost what it had. So all that was sent is looked for.
    fn begin_anew(&self) {
        let sent = self.lock().doubt_what_was_sent();
        sent.into_iter()
            .for_each(|key| self.hub.executions.add(key));
        self.hub.pools.look_at_all();
    }

    /// Makes the queue of a pool, so that its workers have something to pull from before there is a task. Returns when to
    /// try again what could not be done.
    pub async fn prepare(&self, pool: &Key) -> Option<Instant> {
        let prepared = self.pools.prepare(&pool.0, &pool.1).await;
        let error = prepared.err()?;
        debug!(%error, "the queue of a pool cannot be made");
        Some(Instant::now() + OPEN_AGAIN)
    }

    /// What cannot be judged now is heard again by who opens it anew.
    async fn hear(&self, news: PoolNews) -> Result<(), BusError> {
        let heard = match news {
            PoolNews::Report(from, report, receipt) => {
                self.lock().report(&from, report, receipt, self.now())
            }
            PoolNews::Lost(place, receipt) => {
                // Its worker may have said how it ended and lost it then, and that may be heard later.
                let said = self.pools.reported(&place).await?;
                self.lock().lost(place, said, receipt, self.now())
            }
        };
        if let Some(key) = heard.wake {
            if heard.ended {
                self.hub.gaps.ended(&key);
            }
            self.hub.executions.add(key);
        }
        self.settle(heard.settled).await;
        Ok(())
    }

    /// What is over needs no place and is not told again. What cannot be done now is done with the next sweep.
    async fn settle(&self, settled: Settled) {
        for place in &settled.stale {
            let _ = self.pools.order(place, Order::Stale).await;
        }
        for place in &settled.remove {
            if let Err(error) = self.pools.remove(place).await {
                debug!(%place, %error, "what no worker takes stays in the queue for now");
                return self.lock().settle_later(settled);
            }
        }
        for receipt in &settled.acknowledge {
            let _ = self.pools.acknowledge(receipt).await;
        }
    }

    /// Waits until a word of a beginning may go.
    async fn beginning_due(&self) {
        let due = self.lock().beginning_due();
        match due {
            Some(due) => tokio::time::sleep(due.since(self.now())).await,
            None => std::future::pending().await,
        }
    }

    async fn sweep(&self) {
        let now = self.now();
        let unsettled = self.lock().unsettled();
        self.settle(unsettled).await;
        let settled = self.lock().drop_unasked(now, UNASKED);
        self.settle(settled).await;
    }

    /// What is known of a task execution's current attempt. What was heard of earlier ones is over.
    pub async fn view(&self, execution: &TaskExecution) -> PoolView {
        let at = place(execution);
        let fresh = at.attempt == 1 && self.hub.fresh.take(&at.task_exec_id);
        let (view, settled) = {
            let mut known = self.lock();
            let settled = known.attach(&key_of(execution), &at, self.now());
            if fresh {
                known.unsent(&at);
            }
            (known.view(&at), settled)
        };
        self.settle(settled).await;
        view
    }

    /// Whether a worker of an execution's pool reported a while ago, be it one that the operator runs or not.
    pub fn is_served(&self, execution: &TaskExecution) -> bool {
        let pool = place(execution).pool_key();
        self.lock().is_served(&pool, self.now(), SERVED_FOR)
    }

    /// Puts the command of the current attempt into its pool's queue.
    ///
    /// # Errors
    /// It is not known to be there, and may be tried again.
    pub async fn send(&self, execution: &TaskExecution) -> Result<(), PublishError> {
        let at = place(execution);
        let command = attempt::command(execution, at.attempt);
        // Nothing in it can fail to be JSON: all keys are strings.
        let command = Bytes::from(serde_json::to_vec(&command).unwrap_or_default());
        let id = attempt::command_id(execution, at.attempt);
        // Who slept meanwhile does not know what became of the task.
        if self.fence.left().is_none() {
            return Err(PublishError::Unavailable("the lease is lost".to_owned()));
        }
        let sent = self.pools.enqueue(&at, &id, command).await;
        let mut known = self.lock();
        match sent {
            Ok(sequence) => known.sent(&at, sequence, self.now()),
            // It is there, or may be: that is looked for.
            Err(
                PublishError::WrongLastSequence | PublishError::Timeout | PublishError::InFlight,
            ) => {
                known.doubt(&at);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Looks whether the command of the current attempt was ever sent. Returns false if there is nothing of it.
    ///
    /// # Errors
    /// There is no telling now.
    pub async fn find(&self, execution: &TaskExecution) -> Result<bool, BusError> {
        let at = place(execution);
        let found = self.pools.find(&at).await?;
        let now = self.now();
        let mut known = self.lock();
        match found {
            Found::Queued(sequence) => known.sent(&at, sequence, now),
            Found::Reported(report) => known.reported(&at, report, now),
            Found::Nothing => return Ok(false),
        }
        Ok(true)
    }

    /// There is nothing of the command of the current attempt, and the API server says that it did not end: it was never
    /// sent, unless somebody had begun with it. Then what had it is lost.
    pub fn is_nowhere(&self, execution: &TaskExecution) {
        let begun = attempt::has_begun(execution);
        self.lock().nowhere(&place(execution), begun);
    }

    /// Takes the command of the current attempt back, or asks its worker to end it.
    ///
    /// # Errors
    /// It may be tried again.
    pub async fn withdraw(&self, execution: &TaskExecution) -> Result<(), BusError> {
        let at = place(execution);
        let sequence = self.lock().sequence(&at);
        let withdrawn = match sequence {
            Some(sequence) => self.pools.withdraw(&at, sequence).await?,
            None => Withdrawn::No,
        };
        match withdrawn {
            Withdrawn::Yes => self.lock().unsent(&at),
            // A run that is suspended lets go on what is under way.
            Withdrawn::No if !attempt::is_to_end(execution, self.now()) => {
                self.lock().delivered(&at);
            }
            // What has left the queue nobody would miss if its worker were lost.
            Withdrawn::No | Withdrawn::Unsure => return self.cancel(execution).await,
        }
        Ok(())
    }

    /// Asks whoever works on the current attempt to end it.
    ///
    /// # Errors
    /// It may be tried again.
    pub async fn cancel(&self, execution: &TaskExecution) -> Result<(), BusError> {
        let at = place(execution);
        self.lock().asked(&at, self.now());
        self.pools.order(&at, Order::Cancel).await
    }

    /// A task execution has ended, and that is recorded.
    pub async fn forget(&self, key: &Key) {
        let settled = self.lock().forget(key);
        self.settle(settled).await;
    }

    /// A task execution is gone; somebody may still work on it.
    pub async fn gone(&self, key: &Key) {
        let settled = self.lock().gone(key);
        self.settle(settled).await;
    }

    fn now(&self) -> Time {
        Time(self.clock.now())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every critical section leaves the entries whole, so a poisoned lock is still good.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(execution: &TaskExecution) -> Place {
    let pool = execution.spec.pool.as_ref();
    Place {
        namespace: execution.namespace().unwrap_or_default(),
        pool: pool.map(|pool| pool.name.clone()).unwrap_or_default(),
        task_exec_id: execution.uid().unwrap_or_default(),
        attempt: attempt::current_attempt(execution),
    }
}
