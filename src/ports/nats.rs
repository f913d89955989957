//! The bus on a real NATS server.
//!
//! The connection is made in the background and for ever made again: the operator starts and works without NATS.
//! Calls never wait for it; they fail, and whoever called tries again.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{Error as ApiError, ErrorCode, response::Response, stream::RawMessage};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Request, RequestErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use super::bus::{Bus, BusError, Message, PublishAck, PublishError, Stored, StreamIdentity};
use super::jetstream::{self, StreamInfo};
use super::nats_auth::Credentials;
use super::nats_log::ConnectionLog;

pub use super::jetstream::StreamOptions;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_LONGEST: Duration = Duration::from_secs(5);
/// Inboxes of the operator's own, so that permissions can keep everybody else from reading its answers.
const INBOX_PREFIX: &str = "_INBOX_operator";

/// How to reach NATS and what to keep there.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// One or more server addresses, separated by commas.
    pub servers: String,
    /// Who the operator is to NATS.
    pub credentials: Option<Credentials>,
    /// Certificates to trust, read at every connect; given, the connection must be TLS.
    pub ca_file: Option<PathBuf>,
    /// The operator's certificate and its key, read at every connect; given, the connection must be TLS.
    pub certificate: Option<(PathBuf, PathBuf)>,
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
    client: Client,
    stream: String,
    config: Map<String, Value>,
    manage_streams: bool,
    /// Changes whenever the connection is lost.
    losses: watch::Receiver<u64>,
}

impl NatsBus {
    /// Starts connecting and returns at once. Fails only if an address cannot be parsed.
    pub async fn connect(options: NatsOptions) -> Result<Self, BusError> {
        let servers: Vec<String> = options
            .servers
            .split(',')
            .map(|server| server.trim().to_owned())
            .collect();
        let (lost, losses) = watch::channel(0);
        let connect = connect_options(&options, lost);
        let client = connect.connect(servers).await.map_err(unavailable)?;
        Ok(Self {
            client,
            losses,
            stream: jetstream::stream_name(&options.prefix),
            config: jetstream::stream_config(&options.prefix, &options.stream),
            manage_streams: options.manage_streams,
        })
    }

