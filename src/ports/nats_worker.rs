//! The work of a pool on a real NATS server, as one of its workers sees it.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use super::bus::{BusError, PublishAck, PublishError};
use super::jetstream;
use super::nats_connection::{Connection, ConnectionOptions, says_no_responders};
use crate::protocol::pool::{PoolSubjects, TaskReport};

/// So long the server keeps a question for a command open.
const OPEN: Duration = Duration::from_secs(5);
/// So much later its answer may arrive: an answer that nobody waits for any more could be a command.
const LATE: Duration = Duration::from_secs(2);
/// What is said of a command that is refused is for a person.
const REASON_BYTES: usize = 256;

/// A pool's worker, over a connection to NATS.
#[derive(Debug, Clone)]
pub struct NatsWorker {
    connection: Connection,
    subjects: PoolSubjects,
    namespace: String,
    pool: String,
    /// Where the next command is asked for.
    next: String,
}

/// A command that was delivered.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What is to be done.
    pub payload: Bytes,
    /// Before it was delivered: when it was asked for.
    pub asked: Instant,
    /// Where the server hears what becomes of it.
    reply: String,
}

impl NatsWorker {
    /// Starts connecting and returns at once. Fails only if an address cannot be parsed.
    pub async fn connect(
        options: ConnectionOptions,
        prefix: &str,
        namespace: &str,
        pool: &str,
    ) -> Result<Self, BusError> {
        let subjects = PoolSubjects::new(prefix);
        Ok(Self {
            connection: Connection::open(options).await?,
            next: subjects.pull(namespace, pool),
            subjects,
            namespace: namespace.to_owned(),
            pool: pool.to_owned(),
        })
    }

    /// Whether a connection stands right now.
    pub fn connected(&self) -> bool {
        self.connection.connected()
    }

    /// Waits until a connection stands and everything that was handed to it went out.
    pub async fn flush(&self) {
        self.connection.flush().await;
    }

    /// What the operator says of tasks that the pool works on. Goes on whenever there is a connection.
    pub async fn controls(&self) -> Result<Subscriber, BusError> {
        let subject = self.subjects.controls(&self.namespace, &self.pool);
        Ok(self.connection.subscribe(&subject, None).await?)
    }

    /// Asks for the next command and waits some seconds for it; there may be none.
    ///
    /// Dropped, a command that is on its way may be lost. The client's own consumer is no help: it asks what the
    /// consumer is, which is none of a worker's business.
    ///
    /// # Errors
    /// NATS is away, or there is no queue to take commands from.
    pub async fn pull(&self) -> Result<Option<Delivery>, BusError> {
        let inbox = self.connection.new_inbox();
        let mut answers = self.connection.subscribe(&inbox, None).await?;
        let question = json!({"batch": 1, "expires": jetstream::nanos(OPEN)});
        let asked = Instant::now();
        self.connection
            .publish(&self.next, Some(&inbox), question.to_string().into())
            .await?;
        // Not given up when the connection is lost: on the next one the server may still answer.
        match tokio::time::timeout(OPEN + LATE, answers.next()).await {
            Ok(Some(answer)) => read(answer, asked),
            Ok(None) => Err(BusError::Unavailable(
                "the NATS client has ended".to_owned(),
            )),
            Err(_elapsed) => Ok(None),
        }
    }

    /// Says that a command is worked on, and waits until the server has heard it: a connection that is dead is
    /// noticed later than a command is lost.
    pub async fn touch(&self, delivery: &Delivery) -> Result<(), BusError> {
        let heard = self.connection.request(
            &delivery.reply,
            HeaderMap::new(),
            Bytes::from_static(b"+WPI"),
        );
        Ok(heard.await.map(|_| ())?)
    }

    /// Says that a command is done with. Should that be lost, the operator removes it: all of it was told.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), BusError> {
        let done = Bytes::from_static(b"+ACK");
        let said = self.connection.publish(&delivery.reply, None, done);
        Ok(said.await?)
    }

    /// Says that a command cannot be done, by nobody.
    pub async fn refuse(&self, delivery: &Delivery, why: &str) -> Result<(), BusError> {
        let why: String = why.chars().take(REASON_BYTES).collect();
        let refused = Bytes::from(format!("+TERM {why}"));
        let said = self.connection.publish(&delivery.reply, None, refused);
        Ok(said.await?)
    }

    /// Reports, and waits until the stream of reports says that it is kept.
    pub async fn report(&self, report: &TaskReport) -> Result<PublishAck, PublishError> {
        let subject = self
            .subjects
            .report(&self.namespace, &self.pool, &report.task_exec_id);
        let headers = jetstream::id_header(&report.id()).map_err(PublishError::Unavailable)?;
        // Only maps with keys that are no text cannot be written.
        let payload = serde_json::to_vec(report).unwrap_or_default();
        let kept = self.connection.request(&subject, headers, payload.into());
        jetstream::publish_answer(&kept.await?)
    }
}

/// What the answer to a question for a command says.
fn read(answer: Message, asked: Instant) -> Result<Option<Delivery>, BusError> {
    if says_no_responders(&answer) {
        let why = "the pool has no queue, or JetStream does not answer";
        return Err(BusError::Unavailable(why.to_owned()));
    }
    match (answer.status, answer.reply) {
        (None, Some(reply)) => Ok(Some(Delivery {
            payload: answer.payload,
            asked,
            reply: reply.into_string(),
        })),
        (Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT), _) => Ok(None),
        (status, _) => {
            let why = answer.description.unwrap_or_default();
            Err(BusError::Unavailable(format!("{status:?} {why}")))
        }
    }
}
