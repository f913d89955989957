//! The calls of tools that this process made or listens for.
//!
//! A call is sent by the process that recorded it, once; whoever finds it after a restart listens,
//! and looks for what was answered meanwhile.

mod heard;

use std::sync::Arc;

use bytes::Bytes;
use kube::ResourceExt;
use tracing::debug;

use self::heard::Heard;
use super::{
    hub::Hub,
    index::{Key, key_of},
};
use crate::{
    api::{CallRecord, TaskExecution},
    engine::attempt::call::{self, CallView},
    ports::{BusError, Calls, Clock},
    protocol::tool::ToolSubjects,
};

/// Calls through NATS.
pub struct CallsUnderWay {
    calls: Arc<dyn Calls>,
    subjects: ToolSubjects,
    caller: String,
    heard: Arc<Heard>,
}

impl CallsUnderWay {
    /// No call is known yet. `caller` is this process, as it writes itself down.
    pub fn new(
        calls: Arc<dyn Calls>,
        prefix: &str,
        caller: String,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
    ) -> CallsUnderWay {
        CallsUnderWay {
            calls,
            subjects: ToolSubjects::new(prefix),
            caller,
            heard: Arc::new(Heard::new(hub, clock)),
        }
    }

    /// This process, as it writes itself down.
    pub fn caller(&self) -> &str {
        &self.caller
    }

    /// What is known of the call that a task execution's status speaks of.
    pub fn view(&self, execution: &TaskExecution) -> CallView {
        let Some(record) = call::record_of(execution) else {
            return CallView::Unsent;
        };
        let heard = self.heard.of(&key_of(execution), &record.tool_exec_id);
        match heard {
            Some(view) => view,
            None if record.caller == self.caller => CallView::Unsent,
            None => CallView::Unheard,
        }
    }

    /// Sends a call that this process recorded. Nothing is sent again of which is not known whether
    /// it went.
    ///
    /// # Errors
    /// It did not go, and may be tried again.
    pub async fn send(&self, execution: &TaskExecution) -> Result<(), BusError> {
        let Some((key, record, reply)) = self.place(execution) else {
            return Ok(());
        };
        let command = call::execute(execution, record, &self.subjects);
        let (namespace, workflow) = (&command.namespace, &command.workflow_id);
        let subject = self.subjects.execute(namespace, workflow, &command.tool_id);
        // Nothing in it can fail to be JSON: all keys are strings.
        let payload = Bytes::from(serde_json::to_vec(&command).unwrap_or_default());
        let news = self.calls.listen(&reply).await?;
        // From here on it counts as sent, also if nobody is there any more to see it go.
        self.heard.follow(&key, record, news);
        match self.calls.send(&subject, &reply, payload).await {
            Err(BusError::Timeout) => debug!(subject, "it is not known whether the call went"),
            Err(error) => {
                self.heard.forget(&key);
                return Err(error);
            }
            Ok(()) => {}
        }
        Ok(())
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
        self.heard.follow(&key, record, news);
        self.heard.take_in(&key, &record.tool_exec_id, &past);
        Ok(())
    }

    /// Looks once more for answers that were not heard, before the call's time is over for good.
    ///
    /// # Errors
    /// There is no telling now.
    pub async fn confirm(&self, execution: &TaskExecution) -> Result<(), BusError> {
        let Some((key, record, reply)) = self.place(execution) else {
            return Ok(());
        };
        let past = self.calls.stored(&reply).await?;
        self.heard.take_in(&key, &record.tool_exec_id, &past);
        self.heard.give_up(&key, record);
        Ok(())
    }

    /// Nothing more will be heard of a call whose time is over.
    pub fn give_up(&self, execution: &TaskExecution) {
        if let Some(record) = call::record_of(execution) {
            self.heard.give_up(&key_of(execution), record);
        }
    }

    /// Forgets the call of a task execution that has ended or is gone.
    pub fn forget(&self, key: &Key) {
        self.heard.forget(key);
    }

    /// Whose call it is, which, and where its answers go.
    fn place<'a>(&self, execution: &'a TaskExecution) -> Option<(Key, &'a CallRecord, String)> {
        let record = call::record_of(execution)?;
        let namespace = execution.namespace().unwrap_or_default();
        let uid = execution.uid().unwrap_or_default();
        let reply = self
            .subjects
            .result(&namespace, &uid, &record.tool_exec_id);
        Some((key_of(execution), record, reply))
    }
}
