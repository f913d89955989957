//! The bus in memory, for tests: a model of the event stream that answers as a NATS server does, compared with real ones
//! in `tests/nats/stream.rs`, and a [`Bus`] that is nothing but that model.

pub mod calls;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::bus::{Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity};

/// Identities of messages are remembered so long.
const DUPLICATE_WINDOW: SignedDuration = SignedDuration::from_secs(120);

/// The event stream, as far as the operator relies on it: appended to under a condition.
#[derive(Debug, Clone, Default)]
pub struct JetStream {
    /// A cluster looks at a message's identity first, a single server at its place.
    pub clustered: bool,
    /// What the server says of when the stream was made; none: there is none.
    created: Option<String>,
    /// What it holds, in order.
    pub messages: Vec<Kept>,
    last: u64,
    /// Place and time by identity, also of messages that limits took.
    identities: HashMap<String, (u64, Timestamp)>,
    /// The server cannot be reached.
    pub away: bool,
    /// Nobody answers for the stream.
    pub leaderless: bool,
    /// There is no room for another message.
    pub full: bool,
}

/// A message in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its place in the stream.
    pub sequence: u64,
    /// When it was stored.
    pub at: Timestamp,
    /// The message.
    pub message: Message,
}

impl JetStream {
    /// A server, or a cluster of them, without the stream.
    pub fn new(clustered: bool) -> JetStream {
        JetStream {
            clustered,
            ..JetStream::default()
        }
    }

    /// Somebody deletes the stream, or the store comes back empty.
    pub fn empty(&mut self) {
        *self = JetStream {
            away: self.away,
            ..JetStream::new(self.clustered)
        };
    }

    /// The server starts anew on what its disk has.
    pub fn restart(&mut self) {
        let kept: HashSet<_> = self.messages.iter().map(|kept| kept.sequence).collect();
        self.identities
            .retain(|_, (sequence, _)| kept.contains(sequence));
    }

    /// The same, and the last `count` messages were never written to it.
    pub fn lose_end(&mut self, count: usize) {
        let left = self.messages.len().saturating_sub(count);
        if left < self.messages.len() {
            self.messages.truncate(left);
            self.last = self.messages.last().map_or(0, |kept| kept.sequence);
        }
        self.restart();
    }

    /// The oldest `count` messages reach a limit.
    pub fn retire(&mut self, count: usize) {
        self.messages.drain(..count.min(self.messages.len()));
    }

    /// Somebody deletes a message.
    pub fn delete(&mut self, sequence: u64) {
        self.messages.retain(|kept| kept.sequence != sequence);
    }

    /// Appends a message, if its chain ends where it is expected to.
    ///
    /// # Errors
    /// As the server refuses it.
    pub fn publish(
        &mut self,
        now: Timestamp,
        message: &Message,
        expected_last: u64,
    ) -> Result<PublishAck, PublishError> {
        if self.created.is_none() || self.leaderless {
            return Err(PublishError::StreamMissing);
        }
        let of_today = |at: &Timestamp| now.duration_since(*at) < DUPLICATE_WINDOW;
        self.identities.retain(|_, (_, at)| of_today(at));
        let known = self.identities.get(&message.id);
        let known = known.map(|(sequence, _)| PublishAck {
            sequence: *sequence,
            duplicate: true,
        });
        let last = self.last_of(&message.filter);
        let fits = last.map_or(0, |kept| kept.sequence) == expected_last;
        match known {
            Some(ack) if self.clustered || fits => return Ok(ack),
            _ if !fits => return Err(PublishError::WrongLastSequence),
            _ if self.full => {
                let text = "maximum messages exceeded (code 503, error code 10077)";
                return Err(PublishError::Unavailable(text.to_owned()));
            }
            _ => {}
        }
        self.last += 1;
        let sequence = self.last;
        self.identities.insert(message.id.clone(), (sequence, now));
        self.messages.push(Kept {
            sequence,
            at: now,
            message: message.clone(),
        });
        Ok(PublishAck {
            sequence,
            duplicate: false,
        })
    }

