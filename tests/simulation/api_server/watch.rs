//! Watching: a place in the history, from which the next event is asked for. Nobody is called;
//! so whoever carries the events may hold them back, repeat them, or lose them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    Kind, read,
    refusal::Refusal,
    request::Request,
    selector::Selector,
    store::{Change, Store},
};

/// An open watch.
#[derive(Clone, Debug)]
pub struct Watch {
    request: Request,
    selector: Selector,
    /// Everything up to this revision was told.
    seen: u64,
    /// What is told before the history: the objects that were there at the start.
    initial: VecDeque<Arc<Value>>,
    over: bool,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Added(Arc<Value>),
    Modified(Arc<Value>),
    Deleted(Arc<Value>),
    Bookmark(Value),
    /// The watch is over.
    Error(Refusal),
}

impl Event {
    /// The line's JSON.
    pub fn json(&self) -> Value {
        let (kind, object) = self.parts();
        json!({"type": kind, "object": object})
    }

    /// The line. As Go has it the type comes first, so a client need not keep the object until it knows.
    pub fn line(&self) -> String {
        let (kind, object) = self.parts();
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    fn parts(&self) -> (&'static str, &Value) {
        match self {
            Event::Added(object) => ("ADDED", object),
            Event::Modified(object) => ("MODIFIED", object),
            Event::Deleted(object) => ("DELETED", object),
            Event::Bookmark(object) => ("BOOKMARK", object),
            Event::Error(refusal) => ("ERROR", refusal.body()),
        }
    }
}

impl Watch {
    /// What is watched.
    pub fn kind(&self) -> Kind {
        self.request.kind
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// A selector or the resourceVersion cannot be read, or a streaming list is asked for, which
    /// is not modelled.
    pub fn open(store: &Store, request: &Request) -> Result<Watch, Refusal> {
        if !request.parameter("sendInitialEvents").is_empty() {
            return Err(Refusal::internal("streaming lists are not modelled"));
        }
        let selector = Selector::of(request)?;
        let from = match request.parameter("resourceVersion") {
            "" => 0,
            version => version
                .parse()
                .map_err(|_| Refusal::invalid_version(version))?,
        };
        let initial = if from == 0 {
            read::selected(store.objects(), request, &selector)
                .map(|(_, object)| object.clone())
                .collect()
        } else {
            VecDeque::new()
        };
        Ok(Watch {
            request: request.clone(),
            selector,
            seen: if from == 0 { store.revision() } else { from },
            initial,
            over: false,
        })
    }

    /// What it was opened with.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// How long it stays open.
    pub fn timeout(&self) -> Duration {
        const LONGEST: u64 = 1800;
        let seconds = self.request.parameter("timeoutSeconds").parse();
        Duration::from_secs(seconds.unwrap_or(LONGEST))
    }

    /// Whether nothing can come any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The next event, if there is one by now.
    pub fn next(&mut self, store: &Store) -> Option<Event> {
        if self.over {
            return None;
        }
        if let Some(object) = self.initial.pop_front() {
            return Some(Event::Added(self.shown(&object)));
        }
        if self.seen < store.compacted() {
            self.over = true;
            return Some(Event::Error(Refusal::expired(format!(
                "too old resource version: {} ({})",
                self.seen,
                store.compacted()
            ))));
        }
        for change in store.changes_after(self.seen) {
            self.seen = change.revision;
            if let Some(event) = self.event(change) {
                return Some(event);
            }
        }
        None
    }

    /// An event that only says how far the watch is, if the client asked for such.
    pub fn bookmark(&self) -> Option<Event> {
        let asked = self.request.parameter("allowWatchBookmarks") == "true";
        if self.over || !asked || !self.initial.is_empty() {
            return None;
        }
        let resource = self.request.kind.resource();
        let mut object = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.seen.to_string(), "creationTimestamp": null},
        });
        if resource.custom {
            object["metadata"] = json!({"resourceVersion": self.seen.to_string()});
        }
        Some(Event::Bookmark(object))
    }

    fn event(&self, change: &Change) -> Option<Event> {
        let key = &change.key;
        let here = key.kind == self.request.kind
            && (self.request.namespace.is_empty() || key.namespace == self.request.namespace);
        if !here {
            return None;
        }
        let matching = |object: &Option<Arc<Value>>| {
            let object = object.as_ref();
            object
                .filter(|object| self.selector.matches(object))
                .cloned()
        };
        match (matching(&change.before), matching(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(Event::Added(self.shown(&after))),
            (Some(_), Some(after)) => Some(Event::Modified(self.shown(&after))),
            // Gone, or no longer selected: as it was, with the revision of the change.
            (Some(before), None) => {
                let mut object = read::shown(&before, self.request.metadata_only);
                object["metadata"]["resourceVersion"] = change.revision.to_string().into();
                Some(Event::Deleted(Arc::new(object)))
            }
        }
    }

    fn shown(&self, object: &Arc<Value>) -> Arc<Value> {
        match self.request.metadata_only {
            true => Arc::new(read::shown(object, true)),
            false => object.clone(),
        }
    }
}
