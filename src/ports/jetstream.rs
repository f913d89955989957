//! The part of the JetStream protocol that the operator speaks: what is asked for and how answers are read. No I/O.
//!
//! Configurations stay JSON: a field that this operator does not know survives an update.

use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::jetstream::{ErrorCode, message::StreamMessage, publish, response::Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::protocol::tool::ToolSubjects;

use super::bus::{Message, PublishAck, PublishError, Stored, StreamIdentity};

/// Identities of messages are remembered so long; what is repeated later is caught by the chain's condition.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Longer than an operator is away, or its calls go on: no answer is needed later.
const RESULTS_AGE: Duration = Duration::from_secs(3600);
const RESULTS_BYTES: u64 = 256 << 20;
/// A call has two; what a tool executor says again is a few more.
pub(super) const RESULTS_OF_A_CALL: u64 = 4;
const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_LAST_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
/// The CloudEvents extension that holds an event's place in its object's history.
const EVENT_SEQUENCE: &str = "ce-sequence";
/// A single server answers so when the last sequence is another one; a cluster when a write is under way.
const WRONG_LAST_SEQUENCE_IN_FLIGHT: ErrorCode = ErrorCode(10164);

/// Bounds of the event stream. The oldest messages go when one of them is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// Copies in the NATS cluster.
    pub replicas: usize,
    /// How long messages stay at most.
    pub max_age: Duration,
    /// How much disk the messages take at most.
    pub max_bytes: u64,
    /// How many messages stay at most. Nearly each has a subject of its own, and the server holds about
    /// 0.9 KB of memory per subject.
    pub max_messages: u64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            replicas: 1,
            max_age: Duration::from_secs(7 * 24 * 3600),
            max_bytes: 1 << 30,
            max_messages: 500_000,
        }
    }
}

/// The name of the event stream under a subject prefix.
pub(super) fn events_name(prefix: &str) -> String {
    stream_name(prefix, "EVENTS")
}

/// The name of the stream of tools' answers under a subject prefix.
pub(super) fn results_name(prefix: &str) -> String {
    stream_name(prefix, "RESULTS")
}

/// Names hold no dots.
pub(super) fn stream_name(prefix: &str, kind: &str) -> String {
    format!("{}_{kind}", prefix.replace('.', "_").to_uppercase())
}

/// The configuration that the event stream shall have, as far as the operator cares.
pub(super) fn events_config(prefix: &str, options: &StreamOptions) -> Map<String, Value> {
    config([
        ("name", json!(events_name(prefix))),
        ("subjects", json!([format!("{prefix}.events.>")])),
        ("retention", json!("limits")),
        ("discard", json!("old")),
        ("storage", json!("file")),
        ("num_replicas", json!(options.replicas)),
        ("max_age", json!(nanos(options.max_age))),
        ("max_bytes", json!(options.max_bytes)),
        ("max_msgs", json!(options.max_messages)),
        (
            "duplicate_window",
            json!(nanos(DUPLICATE_WINDOW.min(options.max_age))),
        ),
        ("allow_direct", json!(true)),
    ])
}

/// The configuration that the stream of tools' answers shall have: it keeps them for an operator that was away when
/// they came.
pub(super) fn results_config(prefix: &str, replicas: usize) -> Map<String, Value> {
    config([
        ("name", json!(results_name(prefix))),
        ("subjects", json!([ToolSubjects::new(prefix).results()])),
        ("retention", json!("limits")),
        ("discard", json!("old")),
        ("storage", json!("file")),
        ("num_replicas", json!(replicas)),
        ("max_age", json!(nanos(RESULTS_AGE))),
        ("max_bytes", json!(RESULTS_BYTES)),
        ("max_msgs_per_subject", json!(RESULTS_OF_A_CALL)),
    ])
}

pub(super) fn config<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What to update the stream to; none if it is as wanted already.
pub(super) fn stream_update(
    wanted: &Map<String, Value>,
    actual: &Map<String, Value>,
) -> Option<Map<String, Value>> {
    let differs = wanted
        .iter()
        .any(|(key, value)| actual.get(key) != Some(value));
    differs.then(|| {
        let mut merged = actual.clone();
        merged.extend(wanted.clone());
        merged
    })
}

/// The answer to a question about a stream.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamInfo {
    pub config: Map<String, Value>,
    created: String,
    state: StreamState,
}

#[derive(Debug, Clone, Deserialize)]
struct StreamState {
    first_seq: u64,
    last_seq: u64,
}

impl StreamInfo {
    pub(super) fn identity(self) -> StreamIdentity {
        StreamIdentity {
            created: self.created,
            first_sequence: self.state.first_seq,
            last_sequence: self.state.last_seq,
        }
    }
}

/// The headers of a conditional append. An error says which header cannot be sent.
pub(super) fn publish_headers(
    message: &Message,
    stream: &str,
    expected_last: u64,
) -> Result<HeaderMap, String> {
    let expected_last = expected_last.to_string();
    let protocol = [
        (MESSAGE_ID, message.id.as_str()),
        (EXPECTED_STREAM, stream),
        (EXPECTED_LAST, &expected_last),
        (EXPECTED_LAST_SUBJECT, &message.filter),
    ];
    let own = message
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    headers(protocol.into_iter().chain(own))
}

