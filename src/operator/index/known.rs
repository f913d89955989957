//! Objects of one kind, as they are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::{Resource, ResourceExt};

use super::{Key, is_newer, key_of};

/// What is known of them. Older versions never replace newer ones.
#[derive(Debug)]
pub struct Known<K>(Mutex<BTreeMap<Key, Arc<K>>>);

impl<K> Default for Known<K> {
    fn default() -> Self {
        Known(Mutex::default())
    }
}

impl<K: Resource> Known<K> {
    /// Takes one in; false if it was known.
    pub fn apply(&self, mut object: K) -> bool {
        // About half of it, and of no use here.
        object.meta_mut().managed_fields = None;
        let key = key_of(&object);
        let mut known = self.lock();
        let newer = is_newer(known.get(&key).map(AsRef::as_ref), &object);
        if newer {
            known.insert(key, Arc::new(object));
        }
        newer
    }

    /// One is gone. Another one of that name (another UID) is left alone.
    pub fn delete(&self, key: &Key, uid: Option<&str>) {
        let mut known = self.lock();
        let is_it = |known: &Arc<K>| uid.is_none() || known.meta().uid.as_deref() == uid;
        if known.get(key).is_some_and(is_it) {
            known.remove(key);
        }
    }

    /// One of them.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.lock().get(key).cloned()
    }

    /// Keys and UIDs of all.
    pub fn all(&self) -> Vec<(Key, String)> {
        let known = self.lock();
        let all = known.iter();
        all.map(|(key, object)| (key.clone(), object.uid().unwrap_or_default()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
