//! The message bus as the mirror sees it: one stream of events, appended to under a condition.

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

/// A stream of messages that can be appended to if, and only if, nobody else did.
///
/// Every call ends within a bounded time, also while the bus is away.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Appends `message` if the last message that matches its filter has the stream sequence `expected_last`
    /// (0: there is none), and waits until the stream says that it is stored.
    async fn publish(
        &self,
        message: &Message,
        expected_last: u64,
    ) -> Result<PublishAck, PublishError>;

    /// The last stored message whose subject matches `filter`.
    async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError>;

    /// Creates the stream if it is missing, updates it if it differs from what is wanted, and says which stream it is.
    /// Calling it again is cheap and is how a re-created stream is noticed.
    async fn ensure_streams(&self) -> Result<StreamIdentity, BusError>;

    /// Whether a connection stands right now. A hint for health and metrics: a call may fail all the same.
    fn connected(&self) -> bool;
}

/// A message that is ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub subject: String,
    /// The subjects among which the expected last sequence is looked up: the chain that the message belongs to.
    pub filter: String,
    /// The identity by which the stream recognises a repetition.
    pub id: String,
    /// Further headers; their names are case-sensitive.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub payload: Bytes,
}

/// The stream's word that a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishAck {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// It had been stored by an earlier call; the sequence is that of then.
    pub duplicate: bool,
}

/// What is known of a message in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// Its identity (`Nats-Msg-Id`), if it has one.
    pub id: Option<String>,
    /// Its place in its object's history (`ce-sequence`), if it says one.
    pub event_sequence: Option<u64>,
}

/// Which stream it is, and how far it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamIdentity {
    /// When it was created, as the server writes it: another value is another stream.
    pub created: String,
    /// The sequence of the oldest message that is still there. Up to 1: none was ever removed.
    pub first_sequence: u64,
    /// The sequence of the last message that it took; it only ever grows, unless the server lost data.
    pub last_sequence: u64,
}

/// Why a message is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The chain's last message is another one: ours is there already, or somebody else appended.
    #[error("the chain ends with another message than expected")]
    WrongLastSequence,
    /// Another write to the chain is under way in a clustered stream.
    #[error("another write to the chain is under way")]
    InFlight,
    /// Nobody takes messages for the subject: no stream, or it has no leader.
    #[error("no stream takes the message")]
    StreamMissing,
    /// The message exceeds what the server or the stream takes.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// No answer in time: it may be stored or not.
    #[error("no answer in time")]
    Timeout,
    /// Anything else; trying again later may help.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}

/// Why the bus did not answer a question.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BusError {
    /// The stream does not exist, and this operator may not create it.
    #[error("the stream {0} does not exist")]
    StreamMissing(String),
    /// The message exceeds what the server takes.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// Anything else; trying again later may help.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}