    async fn call(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Bytes, CallError> {
        let mut losses = self.losses.clone();
        losses.mark_unchanged();
        // A request made while disconnected would wait in the client and go out much later.
        if !self.connected() {
            return Err(CallError::Unavailable("not connected".to_owned()));
        }
        let request = Request::new()
            .headers(headers)
            .payload(payload)
            .timeout(None);
        // Around the whole call: handing it to a client that is stuck may wait too.
        let answer = tokio::time::timeout(
            CALL_TIMEOUT,
            self.client.send_request(subject.to_owned(), request),
        );
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            // The answer would have come on the connection that is no more.
            _ = losses.changed() => return Err(CallError::Unavailable("connection lost".to_owned())),
        };
        match answer {
            Ok(Ok(message)) => Ok(message.payload),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => CallError::NoResponders,
                RequestErrorKind::TimedOut => CallError::Timeout,
                RequestErrorKind::MaxPayloadExceeded => CallError::TooLarge(error.to_string()),
                _ => CallError::Unavailable(error.to_string()),
            }),
            Err(_elapsed) => Err(CallError::Timeout),
        }
    }

    /// A call of the JetStream API about the event stream.
    async fn api<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &Value,
    ) -> Result<Result<T, ApiError>, BusError> {
        let subject = format!("$JS.API.STREAM.{verb}.{}", self.stream);
        let body = Bytes::from(body.to_string());
        let answer = self.call(&subject, HeaderMap::new(), body).await?;
        match serde_json::from_slice(&answer).map_err(unavailable)? {
            Response::Ok(value) => Ok(Ok(value)),
            Response::Err { error } => Ok(Err(error)),
        }
    }

    async fn create_stream(&self) -> Result<StreamInfo, BusError> {
        let created = self
            .api::<StreamInfo>("CREATE", &Value::from(self.config.clone()))
            .await?;
        let created = created.map_err(unavailable)?;
        info!(stream = self.stream, "created the stream");
        Ok(created)
    }

    /// Some fields of a live stream cannot change; then it stays as it is and goes on working.
    async fn update_stream(&self, info: StreamInfo) -> Result<StreamInfo, BusError> {
        let Some(config) = jetstream::stream_update(&self.config, &info.config) else {
            return Ok(info);
        };
        match self
            .api::<StreamInfo>("UPDATE", &Value::from(config))
            .await?
        {
            Ok(updated) => {
                info!(stream = self.stream, "updated the stream's configuration");
                Ok(updated)
            }
            Err(error) => {
                warn!(stream = self.stream, %error, "the stream keeps its configuration");
                Ok(info)
            }
        }
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(
        &self,
        message: &Message,
        expected_last: u64,
    ) -> Result<PublishAck, PublishError> {
        let headers = jetstream::publish_headers(message, &self.stream, expected_last)
            .map_err(PublishError::Unavailable)?;
        let answer = self
            .call(&message.subject, headers, message.payload.clone())
            .await?;
        jetstream::publish_answer(&answer)
    }

    // Asks the stream's leader: a replica that lags would send the chain round in circles.
    async fn last(&self, filter: &str) -> Result<Option<Stored>, BusError> {
        let found = self
            .api::<Found>("MSG.GET", &json!({"last_by_subj": filter}))
            .await?;
        match found {
            Ok(found) => {
                let message = StreamMessage::try_from(found.message).map_err(unavailable)?;
                Ok(Some(jetstream::stored(&message)))
            }
            Err(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(BusError::StreamMissing(self.stream.clone()))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn ensure_streams(&self) -> Result<StreamIdentity, BusError> {
        let info = match self.api::<StreamInfo>("INFO", &json!({})).await? {
            Ok(info) if self.manage_streams => self.update_stream(info).await?,
            Ok(info) => info,
            Err(error) if error.error_code() != ErrorCode::STREAM_NOT_FOUND => {
                return Err(unavailable(error));
            }
            Err(_) if self.manage_streams => self.create_stream().await?,
            Err(_) => return Err(BusError::StreamMissing(self.stream.clone())),
        };
        Ok(info.identity())
    }

    fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

/// Why a request got no answer.
enum CallError {
    NoResponders,
    TooLarge(String),
    Timeout,
    Unavailable(String),
}

impl From<CallError> for PublishError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoResponders => Self::StreamMissing,
            CallError::TooLarge(text) => Self::TooLarge(text),
            CallError::Timeout => Self::Timeout,
            CallError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

impl From<CallError> for BusError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoResponders => Self::Unavailable("JetStream does not answer".to_owned()),
            CallError::TooLarge(text) | CallError::Unavailable(text) => Self::Unavailable(text),
            CallError::Timeout => Self::Timeout,
        }
    }
}

fn unavailable(error: impl Display) -> BusError {
    BusError::Unavailable(error.to_string())
}

fn connect_options(options: &NatsOptions, lost: watch::Sender<u64>) -> ConnectOptions {
    let mut connect = match options.credentials.clone() {
        Some(credentials) => ConnectOptions::with_auth_callback(move |nonce| {
            let auth = credentials.read(&nonce);
            async move { auth }
        }),
        None => ConnectOptions::new(),
    };
    if let Some(ca_file) = &options.ca_file {
        connect = connect
            .add_root_certificates(ca_file.clone())
            .require_tls(true);
    }
    if let Some((certificate, key)) = &options.certificate {
        connect = connect
            .add_client_certificate(certificate.clone(), key.clone())
            .require_tls(true);
    }
    let log = ConnectionLog::default();
    connect
        .name("compozy-operator")
        .custom_inbox_prefix(INBOX_PREFIX)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            log.event(&event);
            if event == Event::Disconnected {
                lost.send_modify(|count| *count += 1);
            }
            async {}
        })
}

/// Doubles with each attempt up to a bound, and varies, so that not all clients of a server come back at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .min(16);
    let longest = (RECONNECT_FIRST * 2_u32.pow(doublings)).min(RECONNECT_LONGEST);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnecting_is_bounded_and_varies() {
        for attempts in [0, 1, 2, 5, 7, 1000, usize::MAX] {
            let delay = reconnect_delay(attempts);
            assert!(
                delay >= RECONNECT_FIRST / 2 && delay <= RECONNECT_LONGEST,
                "{delay:?}"
            );
        }
        assert!(reconnect_delay(1) <= RECONNECT_FIRST);
        assert!(reconnect_delay(50) >= RECONNECT_LONGEST / 2);
    }
}
