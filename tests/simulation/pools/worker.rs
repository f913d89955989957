//! The workers of pools, as `executor worker` is: each takes a command when it has a slot.

use bytes::Bytes;
use compozy::{
    ports::Place,
    protocol::pool::{LEASE, TaskExecute},
};

use super::{POOLS, job::Job};
use crate::{faults::Class, world::World};

/// So long a worker's question for a command is open, and how often it asks.
const OPEN: u64 = 5000;

/// A worker: a pod that comes back under another name when it has ended.
pub struct Worker {
    pub pool: &'static str,
    number: usize,
    pub life: u32,
    slots: usize,
    /// It is there, and takes commands.
    pub works: bool,
    /// The server takes it to wait for a command until then, whether it is there or not.
    pub asks_until: u64,
    /// It stands still until then.
    pub frozen_until: u64,
}

impl Worker {
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.pool, self.number, self.life)
    }
}

pub fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl World {
    /// The workers come to be.
    pub fn begin_pools(&mut self) {
        let count = self.faults.dice.usize(POOLS.len()..2 * POOLS.len() + 1);
        for (number, pool) in POOLS.iter().cycle().take(count).enumerate() {
            let slots = self.faults.dice.usize(1..3);
            self.pools.workers.push(Worker {
                pool,
                number,
                life: 0,
                slots,
                works: false,
                asks_until: 0,
                frozen_until: 0,
            });
            let wait = self.faults.dice.u64(0..20_000);
            self.later(wait, move |world| world.start_worker(number));
        }
        self.later(OPEN, World::workers_ask);
    }

    pub fn start_worker(&mut self, number: usize) {
        let worker = &mut self.pools.workers[number];
        if !worker.works {
            worker.life += 1;
            worker.works = true;
            worker.frozen_until = 0;
            let name = worker.name();
            self.say("pool", &format!("{name} starts"));
            self.asks(number);
        }
    }

    /// Every worker asks again and again.
    fn workers_ask(&mut self) {
        for number in 0..self.pools.workers.len() {
            self.asks(number);
        }
        self.later(OPEN, World::workers_ask);
    }

    pub fn asks(&mut self, number: usize) {
        let now = self.now();
        let worker = &mut self.pools.workers[number];
        if worker.works && worker.frozen_until <= now {
            worker.asks_until = now + OPEN;
            let pool = worker.pool;
            self.give_out_soon(pool);
        }
    }

    /// A command may have come, or a slot be free.
    pub fn give_out_soon(&mut self, pool: &str) {
        let pool = pool.to_owned();
        let wait = match self.faults.strikes(Class::WorkerSlow, 0.05) {
            true => self.faults.dice.u64(100..3000),
            false => self.faults.dice.u64(0..3),
        };
        self.later(wait, move |world| world.give_out(&pool));
    }

    fn give_out(&mut self, pool: &str) {
        while !self.bus.away && !self.bus.leaderless && self.pools.server.has_work(pool) {
            let now = self.now();
            let asks = |number: &usize| {
                let worker = &self.pools.workers[*number];
                let theirs = self.pools.jobs.values().filter(|job| job.worker == *number);
                worker.pool == pool && worker.asks_until > now && theirs.count() < worker.slots
            };
            let asking: Vec<_> = (0..self.pools.workers.len()).filter(asks).collect();
            let Some(number) = self.faults.dice.choice(asking) else {
                return;
            };
            if let Some((sequence, payload)) = self.pools.server.deliver(pool, now) {
                self.watch_lease(sequence);
                self.delivered(number, sequence, &payload);
            }
        }
    }

    /// The server looks whether a lease has run out when it may have, or a little later.
    pub fn watch_lease(&mut self, sequence: u64) {
        let store = self.pools.server.store;
        let late = self.faults.dice.u64(0..500);
        self.later(millis(LEASE) + late, move |world| {
            let now = world.now();
            let same = world.pools.server.store == store;
            if same && world.pools.server.expire(sequence, now) {
                world.say("nats", &format!("command {sequence} is lost"));
                if let Some(news) = world.pools.server.newest_loss() {
                    world.tell_of_pools(news);
                }
            }
        });
    }

    fn delivered(&mut self, number: usize, sequence: u64, payload: &Bytes) {
        let now = self.now();
        let worker = &self.pools.workers[number];
        let (name, there) = (worker.name(), worker.works);
        let stood_still = worker.frozen_until > now;
        let Ok(command) = serde_json::from_slice::<TaskExecute>(payload) else {
            return self
                .laws
                .broken
                .push(format!("commands are commands: {sequence}"));
        };
        let at = Place {
            namespace: command.namespace.clone(),
            pool: command.pool.clone(),
            task_exec_id: command.task_exec_id.clone(),
            attempt: command.attempt,
        };
        self.say("nats", &format!("command {at} to {name}"));
        self.laws.taken(&at);
        // Whoever asked is gone.
        if !there {
            return;
        }
        self.pools.serial += 1;
        let id = self.pools.serial;
        let asked = now.saturating_sub(self.faults.dice.u64(0..OPEN));
        let job = Job {
            at,
            command,
            sequence,
            store: self.pools.server.store,
            worker: number,
            lost: asked + millis(LEASE),
            fences: true,
            stood_still,
            began: None,
            closes: false,
            since: now,
        };
        self.pools.jobs.insert(id, job);
        self.befalls(number);
        let wait = self.faults.dice.u64(0..3);
        self.work_later(id, wait, move |world| {
            world.touch(id);
            world.say_begun(id);
        });
    }
}
