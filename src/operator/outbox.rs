//! What the reconcilers need to know of the mirror: whether an object may go, and how far its
//! events are. Without NATS configured there is nothing to wait for.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::mirror::{Mirror, Progress, When};
use crate::{api::MirrorPosition, events::Object};

/// The mirror's progress by object.
#[derive(Default)]
pub struct Outbox {
    mirror: Option<Mirror>,
    state: Mutex<State>,
}

struct State {
    progress: HashMap<String, Published>,
    /// Objects that were let go, of which is not known whether the stream still has their events.
    owed: HashSet<String>,
    /// The latest epoch of the stream for which all that is owed was noted. The first one begins with the objects'
    /// coming in.
    noted: u64,
    /// By the UID of a run: its task execution for which the run's end waits.
    awaited: HashMap<String, Arc<str>>,
}

impl Default for State {
    fn default() -> State {
        State {
            progress: HashMap::new(),
            owed: HashSet::new(),
            noted: 1,
            awaited: HashMap::new(),
        }
    }
}

struct Published {
    /// The newest transition of the version that was published.
    newest: u64,
    progress: Progress,
}

impl Outbox {
    /// An outbox that `mirror` empties, if there is one.
    pub fn new(mirror: Option<Mirror>) -> Outbox {
        Outbox {
            mirror,
            state: Mutex::default(),
        }
    }

    /// The mirror.
    pub fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    /// Publishes what the object holds and the stream does not. Returns after which time to try
    /// again, if that is needed.
    pub async fn publish(&self, object: Object<'_>, when: When) -> Option<Duration> {
        let mirror = self.mirror.as_ref()?;
        let progress = mirror.publish_pending(object, when).await;
        let retry_after = progress.retry_after;
        let published = Published {
            newest: object.newest(),
            progress,
        };
        let uid = object.uid().to_owned();
        self.lock().progress.insert(uid, published);
        retry_after
    }

    /// Whether every event of the object is in the stream.
    pub fn is_complete(&self, object: Object<'_>) -> bool {
        let Some(epoch) = self.epoch() else {
            return true;
        };
        let state = self.lock();
        let known = state.progress.get(object.uid());
        known.is_some_and(|published| {
            published.is_complete(epoch) && published.newest >= object.newest()
        })
    }

    /// Whether every event of the object but its last is in the stream.
    pub fn lacks_the_last_alone(&self, object: Object<'_>) -> bool {
        let told = self
            .begun_in(object.uid())
            .and_then(|_| self.position(object.uid()));
        told.is_some_and(|position| position.seq + 1 == object.newest())
    }

    /// Whether the first event of an object is in the stream. Without a mirror nothing waits.
    pub fn has_begun(&self, uid: &str) -> bool {
        self.begun_in(uid).is_some()
    }

    /// In which epoch of the stream the first event of an object is, if that is this one.
    pub fn begun_in(&self, uid: &str) -> Option<u64> {
        let Some(epoch) = self.epoch() else {
            return Some(0);
        };
        let state = self.lock();
        let known = state.progress.get(uid).map(|published| &published.progress);
        let begun = |progress: &&Progress| progress.epoch == epoch && progress.has_begun();
        known.filter(begun).map(|_| epoch)
    }

    /// How far the object's events are, for its next status write.
    pub fn position(&self, uid: &str) -> Option<MirrorPosition> {
        self.lock().progress.get(uid)?.progress.position.clone()
    }

    /// An object was let go, with or without a receipt. True if it has to be asked whether the
    /// stream has what the receipt says.
    pub fn let_go(&self, uid: &str, receipt: Option<&MirrorPosition>) -> bool {
        let epoch = self.epoch();
        let mut state = self.lock();
        // Of a run whose tasks are told anew all but its end may have been published since.
        let complete = |epoch, receipt: &MirrorPosition| {
            let known = state.progress.get(uid);
            known.is_some_and(|published| {
                published.is_complete(epoch) && published.newest >= receipt.seq
            })
        };
        let owed =
            receipt.is_some_and(|receipt| epoch.is_some_and(|epoch| !complete(epoch, receipt)));
        if owed {
            state.owed.insert(uid.to_owned());
        } else {
            self.settle(&mut state, uid);
        }
        owed
    }

    /// Whether it is not known if the stream has the events of an object that was let go.
    pub fn is_owed(&self, uid: &str) -> bool {
        self.lock().owed.contains(uid)
    }

    /// Whether the stream has the events of an object that was let go.
    pub fn is_settled(&self, uid: &str) -> bool {
        let epoch = self.epoch();
        let state = self.lock();
        epoch.is_none_or(|epoch| epoch <= state.noted && !state.owed.contains(uid))
    }

    /// The stream has the events of an object that was let go.
    pub fn settled(&self, uid: &str) {
        self.settle(&mut self.lock(), uid);
    }

    /// The task execution for which a run's end waits, as was last found.
    pub fn awaited(&self, run: &str) -> Option<Arc<str>> {
        self.lock().awaited.get(run).cloned()
    }

    /// A run's end waits for this task execution, or for none.
    pub fn awaits(&self, run: &str, execution: Option<Arc<str>>) {
        let mut state = self.lock();
        match execution {
            Some(execution) => drop(state.awaited.insert(run.to_owned(), execution)),
            None => drop(state.awaited.remove(run)),
        }
    }

    /// The stream lost messages: whatever was let go has to be asked about. `owed` are those
    /// objects.
    pub fn start_over(&self, owed: impl IntoIterator<Item = String>) {
        let epoch = self.epoch();
        let mut state = self.lock();
        state.owed.extend(owed);
        state.noted = epoch.unwrap_or(state.noted);
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, uid: &str) {
        let mut state = self.lock();
        if state.owed.contains(uid)
            && let Some(mirror) = &self.mirror
        {
            mirror.give_up(uid);
        }
        self.settle(&mut state, uid);
    }

    fn settle(&self, state: &mut State, uid: &str) {
        state.owed.remove(uid);
        state.progress.remove(uid);
        state.awaited.remove(uid);
        if let Some(mirror) = &self.mirror {
            mirror.forget(uid);
        }
    }

    fn epoch(&self) -> Option<u64> {
        self.mirror.as_ref().map(Mirror::epoch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    fn is_complete(&self, epoch: u64) -> bool {
        self.progress.epoch == epoch && self.progress.is_complete()
    }
}
