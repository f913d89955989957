//! JetStream as far as the operator relies on it: one stream, appended to under a condition.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use compozy::ports::{Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity};
use tokio::sync::oneshot;

use crate::{
    faults::Class,
    world::{Process, Shared, World, time_at},
};

/// Identities are remembered so long, in milliseconds.
const DUPLICATE_WINDOW: u64 = 120_000;

/// As the real adapter waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message in the stream.
#[derive(Clone, Debug)]
pub struct Kept {
    pub sequence: u64,
    pub at: u64,
    pub message: Message,
}

/// The server and its stream.
pub struct JetStream {
    /// A cluster looks at a message's identity first, a single server at its place.
    clustered: bool,
    /// When the stream was made; none: there is none.
    created: Option<u64>,
    pub messages: Vec<Kept>,
    last: u64,
    /// Place and time by identity.
    identities: BTreeMap<String, (u64, u64)>,
    pub away: bool,
    pub leaderless: bool,
    pub full: bool,
}

impl JetStream {
    pub fn new(seed: u64) -> JetStream {
        JetStream {
            clustered: seed.is_multiple_of(2),
            created: None,
            messages: Vec::new(),
            last: 0,
            identities: BTreeMap::new(),
            away: false,
            leaderless: false,
            full: false,
        }
    }

    /// The store is empty: the stream is gone.
    pub fn empty(&mut self) {
        *self = JetStream {
            away: self.away,
            ..JetStream::new(u64::from(!self.clustered))
        };
    }

    /// The last `count` messages were never written to disk.
    pub fn lose_end(&mut self, count: usize) {
        let left = self.messages.len().saturating_sub(count);
        self.messages.truncate(left);
        self.last = self.messages.last().map_or(0, |kept| kept.sequence);
        let last = self.last;
        self.identities.retain(|_, (sequence, _)| *sequence <= last);
    }

    /// The oldest `count` messages reach a limit.
    pub fn retire(&mut self, count: usize) {
        self.messages.drain(..count.min(self.messages.len()));
    }

    fn last_of(&self, filter: &str) -> Option<&Kept> {
        let mut newest = self.messages.iter().rev();
        newest.find(|kept| matches(filter, &kept.message.subject))
    }

    fn publish(
        &mut self,
        now: u64,
        message: &Message,
        expected: u64,
    ) -> Result<PublishAck, PublishError> {
        if self.created.is_none() || self.leaderless {
            return Err(PublishError::StreamMissing);
        }
        if self.full {
            let text = "insufficient resources (code 503, error code 10077)";
            return Err(PublishError::Unavailable(text.to_owned()));
        }
        self.identities
            .retain(|_, (_, at)| now.saturating_sub(*at) < DUPLICATE_WINDOW);
        let known = self
            .identities
            .get(&message.id)
            .map(|(sequence, _)| PublishAck {
                sequence: *sequence,
                duplicate: true,
            });
        let last = self
            .last_of(&message.filter)
            .map_or(0, |kept| kept.sequence);
        match known {
            Some(ack) if self.clustered => return Ok(ack),
            _ if last != expected => return Err(PublishError::WrongLastSequence),
            Some(ack) => return Ok(ack),
            None => {}
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

    fn last_stored(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        self.there()?;
        Ok(self.last_of(filter).map(|kept| Stored {
            stream_sequence: kept.sequence,
            id: Some(kept.message.id.clone()),
            event_sequence: header(&kept.message, "ce-sequence").and_then(|text| text.parse().ok()),
        }))
    }

    fn ensure(&mut self, now: u64) -> Result<StreamIdentity, BusError> {
        if self.leaderless {
            return Err(BusError::Timeout);
        }
        let created = *self.created.get_or_insert(now);
        let first = self.messages.first();
        Ok(StreamIdentity {
            created: time_at(created).to_string(),
            first_sequence: first.map_or(self.last + 1, |kept| kept.sequence),
            last_sequence: self.last,
            oldest: first.map(|kept| time_at(kept.at)),
        })
    }

    fn there(&self) -> Result<(), BusError> {
        match self.created {
            Some(_) if !self.leaderless => Ok(()),
            _ => Err(BusError::Unavailable("no responders".to_owned())),
        }
    }
}

/// A header of a message.
pub fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let found = message.headers.iter().find(|(key, _)| *key == name);
    found.map(|(_, value)| value.as_str())
}

fn matches(filter: &str, subject: &str) -> bool {
    match filter.strip_suffix('*') {
        Some(prefix) => subject
            .strip_prefix(prefix)
            .is_some_and(|token| !token.contains('.')),
        None => filter == subject,
    }
}

/// What came of a question.
enum Heard<T> {
    Answer(T),
    Nothing,
    NotConnected,
}

/// The bus as one process of the operator has it.
pub struct SimBus {
    world: Shared,
    process: Process,
}

impl SimBus {
    pub fn new(world: &Shared, process: Process) -> Arc<SimBus> {
        Arc::new(SimBus {
            world: world.clone(),
            process,
        })
    }

