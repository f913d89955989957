//! The calls of tools that this process sent or listens for.
//!
//! A call is sent by the process that recorded it, once; whoever finds it after a restart listens,
//! and looks for what was answered meanwhile.

mod hearing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use kube::ResourceExt;
use tracing::debug;

use self::hearing::Hearing;
use super::{
    fence::Fence,
    hub::Hub,
    index::{Key, key_of},
};
use crate::{
    api::{CallRecord, TaskExecution},
    engine::attempt::{self, CallView},
    ports::{BusError, Calls, Clock},
    protocol::tool::ToolSubjects,
};

/// Calls through NATS.
pub struct CallsUnderWay {
    calls: Arc<dyn Calls>,
    subjects: ToolSubjects,
    caller: String,
    fence: Fence,
    hearing: Arc<Hearing>,
}

impl CallsUnderWay {
    /// No call is known yet. `caller` is this process, as it writes itself down; it calls as long as
    /// `fence` allows.
    pub fn new(
        calls: Arc<dyn Calls>,
        prefix: &str,
        caller: String,
        fence: Fence,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
    ) -> CallsUnderWay {
        CallsUnderWay {
            hearing: Arc::new(Hearing::new(calls.clone(), hub, clock)),
            calls,
            subjects: ToolSubjects::new(prefix),
            caller,
            fence,
        }
    }

    /// This process, as it writes itself down.
    pub fn caller(&self) -> &str {
        &self.caller
    }

    /// What is known of the call that a task execution's status speaks of.
    pub fn view(&self, execution: &TaskExecution) -> CallView {
        let heard = attempt::record_of(execution)
            .and_then(|record| self.hearing.of(&key_of(execution), &record.tool_exec_id));
        heard.unwrap_or(CallView::Unsent)
    }

    /// Sends a call that this process recorded, and listens for its answers. Sent again is only what
    /// did not go, or what nobody took.
    ///
    /// # Errors
    /// It did not go, and may be tried again.
    pub async fn send(&self, execution: &TaskExecution) -> Result<(), BusError> {
        let Some((key, record, reply)) = self.place(execution) else {
            return Ok(());
        };
        let command = attempt::execute(execution, record, &self.subjects);
        let (namespace, workflow) = (&command.namespace, &command.workflow_id);
        let subject = self.subjects.execute(namespace, workflow, &command.tool_id);
        // Nothing in it can fail to be JSON: all keys are strings.
        let payload = Bytes::from(serde_json::to_vec(&command).unwrap_or_default());
        let listens = self.hearing.waits_again(&key, &record.tool_exec_id);
        let news = match listens {
            // NATS tells one listener alone that nobody took a call: a second one would not hear it.
            true => None,
            false => Some(self.calls.listen(&reply).await?),
        };
        // Who slept meanwhile does not know what became of the task.
        if self.fence.left().is_none() {
            return Err(BusError::Unavailable("the lease is lost".to_owned()));
        }
        // From here on it counts as sent, also if nobody is there any more to see it go.
        if let Some(news) = news {
            self.hearing.follow(&key, record, &reply, news);
        }
        let sent = self.calls.send(&subject, &reply, payload).await;
        match &sent {
            Ok(()) => debug!(subject, reply, "called"),
            Err(_) => self.hearing.forget(&key),
        }
        sent
    }

    /// Listens for the answers to a call that another process made, and looks for those of the past.
    ///
    /// # Errors
    /// It cannot be done now, and may be tried again.
    pub async fn listen(&self, execution: &TaskExecution) -> Result<(), BusError> {
        let Some((key, record, reply)) = self.place(execution) else {
            return Ok(());
        };
        let news = self.calls.listen(&reply).await?;
        let past = self.calls.stored(&reply).await?;
        self.hearing.follow(&key, record, &reply, news);
        self.hearing.take_in(&key, &record.tool_exec_id, &past);
        Ok(())
    }

    /// Looks once more for answers that were not heard, before the call's time is over for good.
    ///
    /// # Errors
    /// There is no telling now.
    pub async fn confirm(&self, execution: &TaskExecution) -> Result<CallView, BusError> {
        let Some((key, record, reply)) = self.place(execution) else {
            return Ok(CallView::Unsent);
        };
        let past = self.calls.stored(&reply).await?;
        let id = &record.tool_exec_id;
        self.hearing.take_in(&key, id, &past);
        Ok(match self.hearing.of(&key, id) {
            None => hearing::read(id, &past, self.hearing.now()),
            Some(view) => hearing::given_up(view),
        })
    }

    /// Forgets the call of a task execution that has ended or is gone.
    pub fn forget(&self, key: &Key) {
        self.hearing.forget(key);
    }

    /// Whose call it is, which, and where its answers go.
    fn place<'a>(&self, execution: &'a TaskExecution) -> Option<(Key, &'a CallRecord, String)> {
        let record = attempt::record_of(execution)?;
        let namespace = execution.namespace().unwrap_or_default();
        let uid = execution.uid().unwrap_or_default();
        let reply = self.subjects.result(&namespace, &uid, &record.tool_exec_id);
        Some((key_of(execution), record, reply))
    }
}
