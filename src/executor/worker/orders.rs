//! What the operator says of attempts that are under way here.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::debug;

use crate::protocol::pool::{Control, Order};

/// The id of a task execution, and the attempt.
type Key = (String, u32);

/// The attempts under way, and what was said of each last.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<HashMap<Key, watch::Sender<Option<Order>>>>);

/// Hears what is said of one attempt; it is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Heeding<'a> {
    orders: &'a Orders,
    key: Key,
    said: watch::Receiver<Option<Order>>,
}

impl Orders {
    /// How many attempts are under way.
    pub(super) fn under_way(&self) -> usize {
        self.lock().len()
    }

    /// From here on the attempt is under way; nothing if it is already.
    pub(super) fn heed(&self, task_exec_id: &str, attempt: u32) -> Option<Heeding<'_>> {
        let key = (task_exec_id.to_owned(), attempt);
        let mut under_way = self.lock();
        if under_way.contains_key(&key) {
            return None;
        }
        let (say, said) = watch::channel(None);
        under_way.insert(key.clone(), say);
        let orders = self;
        Some(Heeding { orders, key, said })
    }

    /// Passes on what is said of a task execution; most of it is for other workers.
    pub(super) fn give(&self, task_exec_id: &str, control: Control) {
        let key = (task_exec_id.to_owned(), control.attempt);
        if let Some(say) = self.lock().get(&key) {
            debug!(task_exec_id, ?control, "an order");
            say.send_replace(Some(control.order));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Sender<Option<Order>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heeding<'_> {
    /// Waits for an order.
    pub(super) async fn order(&mut self) -> Order {
        if let Ok(said) = self.said.wait_for(Option::is_some).await
            && let Some(order) = *said
        {
            return order;
        }
        // Nobody says anything any more.
        pending().await
    }

    /// Waits until the attempt is not ours any more.
    pub(super) async fn stale(&mut self) {
        let stale = |said: &Option<Order>| *said == Some(Order::Stale);
        if self.said.wait_for(stale).await.is_err() {
            pending().await
        }
    }
}

impl Drop for Heeding<'_> {
    fn drop(&mut self) {
        self.orders.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn an_order_reaches_the_attempt_that_it_is_about_and_no_other() {
        let orders = Orders::default();
        let mut first = orders.heed("a", 1).unwrap();
        let mut second = orders.heed("a", 2).unwrap();
        let cancel = |attempt| Control {
            attempt,
            order: Order::Cancel,
        };
        orders.give("a", cancel(2));
        orders.give("b", cancel(1));
        assert_eq!(second.order().now_or_never(), Some(Order::Cancel));
        assert_eq!(second.stale().now_or_never(), None);
        assert_eq!(first.order().now_or_never(), None);
    }

    #[test]
    fn an_attempt_is_under_way_once_and_until_its_end() {
        let orders = Orders::default();
        let heeding = orders.heed("a", 1);
        assert!(heeding.is_some());
        assert!(orders.heed("a", 1).is_none());
        assert_eq!(orders.under_way(), 1);
        drop(heeding);
        assert_eq!(orders.under_way(), 0);
        assert!(orders.heed("a", 1).is_some());
    }
}
