//! `worker`: takes the tasks of a pool and lets a handler run them.
//!
//! Each slot asks for one command, sees to it (`attempt`), and asks again: so a worker never has more than it works on.
//! Meanwhile it keeps its hold on the command (`lease`) and hears what the operator says of it (`orders`).

mod attempt;
mod lease;
mod orders;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use self::orders::Orders;
use super::handler::Handler;
use super::{Ended, Error};
use crate::ports::{BusError, NatsWorker};
use crate::protocol::pool::Control;

/// How long a slot rests when there is nothing to take commands from.
const PAUSE: Duration = Duration::from_secs(1);
/// After the grace, time for an open question to be answered, and to tell the operator of what is handed back.
const FAREWELL: Duration = Duration::from_secs(8);

/// Time for the last acknowledgements to go out.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Which pool is worked for, and how.
#[derive(Debug, Clone)]
pub struct Duty {
    /// The pool's namespace, and its tasks'.
    pub namespace: String,
    /// The pool's name.
    pub pool: String,
    /// What the worker calls itself.
    pub worker: String,
    /// So many tasks run at once.
    pub slots: usize,
    /// So long tasks under way may go on after the end was asked for.
    pub grace: Duration,
}

/// One of those that work for a pool.
#[derive(Debug)]
pub struct Worker {
    duty: Duty,
    nats: NatsWorker,
    handler: Handler,
    orders: Orders,
    stage: watch::Sender<Stage>,
    /// NATS refuses to give commands.
    refused: AtomicBool,
}

/// How far a worker's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It takes commands.
    Working,
    /// It finishes those that it has.
    Finishing,
    /// The grace is over: it hands back what it has.
    HandingBack,
}

impl Worker {
    /// A worker that is ready to begin.
    pub fn new(duty: Duty, nats: NatsWorker, handler: Handler) -> Worker {
        Worker {
            duty,
            nats,
            handler,
            orders: Orders::default(),
            stage: watch::Sender::new(Stage::Working),
            refused: AtomicBool::new(false),
        }
    }

    /// Whether a command would be taken right now, or as soon as a slot is free.
    pub fn ready(&self) -> bool {
        let working = *self.stage.borrow() == Stage::Working;
        working && self.nats.connected() && !self.refused.load(Ordering::Relaxed)
    }

    /// Works until `end`, then finishes what it has taken.
    ///
    /// # Errors
    /// The control subject cannot be subscribed.
    pub async fn work(&self, end: impl Future<Output = ()>) -> Result<Ended, Error> {
        // Before the first command: whoever runs it has to hear that it shall not.
        let controls = self.nats.controls().await?;
        let Duty {
            namespace,
            pool,
            slots,
            ..
        } = &self.duty;
        info!(namespace, pool, slots, "working");
        let slots = join_all((0..*slots).map(|_| self.slot()));
        let ended = tokio::select! {
            biased;
            () = self.heed(controls) => Err("the NATS client has ended".into()),
            finished = slots => Ok(match finished.into_iter().all(|finished| finished) {
                true => Ended::Finished,
                false => Ended::CutOff,
            }),
            () = self.finish(end) => Ok(Ended::CutOff),
        };
        // Nobody waited for these. Without a connection they are lost, and the operator does without.
        let _ = timeout(LAST_WORDS, self.nats.flush()).await;
        ended
    }

    /// Lets the slots end, by and by.
    async fn finish(&self, end: impl Future<Output = ()>) {
        end.await;
        info!(grace = ?self.duty.grace, under_way = self.orders.under_way(), "taking no more tasks");
        self.stage.send_replace(Stage::Finishing);
        sleep(self.duty.grace).await;
        warn!(
            under_way = self.orders.under_way(),
            "the grace is over: what still runs is killed and handed back"
        );
        self.stage.send_replace(Stage::HandingBack);
        sleep(FAREWELL).await;
    }

    /// Takes one command after the other. Says whether none had to be handed back.
    async fn slot(&self) -> bool {
        let mut finished = true;
        while *self.stage.borrow() == Stage::Working {
            let pulled = self.nats.pull().await;
            self.note(pulled.as_ref().err());
            match pulled {
                Ok(Some(delivery)) => finished &= self.attempt(delivery).await,
                Ok(None) => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
        finished
    }

    /// Remembers whether commands are given. That there is no connection is known, and logged, without it.
    fn note(&self, error: Option<&BusError>) {
        let refused = error.is_some() && self.nats.connected();
        let before = self.refused.swap(refused, Ordering::Relaxed);
        match error {
            Some(error) if refused && !before => warn!(%error, "no tasks can be taken"),
            None if before => info!("tasks can be taken again"),
            _ => {}
        }
    }

    /// Passes on what the operator says to those whom it concerns, for ever.
    async fn heed(&self, mut controls: Subscriber) {
        while let Some(message) = controls.next().await {
            let id = message.subject.rsplit('.').next().unwrap_or_default();
            match serde_json::from_slice::<Control>(&message.payload) {
                Ok(control) => self.orders.give(id, control),
                Err(error) => {
                    warn!(subject = %message.subject, %error, "an order that cannot be read")
                }
            }
        }
    }

    /// Waits until what runs is handed back.
    async fn handing_back(&self) {
        let mut stage = self.stage.subscribe();
        // It fails when the worker is gone, and everything that waits with it.
        let _ = stage.wait_for(|stage| *stage == Stage::HandingBack).await;
    }
}
