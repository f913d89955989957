//! Questions of NATS servers about whoever connects: from the operator's own connection.

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use tokio::time::sleep;

use super::bus::BusError;
use super::nats_connection::Connection;
use crate::protocol::callout::QUESTIONS;

/// Each question goes to one process of an installation, whoever leads.
const GROUP: &str = "compozy-operator";
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

/// Where servers ask, and get their answers.
#[derive(Debug, Clone)]
pub struct NatsCallout {
    connection: Connection,
}

impl NatsCallout {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The questions, on every connection from now on.
    pub async fn questions(&self) -> Subscriber {
        loop {
            // The client takes a subscription also while it is not connected.
            if let Ok(questions) = self.connection.subscribe(QUESTIONS, Some(GROUP)).await {
                return questions;
            }
            sleep(SUBSCRIBE_AGAIN).await;
        }
    }

    /// Answers a question.
    pub async fn answer(&self, reply: &str, answer: Bytes) -> Result<(), BusError> {
        Ok(self.connection.publish(reply, None, answer).await?)
    }
}
