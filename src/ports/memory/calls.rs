//! Calls of tools in memory, for tests: tool servers that do as they are told.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::mpsc::{self, UnboundedSender};
use futures::stream::{BoxStream, StreamExt};

use crate::ports::{BusError, CallNews, Calls};

/// What a tool server answers to a call, at once.
type Script = Box<dyn Fn(&[u8]) -> Vec<Bytes> + Send>;

/// Calls that reach scripted servers, and a stream that keeps all answers.
#[derive(Debug, Default)]
pub struct MemoryCalls(Mutex<State>);

#[derive(Default)]
struct State {
    /// By the subject that they serve.
    servers: HashMap<String, Script>,
    sent: Vec<Sent>,
    listeners: HashMap<String, Vec<UnboundedSender<CallNews>>>,
    kept: HashMap<String, Vec<Bytes>>,
    /// The bus cannot be reached by the caller; servers and the stream go on.
    away: bool,
}

/// A call that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Where to.
    pub subject: String,
    /// Where its answers go.
    pub reply: String,
    /// What it says.
    pub payload: Bytes,
}

impl MemoryCalls {
    /// Lets a server take the calls at `subject`; it answers each at once with what `script` gives.
    pub fn serve(&self, subject: &str, script: impl Fn(&[u8]) -> Vec<Bytes> + Send + 'static) {
        let servers = &mut self.lock().servers;
        servers.insert(subject.to_owned(), Box::new(script));
    }

    /// Lets an answer come now.
    pub fn answer(&self, reply: &str, payload: Bytes) {
        self.lock().answer(reply, payload);
    }

    /// Takes the connection away or brings it back.
    pub fn set_away(&self, away: bool) {
        let mut state = self.lock();
        if state.away && !away {
            let all = state.listeners.values().flatten();
            all.for_each(|listener| tell(listener, CallNews::Reconnected));
        }
        state.away = away;
    }

    /// The calls that were sent, in order.
    pub fn sent(&self) -> Vec<Sent> {
        self.lock().sent.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self) -> Result<MutexGuard<'_, State>, BusError> {
        let state = self.lock();
        match state.away {
            true => Err(BusError::Unavailable("not connected".to_owned())),
            false => Ok(state),
        }
    }
}

impl State {
    fn answer(&mut self, reply: &str, payload: Bytes) {
        let kept = self.kept.entry(reply.to_owned()).or_default();
        kept.push(payload.clone());
        if !self.away {
            self.tell(reply, CallNews::Message(payload));
        }
    }

    fn tell(&self, reply: &str, news: CallNews) {
        let listeners = self.listeners.get(reply).into_iter().flatten();
        listeners.for_each(|listener| tell(listener, news.clone()));
    }
}

/// One that listens no more does not mind.
fn tell(listener: &UnboundedSender<CallNews>, news: CallNews) {
    let _ = listener.unbounded_send(news);
}

impl Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("servers", &self.servers.keys())
            .field("sent", &self.sent)
            .field("kept", &self.kept)
            .field("away", &self.away)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Calls for MemoryCalls {
    async fn listen(&self, reply: &str) -> Result<BoxStream<'static, CallNews>, BusError> {
        let (listener, news) = mpsc::unbounded();
        let mut state = self.reached()?;
        let listeners = state.listeners.entry(reply.to_owned()).or_default();
        listeners.retain(|listener| !listener.is_closed());
        listeners.push(listener);
        Ok(news.boxed())
    }

    async fn send(&self, subject: &str, reply: &str, payload: Bytes) -> Result<(), BusError> {
        let mut state = self.reached()?;
        let answers = state.servers.get(subject).map(|script| script(&payload));
        match answers {
            Some(answers) => answers
                .into_iter()
                .for_each(|answer| state.answer(reply, answer)),
            // NATS picks one of the caller's listeners, be it one that is just about to go.
            None => {
                let listener = state.listeners.get(reply).and_then(|all| all.first());
                let news = CallNews::NoResponders;
                listener.into_iter().for_each(|one| tell(one, news.clone()));
            }
        }
        state.sent.push(Sent {
            subject: subject.to_owned(),
            reply: reply.to_owned(),
            payload,
        });
        Ok(())
    }

    async fn stored(&self, reply: &str) -> Result<Vec<Bytes>, BusError> {
        let state = self.reached()?;
        Ok(state.kept.get(reply).cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_answered_as_scripted_or_by_nobody() {
        let calls = MemoryCalls::default();
        calls.serve("tool", |_| vec![Bytes::from_static(b"done")]);
        let mut heard = calls.listen("reply").await.unwrap();
        calls.send("tool", "reply", Bytes::new()).await.unwrap();
        calls.send("other", "reply", Bytes::new()).await.unwrap();
        let done = Bytes::from_static(b"done");
        assert_eq!(heard.next().await, Some(CallNews::Message(done.clone())));
        assert_eq!(heard.next().await, Some(CallNews::NoResponders));
        assert_eq!(calls.stored("reply").await, Ok(vec![done]));
        assert_eq!(calls.sent().len(), 2);
    }

    #[tokio::test]
    async fn what_comes_while_the_connection_is_lost_is_kept_and_not_heard() {
        let calls = MemoryCalls::default();
        let mut heard = calls.listen("reply").await.unwrap();
        calls.set_away(true);
        calls.answer("reply", Bytes::from_static(b"late"));
        assert!(calls.stored("reply").await.is_err());
        calls.set_away(false);
        assert_eq!(heard.next().await, Some(CallNews::Reconnected));
        let late = Bytes::from_static(b"late");
        assert_eq!(calls.stored("reply").await, Ok(vec![late]));
    }
}