    async fn ask<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> Heard<T> {
        let answer = {
            let mut world = self.world.lock();
            if world.bus.away {
                return Heard::NotConnected;
            }
            let (asker, answer) = oneshot::channel();
            world.carry(self.process, deed, asker);
            answer
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Heard::Answer(answer),
            _ => Heard::Nothing,
        }
    }
}

impl World {
    /// A question on its way to NATS and its answer on the way back.
    fn carry<T: Send + 'static>(
        &mut self,
        process: Process,
        deed: impl FnOnce(&mut World) -> T + Send + 'static,
        asker: oneshot::Sender<T>,
    ) {
        if !self.lives(process) || self.faults.strikes(Class::BusRequestLost, 0.02) {
            return self.later(1 << 40, move |_| drop(asker));
        }
        let there = self.faults.dice.u64(0..3);
        let slow = self.faults.strikes(Class::BusSlow, 0.05);
        let back = match slow {
            true => self.faults.dice.u64(200..7000),
            false => self.faults.dice.u64(0..3),
        };
        self.later(there, move |world| {
            if world.bus.away {
                return world.later(1 << 40, move |_| drop(asker));
            }
            let answer = deed(world);
            if world.faults.strikes(Class::BusAckLost, 0.02) {
                return world.later(1 << 40, move |_| drop(asker));
            }
            world.later(back, move |_| drop(asker.send(answer)));
        });
    }

    fn take_message(
        &mut self,
        message: &Message,
        expected: u64,
    ) -> Result<PublishAck, PublishError> {
        if self.faults.strikes(Class::BusInFlight, 0.05) {
            return Err(PublishError::InFlight);
        }
        let result = self.bus.publish(self.now(), message, expected);
        let line = format!(
            "{} {} after {expected} -> {result:?}",
            message.subject, message.id
        );
        self.say("nats", &line);
        if result.as_ref().is_ok_and(|ack| !ack.duplicate) {
            self.laws.stored(message, self.now());
        }
        result
    }
}

#[async_trait]
impl Bus for SimBus {
    async fn publish(
        &self,
        message: &Message,
        expected_last: u64,
    ) -> Result<PublishAck, PublishError> {
        let message = message.clone();
        let asked = self.ask(move |world| world.take_message(&message, expected_last));
        match asked.await {
            Heard::Answer(answer) => answer,
            Heard::Nothing => Err(PublishError::Timeout),
            Heard::NotConnected => Err(PublishError::Unavailable("not connected".to_owned())),
        }
    }

    async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        let filter = filter.to_owned();
        let asked = self.ask(move |world| world.bus.last_stored(&filter));
        heard(asked.await)
    }

    async fn ensure_streams(&self) -> Result<StreamIdentity, BusError> {
        let asked = self.ask(|world| {
            let now = world.now();
            world.bus.ensure(now)
        });
        heard(asked.await)
    }

    fn connected(&self) -> bool {
        !self.world.lock().bus.away
    }
}

fn heard<T>(heard: Heard<Result<T, BusError>>) -> Result<T, BusError> {
    match heard {
        Heard::Answer(answer) => answer,
        Heard::Nothing => Err(BusError::Timeout),
        Heard::NotConnected => Err(BusError::Unavailable("not connected".to_owned())),
    }
}
