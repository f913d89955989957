//! What was heard of calls under way. One entry for each, until it is forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use tokio::task::JoinSet;
use tracing::debug;

use crate::{
    api::{CallRecord, Time},
    engine::attempt::{Answer, CallView, Heard, hear},
    operator::{hub::Hub, index::Key},
    ports::{CallNews, Calls, Clock},
};

/// What was heard of calls under way.
pub(super) struct Hearing {
    calls: Arc<dyn Calls>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    under_way: Mutex<HashMap<Key, Call>>,
}

/// A call under way.
struct Call {
    tool_exec_id: String,
    started: Option<Time>,
    end: Option<End>,
    /// Who listens; it ends with this.
    _listener: JoinSet<()>,
}

/// How a call ended.
#[derive(Clone)]
enum End {
    /// Nobody serves the tool, as NATS said then.
    NoResponders(Time),
    /// The first answer that is more than that it began.
    Answer(Time, Answer),
}

impl Call {
    fn view(&self) -> CallView {
        let started = self.started;
        match self.end.clone() {
            None => CallView::Open {
                started,
                given_up: false,
            },
            Some(End::NoResponders(since)) => CallView::NoResponders { since },
            Some(End::Answer(at, answer)) => CallView::Answered {
                started,
                at,
                answer,
            },
        }
    }

    /// Takes an answer in. The first one that is more than that it began counts.
    fn hear(&mut self, message: &[u8], now: Time) {
        match hear(message, &self.tool_exec_id) {
            Heard::Started => drop(self.started.get_or_insert(now)),
            Heard::Ended(answer) => drop(self.end.get_or_insert(End::Answer(now, answer))),
        }
    }
}

impl Hearing {
    pub fn new(calls: Arc<dyn Calls>, hub: Arc<Hub>, clock: Arc<dyn Clock>) -> Hearing {
        Hearing {
            calls,
            hub,
            clock,
            under_way: Mutex::default(),
        }
    }

    pub fn now(&self) -> Time {
        Time(self.clock.now())
    }

    /// What was heard of a call; nothing if nobody listens for it.
    pub fn of(&self, key: &Key, tool_exec_id: &str) -> Option<CallView> {
        let calls = self.lock();
        let call = calls.get(key)?;
        (call.tool_exec_id == tool_exec_id).then(|| call.view())
    }

    /// Forgets that nobody took a call, for it is sent again. Whether somebody listens for it.
    pub fn waits_again(&self, key: &Key, tool_exec_id: &str) -> bool {
        let mut calls = self.lock();
        let call = calls
            .get_mut(key)
            .filter(|call| call.tool_exec_id == tool_exec_id);
        let Some(call) = call else { return false };
        call.end.take_if(|end| matches!(end, End::NoResponders(_)));
        true
    }

    /// Listens for the answers to a call. An earlier one of this task execution is forgotten.
    pub fn follow(
        self: &Arc<Self>,
        key: &Key,
        record: &CallRecord,
        reply: &str,
        mut news: BoxStream<'static, CallNews>,
    ) {
        let mut listener = JoinSet::new();
        // Weak: whoever forgets this ends all listeners.
        let hearing = Arc::downgrade(self);
        let (key, id) = (key.clone(), record.tool_exec_id.clone());
        let (of, of_id, reply) = (key.clone(), id.clone(), reply.to_owned());
        listener.spawn(async move {
            while let Some(news) = news.next().await {
                let Some(hearing) = hearing.upgrade() else {
                    return;
                };
                hearing.take(&of, &of_id, &reply, news).await;
            }
        });
        let call = Call {
            tool_exec_id: id,
            started: None,
            end: None,
            _listener: listener,
        };
        self.lock().insert(key, call);
    }

    async fn take(&self, key: &Key, tool_exec_id: &str, reply: &str, news: CallNews) {
        match news {
            CallNews::Message(message) => self.take_in(key, tool_exec_id, &[message]),
            CallNews::NoResponders => {
                let now = self.now();
                self.change(key, tool_exec_id, |call| {
                    call.end.get_or_insert(End::NoResponders(now));
                });
            }
            CallNews::Reconnected => match self.calls.stored(reply).await {
                Ok(missed) => self.take_in(key, tool_exec_id, &missed),
                // It is asked again before the call's time is over.
                Err(error) => debug!(%error, reply, "what was missed cannot be asked for"),
            },
        }
    }

    /// Takes answers in, in their order.
    pub fn take_in(&self, key: &Key, tool_exec_id: &str, messages: &[Bytes]) {
        if messages.is_empty() {
            return;
        }
        let now = self.now();
        self.change(key, tool_exec_id, |call| {
            for message in messages {
                call.hear(message, now);
            }
        });
    }

    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
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
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What these answers say of a call for which nobody listens, and for which nothing more is waited.
pub(super) fn read(tool_exec_id: &str, messages: &[Bytes], now: Time) -> CallView {
    let mut call = Call {
        tool_exec_id: tool_exec_id.to_owned(),
        started: None,
        end: None,
        _listener: JoinSet::new(),
    };
    messages.iter().for_each(|message| call.hear(message, now));
    given_up(call.view())
}

/// The same, and nothing more is waited for.
pub(super) fn given_up(view: CallView) -> CallView {
    match view {
        CallView::Open { started, .. } => CallView::Open {
            started,
            given_up: true,
        },
        view => view,
    }
}
