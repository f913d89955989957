//! What goes wrong with workers.

use compozy::protocol::pool::TaskNews;

use crate::{faults::Class, world::World};

/// Who hands back has so long to say so.
const FAREWELL: u64 = 8000;

impl World {
    /// A worker has got a command: something may happen to it soon, or while it works.
    pub fn befalls(&mut self, number: usize) {
        if self.faults.strikes(Class::DeliveryForgotten, 0.03) {
            let wait = self.faults.dice.u64(0..200);
            self.later(wait, World::nats_is_killed);
        }
        let worker = &self.pools.workers[number];
        let (pool, life) = (worker.pool, worker.life);
        let trouble = [
            (Class::WorkerKilled, 0.15),
            (Class::WorkerFrozen, 0.15),
            (Class::WorkerHandsBack, 0.15),
        ];
        let struck = trouble
            .into_iter()
            .find(|(class, base)| self.faults.strikes(*class, *base));
        let Some((class, _)) = struck else { return };
        let wait = match self.faults.dice.bool() {
            true => self.faults.dice.u64(0..10),
            false => self.faults.dice.u64(0..10_000),
        };
        self.later(wait, move |world| {
            let worker = &world.pools.workers[number];
            if worker.life != life || !worker.works {
                return;
            }
            world.say("fault", &format!("{class:?} of {pool}"));
            match class {
                Class::WorkerKilled => world.kill_worker(number),
                Class::WorkerFrozen => world.freeze_worker(number),
                _ => world.roll_worker(number, None),
            }
        });
    }

    /// NATS is killed with `kill -9`, and is back in a moment.
    fn nats_is_killed(&mut self) {
        if self.bus.away {
            return;
        }
        self.say("fault", "DeliveryForgotten");
        self.set_away(true);
        let now = self.now();
        self.pools.server.restart(now);
        self.bus.restart();
        let wait = self.faults.dice.u64(50..3000);
        self.later(wait, |world| world.set_away(false));
    }

    /// With `kill -9`: nothing is said, and nothing acknowledged.
    pub fn kill_worker(&mut self, number: usize) {
        self.pools.jobs.retain(|_, job| job.worker != number);
        self.pools.workers[number].works = false;
        let wait = self.faults.dice.u64(500..20_000);
        self.later(wait, move |world| world.start_worker(number));
    }

    /// It stands still; whether it then knows that it has lost what it has is drawn.
    fn freeze_worker(&mut self, number: usize) {
        let span = self.faults.dice.u64(3000..60_000);
        let fences = !self.faults.strikes(Class::WorkerTellsLate, 0.5);
        self.pools.workers[number].frozen_until = self.now() + span;
        let jobs = self.pools.jobs.values_mut();
        for job in jobs.filter(|job| job.worker == number) {
            job.stood_still = true;
            job.fences &= fences;
        }
    }

    /// A rolling update: what does not end within the grace is handed back. The next one comes at once, or after `gap`.
    fn roll_worker(&mut self, number: usize, gap: Option<u64>) {
        let worker = &mut self.pools.workers[number];
        if !worker.works {
            return;
        }
        worker.works = false;
        worker.asks_until = 0;
        let life = worker.life;
        let grace = self.faults.dice.u64(0..15_000);
        self.later(grace, move |world| {
            for id in world.jobs_of(number, life) {
                world.work_later(id, 0, move |world| world.end_work(id, TaskNews::HandedBack));
            }
        });
        self.later(grace + FAREWELL, move |world| {
            for id in world.jobs_of(number, life) {
                world.pools.jobs.remove(&id);
            }
        });
        let wait = grace + FAREWELL + gap.unwrap_or(0) + 1;
        self.later(wait, move |world| world.start_worker(number));
    }

    /// What a worker has, if it lives still.
    fn jobs_of(&self, number: usize, life: u32) -> Vec<u64> {
        let lives = self.pools.workers[number].life == life;
        let jobs = self.pools.jobs.iter();
        jobs.filter(|(_, job)| lives && job.worker == number)
            .map(|(id, _)| *id)
            .collect()
    }

    /// For a while a pool may have no worker.
    pub fn workers_may_be_away(&mut self, pool: &str) {
        if !self.faults.strikes(Class::WorkersAway, 0.1) {
            return;
        }
        self.say("fault", &format!("WorkersAway of {pool}"));
        let gap = self.faults.dice.u64(1000..60_000);
        for number in 0..self.pools.workers.len() {
            if self.pools.workers[number].pool == pool {
                self.roll_worker(number, Some(gap));
            }
        }
    }
}
