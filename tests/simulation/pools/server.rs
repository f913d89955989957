//! What NATS holds of pools: the queue of commands, the reports, and its words about lost deliveries. Plain data: who asks
//! for it, and when, is the world's business.

use std::collections::BTreeMap;

use bytes::Bytes;
use compozy::{
    ports::{BusError, Delivered, Message, Place, PoolNews, PublishAck, PublishError, Receipt},
    protocol::pool::{LEASE, PoolSubjects, TaskExecute, TaskReport},
};
use jiff::Timestamp;

use super::worker::millis;
use crate::bus::{JetStream, Kept};

/// The subjects' prefix.
const PREFIX: &str = "compozy";

/// The server writes down what it delivered within so many milliseconds.
const WRITTEN_WITHIN: u64 = 100;

/// The streams, and the consumers of pools' workers.
pub struct Server {
    queue: JetStream,
    reports: JetStream,
    /// The places in the queue of what was delivered in vain, each by its own place.
    advisories: BTreeMap<u64, u64>,
    last_advisory: u64,
    /// How far the workers of a pool are, by its name.
    consumers: BTreeMap<String, Delivered>,
    /// Until when whoever has a command has it, in milliseconds, by its place in the queue.
    leases: BTreeMap<u64, u64>,
    /// What was delivered and is not written down yet: when and what, and how far the pool's workers were before.
    unwritten: Vec<(u64, u64, String, Delivered)>,
    /// Which store it is: it came back empty so often.
    pub store: u64,
}

impl Server {
    /// A server, or a cluster of them, without the streams.
    pub fn new(clustered: bool) -> Server {
        Server {
            queue: JetStream::new(clustered),
            reports: JetStream::new(clustered),
            advisories: BTreeMap::new(),
            last_advisory: 0,
            consumers: BTreeMap::new(),
            leases: BTreeMap::new(),
            unwritten: Vec::new(),
            store: 0,
        }
    }

    /// The store comes back empty.
    pub fn empty(&mut self, clustered: bool) {
        *self = Server {
            store: self.store + 1,
            ..Server::new(clustered)
        };
    }

    /// Somebody opens it, and makes what is missing.
    pub fn ensure(&mut self) -> Result<(), BusError> {
        self.queue.ensure("pools")?;
        self.reports.ensure("reports")?;
        Ok(())
    }

    /// Puts a command into its pool's queue, unless one of that attempt is there.
    pub fn enqueue(
        &mut self,
        now: Timestamp,
        at: &Place,
        id: &str,
        command: Bytes,
    ) -> Result<PublishAck, PublishError> {
        let stored = self.queue.publish(now, &message(at, id, command), 0)?;
        self.prepare(&at.pool);
        Ok(stored)
    }

    /// Workers pull from a consumer that has to be there.
    pub fn prepare(&mut self, pool: &str) {
        self.consumers.entry(pool.to_owned()).or_default();
    }

    /// It is killed, and starts again on what its disk has: what it delivered last it delivers once more.
    pub fn restart(&mut self, now: u64) {
        while let Some((at, sequence, pool, before)) = self.unwritten.pop() {
            if at + WRITTEN_WITHIN > now {
                self.leases.remove(&sequence);
                self.consumers.insert(pool, before);
            }
        }
        self.queue.restart();
        self.reports.restart();
    }

    /// The next command for a pool's workers, with its place. It is delivered by that.
    pub fn deliver(&mut self, pool: &str, now: u64) -> Option<(u64, Bytes)> {
        let delivered = self.consumers.get_mut(pool)?;
        let before = *delivered;
        let passed = delivered.stream_seq;
        let mut waiting = self.queue.messages.iter();
        let next = waiting.find(|kept| kept.sequence > passed && pool_of(kept) == pool)?;
        delivered.stream_seq = next.sequence;
        delivered.consumer_seq += 1;
        self.leases.insert(next.sequence, now + millis(LEASE));
        let written = |(at, ..): &mut (u64, u64, String, Delivered)| *at + WRITTEN_WITHIN <= now;
        drop(self.unwritten.extract_if(.., written));
        self.unwritten
            .push((now, next.sequence, pool.to_owned(), before));
        Some((next.sequence, next.message.payload.clone()))
    }

