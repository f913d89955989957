//! Until when this process may write: the leader's lease, as seen from inside.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Shared by the lease, which moves it, and by whatever writes, which looks at it before every
/// request. Closed until it is opened.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// How long a request sent now may take; none if nothing may be sent.
    pub fn left(&self) -> Option<Duration> {
        let left = self.end()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Writes are allowed until then.
    pub fn open_until(&self, end: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// No more writes.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn end(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fence_is_closed_until_it_is_opened_and_after_its_end() {
        let fence = Fence::default();
        assert_eq!(fence.left(), None);
        fence.open_until(Instant::now() + Duration::from_secs(3));
        assert_eq!(fence.clone().left(), Some(Duration::from_secs(3)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(fence.left(), None);
        fence.open_until(Instant::now() + Duration::from_secs(3));
        fence.close();
        assert_eq!(fence.left(), None);
    }
}
