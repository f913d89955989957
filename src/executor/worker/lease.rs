//! The hold on a command. Who loses it stops by itself: the operator gives the task to somebody else then.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use crate::protocol::pool::{LEASE, TOUCH_EVERY};

/// After a touch that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// Touches what is worked on, and ends when that is lost, by the monotonic clock alone. The hold counts from before the
/// server gave it or heard of it: `since`, and then the sending of the last touch that it answered.
pub(super) async fn keep<E: Display>(since: Instant, touch: impl AsyncFn() -> Result<(), E>) {
    let mut lost = since + LEASE;
    while Instant::now() < lost {
        let sent = Instant::now();
        let pause = match timeout_at(lost, touch()).await {
            // Answered later, it may have come too late: then it means nothing.
            Ok(Ok(())) if Instant::now() < lost => {
                lost = sent + LEASE;
                TOUCH_EVERY
            }
            Ok(Err(error)) => {
                debug!(%error, "a task could not be touched");
                AGAIN
            }
            _ => AGAIN,
        };
        sleep_until(lost.min(Instant::now() + pause)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;

    use tokio::time::{advance, sleep};

    use super::*;

    /// When the hold is lost, and when it was touched, in seconds, if `touch` does what it does.
    async fn held(touch: impl AsyncFn(u64) -> Result<(), &'static str>) -> (u64, Vec<u64>) {
        let began = Instant::now();
        let touches = RefCell::new(Vec::new());
        keep(began, async || {
            let now = began.elapsed().as_secs();
            touches.borrow_mut().push(now);
            touch(now).await
        })
        .await;
        (began.elapsed().as_secs(), touches.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_held_for_as_long_as_touches_are_heard() {
        let heard = async |now| if now < 60 { Ok(()) } else { pending().await };
        let (lost, touches) = held(heard).await;
        assert_eq!(lost, 55 + LEASE.as_secs());
        assert_eq!(touches, (0..=60).step_by(5).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn nats_may_be_away_for_less_than_the_lease() {
        let away = async |now| match now {
            6..14 | 30.. => Err("away"),
            _ => Ok(()),
        };
        let (lost, touches) = held(away).await;
        assert_eq!(touches[..2], [0, 5]);
        // The first one after it was back, every five seconds from there, the last one before it went for good.
        assert_eq!(lost, 29 + LEASE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn it_counts_from_when_a_touch_was_sent() {
        let slow = async |now| {
            sleep(Duration::from_secs(4)).await;
            if now == 0 { Ok(()) } else { Err("away") }
        };
        assert_eq!(held(slow).await.0, LEASE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_frozen_past_the_lease_has_lost_it_and_touches_no_more() {
        let frozen = async |now| {
            if now == 5 {
                advance(LEASE * 2).await;
            }
            Ok(())
        };
        let (lost, touches) = held(frozen).await;
        assert_eq!((lost, touches), (5 + 2 * LEASE.as_secs(), vec![0, 5]));
    }
}