    /// The last message whose subject matches.
    ///
    /// # Errors
    /// There is no stream, or nobody who answers for it.
    pub fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        if self.leaderless {
            return Err(BusError::Timeout);
        }
        if self.created.is_none() {
            return Err(BusError::StreamMissing("COMPOZY_EVENTS".to_owned()));
        }
        Ok(self.last_of(filter).map(|kept| Stored {
            stream_sequence: kept.sequence,
            id: Some(kept.message.id.clone()),
            event_sequence: header(&kept.message, "ce-sequence").and_then(|text| text.parse().ok()),
        }))
    }

    /// Says which stream it is; makes one, called `new`, if there is none.
    ///
    /// # Errors
    /// Nobody answers for it.
    pub fn ensure(&mut self, new: &str) -> Result<StreamIdentity, BusError> {
        if self.leaderless {
            return Err(BusError::Timeout);
        }
        let created = self.created.get_or_insert_with(|| new.to_owned());
        let first = self.messages.first();
        Ok(StreamIdentity {
            created: created.clone(),
            first_sequence: match first {
                Some(kept) => kept.sequence,
                None if self.last == 0 => 0,
                None => self.last + 1,
            },
            last_sequence: self.last,
        })
    }

    fn last_of(&self, filter: &str) -> Option<&Kept> {
        let mut newest = self.messages.iter().rev();
        newest.find(|kept| matches(filter, &kept.message.subject))
    }
}

/// A bus that can be made to fail, forget and start anew.
#[derive(Debug, Default)]
pub struct MemoryBus(Mutex<State>);

/// What goes wrong with one attempt to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is refused and not stored.
    Refuse(PublishError),
    /// It is stored, but the answer is lost.
    LoseAnswer,
}

#[derive(Debug, Default)]
struct State {
    stream: JetStream,
    /// How often the stream was made.
    incarnations: u64,
    faults: VecDeque<Fault>,
}

impl MemoryBus {
    /// A cluster of servers, without the stream.
    pub fn clustered() -> MemoryBus {
        MemoryBus(Mutex::new(State {
            stream: JetStream::new(true),
            ..State::default()
        }))
    }

    /// Lets the coming attempts to publish go wrong, one after the other.
    pub fn fail_with(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// Takes the server away or brings it back.
    pub fn set_away(&self, away: bool) {
        self.lock().stream.away = away;
    }

    /// Deletes the stream.
    pub fn delete_stream(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.incarnations += 1;
        state.stream.empty();
    }

    /// Drops the oldest messages until `left` are left, as limits do.
    pub fn retain(&self, left: usize) {
        let stream = &mut self.lock().stream;
        stream.retire(stream.messages.len().saturating_sub(left));
    }

    /// Loses all but the first `left` messages, as a power failure does.
    pub fn lose(&self, left: usize) {
        let stream = &mut self.lock().stream;
        stream.lose_end(stream.messages.len().saturating_sub(left));
    }

    /// The messages that are stored, in order.
    pub fn messages(&self) -> Vec<Message> {
        let state = self.lock();
        let kept = state.stream.messages.iter();
        kept.map(|kept| kept.message.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A message is stored when its event happens, and not before those that are there.
    fn publish(
        &mut self,
        message: &Message,
        expected_last: u64,
    ) -> Result<PublishAck, PublishError> {
        let time = header(message, "ce-time").and_then(|text| text.parse().ok());
        let latest = self.stream.messages.last().map(|kept| kept.at);
        let now = time.max(latest).unwrap_or(Timestamp::UNIX_EPOCH);
        self.stream.publish(now, message, expected_last)
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(
        &self,
        message: &Message,
        expected_last: u64,
    ) -> Result<PublishAck, PublishError> {
        let mut state = self.lock();
        if state.stream.away {
            return Err(PublishError::Unavailable("away".to_owned()));
        }
        match state.faults.pop_front() {
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::LoseAnswer) => state
                .publish(message, expected_last)
                .and(Err(PublishError::Timeout)),
            None => state.publish(message, expected_last),
        }
    }

    async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        let state = self.lock();
        match state.stream.away {
            true => Err(BusError::Timeout),
            false => state.stream.last(filter),
        }
    }

    async fn ensure_streams(&self) -> Result<StreamIdentity, BusError> {
        let mut state = self.lock();
        if state.stream.away {
            return Err(BusError::Timeout);
        }
        let name = format!("incarnation {}", state.incarnations + 1);
        state.stream.ensure(&name)
    }

    fn connected(&self) -> bool {
        !self.lock().stream.away
    }
}

/// A header of a message.
pub fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let found = message.headers.iter().find(|(key, _)| *key == name);
    found.map(|(_, value)| value.as_str())
}

/// Whether a subject matches a filter that may end with a wildcard for one token.
fn matches(filter: &str, subject: &str) -> bool {
    match filter.strip_suffix('*') {
        Some(prefix) => subject
            .strip_prefix(prefix)
            .is_some_and(|token| !token.contains('.')),
        None => filter == subject,
    }
}
