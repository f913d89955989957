//! Objects that went lately. The answer to a call may come after the end of its object, and no watch would tell of that end
//! again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// A call is answered within 15 seconds; it may have waited for its turn before.
const KEPT: Duration = Duration::from_secs(120);

/// When they went, by UID.
#[derive(Debug, Default)]
pub(super) struct Gone {
    went: HashMap<Box<str>, Instant>,
    /// In the order in which they went.
    order: VecDeque<(Instant, Box<str>)>,
}

impl Gone {
    /// One went just now.
    pub fn add(&mut self, uid: &str) {
        let now = Instant::now();
        while let Some((went, uid)) = self.order.pop_front_if(|(went, _)| now - *went > KEPT) {
            // It may have come back, in a list of the past, and gone again.
            if self.went.get(&uid) == Some(&went) {
                self.went.remove(&uid);
            }
        }
        self.went.insert(uid.into(), now);
        self.order.push_back((now, uid.into()));
    }

    /// Whether it went after that.
    pub fn after(&self, uid: &str, asked: Instant) -> bool {
        self.went.get(uid).is_some_and(|went| *went > asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn what_went_is_known_for_as_long_as_an_answer_may_take_and_not_for_ever() {
        let mut gone = Gone::default();
        let before = Instant::now();
        advance(Duration::from_secs(1)).await;
        gone.add("a");
        assert!(gone.after("a", before));
        assert!(!gone.after("b", before));
        advance(Duration::from_secs(1)).await;
        assert!(
            !gone.after("a", Instant::now()),
            "who asks later is told what is so"
        );
        advance(KEPT).await;
        gone.add("b");
        assert_eq!((gone.went.len(), gone.order.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_went_twice_went_the_last_time() {
        let mut gone = Gone::default();
        gone.add("a");
        advance(KEPT).await;
        let between = Instant::now();
        advance(Duration::from_secs(1)).await;
        gone.add("a");
        assert!(gone.after("a", between));
    }
}
