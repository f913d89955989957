//! `tool serve`: takes the calls of a tool and lets a handler answer them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::answers;
use super::handler::{Handler, Job};
use super::recent::{Call, Recent};
use super::{Ended, Error};
use crate::api::{ErrorInfo, Time};
use crate::ports::{Clock, NatsCalls, SystemClock};
use crate::protocol::tool::{ToolExecute, ToolResult, ToolSubjects};

/// After the grace, time to tell the callers of what was cut off.
const FAREWELL: Duration = Duration::from_secs(3);

/// What is served, and how.
#[derive(Debug, Clone)]
pub struct Service {
    /// The tool's namespace, and its callers'.
    pub namespace: String,
    /// The tool's name.
    pub tool: String,
    /// The first tokens of every subject.
    pub prefix: String,
    /// So many calls run at once.
    pub concurrency: usize,
    /// So long calls under way may go on after the end was asked for.
    pub grace: Duration,
}

/// Serves until `end`, then finishes what it has taken.
///
/// # Errors
/// The tool's subject cannot be subscribed.
pub async fn serve(
    service: Service,
    calls: NatsCalls,
    handler: Handler,
    end: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    let subjects = ToolSubjects::new(&service.prefix);
    let subject = subjects.serve(&service.namespace, &service.tool);
    let mut taken = calls.serve(&subject, &service.tool).await?;
    info!(subject, concurrency = service.concurrency, "serving");
    let (cut, cut_off) = watch::channel(false);
    let server = Arc::new(Server {
        subjects,
        calls,
        handler,
        recent: Mutex::default(),
        cut_off,
        service,
    });
    let mut work = Work {
        server: Arc::clone(&server),
        running: JoinSet::new(),
        delivering: JoinSet::new(),
    };
    tokio::select! {
        biased;
        () = end => {}
        () = work.go_on(&mut taken) => return Err("the NATS client has ended".into()),
    }
    let mut left = stream::iter(server.calls.drain(taken).await);
    let grace = server.service.grace;
    info!(
        ?grace,
        under_way = work.running.len(),
        "taking no more calls"
    );
    if tokio::time::timeout(grace, work.go_on(&mut left))
        .await
        .is_ok()
    {
        return Ok(Ended::Finished);
    }
    warn!(
        under_way = work.running.len(),
        "the grace is over: what still runs is killed"
    );
    cut.send_replace(true);
    // Who cannot be told by then finds out by the deadline.
    let _ = tokio::time::timeout(FAREWELL, work.go_on(&mut left)).await;
    Ok(Ended::CutOff)
}

/// Calls that run, and answers on their way: these take no place from calls.
struct Work {
    server: Arc<Server>,
    running: JoinSet<Option<Answer>>,
    delivering: JoinSet<()>,
}

/// What is to be told to a caller.
struct Answer {
    reply: String,
    tool_exec_id: String,
    deadline: Time,
    payload: Bytes,
}

impl Work {
    /// Runs what is taken, so many at once, until there is no more, and all of it has ended. Dropped, it can be gone on
    /// with.
    async fn go_on(&mut self, taken: &mut (impl Stream<Item = Message> + Unpin)) {
        let mut open = true;
        while open || !self.running.is_empty() || !self.delivering.is_empty() {
            let free = self.running.len() < self.server.service.concurrency;
            tokio::select! {
                biased;
                Some(_) = self.delivering.join_next(), if !self.delivering.is_empty() => {}
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => {
                    if let Ok(Some(answer)) = ended {
                        self.deliver(answer);
                    }
                }
                message = taken.next(), if open && free => match message {
                    Some(message) => self.take(message),
                    None => open = false,
                },
            }
        }
    }

    fn take(&mut self, message: Message) {
        let server = Arc::clone(&self.server);
        self.running
            .spawn(async move { server.answer(message).await });
    }

    fn deliver(&mut self, answer: Answer) {
        let calls = self.server.calls.clone();
        self.delivering.spawn(async move {
            let Answer {
                reply,
                tool_exec_id,
                deadline,
                payload,
            } = answer;
            answers::deliver(&calls, &reply, &tool_exec_id, payload, deadline).await;
        });
    }
}