/// The header of a message that is stored once, however often it is published.
pub(super) fn id_header(id: &str) -> Result<HeaderMap, String> {
    headers([(MESSAGE_ID, id)])
}

fn headers<'a>(
    fields: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let text = |error: String| format!("header {name}: {error}");
        let key: HeaderName = name.parse().map_err(|error| text(format!("{error}")))?;
        let value: HeaderValue = value.parse().map_err(|error| text(format!("{error}")))?;
        headers.insert(key, value);
    }
    Ok(headers)
}

/// Reads the answer to an append.
pub(super) fn publish_answer(payload: &Bytes) -> Result<PublishAck, PublishError> {
    match serde_json::from_slice::<Response<publish::PublishAck>>(payload) {
        Ok(Response::Ok(ack)) => Ok(PublishAck {
            sequence: ack.sequence,
            duplicate: ack.duplicate,
        }),
        Ok(Response::Err { error }) => Err(match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE => PublishError::WrongLastSequence,
            WRONG_LAST_SEQUENCE_IN_FLIGHT => PublishError::InFlight,
            ErrorCode::STREAM_NOT_FOUND => PublishError::StreamMissing,
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => PublishError::TooLarge(error.to_string()),
            _ => PublishError::Unavailable(error.to_string()),
        }),
        Err(error) => Err(PublishError::Unavailable(format!(
            "unreadable answer: {error}"
        ))),
    }
}

/// What matters of a message that was read back.
pub(super) fn stored(message: &StreamMessage) -> Stored {
    let header = |name| message.headers.get(name).map(HeaderValue::as_str);
    Stored {
        stream_sequence: message.sequence,
        id: header(MESSAGE_ID).map(str::to_owned),
        event_sequence: header(EVENT_SEQUENCE).and_then(|text| text.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn an_update_is_due_only_for_a_difference_and_keeps_what_it_does_not_know() {
        let wanted = events_config("compozy", &StreamOptions::default());
        assert_eq!(wanted["name"], "COMPOZY_EVENTS");
        assert_eq!(wanted["subjects"], json!(["compozy.events.>"]));
        let mut actual = wanted.clone();
        actual.insert("metadata".into(), json!({"team": "data"}));
        assert_eq!(stream_update(&wanted, &actual), None);

        actual.insert("max_age".into(), json!(1));
        let update = stream_update(&wanted, &actual).unwrap();
        assert_eq!(update["max_age"], wanted["max_age"]);
        assert_eq!(update["metadata"], json!({"team": "data"}));
    }

    #[test]
    fn the_duplicate_window_never_exceeds_the_age() {
        let options = StreamOptions {
            max_age: Duration::from_secs(60),
            ..Default::default()
        };
        assert_eq!(
            events_config("p", &options)["duplicate_window"],
            json!(60_000_000_000_u64)
        );
        assert_eq!(events_name("acme.flows"), "ACME_FLOWS_EVENTS");
    }

    fn refusal(code: u64) -> String {
        json!({"error": {"code": 400, "err_code": code, "description": "d"}, "stream": "", "seq": 0})
            .to_string()
    }

    #[rstest]
    #[case(10071, PublishError::WrongLastSequence)]
    #[case(10164, PublishError::InFlight)]
    #[case(10059, PublishError::StreamMissing)]
    #[case(10054, PublishError::TooLarge("d (code 400, error code 10054)".into()))]
    #[case(10077, PublishError::Unavailable("d (code 400, error code 10077)".into()))]
    fn refusals_are_told_apart_by_their_code(#[case] code: u64, #[case] error: PublishError) {
        assert_eq!(publish_answer(&refusal(code).into()), Err(error));
    }

    #[test]
    fn an_answer_gives_the_sequence() {
        let answer = |text: &'static str| publish_answer(&Bytes::from_static(text.as_bytes()));
        let ack = PublishAck {
            sequence: 7,
            duplicate: false,
        };
        assert_eq!(answer(r#"{"stream":"S","seq":7}"#), Ok(ack));
        let ack = PublishAck {
            sequence: 7,
            duplicate: true,
        };
        assert_eq!(
            answer(r#"{"stream":"S","seq":7,"duplicate":true}"#),
            Ok(ack)
        );
        assert!(matches!(answer("{}"), Err(PublishError::Unavailable(_))));
    }

    #[test]
    fn a_header_that_would_break_the_protocol_is_refused() {
        let mut message = Message {
            subject: "s".into(),
            filter: "f".into(),
            id: "u:1".into(),
            headers: vec![("ce-id", "u:1".into())],
            payload: Bytes::new(),
        };
        let headers = publish_headers(&message, "S", 4).unwrap();
        assert_eq!(headers.get(EXPECTED_LAST).unwrap().as_str(), "4");
        assert_eq!(headers.get("ce-id").unwrap().as_str(), "u:1");
        message.headers[0].1 = "a\r\nNats-Msg-Id: b".into();
        assert!(
            publish_headers(&message, "S", 4)
                .unwrap_err()
                .starts_with("header ce-id")
        );
    }
}
