//! What a worker does with a command: it says that it begins, works, says how it ended, and acknowledges the command.
//! Meanwhile it touches what it has; what it could not touch in time it gives up without a word.

use compozy::{
    api::Time,
    ports::{Place, PublishAck},
    protocol::pool::{LEASE, Order, TOUCH_EVERY, TaskExecute, TaskNews, TaskReport},
};

use super::{Work, worker::millis};
use crate::{faults::Class, world::World};

/// What could not be touched is touched again after so long.
const TOUCH_AGAIN: u64 = 1000;

/// So long nobody answers who does not hear.
const UNHEARD: u64 = 5000;

/// A worker's pauses before it says again what was not stored.
const PAUSE_FIRST: u64 = 100;
const PAUSE_LONGEST: u64 = 5000;

/// So long a worker tries to say how an attempt ended.
const PATIENCE: u64 = 600_000;

/// An attempt that a worker has.
pub struct Job {
    pub at: Place,
    pub command: TaskExecute,
    /// Where the command is in the queue, and in which of its stores.
    pub sequence: u64,
    pub store: u64,
    pub worker: usize,
    /// From when on it may be somebody else's, as far as the worker knows.
    pub lost: u64,
    /// It gives up what it has lost.
    pub fences: bool,
    /// Its worker stood still meanwhile.
    pub stood_still: bool,
    pub began: Option<Time>,
    /// It has ended, and only that is still to be said.
    pub closes: bool,
    pub since: u64,
}

impl Job {
    /// Whether its handler runs and nobody else's may.
    pub fn is_held(&self) -> bool {
        self.began.is_some() && !self.closes && !self.stood_still
    }
}

impl World {
    /// Something is done for a job when its worker can do it: if it has it still.
    pub fn work_later(
        &mut self,
        id: u64,
        wait: u64,
        deed: impl FnOnce(&mut World) + Send + 'static,
    ) {
        self.later(wait, move |world| {
            let Some(job) = world.pools.jobs.get(&id) else {
                return;
            };
            let thaws = world.pools.workers[job.worker].frozen_until;
            match thaws.checked_sub(world.now()) {
                Some(wait) if wait > 0 => world.work_later(id, wait, deed),
                _ if world.gives_up(id) => {}
                _ => deed(world),
            }
        });
    }

    /// Who has lost what it runs ends it, and says nothing. What has ended nobody runs twice.
    fn gives_up(&mut self, id: u64) -> bool {
        let now = self.now();
        let job = &self.pools.jobs[&id];
        let gives_up = now >= job.lost && job.fences && !job.closes;
        if gives_up {
            let what = format!("{} is lost", job.at);
            self.say("pool", &what);
            self.drop_job(id);
        }
        gives_up
    }

    fn drop_job(&mut self, id: u64) {
        if let Some(job) = self.pools.jobs.remove(&id) {
            self.asks(job.worker);
        }
    }

    /// Whether the server hears a worker now, and has the command's queue still.
    fn is_heard(&self, id: u64) -> bool {
        let store = self.pools.jobs.get(&id).map(|job| job.store);
        !self.bus.away && !self.bus.leaderless && store == Some(self.pools.server.store)
    }

    pub fn touch(&mut self, id: u64) {
        let (sequence, sent) = (self.pools.jobs[&id].sequence, self.now());
        let there = self.faults.dice.u64(0..3);
        self.later(there, move |world| {
            if world.is_heard(id) {
                let until = world.now() + millis(LEASE);
                if world.pools.server.touch(sequence, until) {
                    world.watch_lease(sequence);
                }
                world.work_later(id, 1, move |world| {
                    if let Some(job) = world.pools.jobs.get_mut(&id) {
                        job.lost = sent + millis(LEASE);
                    }
                    world.touch_again(id, millis(TOUCH_EVERY));
                });
            } else {
                world.work_later(id, 0, move |world| world.touch_again(id, TOUCH_AGAIN));
            }
        });
    }

    fn touch_again(&mut self, id: u64, wait: u64) {
        let job = &self.pools.jobs[&id];
        let left = job.lost.saturating_sub(self.now());
        let wait = if job.fences { wait.min(left) } else { wait };
        self.work_later(id, wait, move |world| world.touch(id));
    }

    pub fn say_begun(&mut self, id: u64) {
        let now = Time(self.time());
        let report = self.report_of(id, Some(now), TaskNews::Started);
        self.say_until_stored(
            id,
            report,
            PAUSE_FIRST,
            move |world, told_before| match told_before {
                // Nothing comes of what may have begun before.
                true if !world.pools.jobs[&id].closes => world.drop_job(id),
                true => {}
                false => world.begin_work(id, now),
            },
        );
    }

    fn begin_work(&mut self, id: u64, began: Time) {
        let Some(job) = self.pools.jobs.get_mut(&id).filter(|job| !job.closes) else {
            return;
        };
        job.began = Some(began);
        let (at, excused) = (job.at.clone(), job.stood_still);
        let work = Work::draw(self.scenario.seed(), &job.command);
        let others = self.pools.jobs.iter();
        let beside = others
            .filter(|(other, job)| **other != id && job.is_held())
            .find(|(_, job)| job.at.task_exec_id == at.task_exec_id)
            .map(|(_, job)| job.at.clone());
        self.say("pool", &format!("{at} begins"));
        self.laws.begins(&at, beside.as_ref(), excused);
        if let Some(after) = work.after {
            self.work_later(id, after, move |world| world.end_work(id, work.gives));
        }
    }

