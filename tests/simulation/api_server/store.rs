//! What is stored, and how it came to be: objects, one revision for all, and every change.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{kinds::Kind, refusal::Refusal};

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    /// Empty for what is in no namespace.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Key {
        Key {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// Objects by where they are.
pub type Objects = BTreeMap<Key, Arc<Value>>;

/// One write.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: u64,
    pub key: Key,
    /// The object as it was; none if it was not there.
    pub before: Option<Arc<Value>>,
    /// The object as it is now; none if it is gone.
    pub after: Option<Arc<Value>>,
}

/// Everything that is stored.
#[derive(Clone, Debug, Default)]
pub struct Store {
    objects: Objects,
    history: Vec<Change>,
    revision: u64,
    compacted: u64,
}

impl Store {
    /// The revision of the last write.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Up to here the history is forgotten.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// All objects as they are now.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// Writes an object; its resourceVersion becomes the revision of this write.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), object.clone());
        self.history.push(Change {
            revision: self.revision,
            key,
            before,
            after: Some(object.clone()),
        });
        object
    }

    /// Removes an object; says how it was.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        self.history.push(Change {
            revision: self.revision,
            key: key.clone(),
            before: Some(before.clone()),
            after: None,
        });
        Some(before)
    }

    /// The changes after a revision, the oldest first, as far as they are kept.
    pub fn changes_after(&self, revision: u64) -> &[Change] {
        let from = self
            .history
            .partition_point(|change| change.revision <= revision);
        &self.history[from..]
    }

    /// All objects as they were at a revision.
    ///
    /// # Errors
    /// That is not known any more.
    pub fn objects_at(&self, revision: u64) -> Result<Objects, Refusal> {
        if revision < self.compacted {
            return Err(Refusal::expired(format!(
                "The resourceVersion for the provided list is too old: {revision} ({})",
                self.compacted
            )));
        }
        let mut objects = self.objects.clone();
        for change in self.changes_after(revision).iter().rev() {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), before.clone()),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }

    /// Forgets the history up to a revision.
    pub fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        let compacted = self.compacted;
        self.history.retain(|change| change.revision > compacted);
    }

    /// Writes use up revisions that are not about our objects, too.
    pub fn skip(&mut self, revisions: u64) {
        self.revision += revisions;
    }
}
