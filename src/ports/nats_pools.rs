//! Warm pools on a real NATS server, from the operator's end.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::jetstream::{Error as ApiError, ErrorCode};
use async_nats::{Message as NatsMessage, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value, json};
use tracing::warn;

use super::bus::{BusError, Message, PublishError};
use super::jetstream::{publish_answer, publish_headers};
use super::jetstream_pools::{self as pools, Advisory, ConsumerInfo, OPERATOR};
use super::nats::{Stream, ask, unavailable};
use super::nats_connection::Connection;
use super::pools::{Delivered, Place, PoolNews, Pools, Receipt};
use crate::protocol::pool::{Control, Order, PoolSubjects, TaskReport};

/// [`Pools`] over a connection to NATS.
#[derive(Debug, Clone)]
pub struct NatsPools {
    connection: Connection,
    prefix: String,
    subjects: PoolSubjects,
    events: Stream,
    queue: Stream,
    reports: Stream,
    advisories: Stream,
    manage_streams: bool,
    /// Pools whose consumer is there, by its name, as far as this connection knows.
    ensured: Arc<Mutex<HashSet<String>>>,
}

impl NatsPools {
    pub(super) fn new(
        connection: Connection,
        events: Stream,
        prefix: &str,
        replicas: usize,
        manage_streams: bool,
    ) -> Self {
        let stream = |name, config| Stream::new(connection.clone(), name, config);
        let subjects = PoolSubjects::new(prefix);
        Self {
            queue: stream(subjects.stream(), pools::queue_config(prefix, replicas)),
            reports: stream(
                pools::reports_name(prefix),
                pools::reports_config(prefix, replicas),
            ),
            advisories: stream(
                pools::advisories_name(prefix),
                pools::advisories_config(prefix, replicas),
            ),
            connection,
            events,
            subjects,
            prefix: prefix.to_owned(),
            manage_streams,
            ensured: Arc::default(),
        }
    }

    fn command(&self, at: &Place) -> String {
        let Place {
            namespace, pool, ..
        } = at;
        let (uid, attempt) = (&at.task_exec_id, at.attempt);
        self.subjects.command(namespace, pool, uid, attempt)
    }

    /// The server sends what is in `stream` here, from what is not acknowledged on.
    async fn hear(&self, stream: &Stream) -> Result<Subscriber, BusError> {
        let inbox = self.connection.new_inbox();
        let heard = self.connection.subscribe(&inbox, None).await?;
        let consumer = format!("{}.{OPERATOR}", stream.name);
        // What was delivered to the one before is delivered anew by a new one, and by no other means at once.
        let gone = self
            .api::<IgnoredAny>("CONSUMER.DELETE", &consumer, &json!({}))
            .await?;
        gone.map(|_| ()).or_else(|error| match error.error_code() {
            ErrorCode::CONSUMER_NOT_FOUND => Ok(()),
            _ => Err(unavailable(error)),
        })?;
        let config = pools::operator_consumer(&inbox);
        self.create_consumer(stream, &consumer, config).await?;
        Ok(heard)
    }

    async fn create_consumer(
        &self,
        stream: &Stream,
        consumer: &str,
        config: Map<String, Value>,
    ) -> Result<(), BusError> {
        let body = json!({"stream_name": stream.name, "config": config});
        let created = self.api::<IgnoredAny>("CONSUMER.DURABLE.CREATE", consumer, &body);
        created.await?.map(drop).map_err(unavailable)
    }

    async fn api<T: DeserializeOwned>(
        &self,
        verb: &str,
        what: &str,
        body: &Value,
    ) -> Result<Result<T, ApiError>, BusError> {
        ask(&self.connection, &format!("$JS.API.{verb}.{what}"), body).await
    }

    /// What the server says of a delivery that came to nothing; nothing if its command is gone since.
    async fn read_advisory(&self, message: NatsMessage) -> Option<PoolNews> {
        let receipt = receipt(&message)?;
        let place = self.lost(&message.payload).await;
        match place {
            Ok(Some(place)) => return Some(PoolNews::Lost(place, receipt)),
            Ok(None) => {}
            // It is said again to whoever opens this next.
            Err(error) => {
                warn!(%error, "a lost delivery cannot be looked at");
                return None;
            }
        }
        let _ = self.acknowledge(&receipt).await;
        None
    }

    async fn lost(&self, advisory: &[u8]) -> Result<Option<Place>, BusError> {
        let advisory: Advisory = serde_json::from_slice(advisory).map_err(unavailable)?;
        let question = json!({"seq": advisory.stream_seq});
        let stored = self.queue.message(&question).await?;
        Ok(stored.and_then(|stored| pools::place(&self.prefix, &stored.subject)))
    }

    async fn read_report(&self, message: NatsMessage) -> Option<PoolNews> {
        let receipt = receipt(&message)?;
        match self.report(&message.subject, &message.payload) {
            Ok((from, report)) => Some(PoolNews::Report(from, report, receipt)),
            Err(why) => {
                warn!(subject = %message.subject, why, "a report that cannot be read");
                let _ = self.acknowledge(&receipt).await;
                None
            }
        }
    }

