//! The bus in memory, answering as one NATS server does: for the simulation and for tests.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::bus::{Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity};

/// A stream in memory that can be made to fail, forget and start anew.
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
    /// How often the stream was made; 0: there is none.
    incarnation: u64,
    last_sequence: u64,
    messages: Vec<Kept>,
    /// Sequences by identity, also of messages that are gone.
    identities: HashMap<String, u64>,
    faults: VecDeque<Fault>,
    away: bool,
}

#[derive(Debug, Clone)]
struct Kept {
    sequence: u64,
    at: Timestamp,
    message: Message,
}

impl MemoryBus {
    /// Lets the coming attempts to publish go wrong, one after the other.
    pub fn fail_with(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// Takes the server away or brings it back.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// Deletes the stream.
    pub fn delete_stream(&self) {
        let mut state = self.lock();
        let incarnation = state.incarnation;
        *state = State {
            away: state.away,
            ..State::default()
        };
        // The next one is told apart by its number.
        state.incarnation = incarnation | DELETED;
    }

    /// Drops the oldest messages until `left` are left, as limits do.
    pub fn retain(&self, left: usize) {
        let mut state = self.lock();
        let gone = state.messages.len().saturating_sub(left);
        state.messages.drain(..gone);
    }

    /// Loses all but the first `left` messages, as a power failure does.
    pub fn lose(&self, left: usize) {
        let mut state = self.lock();
        state.messages.truncate(left);
        state.last_sequence = state.messages.last().map_or(0, |kept| kept.sequence);
        let last = state.last_sequence;
        state.identities.retain(|_, sequence| *sequence <= last);
    }

    /// The messages that are stored, in order.
    pub fn messages(&self) -> Vec<Message> {
        self.lock()
            .messages
            .iter()
            .map(|kept| kept.message.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DELETED: u64 = 1 << 63;

impl State {
    fn exists(&self) -> bool {
        self.incarnation != 0 && self.incarnation & DELETED == 0
    }

    fn last(&self, filter: &str) -> Option<&Kept> {
        self.messages
            .iter()
            .rev()
            .find(|kept| matches(filter, &kept.message.subject))
    }

    fn store(&mut self, message: &Message, expected_last: u64) -> Result<PublishAck, PublishError> {
        if !self.exists() {
            return Err(PublishError::StreamMissing);
        }
        if self.last(&message.filter).map_or(0, |kept| kept.sequence) != expected_last {
            return Err(PublishError::WrongLastSequence);
        }
        if let Some(sequence) = self.identities.get(&message.id) {
            return Ok(PublishAck {
                sequence: *sequence,
                duplicate: true,
            });
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.identities.insert(message.id.clone(), sequence);
        let latest = self.messages.last().map_or(Timestamp::MIN, |kept| kept.at);
        let at = time_of(message).max(latest);
        self.messages.push(Kept {
            sequence,
            at,
            message: message.clone(),
        });
        Ok(PublishAck {
            sequence,
            duplicate: false,
        })
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
        if state.away {
            return Err(PublishError::Unavailable("away".to_owned()));
        }
        match state.faults.pop_front() {
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::LoseAnswer) => state
                .store(message, expected_last)
                .and(Err(PublishError::Timeout)),
            None => state.store(message, expected_last),
        }
    }

    async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        let state = self.lock();
        if state.away {
            return Err(BusError::Timeout);
        }
        let stored = |kept: &Kept| Stored {
            stream_sequence: kept.sequence,
            id: Some(kept.message.id.clone()),
            event_sequence: header(&kept.message, "ce-sequence").and_then(|text| text.parse().ok()),
        };
        Ok(state.last(filter).map(stored))
    }

    async fn ensure_streams(&self) -> Result<StreamIdentity, BusError> {
        let mut state = self.lock();
        if state.away {
            return Err(BusError::Timeout);
        }
        if !state.exists() {
            state.incarnation = (state.incarnation & !DELETED) + 1;
        }
        Ok(StreamIdentity {
            created: format!("incarnation {}", state.incarnation),
            first_sequence: state
                .messages
                .first()
                .map_or(state.last_sequence + 1, |kept| kept.sequence),
            last_sequence: state.last_sequence,
            oldest: state.messages.first().map(|kept| kept.at),
        })
    }

    fn connected(&self) -> bool {
        !self.lock().away
    }
}

/// When the message's event happened.
fn time_of(message: &Message) -> Timestamp {
    let time = header(message, "ce-time").and_then(|text| text.parse().ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH)
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
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
