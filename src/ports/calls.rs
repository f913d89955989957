//! Calls of tools as a caller sees them: a message to whoever serves the tool, and what comes back.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::bus::BusError;

/// Calls tools and hears their answers.
///
/// Every call ends within a bounded time, also while the bus is away.
#[async_trait]
pub trait Calls: Send + Sync {
    /// Hears what comes at `reply` from now on, until the stream is dropped: also what answers a message that is sent
    /// after this. A lost connection does not end it.
    async fn listen(&self, reply: &str) -> Result<BoxStream<'static, CallNews>, BusError>;

    /// Sends a call whose answers go to `reply`. An error means that it was not sent and will not be. It may be lost
    /// with the connection all the same, or go out when that is back: whoever gets a call looks at its deadline.
    async fn send(&self, subject: &str, reply: &str, payload: Bytes) -> Result<(), BusError>;

    /// The answers at `reply` that the bus kept, in order; none if nobody keeps any. Asked after
    /// [`listen`](Calls::listen), no answer falls between the two.
    async fn stored(&self, reply: &str) -> Result<Vec<Bytes>, BusError>;
}

/// What is heard of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallNews {
    /// An answer.
    Message(Bytes),
    /// Nobody serves the tool: the call reached no one.
    NoResponders,
    /// The connection was lost and is back. What came in between was not heard, but may be
    /// [`stored`](Calls::stored).
    Reconnected,
}