    /// Whether a pool's workers have something to take.
    pub fn has_work(&self, pool: &str) -> bool {
        let Some(delivered) = self.consumers.get(pool) else {
            return false;
        };
        let mut waiting = self.queue.messages.iter();
        waiting.any(|kept| kept.sequence > delivered.stream_seq && pool_of(kept) == pool)
    }

    /// Whether a command of this run is in a pool's queue.
    pub fn has_queued(&self, pool: &str, run: &str) -> bool {
        let mut queued = self.queue.messages.iter();
        queued.any(|kept| {
            let command = serde_json::from_slice::<TaskExecute>(&kept.message.payload);
            pool_of(kept) == pool && command.is_ok_and(|command| command.workflow_exec_id == run)
        })
    }

    /// Whoever has a command works on it. Says whether it still has it.
    pub fn touch(&mut self, sequence: u64, until: u64) -> bool {
        let lease = self.leases.get_mut(&sequence);
        lease.map(|lease| *lease = until).is_some()
    }

    pub fn is_leased(&self, sequence: u64) -> bool {
        self.leases.contains_key(&sequence)
    }

    /// Looks whether a lease has run out. If it has, the server says so, once.
    pub fn expire(&mut self, sequence: u64, now: u64) -> bool {
        let over = self
            .leases
            .get(&sequence)
            .is_some_and(|until| *until <= now);
        if over {
            self.leases.remove(&sequence);
            self.last_advisory += 1;
            self.advisories.insert(self.last_advisory, sequence);
        }
        over
    }

    /// A worker acknowledges a command, be it in time or not.
    pub fn done(&mut self, sequence: u64) {
        self.leases.remove(&sequence);
        self.queue.delete(sequence);
    }

    /// Stores a report, unless one with its identity is there.
    pub fn report(
        &mut self,
        now: Timestamp,
        at: &Place,
        report: &TaskReport,
        id: &str,
    ) -> Result<PublishAck, PublishError> {
        let subject = report_subject(at);
        let last = self.reports.last(&subject).ok().flatten();
        let payload = serde_json::to_vec(report).unwrap_or_default();
        let message = Message {
            filter: subject.clone(),
            subject,
            id: id.to_owned(),
            headers: Vec::new(),
            payload: payload.into(),
        };
        let last = last.map_or(0, |last| last.stream_sequence);
        self.reports.publish(now, &message, last)
    }

    pub fn queued(&self, at: &Place) -> Result<Option<u64>, BusError> {
        let found = self.queue.last(&subject(at))?;
        Ok(found.map(|found| found.stream_sequence))
    }

    pub fn reported(&self, at: &Place) -> Result<Option<TaskReport>, BusError> {
        let subject = report_subject(at);
        self.reports.last(&subject)?;
        let mut newest = self.reports.messages.iter().rev();
        let found = newest.find(|kept| kept.message.subject == subject);
        Ok(found.and_then(read))
    }

    pub fn delivered(&self, at: &Place) -> Result<Delivered, BusError> {
        let missing = || BusError::Unavailable("consumer not found".to_owned());
        self.consumers.get(&at.pool).copied().ok_or_else(missing)
    }

    /// Takes a command out of the queue, whoever has it.
    pub fn remove(&mut self, at: &Place) {
        let subject = subject(at);
        let mut found = self.queue.messages.iter();
        let found = found.find(|kept| kept.message.subject == subject);
        if let Some(sequence) = found.map(|kept| kept.sequence) {
            self.done(sequence);
        }
    }

    /// All that is not acknowledged, in the order in which it came.
    pub fn news(&self) -> Vec<PoolNews> {
        let reports = self.reports.messages.iter();
        let reports = reports.filter_map(|kept| self.news_of_report(kept.sequence));
        let lost = self.advisories.keys();
        reports
            .chain(lost.filter_map(|place| self.news_of_loss(*place)))
            .collect()
    }

    /// A report as it is told.
    pub fn news_of_report(&self, sequence: u64) -> Option<PoolNews> {
        let mut kept = self.reports.messages.iter();
        let kept = kept.find(|kept| kept.sequence == sequence)?;
        let report = read(kept)?;
        Some(PoolNews::Report(
            reported_place(kept, &report)?,
            report,
            Receipt(format!("report {sequence}")),
        ))
    }

    /// The newest word about a lost delivery.
    pub fn newest_loss(&self) -> Option<PoolNews> {
        self.news_of_loss(self.last_advisory)
    }

