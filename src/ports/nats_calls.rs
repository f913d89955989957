//! Calls of tools on a real NATS server, from both ends.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, Message, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::json;
use tokio::sync::RwLock;

use super::bus::{BusError, PublishError};
use super::calls::{CallNews, Calls};
use super::jetstream;
use super::nats::{Found, api, unavailable};
use super::nats_connection::{CallError, Connection, ConnectionOptions, says_no_responders};

const QUIET_TIMEOUT: Duration = Duration::from_millis(500);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// [`Calls`] over a connection to NATS.
#[derive(Debug, Clone)]
pub struct NatsCalls {
    connection: Connection,
    /// Keeps the answers.
    stream: String,
    /// Whoever says something holds it shared.
    quiet: Arc<RwLock<()>>,
}

impl NatsCalls {
    /// Starts connecting and returns at once. Fails only if an address cannot be parsed.
    pub async fn connect(options: ConnectionOptions, prefix: &str) -> Result<Self, BusError> {
        let connection = Connection::open(options).await?;
        Ok(Self::new(connection, prefix))
    }

    pub(super) fn new(connection: Connection, prefix: &str) -> Self {
        let stream = jetstream::results_name(prefix);
        Self {
            connection,
            stream,
            quiet: Arc::default(),
        }
    }

    /// Whether a connection stands right now.
    pub fn connected(&self) -> bool {
        self.connection.connected()
    }

    /// Waits until a connection stands and everything that was handed to it went out.
    pub async fn flush(&self) {
        self.connection.flush().await;
    }

    /// Takes the calls at `subject` as one of a queue group. Goes on whenever there is a connection.
    pub async fn serve(&self, subject: &str, group: &str) -> Result<Subscriber, BusError> {
        Ok(self.connection.subscribe(subject, Some(group)).await?)
    }

    /// Takes no more calls, and gives those that were on their way.
    ///
    /// The client forgets the subscription when it is next woken, be it by a call that is not the last. So nothing else
    /// wakes it meanwhile.
    pub async fn drain(&self, mut taken: Subscriber) -> Vec<Message> {
        // What is said gets its acknowledgement long before; without a stream of answers there is none.
        let _quiet = tokio::time::timeout(QUIET_TIMEOUT, self.quiet.write()).await;
        let mut left = Vec::new();
        let drained = async {
            // Without a client nothing is on its way.
            let _ = taken.drain().await;
            while let Some(message) = taken.next().await {
                left.push(message);
            }
        };
        // Without a connection nothing comes.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
        left
    }

    /// Says something that may get lost.
    pub async fn say(&self, reply: &str, payload: Bytes) -> Result<(), BusError> {
        let _shared = self.quiet.read().await;
        Ok(self.connection.publish(reply, None, payload).await?)
    }

    /// Says an answer, and waits until the stream of answers says that it is kept.
    pub async fn answer(&self, reply: &str, payload: Bytes) -> Result<(), PublishError> {
        let _shared = self.quiet.read().await;
        let kept = self.connection.request(reply, HeaderMap::new(), payload);
        jetstream::publish_answer(&kept.await?).map(|_| ())
    }
}

#[async_trait]
impl Calls for NatsCalls {
    // A server takes what comes over one connection in order, and a new connection begins with the subscriptions. So a
    // message that is sent, or a question that is asked, after this finds the subscription there: no answer falls
    // between the two, and there is nothing to wait for.
    async fn listen(&self, reply: &str) -> Result<BoxStream<'static, CallNews>, BusError> {
        let made = self.connection.made();
        if !self.connected() {
            return Err(CallError::not_connected().into());
        }
        let answers = self.connection.subscribe(reply, None).await?;
        let answers = answers.map(|message| match says_no_responders(&message) {
            true => CallNews::NoResponders,
            false => CallNews::Message(message.payload),
        });
        let reconnects = stream::unfold(made, |mut made| async move {
            made.changed().await.ok()?;
            Some((CallNews::Reconnected, made))
        });
        Ok(stream::select(answers, reconnects).boxed())
    }

    async fn send(&self, subject: &str, reply: &str, payload: Bytes) -> Result<(), BusError> {
        Ok(self
            .connection
            .publish(subject, Some(reply), payload)
            .await?)
    }

    // Asks the stream's leader: a replica that lags would not have the last answer.
    async fn stored(&self, reply: &str) -> Result<Vec<Bytes>, BusError> {
        let mut stored = Vec::new();
        let mut next = 1;
        for _ in 0..jetstream::RESULTS_OF_A_CALL {
            let question = json!({"seq": next, "next_by_subj": reply});
            let found = api::<Found>(&self.connection, "MSG.GET", &self.stream, &question).await?;
            match found {
                Ok(found) => {
                    let message = found.message()?;
                    next = message.sequence + 1;
                    stored.push(message.payload);
                }
                Err(error) => match error.error_code() {
                    ErrorCode::NO_MESSAGE_FOUND | ErrorCode::STREAM_NOT_FOUND => break,
                    _ => return Err(unavailable(error)),
                },
            }
        }
        Ok(stored)
    }
}
