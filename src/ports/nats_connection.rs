//! A connection to NATS. It is made in the background and for ever made again: what uses it starts and works without NATS.
//! Calls never wait for it; they fail, and whoever called tries again.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Message, PublishErrorKind, Request, RequestErrorKind,
    Subscriber,
};
use bytes::Bytes;
use tokio::sync::watch;

use super::bus::{BusError, PublishError};
use super::nats_auth::Credentials;
use super::nats_log::ConnectionLog;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_LONGEST: Duration = Duration::from_secs(5);
/// So many messages of a subscription wait to be taken; the client drops further ones.
const WAITING_MESSAGES: usize = 1024;

/// How to reach NATS.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// One or more server addresses, separated by commas.
    pub servers: String,
    /// Who the program is to NATS.
    pub credentials: Option<Credentials>,
    /// Certificates to trust, read at every connect; given, the connection must be TLS.
    pub ca_file: Option<PathBuf>,
    /// The program's certificate and its key, read at every connect; given, the connection must be TLS.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The client's name in what the server tells of its connections.
    pub name: String,
    /// Where answers come: inboxes of its own, so that permissions can keep everybody else from reading them.
    pub inbox_prefix: String,
}

/// A connection, and what is known of its losses.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    client: Client,
    /// Changes whenever the connection is lost.
    losses: watch::Receiver<u64>,
    /// Changes whenever the connection is made.
    made: watch::Receiver<u64>,
}

impl Connection {
    /// Starts connecting and returns at once. Fails only if an address cannot be parsed.
    pub(super) async fn open(options: ConnectionOptions) -> Result<Connection, BusError> {
        let servers: Vec<String> = options
            .servers
            .split(',')
            .map(|server| server.trim().to_owned())
            .collect();
        let (lost, losses) = watch::channel(0);
        let (connected, made) = watch::channel(0);
        let connect = connect_options(&options, lost, connected);
        let client = connect.connect(servers).await;
        Ok(Connection {
            client: client.map_err(|error| BusError::Unavailable(error.to_string()))?,
            losses,
            made,
        })
    }

    /// Whether a connection stands right now.
    pub(super) fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Tells of every connection that is made from now on.
    pub(super) fn made(&self) -> watch::Receiver<u64> {
        let mut made = self.made.clone();
        made.mark_unchanged();
        made
    }

    /// Tells of every connection that is lost from now on.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        let mut losses = self.losses.clone();
        losses.mark_unchanged();
        losses
    }

    /// A subject for the answers to one question, below the program's own prefix.
    pub(super) fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Waits until a connection stands and everything that was handed to it went out.
    pub(super) async fn flush(&self) {
        // It fails when the client has ended, which lives as long as this.
        let _ = self.client.flush().await;
    }

    /// Sends a request and waits for its one answer.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Bytes, CallError> {
        let mut losses = self.losses();
        // A request made while disconnected would wait in the client and go out much later.
        if !self.connected() {
            return Err(CallError::not_connected());
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

    /// Hands a message to the connection. An error means that it was not sent and will not be.
    pub(super) async fn publish(
        &self,
        subject: &str,
        reply: Option<&str>,
        payload: Bytes,
    ) -> Result<(), CallError> {
        if !self.connected() {
            return Err(CallError::not_connected());
        }
        let sent = async {
            let subject = subject.to_owned();
            match reply {
                Some(reply) => {
                    let sent = self
                        .client
                        .publish_with_reply(subject, reply.to_owned(), payload);
                    sent.await
                }
                None => self.client.publish(subject, payload).await,
            }
        };
        match tokio::time::timeout(CALL_TIMEOUT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => CallError::TooLarge(error.to_string()),
                _ => CallError::Unavailable(error.to_string()),
            }),
            Err(_elapsed) => Err(CallError::Timeout),
        }
    }

    /// Subscribes, as one of a queue group if one is given. The subscription outlives lost connections, also one that
    /// there is not yet.
    pub(super) async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<Subscriber, CallError> {
        let subscribed = async {
            match group {
                Some(group) => {
                    let subscribed = self
                        .client
                        .queue_subscribe(subject.to_owned(), group.into());
                    subscribed.await
                }
                None => self.client.subscribe(subject.to_owned()).await,
            }
        };
        match tokio::time::timeout(CALL_TIMEOUT, subscribed).await {
            Ok(subscribed) => subscribed.map_err(|error| CallError::Unavailable(error.to_string())),
            Err(_elapsed) => Err(CallError::Timeout),
        }
    }
}

/// Whether the server says that nobody took a message whose answers were to come here.
pub(super) fn says_no_responders(message: &Message) -> bool {
    message.status == Some(async_nats::StatusCode::NO_RESPONDERS)
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum CallError {
    NoResponders,
    TooLarge(String),
    Timeout,
    Unavailable(String),
}

impl CallError {
    pub(super) fn not_connected() -> CallError {
        CallError::Unavailable("not connected".to_owned())
    }
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
            CallError::TooLarge(text) => Self::TooLarge(text),
            CallError::Unavailable(text) => Self::Unavailable(text),
            CallError::Timeout => Self::Timeout,
        }
    }
}

fn connect_options(
    options: &ConnectionOptions,
    lost: watch::Sender<u64>,
    connected: watch::Sender<u64>,
) -> ConnectOptions {
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
        .name(&options.name)
        .custom_inbox_prefix(&options.inbox_prefix)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(WAITING_MESSAGES)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            log.event(&event);
            let count = |changes: &watch::Sender<u64>| changes.send_modify(|count| *count += 1);
            match event {
                Event::Connected => count(&connected),
                Event::Disconnected => count(&lost),
                _ => {}
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
