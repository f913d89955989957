//! The bus on a real NATS server.

use std::fmt::Display;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{Error as ApiError, ErrorCode, response::Response, stream::RawMessage};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::bus::{Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity};
use super::jetstream::{self, StreamInfo};
use super::nats_callout::NatsCallout;
use super::nats_calls::NatsCalls;
use super::nats_connection::Connection;
use super::nats_pools::NatsPools;

pub use super::jetstream::StreamOptions;
pub use super::nats_connection::ConnectionOptions;

/// How to reach NATS and what to keep there.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// How to reach it.
    pub connection: ConnectionOptions,
    /// The first tokens of every subject.
    pub prefix: String,
    /// Create and update streams; otherwise somebody else keeps them.
    pub manage_streams: bool,
    /// Bounds of the event stream.
    pub stream: StreamOptions,
}

/// A [`Bus`] that is the event stream of a NATS JetStream server.
#[derive(Debug, Clone)]
pub struct NatsBus {
    connection: Connection,
    prefix: String,
    replicas: usize,
    events: Stream,
    results: Stream,
    manage_streams: bool,
}

impl NatsBus {
    /// Starts connecting and returns at once. Fails only if an address cannot be parsed.
    pub async fn connect(options: NatsOptions) -> Result<Self, BusError> {
        let connection = Connection::open(options.connection).await?;
        let stream = |name, config| Stream::new(connection.clone(), name, config);
        let prefix = options.prefix;
        Ok(Self {
            events: stream(
                jetstream::events_name(&prefix),
                jetstream::events_config(&prefix, &options.stream),
            ),
            results: stream(
                jetstream::results_name(&prefix),
                jetstream::results_config(&prefix, options.stream.replicas),
            ),
            manage_streams: options.manage_streams,
            replicas: options.stream.replicas,
            connection,
            prefix,
        })
    }

    /// Calls of tools over the same connection.
    pub fn calls(&self) -> NatsCalls {
        NatsCalls::new(self.connection.clone(), &self.prefix)
    }

    /// Warm pools over the same connection.
    pub fn pools(&self) -> NatsPools {
        let (connection, events) = (self.connection.clone(), self.events.clone());
        let Self {
            prefix,
            replicas,
            manage_streams,
            ..
        } = self;
        NatsPools::new(connection, events, prefix, *replicas, *manage_streams)
    }

    /// Questions of the servers about whoever connects, over the same connection.
    pub fn callout(&self) -> NatsCallout {
        NatsCallout::new(self.connection.clone())
    }
}

/// A stream, and what it shall be.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    connection: Connection,
    pub(super) name: String,
    config: Map<String, Value>,
}

impl Stream {
    pub(super) fn new(connection: Connection, name: String, config: Map<String, Value>) -> Self {
        Stream {
            connection,
            name,
            config,
        }
    }

    /// The message that `question` asks for, if there is one. The stream's leader is asked: a replica that lags would
    /// send the mirror's chain round in circles.
    pub(super) async fn message(
        &self,
        question: &Value,
    ) -> Result<Option<StreamMessage>, BusError> {
        match self.api::<Found>("MSG.GET", question).await? {
            Ok(found) => found.message().map(Some),
            Err(error) => match error.error_code() {
                ErrorCode::NO_MESSAGE_FOUND => Ok(None),
                ErrorCode::STREAM_NOT_FOUND => Err(BusError::StreamMissing(self.name.clone())),
                _ => Err(unavailable(error)),
            },
        }
    }

    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &Value,
    ) -> Result<Result<T, ApiError>, BusError> {
        api(&self.connection, verb, &self.name, body).await
    }

    /// What it is, after it was created if it is missing, and updated if it differs.
    pub(super) async fn ensure(&self, manage: bool) -> Result<StreamInfo, BusError> {
        match self.api::<StreamInfo>("INFO", &json!({})).await? {
            Ok(info) if manage => self.update(info).await,
            Ok(info) => Ok(info),
            Err(error) if error.error_code() != ErrorCode::STREAM_NOT_FOUND => {
                Err(unavailable(error))
            }
            Err(_) if manage => self.create().await,
            Err(_) => Err(BusError::StreamMissing(self.name.clone())),
        }
    }

    async fn create(&self) -> Result<StreamInfo, BusError> {
        let created = self
            .api::<StreamInfo>("CREATE", &Value::from(self.config.clone()))
            .await?;
        let created = created.map_err(unavailable)?;
        info!(stream = self.name, "created the stream");
        Ok(created)
    }

    /// Some fields of a live stream cannot change; then it stays as it is and goes on working.
    async fn update(&self, info: StreamInfo) -> Result<StreamInfo, BusError> {
        let Some(config) = jetstream::stream_update(&self.config, &info.config) else {
            return Ok(info);
        };
        match self
            .api::<StreamInfo>("UPDATE", &Value::from(config))
            .await?
        {
            Ok(updated) => {
                info!(stream = self.name, "updated the stream's configuration");
                Ok(updated)
            }
            Err(error) => {
                warn!(stream = self.name, %error, "the stream keeps its configuration");
                Ok(info)
            }
        }
    }
}

/// A call of the JetStream API about a stream.
pub(super) async fn api<T: DeserializeOwned>(
    connection: &Connection,
    verb: &str,
    stream: &str,
    body: &Value,
) -> Result<Result<T, ApiError>, BusError> {
    ask(connection, &format!("$JS.API.STREAM.{verb}.{stream}"), body).await
}

/// A call of the JetStream API.
pub(super) async fn ask<T: DeserializeOwned>(
    connection: &Connection,
    subject: &str,
    body: &Value,
) -> Result<Result<T, ApiError>, BusError> {
    let body = Bytes::from(body.to_string());
    let answer = connection.request(subject, HeaderMap::new(), body).await?;
    match serde_json::from_slice(&answer).map_err(unavailable)? {
        Response::Ok(value) => Ok(Ok(value)),
        Response::Err { error } => Ok(Err(error)),
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(
        &self,
        message: &Message,
        expected_last: u64,
    ) -> Result<PublishAck, PublishError> {
        let headers = jetstream::publish_headers(message, &self.events.name, expected_last)
            .map_err(PublishError::Unavailable)?;
        let answer = self
            .connection
            .request(&message.subject, headers, message.payload.clone())
            .await?;
        jetstream::publish_answer(&answer)
    }

    async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        let question = json!({"last_by_subj": filter});
        let found = self.events.message(&question).await?;
        Ok(found.as_ref().map(jetstream::stored))
    }

    async fn ensure_streams(&self) -> Result<StreamIdentity, BusError> {
        let info = self.events.ensure(self.manage_streams).await?;
        // Events do not wait for it.
        if let Err(error) = self.results.ensure(self.manage_streams).await {
            let stream = &self.results.name;
            warn!(stream, %error, "answers of tools that come while the operator is away would be lost");
        }
        Ok(info.identity())
    }

    fn connected(&self) -> bool {
        self.connection.connected()
    }
}

/// The answer to a question about a message.
#[derive(Deserialize)]
pub(super) struct Found {
    message: RawMessage,
}

impl Found {
    pub(super) fn message(self) -> Result<StreamMessage, BusError> {
        StreamMessage::try_from(self.message).map_err(unavailable)
    }
}

pub(super) fn unavailable(error: impl Display) -> BusError {
    BusError::Unavailable(error.to_string())
}