    /// What is gone from the queue is lost to nobody.
    fn news_of_loss(&self, place: u64) -> Option<PoolNews> {
        let sequence = self.advisories.get(&place)?;
        let mut kept = self.queue.messages.iter();
        let kept = kept.find(|kept| kept.sequence == *sequence)?;
        Some(PoolNews::Lost(
            place_of(kept)?,
            Receipt(format!("loss {place}")),
        ))
    }

    /// Words about what is gone from the queue are acknowledged by whoever reads them.
    pub fn drop_void(&mut self) {
        let queue = &self.queue.messages;
        let there = |sequence: &u64| queue.iter().any(|kept| kept.sequence == *sequence);
        self.advisories.retain(|_, sequence| there(sequence));
    }

    pub fn acknowledge(&mut self, receipt: &str) {
        match receipt
            .split_once(' ')
            .map(|(what, place)| (what, place.parse()))
        {
            Some(("report", Ok(sequence))) => self.reports.delete(sequence),
            Some(("loss", Ok(place))) => {
                self.advisories.remove(&place);
            }
            _ => {}
        }
    }

    /// Whether what this acknowledges is there.
    pub fn has(&self, receipt: &str) -> bool {
        match receipt
            .split_once(' ')
            .map(|(what, place)| (what, place.parse()))
        {
            Some(("report", Ok(sequence))) => {
                let mut reports = self.reports.messages.iter();
                reports.any(|kept| kept.sequence == sequence)
            }
            Some(("loss", Ok(place))) => self.advisories.contains_key(&place),
            _ => false,
        }
    }

    /// What is still there, for people.
    pub fn left(&self, taken: impl Fn(&str) -> bool) -> Vec<String> {
        let commands = self.queue.messages.iter();
        // Its worker has it, be that wanted or not.
        let of_nobody = |kept: &&Kept| {
            let uid = place_of(kept).map(|at| at.task_exec_id);
            self.is_leased(kept.sequence) && uid.is_some_and(|uid| taken(&uid))
        };
        let commands = commands.filter(|kept| !of_nobody(kept));
        let commands = commands.map(|kept| format!("the command {}", kept.message.subject));
        let reports = self.reports.messages.iter().filter_map(read);
        let reports = reports.map(|report| format!("the report {}", report.id()));
        let losses = self.advisories.values();
        let losses = losses.map(|sequence| format!("the loss of {sequence}"));
        commands.chain(reports).chain(losses).collect()
    }
}

fn read(kept: &Kept) -> Option<TaskReport> {
    serde_json::from_slice(&kept.message.payload).ok()
}

/// The attempt that a report is about, of the pool that its subject names.
fn reported_place(kept: &Kept, report: &TaskReport) -> Option<Place> {
    let tokens: Vec<_> = kept.message.subject.split('.').skip(2).collect();
    let [namespace, _, pool, task_exec_id] = tokens[..] else {
        return None;
    };
    Some(Place {
        namespace: namespace.to_owned(),
        pool: pool.to_owned(),
        task_exec_id: task_exec_id.to_owned(),
        attempt: report.attempt,
    })
}

fn report_subject(at: &Place) -> String {
    let subjects = PoolSubjects::new(PREFIX);
    subjects.report(&at.namespace, &at.pool, &at.task_exec_id)
}

fn subject(at: &Place) -> String {
    let (uid, attempt) = (&at.task_exec_id, at.attempt);
    PoolSubjects::new(PREFIX).command(&at.namespace, &at.pool, uid, attempt)
}

fn message(at: &Place, id: &str, payload: Bytes) -> Message {
    Message {
        subject: subject(at),
        filter: subject(at),
        id: id.to_owned(),
        headers: Vec::new(),
        payload,
    }
}

fn place_of(kept: &Kept) -> Option<Place> {
    let mut tokens = kept.message.subject.split('.').skip(3);
    Some(Place {
        namespace: tokens.next()?.to_owned(),
        pool: tokens.next()?.to_owned(),
        task_exec_id: tokens.next()?.to_owned(),
        attempt: tokens.next()?.parse().ok()?,
    })
}

fn pool_of(kept: &Kept) -> String {
    place_of(kept).map(|at| at.pool).unwrap_or_default()
}