    fn report_of(&self, id: u64, began: Option<Time>, news: TaskNews) -> TaskReport {
        let job = &self.pools.jobs[&id];
        TaskReport {
            task_exec_id: job.at.task_exec_id.clone(),
            attempt: job.at.attempt,
            worker: self.pools.workers[job.worker].name(),
            at: Time(self.time()),
            started_at: began,
            news,
        }
    }

    /// Says how it ended, and then that the command is done.
    pub fn end_work(&mut self, id: u64, news: TaskNews) {
        let now = self.now();
        let Some(job) = self.pools.jobs.get_mut(&id).filter(|job| !job.closes) else {
            return;
        };
        job.closes = true;
        job.since = now;
        let report = self.report_of(id, self.pools.jobs[&id].began, news);
        self.say_until_stored(id, report, PAUSE_FIRST, move |world, _| {
            if world.faults.strikes(Class::WorkerKilled, 0.03) {
                return world.kill_worker(world.pools.jobs[&id].worker);
            }
            world.acknowledge_command(id);
        });
    }

    fn acknowledge_command(&mut self, id: u64) {
        let sequence = self.pools.jobs[&id].sequence;
        let lost = !self.is_heard(id) || self.faults.strikes(Class::WorkerAckLost, 0.05);
        let (wait, store) = (self.faults.dice.u64(0..3), self.pools.server.store);
        self.drop_job(id);
        if !lost {
            self.later(wait, move |world| {
                if world.pools.server.store == store && !world.bus.away {
                    world.pools.server.done(sequence);
                }
            });
        }
    }

    /// Says something until it is stored; `then` hears whether somebody had said the same.
    fn say_until_stored(
        &mut self,
        id: u64,
        report: TaskReport,
        pause: u64,
        then: impl FnOnce(&mut World, bool) + Send + 'static,
    ) {
        let there = self.faults.dice.u64(0..3);
        let at = self.pools.jobs[&id].at.clone();
        self.later(there, move |world| {
            let stored = world.take_report(id, &at, &report);
            let unheard = stored.is_some() && world.faults.strikes(Class::ReportAckLost, 0.05);
            match stored.filter(|_| !unheard) {
                Some(ack) => {
                    let told_before = ack.duplicate;
                    world.work_later(id, 1, move |world| then(world, told_before));
                }
                None => {
                    let wait = pause + if unheard { UNHEARD } else { 0 };
                    world.work_later(id, wait, move |world| {
                        let job = &world.pools.jobs[&id];
                        let starts = report.news == TaskNews::Started;
                        let late = world.now() > job.since + PATIENCE;
                        match (starts, job.closes, late) {
                            // It is to end before it was known to have begun.
                            (true, true, _) => {}
                            (_, _, true) => world.drop_job(id),
                            _ => {
                                let pause = (pause * 2).min(PAUSE_LONGEST);
                                world.say_until_stored(id, report, pause, then);
                            }
                        }
                    });
                }
            }
        });
    }

    fn take_report(&mut self, id: u64, at: &Place, report: &TaskReport) -> Option<PublishAck> {
        if self.bus.away || self.bus.leaderless || self.bus.full {
            return None;
        }
        let name = report.id();
        let ack = self.store_report(at, report, &name)?;
        if !ack.duplicate {
            let in_time = self.pools.jobs.get(&id).is_some_and(|job| {
                let server = &self.pools.server;
                job.store == server.store && server.is_leased(job.sequence)
            });
            let now = self.now();
            self.laws.reported(report, in_time, now);
        }
        if self.faults.strikes(Class::ReportTwice, 0.1) {
            let (at, again) = (at.clone(), report.clone());
            let name = format!("{name}:again");
            let wait = self.faults.dice.u64(0..20_000);
            self.later(wait, move |world| {
                let _ = world.store_report(&at, &again, &name);
            });
        }
        Some(ack)
    }

    fn store_report(&mut self, at: &Place, report: &TaskReport, name: &str) -> Option<PublishAck> {
        let stored = self.pools.server.report(self.time(), at, report, name);
        self.say(
            "pool",
            &format!("{} says {name} -> {stored:?}", report.worker),
        );
        let ack = stored.ok()?;
        if !ack.duplicate
            && let Some(news) = self.pools.server.news_of_report(ack.sequence)
        {
            self.tell_of_pools(news);
        }
        Some(ack)
    }

    /// Whoever works on an attempt hears an order.
    pub fn workers_hear(&mut self, at: &Place, order: Order) {
        self.say("nats", &format!("{order:?} {at}"));
        let jobs = self.pools.jobs.iter();
        let meant: Vec<_> = jobs
            .filter(|(_, job)| job.at == *at)
            .map(|(id, _)| *id)
            .collect();
        for id in meant {
            let wait = self.faults.dice.u64(0..3);
            self.work_later(id, wait, move |world| match order {
                Order::Cancel => world.end_work(id, TaskNews::Stopped),
                Order::Stale => world.drop_job(id),
            });
        }
    }
}
