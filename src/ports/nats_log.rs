//! What is logged about the NATS connection: each kind of news, but not each piece of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::Event;
use tokio::time::Instant;
use tracing::{info, warn};

const QUIET: Duration = Duration::from_secs(10);

/// Logs the events of a connection. A server that restarts or refuses makes a flood of them.
#[derive(Debug, Default)]
pub(super) struct ConnectionLog {
    connected: Throttle,
    disconnected: Throttle,
    trouble: Throttle,
}

impl ConnectionLog {
    pub(super) fn event(&self, event: &Event) {
        let (throttle, good) = match event {
            Event::Connected => (&self.connected, true),
            Event::Disconnected | Event::Closed => (&self.disconnected, false),
            _ => (&self.trouble, false),
        };
        let Some(left_out) = throttle.permit(Instant::now()) else {
            return;
        };
        if good {
            info!(left_out, "NATS: {event}");
        } else {
            warn!(left_out, "NATS: {event}");
        }
    }
}

/// Lets one through per [`QUIET`] and counts the others.
#[derive(Debug, Default)]
struct Throttle(Mutex<Option<(Instant, u64)>>);

impl Throttle {
    /// How many were left out since the last one that was let through; none if this one is to be left out.
    fn permit(&self, now: Instant) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_mut() {
            Some((at, left_out)) if now.duration_since(*at) < QUIET => {
                *left_out += 1;
                None
            }
            _ => Some(last.replace((now, 0)).map_or(0, |(_, left_out)| left_out)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_instead_of_logged() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.permit(start), Some(0));
        assert_eq!(throttle.permit(start + QUIET / 2), None);
        assert_eq!(throttle.permit(start + QUIET / 2), None);
        assert_eq!(throttle.permit(start + QUIET), Some(2));
        assert_eq!(throttle.permit(start + QUIET * 2), Some(0));
    }
}
