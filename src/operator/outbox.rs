//! What the reconcilers need to know of the mirror: whether an object may go, and how far its
//! events are. Without NATS configured there is nothing to wait for.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::mirror::{Mirror, Progress};
use crate::{api::MirrorPosition, events::Object};

/// The mirror's progress by object.
#[derive(Default)]
pub struct Outbox {
    mirror: Option<Mirror>,
    progress: Mutex<HashMap<String, Published>>,
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
            progress: Mutex::default(),
        }
    }

    /// Publishes what the object holds and the stream does not. Returns after which time to try
    /// again, if that is needed.
    pub async fn publish(&self, object: Object<'_>) -> Option<Duration> {
        let mirror = self.mirror.as_ref()?;
        let progress = mirror.publish_pending(object).await;
        let retry_after = progress.retry_after;
        self.lock().insert(
            object.uid().to_owned(),
            Published {
                newest: object.newest(),
                progress,
            },
        );
        retry_after
    }

    /// Whether every event of the object is in the stream.
    pub fn is_complete(&self, object: Object<'_>) -> bool {
        self.mirror.is_none()
            || self.lock().get(object.uid()).is_some_and(|published| {
                published.progress.is_complete() && published.newest >= object.newest()
            })
    }

    /// Whether the first event of an object is in the stream. Without a mirror nothing waits.
    pub fn has_begun(&self, uid: &str) -> bool {
        self.mirror.is_none() || self.position(uid).is_some_and(|position| position.seq > 0)
    }

    /// How far the object's events are, for its next status write.
    pub fn position(&self, uid: &str) -> Option<MirrorPosition> {
        self.lock().get(uid)?.progress.position.clone()
    }

    /// Looks after the stream; true if every held object has to be published anew.
    pub async fn refresh(&self) -> bool {
        match &self.mirror {
            Some(mirror) => mirror.refresh().await,
            None => false,
        }
    }

    /// Forgets an object that is gone or was let go.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
        if let Some(mirror) = &self.mirror {
            mirror.forget(uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Published>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
