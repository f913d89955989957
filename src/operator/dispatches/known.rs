//! What is known of commands. Plain data: one entry for each attempt, until it is forgotten.
//!
//! Whose worker says something is settled by where it says it, its [`Place`]. What is said of the task execution of another
//! pool, or of an attempt that was never sent, is about nothing that is known here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::beginnings::Beginnings;
use crate::{
    api::Time,
    engine::attempt::{Asked, PoolView, Taken},
    operator::index::Key,
    ports::{Place, Receipt},
    protocol::pool::{TaskNews, TaskReport},
};

/// All entries.
#[derive(Default)]
pub(super) struct Known {
    /// In an order: what is dropped together is always dropped in the same one.
    entries: BTreeMap<Place, Entry>,
    /// The current attempts of task executions that somebody asked about, by their UID.
    current: HashMap<String, Place>,
    /// The UIDs of these.
    uids: HashMap<Key, String>,
    /// When a worker of each pool reported last, by namespace and pool.
    heard: HashMap<(String, String), Time>,
    /// What is still to be done about what is over.
    unsettled: Settled,
    /// What is to be acknowledged in a moment.
    beginnings: Beginnings,
}

/// What is known of one attempt.
struct Entry {
    /// Whom it concerns; unknown as long as nobody asked about it.
    key: Option<Key>,
    state: State,
    /// What its worker said first.
    taken: Option<Taken>,
    asked: Option<Asked>,
    /// Its command was delivered in vain, and stays in the queue until it is removed.
    stays: bool,
    /// To acknowledge when this is over.
    receipts: Vec<Receipt>,
    since: Time,
}

enum State {
    Unknown,
    Unsent,
    Sent {
        /// Its place in the queue, if this process knows it.
        sequence: Option<u64>,
        since: Time,
        delivered: bool,
    },
    Ended(Arc<TaskReport>),
    Lost,
}

/// What is to be done about what is over.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settled {
    /// Whoever works on these is not to.
    pub stale: Vec<Place>,
    /// Commands that stay in the queue otherwise.
    pub remove: Vec<Place>,
    /// Afterwards.
    pub acknowledge: Vec<Receipt>,
}

/// What came of something that was heard.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// Whom it concerns, if that is known.
    pub wake: Option<Key>,
    /// The attempt is over.
    pub ended: bool,
    pub settled: Settled,
}

impl Entry {
    /// Of an attempt of which nothing is known.
    fn new(key: Option<Key>, since: Time) -> Entry {
        Entry {
            key,
            state: State::Unknown,
            taken: None,
            asked: None,
            stays: false,
            receipts: Vec::new(),
            since,
        }
    }

    fn view(&self) -> PoolView {
        match &self.state {
            State::Unknown => PoolView::Unknown,
            State::Unsent => PoolView::Unsent,
            State::Sent {
                since, delivered, ..
            } => PoolView::Sent {
                since: *since,
                taken: self.taken.clone(),
                delivered: *delivered,
                asked: self.asked,
            },
            State::Ended(report) => PoolView::Ended(report.clone()),
            State::Lost => PoolView::Lost {
                taken: self.taken.clone(),
            },
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_) | State::Lost)
    }

    /// Nobody has to work on it any more.
    fn abandoned(self, at: Place) -> Settled {
        let under_way = (!self.is_over()).then(|| at.clone());
        let mut settled = self.settled(at);
        settled.stale.extend(under_way.clone());
        settled.remove.extend(under_way);
        settled
    }

    /// What is to be done when this is over and not needed any more.
    fn settled(self, at: Place) -> Settled {
        Settled {
            stale: Vec::new(),
            remove: self.stays.then_some(at).into_iter().collect(),
            acknowledge: self.receipts,
        }
    }
}

impl Settled {
    fn extend(&mut self, more: Settled) {
        self.stale.extend(more.stale);
        self.remove.extend(more.remove);
        self.acknowledge.extend(more.acknowledge);
    }
}

impl Known {
    /// The task execution with this key is at this attempt. What was heard of others before it is over.
    pub fn attach(&mut self, key: &Key, at: &Place, now: Time) -> Settled {
        let uid = &at.task_exec_id;
        let mut settled = Settled::default();
        let known = self.uids.get(key);
        if known != Some(uid) || self.current.get(uid) != Some(at) {
            // Who is at a later attempt has recorded how the one before ended; who is another one has not.
            settled = match known == Some(uid) {
                true => self.forget(key),
                false => self.gone(key),
            };
            self.current.insert(uid.clone(), at.clone());
            self.uids.insert(key.clone(), uid.clone());
        }
        let entry = self.entries.entry(at.clone());
        let entry = entry.or_insert_with(|| Entry::new(None, now));
        entry.key.get_or_insert_with(|| key.clone());
        settled
    }

