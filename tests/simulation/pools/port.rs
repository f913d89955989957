//! The operator's way to pools: its questions, and what it hears.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use compozy::{
    ports::{BusError, Delivered, Place, PoolNews, Pools, PublishError, Receipt},
    protocol::pool::{Order, TaskReport},
};
use fastrand::Rng;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

use crate::{
    bus::{Heard, SimBus},
    faults::Class,
    trace::fingerprint,
    world::{self, Process, World},
};

/// One of so many questions for a command is overslept, for so many milliseconds.
const OVERSLEEPS: u8 = 20;
const OVERSLEPT: std::ops::Range<u64> = 13_000..45_000;

/// What is not acknowledged is told again after so long.
const RECORDED_WITHIN: u64 = 3_600_000;

/// Who hears of pools.
#[derive(Default)]
pub struct Hearers {
    /// Whom the server tells.
    told: Option<UnboundedSender<PoolNews>>,
    /// How often it was opened.
    opened: u64,
    /// When the last report and the last loss arrive.
    told_at: [u64; 2],
    /// Who opened it before hears nothing more, and not that it is over either.
    deaf: Vec<UnboundedSender<PoolNews>>,
}

impl World {
    fn open_pools(&mut self, process: Process) -> Result<UnboundedReceiver<PoolNews>, BusError> {
        self.answers_for_pools()?;
        self.pools.server.ensure()?;
        let (sender, receiver) = unbounded_channel();
        let before = self.pools.hearers.told.replace(sender);
        self.pools.hearers.deaf.extend(before);
        self.pools.hearers.opened += 1;
        let now = self.now();
        self.laws.pools_heard(Some(now));
        self.say("nats", &format!("{} hears of pools", process.identity()));
        self.pools.server.drop_void();
        for news in self.pools.server.news() {
            self.tell_of_pools(news);
        }
        Ok(receiver)
    }

    /// Whoever has it open hears this in a moment. Reports come in their order, as losses do.
    pub fn tell_of_pools(&mut self, news: PoolNews) {
        let wait = match self.faults.strikes(Class::PoolNewsSlow, 0.05) {
            true => self.faults.dice.u64(100..6000),
            false => self.faults.dice.u64(0..3),
        };
        let now = self.now();
        if let PoolNews::Lost(at, _) = &news {
            self.laws.delivery_lost(at);
        }
        let hearers = &mut self.pools.hearers;
        let (opened, stream) = (
            hearers.opened,
            usize::from(matches!(news, PoolNews::Lost(..))),
        );
        hearers.told_at[stream] = hearers.told_at[stream].max(now + wait);
        let wait = hearers.told_at[stream] - now;
        self.later(wait, move |world| world.tell_now(news, opened));
    }

    /// What is not acknowledged for an hour is told again.
    fn tell_now(&mut self, news: PoolNews, opened: u64) {
        let (PoolNews::Report(_, _, Receipt(receipt)) | PoolNews::Lost(_, Receipt(receipt))) =
            &news;
        let hearers = &self.pools.hearers;
        let told = hearers.told.as_ref().filter(|_| hearers.opened == opened);
        let Some(told) = told.filter(|_| self.pools.server.has(receipt)) else {
            return;
        };
        let _ = told.send(news.clone());
        self.later(RECORDED_WITHIN, move |world| world.tell_now(news, opened));
    }

    /// The connections break: nobody who had it open hears anything more, and each knows.
    pub fn pools_disconnect(&mut self) {
        self.pools.hearers.told = None;
        self.pools.hearers.deaf.clear();
        self.laws.pools_heard(None);
    }

    /// The store of NATS is empty.
    pub fn forget_pools(&mut self) {
        let clustered = self.scenario.seed().is_multiple_of(2);
        self.pools.server.empty(clustered);
        self.laws.pools_lost();
    }

    /// Whether the server answers for its streams of pools.
    pub fn answers_for_pools(&self) -> Result<(), BusError> {
        match self.bus.leaderless {
            true => Err(BusError::Timeout),
            false => Ok(()),
        }
    }

    fn take_pool_command(
        &mut self,
        at: &Place,
        id: &str,
        command: Bytes,
    ) -> Result<u64, PublishError> {
        if self.bus.leaderless {
            return Err(PublishError::StreamMissing);
        }
        if self.bus.full {
            return Err(PublishError::Unavailable(
                "maximum bytes exceeded".to_owned(),
            ));
        }
        let stored = self.pools.server.enqueue(self.time(), at, id, command);
        self.say("nats", &format!("command {at} {id} -> {stored:?}"));
        let stored = stored?;
        if !stored.duplicate {
            self.workers_may_be_away(&at.pool);
            self.give_out_soon(&at.pool);
        }
        Ok(stored.sequence)
    }

    /// After how many milliseconds more it is heard that a command was taken out. The queue goes on meanwhile.
    fn hears_of_removal_after(&mut self) -> u64 {
        match self.faults.strikes(Class::PoolRemovalSlow, 0.3) {
            true => self.faults.dice.u64(500..4000),
            false => 0,
        }
    }

