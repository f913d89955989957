//! The mirror: publishes what the objects' outboxes hold, each object's events one at a time and in order.
//!
//! NATS being away costs nothing but the mirror's lag. After a restart every place is found again from the stream and
//! from `status.mirror`; what is remembered here only saves questions.

mod books;
mod metrics;
mod standing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::books::{Books, Kept, Stream, Unsure};
pub use self::metrics::MirrorMetrics;
pub use self::standing::Standing;
use crate::api::MirrorPosition;
use crate::events::{Entry, Filter, Next, Object, Step, Subjects, Turn};
use crate::ports::{Bus, BusError, PublishAck, PublishError};

/// A question about the stream that failed so shortly ago is not asked again.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// How often a chain looks for its place in one go without coming on; more means that somebody else moves it.
const READS_AT_ONCE: u32 = 3;
/// What the stream had when it was asked it may have lost when an answer comes as late as this. Twice as late with each
/// attempt that fails: a server that is always slow is told all the same.
const FRESH: Duration = Duration::from_millis(250);
/// How often a write that has to wait for another one is tried in one go.
const IN_FLIGHT_TRIES: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How often it is looked whether the connection came back. That asks nobody.
const CONNECTION_LOOK: Duration = Duration::from_secs(1);

/// Publishes objects' events. Shared by all workers; an object is with one worker at a time.
pub struct Mirror {
    bus: Arc<dyn Bus>,
    subjects: Subjects,
    metrics: MirrorMetrics,
    books: Mutex<Books>,
    /// The last question about the stream.
    asked: tokio::sync::Mutex<Option<Asked>>,
    /// Somebody noticed that the stream lost messages.
    noticed: Notify,
}

/// A question about the stream: when it was asked and answered, and how.
struct Asked {
    began: Instant,
    ended: Instant,
    answer: Result<Stream, BusError>,
}

/// How far an object's events are after an attempt to publish them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// How many events of the given version of the object are not known to be stored.
    pub pending: u64,
    /// The stream holds later events than the given version of the object. Read the object again before letting it go.
    pub outdated: bool,
    /// For the next write of the object's status; none if there is nothing new to say.
    pub position: Option<MirrorPosition>,
    /// Try again after this time.
    pub retry_after: Option<Duration>,
    /// The life of the stream that this is about: see [`Mirror::epoch`].
    pub epoch: u64,
}

impl Progress {
    /// Whether everything that the object says is stored, so that its finalizer may go.
    pub fn is_complete(&self) -> bool {
        self.pending == 0 && !self.outdated
    }

    /// Whether the first event is stored.
    pub fn has_begun(&self) -> bool {
        self.position
            .as_ref()
            .is_some_and(|position| position.seq > 0)
    }
}

/// In which life of the stream an object may be published: see [`Mirror::epoch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In any.
    Always,
    /// Only in this one.
    In(u64),
    /// Not now; somebody will say when.
    Later,
}

/// Why an attempt ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    /// It has to wait for another object.
    HeldBack,
    /// The stream turned out to be another one: find the place anew.
    StartOver,
    /// It cannot be done now.
    Later,
}

impl Mirror {
    /// A mirror on `bus`.
    pub fn new(bus: Arc<dyn Bus>, subjects: Subjects, metrics: MirrorMetrics) -> Self {
        let books = Mutex::default();
        Self {
            bus,
            subjects,
            metrics,
            books,
            asked: tokio::sync::Mutex::default(),
            noticed: Notify::new(),
        }
    }

    /// Which life of the stream it is. It begins anew with every loss; what was said of events in an earlier one does
    /// not count. 0: no stream was seen yet.
    pub fn epoch(&self) -> u64 {
        self.books().epoch()
    }

    /// Publishes what the object holds and the stream does not. Ends within a bounded time; what could not be done is
    /// in the answer.
    pub async fn publish_pending(&self, object: Object<'_>, when: When) -> Progress {
        let history = object.history();
        if history.is_empty() {
            return Progress {
                epoch: self.epoch(),
                ..Progress::default()
            };
        }
        let (stream, known) = match self.stream().await {
            Ok(stream) => (stream, true),
            Err(error) => {
                debug!(%error, uid = object.uid(), "the event stream is not there");
                (self.books().last_seen(), false)
            }
        };
        let mut kept = self
            .books()
            .recall(object.uid(), object.position(), &stream);
        let outcome = match when {
            When::Later => Err(Interruption::HeldBack),
            _ if !known => Err(Interruption::Later),
            When::In(epoch) if epoch != stream.epoch => Err(Interruption::StartOver),
            When::In(_) | When::Always => self.drive(&mut kept, object, &history).await,
        };
        self.conclude(object, &history, kept, outcome)
    }

    /// Asks whether the stream is still the one that it was.
    ///
    /// # Errors
    /// When to ask again, if there is no answer.
    pub async fn confirm(&self) -> Result<u64, Duration> {
        let stream = self.ask(Instant::now()).await;
        stream
            .map(|stream| stream.epoch)
            .map_err(|_| retry_delay(u32::MAX))
    }