    pub fn view(&self, at: &Place) -> PoolView {
        self.entries.get(at).map_or(PoolView::Unknown, Entry::view)
    }

    /// It was surely not sent, or was taken back.
    pub fn unsent(&mut self, at: &Place) {
        if let Some(entry) = self.open(at) {
            entry.state = State::Unsent;
            entry.asked = None;
        }
    }

    pub fn sent(&mut self, at: &Place, sequence: u64, now: Time) {
        if let Some(entry) = self.open(at) {
            entry.state = State::Sent {
                sequence: Some(sequence),
                since: now,
                delivered: false,
            };
        }
    }

    /// It may have been sent or not.
    pub fn doubt(&mut self, at: &Place) {
        if let Some(entry) = self.open(at) {
            entry.state = State::Unknown;
        }
    }

    /// All that was sent may be gone from the queue. Returns whom it concerns.
    pub fn doubt_what_was_sent(&mut self) -> Vec<Key> {
        let entries = self.entries.values_mut();
        let sent = entries.filter(|entry| matches!(entry.state, State::Sent { .. }));
        let mut keys: Vec<_> = sent
            .filter_map(|entry| {
                entry.state = State::Unknown;
                entry.key.clone()
            })
            .collect();
        keys.sort();
        keys
    }

    /// There is nothing of it: it was never sent, or what had begun with it is lost.
    pub fn nowhere(&mut self, at: &Place, begun: bool) {
        if let Some(entry) = self.open(at) {
            let lost = begun || entry.taken.is_some();
            entry.state = match entry.asked {
                _ if lost => State::Lost,
                // It was in the queue, and a worker may have it.
                Some(asked) => State::Sent {
                    sequence: None,
                    since: asked.first,
                    delivered: true,
                },
                None => State::Unsent,
            };
        }
    }

    /// A report that was found, and will be heard too.
    pub fn reported(&mut self, at: &Place, report: TaskReport, now: Time) {
        if let Some(entry) = self.open(at) {
            entry.take(report, now);
        }
    }

    pub fn sequence(&self, at: &Place) -> Option<u64> {
        match self.entries.get(at)?.state {
            State::Sent { sequence, .. } => sequence,
            _ => None,
        }
    }

    /// It cannot be taken back.
    pub fn delivered(&mut self, at: &Place) {
        if let Some(entry) = self.open(at)
            && let State::Sent { delivered, .. } = &mut entry.state
        {
            *delivered = true;
        }
    }

    pub fn asked(&mut self, at: &Place, now: Time) {
        if let Some(entry) = self.open(at) {
            let first = entry.asked.map_or(now, |asked| asked.first);
            entry.asked = Some(Asked { first, last: now });
        }
    }

    /// A worker reports.
    pub fn report(
        &mut self,
        from: &Place,
        report: TaskReport,
        receipt: Receipt,
        now: Time,
    ) -> Heard {
        if report.news == TaskNews::Started {
            return self.begins(from, report, receipt, now);
        }
        let Some(entry) = self.heard_of(from, false, now) else {
            // It is over.
            return Heard::only(receipt);
        };
        let was_over = entry.is_over();
        entry.take(report, now);
        entry.receipts.push(receipt);
        let (wake, ended) = (entry.key.clone(), entry.is_over() && !was_over);
        self.serves(from, wake.is_some(), now);
        Heard {
            wake,
            ended,
            settled: Settled::default(),
        }
    }

    /// The end says it again, so it need not be heard again. Nobody may ask about it: who does finds it in the queue.
    fn begins(&mut self, from: &Place, report: TaskReport, receipt: Receipt, now: Time) -> Heard {
        let acknowledge = self.beginnings.keep(receipt, now).into_iter().collect();
        let wake = self.heard_of(from, true, now).and_then(|entry| {
            entry.take(report, now);
            entry.key.clone()
        });
        self.serves(from, wake.is_some(), now);
        Heard {
            wake,
            ended: false,
            settled: Settled {
                acknowledge,
                ..Settled::default()
            },
        }
    }

    /// A worker of this pool reports, about what is `known` or not.
    fn serves(&mut self, from: &Place, known: bool, now: Time) {
        if known {
            self.heard.insert(from.pool_key(), now);
        }
    }

    /// When the next word of a beginning may go.
    pub fn beginning_due(&self) -> Option<Time> {
        self.beginnings.due()
    }