    fn report(&self, subject: &str, payload: &[u8]) -> Result<(Place, TaskReport), String> {
        let report: TaskReport =
            serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let from = pools::reported_place(&self.prefix, subject, &report);
        let from = from.ok_or("it is about another task execution than its subject")?;
        Ok((from, report))
    }

    fn ensured(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ensured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn receipt(message: &NatsMessage) -> Option<Receipt> {
    let reply = message.reply.as_ref()?;
    Some(Receipt(reply.to_string()))
}

#[async_trait]
impl Pools for NatsPools {
    async fn open(&self) -> Result<BoxStream<'static, PoolNews>, BusError> {
        let mut lost = self.connection.losses();
        self.ensured().clear();
        // Where there is little room, what is told of runs has it first.
        for stream in [&self.events, &self.queue, &self.reports, &self.advisories] {
            stream.ensure(self.manage_streams).await?;
        }
        let reports = self.hear(&self.reports).await?;
        let advisories = self.hear(&self.advisories).await?;
        let (this, that) = (self.clone(), self.clone());
        let reports = reports.then(move |message| {
            let this = this.clone();
            async move { this.read_report(message).await }
        });
        let advisories = advisories.then(move |message| {
            let that = that.clone();
            async move { that.read_advisory(message).await }
        });
        let news = stream::select(reports.boxed(), advisories.boxed());
        let ended = async move {
            // It fails when the client has ended.
            let _ = lost.changed().await;
        };
        Ok(news
            .filter_map(|news| async { news })
            .take_until(Box::pin(ended))
            .boxed())
    }

    async fn prepare(&self, namespace: &str, pool: &str) -> Result<(), BusError> {
        let name = PoolSubjects::consumer(namespace, pool);
        if self.ensured().contains(&name) {
            return Ok(());
        }
        let config = pools::pool_consumer(&self.prefix, namespace, pool);
        let consumer = format!("{}.{name}", self.queue.name);
        self.create_consumer(&self.queue, &consumer, config).await?;
        self.ensured().insert(name);
        Ok(())
    }

    async fn enqueue(&self, at: &Place, id: &str, command: Bytes) -> Result<u64, PublishError> {
        let prepared = self.prepare(&at.namespace, &at.pool).await;
        prepared.map_err(|error| PublishError::Unavailable(error.to_string()))?;
        let subject = self.command(at);
        let message = Message {
            filter: subject.clone(),
            subject,
            id: id.to_owned(),
            headers: Vec::new(),
            payload: command,
        };
        let headers = publish_headers(&message, &self.queue.name, 0);
        let headers = headers.map_err(PublishError::Unavailable)?;
        let answer = self
            .connection
            .request(&message.subject, headers, message.payload);
        Ok(publish_answer(&answer.await?)?.sequence)
    }

    async fn queued(&self, at: &Place) -> Result<Option<u64>, BusError> {
        let question = json!({"last_by_subj": self.command(at)});
        let stored = self.queue.message(&question).await?;
        Ok(stored.map(|stored| stored.sequence))
    }

    async fn reported(&self, at: &Place) -> Result<Option<TaskReport>, BusError> {
        let subject = self
            .subjects
            .report(&at.namespace, &at.pool, &at.task_exec_id);
        let question = json!({ "last_by_subj": subject });
        let stored = self.reports.message(&question).await?;
        let report = stored.and_then(|stored| self.report(&stored.subject, &stored.payload).ok());
        Ok(report
            .filter(|(from, _)| from == at)
            .map(|(_, report)| report))
    }

    async fn delivered(&self, at: &Place) -> Result<Delivered, BusError> {
        let name = PoolSubjects::consumer(&at.namespace, &at.pool);
        let consumer = format!("{}.{name}", self.queue.name);
        let info = self
            .api::<ConsumerInfo>("CONSUMER.INFO", &consumer, &json!({}))
            .await?;
        Ok(info.map_err(unavailable)?.delivered)
    }

    async fn remove(&self, at: &Place) -> Result<(), BusError> {
        let body = json!({"filter": self.command(at)});
        let purged = self.queue.api::<IgnoredAny>("PURGE", &body).await?;
        purged.map(drop).map_err(unavailable)
    }

    async fn order(&self, at: &Place, order: Order) -> Result<(), BusError> {
        let attempt = at.attempt;
        let control = Control { attempt, order };
        let subject = self
            .subjects
            .control(&at.namespace, &at.pool, &at.task_exec_id);
        let payload = serde_json::to_vec(&control).map_err(unavailable)?;
        let told = self.connection.publish(&subject, None, payload.into());
        Ok(told.await?)
    }

    async fn acknowledge(&self, receipt: &Receipt) -> Result<(), BusError> {
        let acknowledgement = Bytes::from_static(b"+ACK");
        let told = self.connection.publish(&receipt.0, None, acknowledgement);
        Ok(told.await?)
    }
}