    /// Looks whether the stream is there and as it should be. True if it lost what was in it: then all objects have to
    /// be queued again. To be called every 30 s or so.
    pub async fn refresh(&self) -> bool {
        if let Err(error) = self.ask(Instant::now()).await {
            debug!(%error, "the event stream cannot be looked at");
        }
        self.metrics.connected.set(i64::from(self.bus.connected()));
        self.books().take_started_over()
    }

    /// Waits until it is time to look at the stream again: after `longest`, or at once when somebody noticed that it
    /// lost messages, or when the connection came back, for which it returns true.
    pub async fn until_news(&self, longest: Duration) -> bool {
        let end = Instant::now() + longest;
        let mut connected = self.bus.connected();
        while Instant::now() < end {
            tokio::select! {
                biased;
                () = self.noticed.notified() => return false,
                () = tokio::time::sleep_until(end.min(Instant::now() + CONNECTION_LOOK)) => {}
            }
            let before = std::mem::replace(&mut connected, self.bus.connected());
            if connected && !before {
                return true;
            }
        }
        false
    }

    /// Shows how long the oldest event has waited that is not stored.
    pub fn show_age(&self, now: jiff::Timestamp) {
        let oldest = self.books().oldest();
        let seconds = oldest.map_or(0.0, |oldest| now.duration_since(oldest.0).as_secs_f64());
        self.metrics.oldest_pending.set(seconds.max(0.0));
    }

    /// An object that was let go is gone, and its events were to be told again: those are lost.
    pub fn give_up(&self, uid: &str) {
        let pending = self.books().forget(uid);
        self.metrics.move_lag(pending, 0);
        self.metrics.count_lost(pending);
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, uid: &str) {
        let pending = self.books().forget(uid);
        self.metrics.move_lag(pending, 0);
    }

