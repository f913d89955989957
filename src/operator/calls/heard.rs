//! What was heard of calls under way. One entry for each, until it is forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use tokio::task::JoinSet;

use super::super::{hub::Hub, index::Key};
use crate::{
    api::{CallRecord, Time},
    engine::attempt::call::{Answer, CallView},
    ports::{CallNews, Clock},
    protocol::tool::{ToolExecutionResult, ToolResult},
};

/// What was heard of calls under way.
pub(super) struct Heard {
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    calls: Mutex<HashMap<Key, Call>>,
}

/// A call under way.
struct Call {
    tool_exec_id: String,
    started: Option<Time>,
    end: Option<End>,
    /// Nothing more will be heard.
    given_up: bool,
    /// Who listens; it ends with this.
    _listener: JoinSet<()>,
}

/// How a call ended.
#[derive(Clone)]
enum End {
    /// Nobody serves the tool.
    NoResponders,
    /// The first answer that is more than that it began.
    Answer(Time, Answer),
}

impl Call {
    fn new(record: &CallRecord, listener: JoinSet<()>) -> Call {
        Call {
            tool_exec_id: record.tool_exec_id.clone(),
            started: None,
            end: None,
            given_up: false,
            _listener: listener,
        }
    }
}

impl Heard {
    pub fn new(hub: Arc<Hub>, clock: Arc<dyn Clock>) -> Heard {
        Heard {
            hub,
            clock,
            calls: Mutex::default(),
        }
    }

    /// What was heard of a call; nothing if nobody listens for it.
    pub fn of(&self, key: &Key, tool_exec_id: &str) -> Option<CallView> {
        let calls = self.lock();
        let call = calls
            .get(key)
            .filter(|call| call.tool_exec_id == tool_exec_id)?;
        let started = call.started;
        Some(match call.end.clone() {
            None => CallView::Open {
                started,
                given_up: call.given_up,
            },
            Some(End::NoResponders) => CallView::NoResponders,
            Some(End::Answer(at, answer)) => CallView::Answered {
                started,
                at,
                answer,
            },
        })
    }

    /// Listens for the answers to a call. What was heard of an earlier one of this task execution is
    /// forgotten.
    pub fn follow(
        self: &Arc<Self>,
        key: &Key,
        record: &CallRecord,
        mut news: BoxStream<'static, CallNews>,
    ) {
        let mut listener = JoinSet::new();
        // Weak: who forgets all of them ends all listeners.
        let heard = Arc::downgrade(self);
        let (of, id) = (key.clone(), record.tool_exec_id.clone());
        listener.spawn(async move {
            while let Some(news) = news.next().await {
                let Some(heard) = heard.upgrade() else { return };
                match news {
                    CallNews::Message(message) => heard.take_in(&of, &id, &[message]),
                    CallNews::NoResponders => heard.end(&of, &id, End::NoResponders),
                }
            }
        });
        self.lock().insert(key.clone(), Call::new(record, listener));
    }

    /// Takes answers in, in their order. The first result counts; later ones change nothing.
    pub fn take_in(&self, key: &Key, tool_exec_id: &str, messages: &[Bytes]) {
        let now = Time(self.clock.now());
        for message in messages {
            match serde_json::from_slice::<ToolExecutionResult>(message) {
                Ok(answer) if answer.tool_exec_id != tool_exec_id => {}
                Ok(answer) => match answer.result {
                    ToolResult::Started => self.began(key, tool_exec_id, now),
                    result => self.end(key, tool_exec_id, End::Answer(now, Ok(result))),
                },
                Err(error) => {
                    let end = End::Answer(now, Err(error.to_string()));
                    self.end(key, tool_exec_id, end);
                }
            }
        }
    }

    /// Nothing more will be heard of a call, also if nobody ever listened for it.
    pub fn give_up(&self, key: &Key, record: &CallRecord) {
        let mut calls = self.lock();
        let known = calls
            .get_mut(key)
            .filter(|call| call.tool_exec_id == record.tool_exec_id);
        match known {
            Some(call) => call.given_up = true,
            None => drop(calls.insert(
                key.clone(),
                Call {
                    given_up: true,
                    ..Call::new(record, JoinSet::new())
                },
            )),
        }
    }

    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn began(&self, key: &Key, tool_exec_id: &str, now: Time) {
        self.change(key, tool_exec_id, |call| {
            call.started.get_or_insert(now);
        });
    }

    fn end(&self, key: &Key, tool_exec_id: &str, end: End) {
        self.change(key, tool_exec_id, |call| {
            call.end.get_or_insert(end);
        });
    }

    fn change(&self, key: &Key, tool_exec_id: &str, change: impl FnOnce(&mut Call)) {
        let mut calls = self.lock();
        let call = calls
            .get_mut(key)
            .filter(|call| call.tool_exec_id == tool_exec_id);
        if let Some(call) = call {
            change(call);
            self.hub.executions.add(key.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Call>> {
        // Every critical section leaves the entries whole, so a poisoned lock is still good.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
