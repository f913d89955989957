//! What workers said of beginnings, which stays in NATS a moment longer than it takes to hear it.
//!
//! A worker runs an attempt only if NATS has no word yet of its beginning. A server that is killed has forgotten what it
//! delivered last (it writes that down ten times a second at most) and delivers it once more; and of ids it remembers
//! those of messages that it still has. So the word of a beginning has to outlast that.

use std::{collections::VecDeque, time::Duration};

use crate::{api::Time, ports::Receipt};

/// It stays for so long: much longer than the server takes to write down what it delivered.
const KEPT: Duration = Duration::from_secs(2);

/// At most so many stay, half of what the server sends ahead: ends have to get through.
const MOST: usize = 256;

/// Receipts of beginnings, in the order in which they were heard, each with the time when it may go.
#[derive(Default)]
pub(super) struct Beginnings(VecDeque<(Time, Receipt)>);

impl Beginnings {
    /// Takes one in. Returns the oldest if there are too many.
    pub fn keep(&mut self, receipt: Receipt, now: Time) -> Option<Receipt> {
        self.0.push_back((now.after(KEPT), receipt));
        let over = self.0.len() > MOST;
        over.then(|| self.0.pop_front())
            .flatten()
            .map(|(_, receipt)| receipt)
    }

    /// When the oldest may go.
    pub fn due(&self) -> Option<Time> {
        self.0.front().map(|(due, _)| *due)
    }

    /// Those that may go by now.
    pub fn take_due(&mut self, now: Time) -> Vec<Receipt> {
        let kept = self.0.iter().position(|(due, _)| *due > now);
        let due = self.0.drain(..kept.unwrap_or(self.0.len()));
        due.map(|(_, receipt)| receipt).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn receipt(number: usize) -> Receipt {
        Receipt(number.to_string())
    }

    #[test]
    fn a_beginning_stays_for_a_moment() {
        let now: Time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut beginnings = Beginnings::default();
        assert_eq!(beginnings.due(), None);
        assert_eq!(beginnings.keep(receipt(1), now), None);
        beginnings.keep(receipt(2), now.after(KEPT / 2));
        assert_eq!(beginnings.due(), Some(now.after(KEPT)));
        assert_eq!(beginnings.take_due(now.after(KEPT / 2)), []);
        assert_eq!(beginnings.take_due(now.after(KEPT)), [receipt(1)]);
        assert_eq!(beginnings.due(), Some(now.after(KEPT * 3 / 2)));
    }

    #[test]
    fn beginnings_never_keep_ends_from_getting_through() {
        let now: Time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut beginnings = Beginnings::default();
        for number in 0..MOST {
            assert_eq!(beginnings.keep(receipt(number), now), None);
        }
        assert_eq!(beginnings.keep(receipt(MOST), now), Some(receipt(0)));
    }
}