struct Server {
    service: Service,
    subjects: ToolSubjects,
    calls: NatsCalls,
    handler: Handler,
    recent: Mutex<Recent>,
    cut_off: watch::Receiver<bool>,
}

impl Server {
    /// What a call gets, if it gets anything from us.
    async fn answer(&self, message: Message) -> Option<Answer> {
        let call = match self.read(&message) {
            Ok(call) => call,
            Err(why) => {
                warn!(subject = %message.subject, why, "a call that cannot be run");
                return self.refuse(&message, why);
            }
        };
        let id = call.tool_exec_id.clone();
        if Time(SystemClock.now()) > call.deadline {
            warn!(tool_exec_id = id, "a call came after its deadline");
            return None;
        }
        let known = self.recent().begin(&id);
        let payload = match known {
            Call::Running => {
                info!(tool_exec_id = id, "a call came again while it runs");
                return None;
            }
            Call::Answered(payload) => {
                info!(tool_exec_id = id, "a call came again: the same answer");
                payload
            }
            Call::New => {
                let payload = self
                    .run(&call)
                    .await
                    .map(|result| answers::payload(&id, result));
                self.recent().end(&id, payload.clone());
                payload?
            }
        };
        Some(Answer {
            reply: call.reply_to_subject,
            tool_exec_id: id,
            deadline: call.deadline,
            payload,
        })
    }

    /// Reads a call, and refuses what is not for us or wants its answer elsewhere: with our rights nobody gets further
    /// than with their own.
    fn read(&self, message: &Message) -> Result<ToolExecute, String> {
        let call: ToolExecute = serde_json::from_slice(&message.payload)
            .map_err(|error| format!("it cannot be read: {error}"))?;
        let Service {
            namespace, tool, ..
        } = &self.service;
        if call.tool_id != *tool || call.namespace != *namespace {
            let (other, of) = (&call.tool_id, &call.namespace);
            return Err(format!(
                "it is for the tool {other:?} in the namespace {of:?}, and here {tool:?} in {namespace:?} is served"
            ));
        }
        let (reply, id) = (&call.reply_to_subject, &call.tool_exec_id);
        if !self.subjects.is_result(reply, namespace, id) {
            return Err(format!(
                "its reply_to_subject {reply:?} is not one of this call's"
            ));
        }
        Ok(call)
    }

    /// Tells why a call cannot be run, where it is known whom.
    fn refuse(&self, message: &Message, why: String) -> Option<Answer> {
        let reply = message.reply.as_ref()?.to_string();
        let tool_exec_id = reply.rsplit('.').next()?.to_owned();
        let namespace = &self.service.namespace;
        let ours = self.subjects.is_result(&reply, namespace, &tool_exec_id);
        let error = ErrorInfo {
            message: format!("the call cannot be run: {why}"),
            code: "INVALID_CALL".to_owned(),
            details: None,
        };
        ours.then(|| Answer {
            payload: answers::payload(&tool_exec_id, ToolResult::ToolError { error }),
            reply,
            tool_exec_id,
            deadline: Time(SystemClock.now()),
        })
    }

    /// Runs a call; nothing comes of it when it does not end by its deadline: its caller has given up by then.
    async fn run(&self, call: &ToolExecute) -> Option<ToolResult> {
        let mut cut_off = self.cut_off.clone();
        let left = call.deadline.since(Time(SystemClock.now()));
        let run = async {
            answers::started(&self.calls, &call.reply_to_subject, &call.tool_exec_id).await;
            self.handler.run(&Job::from(call)).await
        };
        let outcome = tokio::select! {
            biased;
            Ok(_) = cut_off.wait_for(|cut_off| *cut_off) => Err(stopped()),
            outcome = tokio::time::timeout(left, run) => match outcome {
                Ok(outcome) => outcome,
                Err(_) => {
                    warn!(tool_exec_id = call.tool_exec_id, "a call did not end by its deadline: its handler was ended");
                    return None;
                }
            },
        };
        Some(match outcome {
            Ok(output) => ToolResult::Success { output },
            Err(error) => ToolResult::ToolError { error },
        })
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped() -> ErrorInfo {
    ErrorInfo {
        message:
            "whoever serves the tool was stopped before the call ended; it may have done something"
                .to_owned(),
        code: "SERVER_STOPPED".to_owned(),
        details: None,
    }
}
