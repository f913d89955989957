//! Warm pools as the operator sees them: a queue of commands for each, and what their workers report.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::Deserialize;

use super::bus::{BusError, PublishError};
use crate::protocol::pool::{Order, TaskReport};

/// Feeds pools and hears their workers.
///
/// Every call ends within a bounded time, also while the bus is away.
#[async_trait]
pub trait Pools: Send + Sync {
    /// Hears what workers report, from what was not acknowledged so far on, and whose lease ran out. Creates what is
    /// missing. Who opens it again hears what was not acknowledged once more; whoever had it open hears no more. It ends
    /// when the connection was lost.
    async fn open(&self) -> Result<BoxStream<'static, PoolNews>, BusError>;

    /// Makes the queue of a pool, from which its workers pull. Cheap when it is there.
    async fn prepare(&self, namespace: &str, pool: &str) -> Result<(), BusError>;

    /// Puts a command into its pool's queue, if none of that attempt is there. Returns its place in the queue.
    /// [`WrongLastSequence`](PublishError::WrongLastSequence) says that there is one.
    async fn enqueue(&self, at: &Place, id: &str, command: Bytes) -> Result<u64, PublishError>;

    /// The place in the queue of an attempt's command, be it with a worker or not, if it is there.
    async fn queued(&self, at: &Place) -> Result<Option<u64>, BusError>;

    /// The last that was reported of a task execution and not acknowledged.
    async fn reported(&self, at: &Place) -> Result<Option<TaskReport>, BusError>;

    /// How far a pool's workers are in its queue.
    async fn delivered(&self, at: &Place) -> Result<Delivered, BusError>;

    /// What there is of an attempt's command. Asked of the queue first, then of the reports: a worker removes the
    /// command after its report is stored, so one of the two is there if it was ever sent, as long as nobody has
    /// acknowledged the report.
    async fn find(&self, at: &Place) -> Result<Found, BusError> {
        if let Some(sequence) = self.queued(at).await? {
            return Ok(Found::Queued(sequence));
        }
        let report = self.reported(at).await?;
        Ok(match report.filter(|report| report.attempt == at.attempt) {
            Some(report) => Found::Reported(report),
            None => Found::Nothing,
        })
    }

    /// Takes a command back, if no worker has it. What is delivered between looking and removing shows in the count, and
    /// comes in the order of the queue.
    async fn withdraw(&self, at: &Place, sequence: u64) -> Result<Withdrawn, BusError> {
        let before = self.delivered(at).await?;
        if before.stream_seq >= sequence {
            return Ok(Withdrawn::No);
        }
        self.remove(at).await?;
        let after = self.delivered(at).await?;
        let passed = after.stream_seq >= sequence && after.consumer_seq > before.consumer_seq;
        Ok(if passed {
            Withdrawn::Unsure
        } else {
            Withdrawn::Yes
        })
    }

    /// Removes a command whose attempt is over from the queue.
    async fn remove(&self, at: &Place) -> Result<(), BusError>;

    /// Tells whoever works on an attempt what to do. It may get lost.
    async fn order(&self, at: &Place, order: Order) -> Result<(), BusError>;

    /// What it is about is recorded, and need not be told again. It may get lost: then it is told again.
    async fn acknowledge(&self, receipt: &Receipt) -> Result<(), BusError>;
}

/// The attempt that a command is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The namespace of task execution and pool.
    pub namespace: String,
    /// The pool's name.
    pub pool: String,
    /// The task execution's UID.
    pub task_exec_id: String,
    /// The attempt, from 1.
    pub attempt: u32,
}

impl Place {
    /// Which pool it is: its namespace and name.
    pub fn pool_key(&self) -> (String, String) {
        (self.namespace.clone(), self.pool.clone())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Place {
            namespace,
            pool,
            task_exec_id,
            attempt,
        } = self;
        write!(f, "{namespace}/{pool} {task_exec_id}:{attempt}")
    }
}

/// Whether a command was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// No worker has it or will have it.
    Yes,
    /// A worker has it or had it, and it is in the queue still.
    No,
    /// It is not in the queue any more, and a worker may have it.
    Unsure,
}

/// How far the workers of a pool are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Delivered {
    /// How many commands were delivered.
    pub consumer_seq: u64,
    /// The place of the last one in the queue.
    pub stream_seq: u64,
}

/// What is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt(pub String);

/// What is heard of pools.
#[derive(Clone, Debug, PartialEq)]
pub enum PoolNews {
    /// A worker reports, of the pool that its subject names: NATS lets it use no other.
    Report(Place, TaskReport, Receipt),
    /// A command was delivered, and whoever had it let its lease run out.
    Lost(Place, Receipt),
}

/// What there is of an attempt's command.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// It is in the queue, or with a worker, at this place.
    Queued(u64),
    /// It is not in the queue, and this is the last that was reported of it.
    Reported(TaskReport),
    /// Nothing.
    Nothing,
}