    /// The words of beginnings that may go by now.
    pub fn beginnings_due(&mut self, now: Time) -> Settled {
        Settled {
            acknowledge: self.beginnings.take_due(now),
            ..Settled::default()
        }
    }

    /// A command was delivered, and whoever had it let its lease run out; `said` is the last that was reported.
    pub fn lost(
        &mut self,
        at: Place,
        said: Option<TaskReport>,
        receipt: Receipt,
        now: Time,
    ) -> Heard {
        let Some(entry) = self.heard_of(&at, false, now) else {
            let mut heard = Heard::only(receipt);
            heard.settled.remove.push(at);
            return heard;
        };
        let ended = !entry.is_over();
        if let Some(said) = said.filter(|said| said.attempt == at.attempt) {
            entry.take(said, now);
        }
        if !entry.is_over() {
            entry.state = State::Lost;
        }
        entry.stays = true;
        entry.receipts.push(receipt);
        Heard {
            wake: entry.key.clone(),
            ended,
            settled: Settled::default(),
        }
    }

    /// Whether a worker of this pool reported within that time.
    pub fn is_served(&self, pool: &(String, String), now: Time, within: Duration) -> bool {
        let last = self.heard.get(pool);
        last.is_some_and(|last| now.since(*last) < within)
    }

    /// The entry that something heard is about; none if it is about another attempt than the current one, or another
    /// pool than that of the task, or need not be remembered.
    fn heard_of(&mut self, from: &Place, begins: bool, now: Time) -> Option<&mut Entry> {
        match self.current.get(&from.task_exec_id) {
            Some(current) if current != from => return None,
            None if begins => return None,
            _ => {}
        }
        let entry = self.entries.entry(from.clone());
        Some(entry.or_insert_with(|| Entry::new(None, now)))
    }

    /// A task execution has ended.
    pub fn forget(&mut self, key: &Key) -> Settled {
        let removed = self.remove(key);
        removed
            .map(|(at, entry)| entry.settled(at))
            .unwrap_or_default()
    }

    /// A task execution is gone, and nobody has to work on it.
    pub fn gone(&mut self, key: &Key) -> Settled {
        let removed = self.remove(key);
        removed
            .map(|(at, entry)| entry.abandoned(at))
            .unwrap_or_default()
    }

    /// What could not be done about what is over is to be done later.
    pub fn settle_later(&mut self, settled: Settled) {
        self.unsettled.extend(settled);
    }

    /// What could not be done before.
    pub fn unsettled(&mut self) -> Settled {
        std::mem::take(&mut self.unsettled)
    }

    fn remove(&mut self, key: &Key) -> Option<(Place, Entry)> {
        let uid = self.uids.remove(key)?;
        let at = self.current.remove(&uid)?;
        let entry = self.entries.remove(&at)?;
        Some((at, entry))
    }

    /// Drops what nobody asked about for so long: it is of no task execution that is known.
    pub fn drop_unasked(&mut self, now: Time, after: Duration) -> Settled {
        let unasked = |entry: &Entry| entry.key.is_none() && now.since(entry.since) >= after;
        let mut all = Settled::default();
        for (at, entry) in self.entries.extract_if(.., |_, entry| unasked(entry)) {
            let settled = entry.settled(at);
            all.remove.extend(settled.remove);
            all.acknowledge.extend(settled.acknowledge);
        }
        all
    }

    /// An attempt that is not over.
    fn open(&mut self, at: &Place) -> Option<&mut Entry> {
        self.entries.get_mut(at).filter(|entry| !entry.is_over())
    }
}

impl Entry {
    /// Takes a report of this attempt in. The first end counts.
    fn take(&mut self, report: TaskReport, now: Time) {
        if let Some(at) = report
            .started_at
            .or((report.news == TaskNews::Started).then_some(report.at))
        {
            let worker = Arc::from(report.worker.as_str());
            self.taken.get_or_insert(Taken { worker, at });
        }
        if self.is_over() {
            return;
        }
        if report.news != TaskNews::Started {
            self.state = State::Ended(Arc::new(report));
        } else if !matches!(self.state, State::Sent { .. }) {
            self.state = State::Sent {
                sequence: None,
                since: now,
                delivered: true,
            };
        }
    }
}

impl Heard {
    /// Nothing follows, and it need not be told again.
    fn only(receipt: Receipt) -> Heard {
        Heard {
            settled: Settled {
                acknowledge: vec![receipt],
                ..Settled::default()
            },
            ..Heard::default()
        }
    }
}
