//! One command, from its delivery to its acknowledgement.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::{Duty, Worker, lease};
use crate::api::{self, ErrorCode, ErrorInfo, Time};
use crate::executor::handler::Job;
use crate::ports::{Clock, Delivery, PublishError, SystemClock};
use crate::protocol::pool::{Order, TaskExecute, TaskNews, TaskReport};

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// How an attempt ended is worth waiting for NATS: longer than a server takes to come back.
const PATIENCE: Duration = Duration::from_secs(600);

impl Worker {
    /// Sees to one command. Says whether it did not have to be handed back.
    pub(super) async fn attempt(&self, delivery: Delivery) -> bool {
        let command = match self.read(&delivery) {
            Ok(command) => command,
            Err(why) => {
                self.refuse(&delivery, &why).await;
                return true;
            }
        };
        let (task_exec_id, attempt) = (command.task_exec_id.as_str(), command.attempt);
        let Some(mut orders) = self.orders.heed(task_exec_id, attempt) else {
            warn!(task_exec_id, attempt, "an attempt came again while it runs");
            return true;
        };
        let mut lost = pin!(lease::keep(delivery.asked, async || {
            self.nats.touch(&delivery).await
        }));
        let mut began = None;
        // What is not chosen is dropped, which kills the handler.
        let end = tokio::select! {
            biased;
            () = &mut lost => {
                warn!(task_exec_id, attempt, "the attempt is lost: it could not be touched in time");
                return true;
            }
            order = orders.order() => match order {
                Order::Cancel => TaskNews::Stopped,
                Order::Stale => {
                    info!(task_exec_id, attempt, "the attempt is not ours any more");
                    return true;
                }
            },
            () = self.handing_back() => TaskNews::HandedBack,
            end = self.run(&command, &mut began) => match end {
                Some(end) => end,
                None => return true,
            },
        };
        let handed_back = end == TaskNews::HandedBack;
        let close = async {
            self.tell(self.report(&command, began, end)).await;
            self.ack(&delivery, &command).await;
        };
        tokio::select! {
            biased;
            () = orders.stale() => info!(task_exec_id, attempt, "nobody waits for the attempt's end"),
            closed = timeout(PATIENCE, close) => if closed.is_err() {
                error!(task_exec_id, attempt, "the attempt's end could not be told");
            },
            // It has ended, so nobody runs it twice: the operator knows whether its end still counts.
            () = async { lost.await; pending().await } => {}
        }
        !handed_back
    }

    /// Reads a command, and refuses what is not for us.
    fn read(&self, delivery: &Delivery) -> Result<TaskExecute, String> {
        let command: TaskExecute = serde_json::from_slice(&delivery.payload)
            .map_err(|error| format!("it cannot be read: {error}"))?;
        let Duty {
            namespace, pool, ..
        } = &self.duty;
        if command.pool != *pool || command.namespace != *namespace {
            let (other, of) = (&command.pool, &command.namespace);
            return Err(format!(
                "it is for the pool {other:?} in the namespace {of:?}, and here is {pool:?} in {namespace:?}"
            ));
        }
        Ok(command)
    }

    /// Runs an attempt once it is known that it begins. Nothing comes of it if it may have begun before: a server that
    /// was killed delivers again what it forgot to have delivered. Who has it keeps touching it and says how it ends; if
    /// nobody does, it counts as lost.
    async fn run(&self, command: &TaskExecute, began: &mut Option<Time>) -> Option<TaskNews> {
        let now = Time(SystemClock.now());
        let told_before = self
            .tell(self.report(command, Some(now), TaskNews::Started))
            .await;
        if told_before {
            let (task_exec_id, attempt) = (&command.task_exec_id, command.attempt);
            warn!(
                task_exec_id,
                attempt, "the attempt may have begun before: it is not run again"
            );
            return None;
        }
        *began = Some(now);
        let job = Job::from(command);
        let run = self.handler.run(&job);
        let outcome = match command.timeout_ms.map(Duration::from_millis) {
            Some(limit) => match timeout(limit, run).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => Err(timed_out(limit)),
            },
            None => run.await,
        };
        Some(match outcome {
            Ok(outputs) => TaskNews::Succeeded { outputs },
            Err(error) => TaskNews::Failed { error },
        })
    }

    fn report(&self, command: &TaskExecute, began: Option<Time>, news: TaskNews) -> TaskReport {
        TaskReport {
            task_exec_id: command.task_exec_id.clone(),
            attempt: command.attempt,
            worker: self.duty.worker.clone(),
            at: Time(SystemClock.now()),
            started_at: began,
            news,
        }
    }

    /// Brings a report into the stream, however long that takes. Says whether the same one was there: somebody else's, or
    /// our own that got through without an answer.
    async fn tell(&self, mut report: TaskReport) -> bool {
        let mut pause = PAUSE_FIRST;
        let mut tried = false;
        loop {
            match self.nats.report(&report).await {
                Ok(ack) => return ack.duplicate,
                Err(error) => {
                    if !tried {
                        let id = report.id();
                        warn!(id, %error, "a report is not stored yet");
                    }
                    if let PublishError::TooLarge(text) = error {
                        report.news = too_large(&text);
                    }
                }
            }
            tried = true;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    async fn ack(&self, delivery: &Delivery, command: &TaskExecute) {
        if let Err(error) = self.nats.ack(delivery).await {
            let (task_exec_id, attempt) = (&command.task_exec_id, command.attempt);
            warn!(task_exec_id, attempt, %error, "the command is done and not acknowledged");
        }
    }

    async fn refuse(&self, delivery: &Delivery, why: &str) {
        warn!(why, "a command that cannot be done");
        if let Err(error) = self.nats.refuse(delivery, why).await {
            warn!(%error, "the command is not refused");
        }
    }
}

fn timed_out(limit: Duration) -> ErrorInfo {
    let limit = api::Duration::from(limit);
    let message = format!("the attempt ran longer than its timeout of {limit}");
    ErrorInfo::new(ErrorCode::Timeout, message)
}

fn too_large(text: &str) -> TaskNews {
    let message = format!("the report is larger than NATS takes: {text}");
    TaskNews::Failed {
        error: ErrorInfo::new(ErrorCode::OutputsTooLarge, message),
    }
}
