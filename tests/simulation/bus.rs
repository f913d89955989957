//! The operator's way to the model of JetStream, on which questions and answers get lost.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
pub use compozy::ports::memory::{JetStream, Kept, header};
use compozy::ports::{Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity};
use tokio::sync::oneshot;

use crate::{
    faults::Class,
    world::{Process, Shared, World},
};

/// As the real adapter waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a question.
pub enum Heard<T> {
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

    pub fn process(&self) -> Process {
        self.process
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    pub async fn ask<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> Heard<T> {
        let answer = {
            let mut world = self.world.lock();
            world.catch_up();
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
        process: Process,
        message: &Message,
        expected: u64,
    ) -> Result<PublishAck, PublishError> {
        if self.disturbed_before_message(process) {
            return Err(PublishError::Timeout);
        }
        if self.faults.strikes(Class::BusInFlight, 0.05) {
            return Err(PublishError::InFlight);
        }
        let result = self.bus.publish(self.time(), message, expected);
        let line = format!(
            "{} {} after {expected} -> {result:?}",
            message.subject, message.id
        );
        self.say("nats", &line);
        if result.as_ref().is_ok_and(|ack| !ack.duplicate) {
            self.laws.stored(message, self.now());
            self.may_fall_behind();
        }
        if self.disturbed_after_message(process) {
            return Err(PublishError::Timeout);
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
        let (process, message) = (self.process, message.clone());
        let asked = self.ask(move |world| world.take_message(process, &message, expected_last));
        match asked.await {
            Heard::Answer(answer) => answer,
            Heard::Nothing => Err(PublishError::Timeout),
            Heard::NotConnected => Err(PublishError::Unavailable("not connected".to_owned())),
        }
    }

    async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        let filter = filter.to_owned();
        let asked = self.ask(move |world| world.bus.last(&filter));
        asked.await.answer()?
    }

    async fn ensure_streams(&self) -> Result<StreamIdentity, BusError> {
        let asked = self.ask(|world| {
            let now = world.time().to_string();
            world.bus.ensure(&now)
        });
        asked.await.answer()?
    }

    fn connected(&self) -> bool {
        !self.world.lock().bus.away
    }
}

impl<T> Heard<T> {
    /// The answer, if there is one.
    pub fn answer(self) -> Result<T, BusError> {
        match self {
            Heard::Answer(answer) => Ok(answer),
            Heard::Nothing => Err(BusError::Timeout),
            Heard::NotConnected => Err(BusError::Unavailable("not connected".to_owned())),
        }
    }
}
