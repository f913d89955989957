//! The mirror: publishes what the objects' outboxes hold, each object's events one at a time and in order.
//!
//! NATS being away costs nothing but the mirror's lag. After a restart every place is found again from the stream and
//! from `status.mirror`; what is remembered here only saves questions.

mod books;
mod metrics;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use self::books::{Books, Kept, Stream};
pub use self::metrics::MirrorMetrics;
use crate::api::{MirrorPosition, Time};
use crate::events::{Chain, Next, Object, Step, Subjects};
use crate::ports::{Bus, BusError, PublishAck, PublishError};

/// A question about the stream that was asked so shortly ago is not asked again.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// How often a chain looks for its place in one go; more means that somebody else moves it.
const READS_AT_ONCE: u32 = 3;
/// How often a write that has to wait for another one is tried in one go.
const IN_FLIGHT_TRIES: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Publishes objects' events. Shared by all workers; an object is with one worker at a time.
pub struct Mirror {
    bus: Arc<dyn Bus>,
    subjects: Subjects,
    metrics: MirrorMetrics,
    books: Mutex<Books>,
    /// When the stream was last asked about, and what the answer was.
    asked: tokio::sync::Mutex<Option<(Instant, Result<Stream, BusError>)>>,
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
}

impl Progress {
    /// Whether everything that the object says is stored, so that its finalizer may go.
    pub fn is_complete(&self) -> bool {
        self.pending == 0 && !self.outdated
    }
}

