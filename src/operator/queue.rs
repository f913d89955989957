//! A work queue of keys: each key waits at most once, is worked on by one at a time, and comes
//! back when it was added while being worked on.
//!
//! Our own, where kube's Controller would do, for three reasons: its depth is a metric, an
//! object's deletion is dispatched like any change, and the reconcilers read an index that has
//! our own writes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

/// The queue. Bounded by the number of different keys.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    /// Waiting keys by due time; the number keeps first come, first served.
    order: BTreeMap<(Instant, u64), K>,
    waiting: HashMap<K, (Instant, u64)>,
    working: HashSet<K>,
    next: u64,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            order: BTreeMap::new(),
            waiting: HashMap::new(),
            working: HashSet::new(),
            next: 0,
        };
        Queue {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Adds a key that is due now.
    pub fn add(&self, key: K) {
        self.add_at(key, Instant::now());
    }

    /// Adds a key that is due at `due`. A key that waits already keeps the earlier time.
    pub fn add_at(&self, key: K, due: Instant) {
        let mut state = self.lock();
        if let Some(&place) = state.waiting.get(&key) {
            if place.0 <= due {
                return;
            }
            state.order.remove(&place);
        }
        let place = (due, state.next);
        state.next += 1;
        state.waiting.insert(key.clone(), place);
        state.order.insert(place, key);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the next key that is due and not being worked on. Call [`Queue::done`] after.
    pub async fn next(&self) -> K {
        loop {
            let due = match self.take() {
                Ok(key) => return key,
                Err(due) => due,
            };
            match due {
                Some(due) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(due) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Gives a key back after work on it.
    pub fn done(&self, key: &K) {
        self.lock().working.remove(key);
        self.changed.notify_one();
    }

    /// Forgets a key that waits.
    pub fn forget(&self, key: &K) {
        let mut state = self.lock();
        if let Some(place) = state.waiting.remove(key) {
            state.order.remove(&place);
        }
    }

    /// How many keys are due and wait.
    pub fn depth(&self) -> usize {
        let now = Instant::now();
        self.lock().order.range(..=(now, u64::MAX)).count()
    }

    /// The next key, or when to look again.
    fn take(&self) -> Result<K, Option<Instant>> {
        let now = Instant::now();
        let mut state = self.lock();
        let free = state
            .order
            .iter()
            .find(|(_, key)| !state.working.contains(*key))
            .map(|(place, key)| (*place, key.clone()));
        match free {
            Some((place, key)) if place.0 <= now => {
                state.order.remove(&place);
                state.waiting.remove(&key);
                state.working.insert(key.clone());
                Ok(key)
            }
            Some((place, _)) => Err(Some(place.0)),
            None => Err(None),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_back_after() {
        let queue = Queue::default();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        let waiting = tokio::time::timeout(Duration::from_secs(1), queue.next()).await;
        assert!(waiting.is_err(), "two would work on one key");
        queue.done(&key);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_time_wins_over_a_later_one() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_at("a", start + Duration::from_secs(60));
        queue.add_at("a", start + Duration::from_secs(5));
        queue.add_at("a", start + Duration::from_secs(30));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_come_in_the_order_of_their_times() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_at("late", start + Duration::from_secs(2));
        queue.add_at("early", start + Duration::from_secs(1));
        assert_eq!(queue.next().await, "early");
        assert_eq!(queue.next().await, "late");
    }
}