    /// Takes the chain as far as it goes.
    async fn drive(
        &self,
        kept: &mut Kept,
        object: Object<'_>,
        history: &[Entry],
    ) -> Result<(), Interruption> {
        let (mut reads, mut in_flight) = (0, 0);
        kept.chain.resume();
        loop {
            match kept.chain.step(history) {
                Step::Done => return Ok(()),
                Step::Read(_) if reads == READS_AT_ONCE => return Err(Interruption::Later),
                Step::Read(filter) => {
                    let before = kept.chain.acknowledged();
                    self.read(kept, object, &filter).await?;
                    let came_on = kept.chain.acknowledged() > before;
                    reads = if came_on { 0 } else { reads + 1 };
                }
                Step::Publish(turn) => {
                    if !self.books().confirm(kept) {
                        return Err(Interruption::StartOver);
                    }
                    let result = self.publish(kept, object, &turn).await?;
                    match kept.chain.published(&turn, &result) {
                        Next::Stored => {
                            self.metrics.count_lost(turn.lost);
                            reads = 0;
                        }
                        Next::Another => {}
                        Next::Soon if in_flight < IN_FLIGHT_TRIES => {
                            in_flight += 1;
                            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..=50))).await;
                        }
                        Next::Ensure => {
                            self.books().doubt();
                            self.stream().await.map_err(|_| Interruption::Later)?;
                            return Err(Interruption::Later);
                        }
                        Next::Soon | Next::Later => return Err(Interruption::Later),
                    }
                }
            }
        }
    }

    /// Finds the chain's place from the last message of a filter.
    async fn read(
        &self,
        kept: &mut Kept,
        object: Object<'_>,
        filter: &Filter,
    ) -> Result<(), Interruption> {
        let later = |error: BusError| {
            debug!(%error, uid = object.uid(), "a chain cannot be read");
            Interruption::Later
        };
        let asked = Instant::now();
        let stored = self.bus.last(&object.chain(filter, &self.subjects)).await;
        let fresh = asked.elapsed() <= FRESH * 2_u32.pow(kept.failures.min(5));
        let stored = stored
            .inspect_err(|_| self.books().doubt())
            .map_err(later)?;
        // A chain that was not empty and is: what that means depends on the stream as it is after the question.
        let stream = match stored {
            None if kept.chain.acknowledged() > 0 => self.ask(asked).await.map_err(later)?,
            _ => self.stream().await.map_err(later)?,
        };
        if stream.epoch != kept.epoch {
            return Err(Interruption::StartOver);
        }
        let contradicted = kept.chain.read(
            object.uid(),
            filter,
            stored.as_ref(),
            stream.identity.first_sequence,
        );
        if contradicted && self.books().note_contradiction(kept) {
            self.say_started_over();
        }
        if !fresh {
            kept.chain.resume();
        }
        let unsure = kept.unsure.take_if(|unsure| unsure.turn.filter == *filter);
        if let (Some(stored), Some(Unsure { turn, floor })) = (stored, unsure)
            && kept.chain.acknowledged() == turn.sequence
            && self.books().note_sequence(stored.stream_sequence, floor)
        {
            self.say_started_over();
        }
        Ok(())
    }

    async fn publish(
        &self,
        kept: &mut Kept,
        object: Object<'_>,
        turn: &Turn,
    ) -> Result<Result<PublishAck, PublishError>, Interruption> {
        let event = object
            .event(turn.sequence, &self.subjects)
            .ok_or(Interruption::Later)?;
        let unsure = kept.unsure.as_ref();
        let unsure = unsure.filter(|unsure| unsure.turn.sequence == turn.sequence);
        let (was_unsure, floor) = match unsure {
            Some(unsure) => (true, unsure.floor),
            None => (false, self.books().highest()),
        };
        let expected_last = turn.expected_last;
        let result = match turn.by_reference {
            true => self.bus.publish(&event.by_reference(), expected_last).await,
            false => self.bus.publish(event.message(), expected_last).await,
        };
        self.metrics.count(&result);
        match &result {
            Ok(ack) => {
                debug!(%event, sequence = ack.sequence, duplicate = ack.duplicate, "published");
                kept.unsure = None;
                // A duplicate that we know nothing of was stored before us, at its own place; so was one that is gone.
                if ack.duplicate && (!was_unsure || ack.sequence <= expected_last) {
                    self.books().note_highest(ack.sequence);
                } else if self.books().note_sequence(ack.sequence, floor) {
                    self.say_started_over();
                }
            }
            Err(error) => {
                debug!(%event, %error, "not published");
                if matches!(error, PublishError::Timeout | PublishError::Unavailable(_)) {
                    let turn = turn.clone();
                    kept.unsure = Some(Unsure { turn, floor });
                    self.books().doubt();
                }
            }
        }
        Ok(result)
    }

    /// Writes down how far the object is and says so.
    fn conclude(
        &self,
        object: Object<'_>,
        history: &[Entry],
        mut kept: Kept,
        outcome: Result<(), Interruption>,
    ) -> Progress {
        self.metrics.connected.set(i64::from(self.bus.connected()));
        let mut books = self.books();
        // Another worker may have found out that the stream is another one.
        let outcome = match books.confirm(&kept) {
            true => outcome,
            false => Err(Interruption::StartOver),
        };
        let known = match outcome {
            Err(Interruption::StartOver) => 0,
            _ => kept.chain.confirmed(),
        };
        let lag_before = kept.pending;
        let pending = || history.iter().filter(|entry| entry.sequence > known);
        kept.oldest = pending().next().map(|entry| entry.at);
        kept.pending = pending().map(|_| 1).sum();
        kept.failures = match outcome {
            Ok(()) => 0,
            Err(Interruption::HeldBack) => kept.failures,
            Err(_) => kept.failures.saturating_add(1),
        };
        let progress = Progress {
            pending: kept.pending,
            outdated: history.last().is_some_and(|newest| known > newest.sequence),
            // Also when it cannot be asked now: what is complete is let go with that as its receipt.
            position: (known > 0).then(|| MirrorPosition {
                seq: known,
                stream: kept.created.clone(),
                stream_seq: kept.chain.last(),
            }),
            retry_after: match outcome {
                Ok(()) | Err(Interruption::HeldBack) => None,
                Err(_) => Some(retry_delay(kept.failures)),
            },
            epoch: kept.epoch,
        };
        self.metrics.move_lag(lag_before, kept.pending);
        books.keep(object.uid(), kept);
        progress
    }

    /// The stream, asked about only if it is not known.
    async fn stream(&self) -> Result<Stream, BusError> {
        let known = self.books().stream();
        match known {
            Ok(stream) => Ok(stream),
            Err(doubted) => self.ask(doubted).await,
        }
    }

    /// Asks which stream it is, unless that was asked later than at the given time.
    async fn ask(&self, not_before: Instant) -> Result<Stream, BusError> {
        let mut asked = self.asked.lock().await;
        if let Some(last) = asked.as_ref()
            && last.began > not_before
            && (last.answer.is_ok() || last.ended.elapsed() < ASK_PAUSE)
        {
            return last.answer.clone();
        }
        let began = Instant::now();
        let floor = self.books().highest();
        let answer = self.bus.ensure_streams().await.map(|identity| {
            let (stream, started_over) = self.books().note_stream(identity, floor);
            if started_over {
                self.say_started_over();
            }
            stream
        });
        *asked = Some(Asked {
            began,
            ended: Instant::now(),
            answer: answer.clone(),
        });
        answer
    }

    fn say_started_over(&self) {
        self.metrics.streams_lost.inc();
        self.noticed.notify_one();
        warn!(
            "the event stream lost messages or was made anew: publishing again what objects still hold"
        );
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Every critical section leaves the books whole, so a poisoned lock is still good.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Doubles with each failure in a row up to a bound, and varies, so that not all objects come back at once.
fn retry_delay(failures: u32) -> Duration {
    let longest = (RETRY_FIRST * 2_u32.pow(failures.saturating_sub(1).min(16))).min(RETRY_LONGEST);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}