/// Why an attempt ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
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
        }
    }

    /// Publishes what the object holds and the stream does not. Ends within a bounded time; what could not be done is
    /// in the answer.
    pub async fn publish_pending(&self, object: Object<'_>) -> Progress {
        let history = object.history();
        if history.is_empty() {
            return Progress::default();
        }
        let stream = match self.stream().await {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, uid = object.uid(), "the event stream is not there");
                Stream::unknown()
            }
        };
        let mut kept = self
            .books()
            .recall(object.uid(), object.position(), &stream);
        let outcome = match stream.is_known() {
            true => self.drive(&mut kept.chain, object, &history).await,
            false => Err(Interruption::Later),
        };
        self.conclude(object, &history, kept, outcome)
    }

    /// Looks whether the stream is there and as it should be. True if it lost what was in it: then all objects have to
    /// be queued again. To be called every 30 s or so.
    pub async fn refresh(&self) -> bool {
        if let Err(error) = self.ask(Duration::ZERO).await {
            debug!(%error, "the event stream cannot be looked at");
        }
        self.metrics.connected.set(i64::from(self.bus.connected()));
        self.books().take_started_over()
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, uid: &str) {
        let pending = self.books().forget(uid);
        self.metrics.move_lag(pending, 0);
    }

    /// Takes the chain as far as it goes.
    async fn drive(
        &self,
        chain: &mut Chain,
        object: Object<'_>,
        history: &[(u64, Time)],
    ) -> Result<(), Interruption> {
        let (mut reads, mut in_flight) = (0, 0);
        loop {
            let step = chain.step(history);
            match step {
                Step::Done => return Ok(()),
                Step::Read { .. } if reads == READS_AT_ONCE => return Err(Interruption::Later),
                Step::Read { acknowledged } => {
                    reads += 1;
                    self.read(chain, acknowledged, object, history).await?;
                }
                Step::Publish {
                    sequence,
                    expected_last,
                    by_reference,
                    lost,
                } => {
                    let result = self
                        .publish(object, sequence, expected_last, by_reference)
                        .await?;
                    match chain.published(sequence, &result) {
                        Next::Stored => self.metrics.count_lost(lost),
                        Next::Another => {}
                        Next::Soon if in_flight < IN_FLIGHT_TRIES => {
                            in_flight += 1;
                            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..=50))).await;
                        }
                        Next::Ensure => {
                            self.ask(ASK_PAUSE).await.map_err(|_| Interruption::Later)?;
                            return Err(Interruption::Later);
                        }
                        Next::Soon | Next::Later => return Err(Interruption::Later),
                    }
                }
            }
        }
    }

    /// Finds the chain's place from its last message.
    async fn read(
        &self,
        chain: &mut Chain,
        acknowledged: u64,
        object: Object<'_>,
        history: &[(u64, Time)],
    ) -> Result<(), Interruption> {
        let later = |error: BusError| {
            debug!(%error, uid = object.uid(), "a chain cannot be read");
            Interruption::Later
        };
        let before = self.stream().await.map_err(later)?;
        let stored = self
            .bus
            .last(&object.chain(&self.subjects))
            .await
            .map_err(later)?;
        // A chain that was not empty and is: what that means depends on the stream as it is after the question.
        let stream = match stored {
            None if acknowledged > 0 => self.ask(Duration::ZERO).await.map_err(later)?,
            _ => self.stream().await.map_err(later)?,
        };
        if stream.epoch != before.epoch {
            return Err(Interruption::StartOver);
        }
        chain.read(object.uid(), stored.as_ref(), history, &stream.identity);
        Ok(())
    }

    async fn publish(
        &self,
        object: Object<'_>,
        sequence: u64,
        expected_last: u64,
        by_reference: bool,
    ) -> Result<Result<PublishAck, PublishError>, Interruption> {
        let event = object
            .event(sequence, &self.subjects)
            .ok_or(Interruption::Later)?;
        let floor = self.books().highest();
        let result = match by_reference {
            true => self.bus.publish(&event.by_reference(), expected_last).await,
            false => self.bus.publish(event.message(), expected_last).await,
        };
        self.metrics.count(&result);
        match &result {
            Ok(ack) => {
                debug!(%event, sequence = ack.sequence, duplicate = ack.duplicate, "published");
                if self.books().note_sequence(*ack, floor) {
                    self.say_started_over();
                }
            }
            Err(error) => debug!(%event, %error, "not published"),
        }
        Ok(result)
    }

    /// Writes down how far the object is and says so.
    fn conclude(
        &self,
        object: Object<'_>,
        history: &[(u64, Time)],
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
            _ => kept.chain.acknowledged(),
        };
        let lag_before = kept.pending;
        kept.pending = history
            .iter()
            .map(|(sequence, _)| u64::from(*sequence > known))
            .sum();
        kept.failures = if outcome.is_ok() {
            0
        } else {
            kept.failures.saturating_add(1)
        };
        let progress = Progress {
            pending: kept.pending,
            outdated: history.last().is_some_and(|(newest, _)| known > *newest),
            position: (outcome.is_ok() && known > 0).then(|| MirrorPosition {
                seq: known,
                stream: kept.created.clone(),
            }),
            retry_after: outcome.is_err().then(|| retry_delay(kept.failures)),
        };
        self.metrics.move_lag(lag_before, kept.pending);
        books.keep(object.uid(), kept);
        progress
    }

    /// The stream, asked about only if it is not known.
    async fn stream(&self) -> Result<Stream, BusError> {
        let known = self.books().stream();
        match known {
            Some(stream) => Ok(stream),
            None => self.ask(ASK_PAUSE).await,
        }
    }

    /// Asks which stream it is, unless that was done within `pause`.
    async fn ask(&self, pause: Duration) -> Result<Stream, BusError> {
        let mut asked = self.asked.lock().await;
        if let Some((at, answer)) = asked.as_ref()
            && at.elapsed() < pause
        {
            return answer.clone();
        }
        let floor = self.books().highest();
        let answer = self.bus.ensure_streams().await.map(|identity| {
            let (stream, started_over) = self.books().note_stream(identity, floor);
            if started_over {
                self.say_started_over();
            }
            stream
        });
        *asked = Some((Instant::now(), answer.clone()));
        answer
    }

    fn say_started_over(&self) {
        self.metrics.streams_lost.inc();
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