    /// Who looks whether a command was sent stands still, for longer than its lease: nothing else happens often enough
    /// just then.
    fn may_oversleep_command(&mut self, at: &Place) {
        let key = (
            self.scenario.seed(),
            &at.task_exec_id,
            at.attempt,
            "oversleeps",
        );
        let mut dice = Rng::with_seed(fingerprint(&key));
        if self.faults.are_on() && dice.u8(..OVERSLEEPS) == 0 {
            // Not in the midst of what it does just now: between its look at the lease and the request is no time.
            let span = dice.u64(OVERSLEPT);
            self.later(1, move |world| {
                world.orders.push(world::Order::Freeze(span))
            });
            self.strike(Class::Frozen);
        }
    }
}

impl SimBus {
    /// What the laws say to who does now what only who leads may do.
    fn about_to(&self, what: &str) {
        let mut world = self.world();
        if world.lives(self.process()) {
            let identity = self.process().identity();
            world.laws.trusts(&identity, what, Instant::now());
        }
    }

    /// The same of a command that is sent now.
    fn about_to_enqueue(&self, at: &Place) {
        self.about_to(&format!("the command {at}"));
        let mut world = self.world();
        if world.lives(self.process()) && self.process().identity() == world.leader() {
            world.laws.sends(at);
        }
    }

    /// Something that is said and not answered.
    fn tell(
        &self,
        lost: Class,
        deed: impl FnOnce(&mut World) + Send + 'static,
    ) -> Result<(), BusError> {
        let mut world = self.world();
        world.catch_up();
        if world.bus.away {
            return Err(BusError::Unavailable("not connected".to_owned()));
        }
        if !world.lives(self.process()) || world.faults.strikes(lost, 0.2) {
            return Ok(());
        }
        let wait = world.faults.dice.u64(0..3);
        world.later(wait, move |world| {
            if !world.bus.away {
                deed(world);
            }
        });
        Ok(())
    }
}

#[async_trait]
impl Pools for SimBus {
    async fn open(&self) -> Result<BoxStream<'static, PoolNews>, BusError> {
        let process = self.process();
        self.about_to("hear of pools");
        let opened = self.ask(move |world| world.open_pools(process)).await;
        let receiver = opened.answer()??;
        let news = stream::unfold(receiver, |mut receiver| async move {
            let news = receiver.recv().await?;
            Some((news, receiver))
        });
        Ok(news.boxed())
    }

    async fn prepare(&self, _namespace: &str, pool: &str) -> Result<(), BusError> {
        let pool = pool.to_owned();
        let asked = self.ask(move |world| {
            world.answers_for_pools()?;
            world.pools.server.prepare(&pool);
            Ok(())
        });
        asked.await.answer()?
    }

    async fn enqueue(&self, at: &Place, id: &str, command: Bytes) -> Result<u64, PublishError> {
        self.about_to_enqueue(at);
        let (at, id) = (at.clone(), id.to_owned());
        let sent = self.ask(move |world| world.take_pool_command(&at, &id, command));
        match sent.await {
            Heard::Answer(answer) => answer,
            Heard::Nothing => Err(PublishError::Timeout),
            Heard::NotConnected => Err(PublishError::Unavailable("not connected".to_owned())),
        }
    }

    async fn queued(&self, at: &Place) -> Result<Option<u64>, BusError> {
        let at = at.clone();
        let asked = self.ask(move |world| {
            world.may_oversleep_command(&at);
            world.answers_for_pools()?;
            world.pools.server.queued(&at)
        });
        asked.await.answer()?
    }

    async fn reported(&self, at: &Place) -> Result<Option<TaskReport>, BusError> {
        let at = at.clone();
        let asked = self.ask(move |world| {
            world.answers_for_pools()?;
            world.pools.server.reported(&at)
        });
        asked.await.answer()?
    }

    async fn delivered(&self, at: &Place) -> Result<Delivered, BusError> {
        let at = at.clone();
        let asked = self.ask(move |world| {
            world.answers_for_pools()?;
            world.pools.server.delivered(&at)
        });
        asked.await.answer()?
    }

    async fn remove(&self, at: &Place) -> Result<(), BusError> {
        let at = at.clone();
        let asked = self.ask(move |world| -> Result<u64, BusError> {
            world.answers_for_pools()?;
            world.say("nats", &format!("the command {at} is taken out"));
            world.pools.server.remove(&at);
            Ok(world.hears_of_removal_after())
        });
        let late = asked.await.answer()??;
        tokio::time::sleep(Duration::from_millis(late)).await;
        Ok(())
    }

    async fn order(&self, at: &Place, order: Order) -> Result<(), BusError> {
        let at = at.clone();
        self.world().laws.asked_to_end(&at);
        self.tell(Class::PoolOrderLost, move |world| {
            world.workers_hear(&at, order)
        })
    }

    async fn acknowledge(&self, receipt: &Receipt) -> Result<(), BusError> {
        let Receipt(receipt) = receipt.clone();
        self.tell(Class::PoolAckLost, move |world| {
            world.say("nats", &format!("{receipt} is acknowledged"));
            world.pools.server.acknowledge(&receipt);
        })
    }
}
