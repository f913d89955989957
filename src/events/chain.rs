//! Which message of an object goes next: the cursor of its outbox. Pure, so that every answer of the stream can be tried.
//!
//! The stream takes a message only behind the one that was expected, so two writers, lost answers and stale memories
//! cannot disturb the order. This decides how to find the place again after any of them.

use std::time::Duration;

use crate::api::Time;
use crate::ports::{PublishAck, PublishError, Stored, StreamIdentity};

/// The clocks of the operator and of NATS differ by less.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// How far one object's events are in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    cursor: Cursor,
    /// The event that the server found too large.
    too_large: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    /// The stream has to be asked. Events up to `trusted` were acknowledged once.
    Unread { trusted: u64 },
    /// Events up to `acked` are stored; the last of them has the stream sequence `last`, 0 if none is there any more.
    At { acked: u64, last: u64 },
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: all that the object holds is stored.
    Done,
    /// Read the chain's last message and say so to [`Chain::read`]. If there is none although `acknowledged` is not 0,
    /// the stream's identity has to be read after it.
    Read {
        /// Events up to here were acknowledged once.
        acknowledged: u64,
    },
    /// Publish this event and say to [`Chain::published`] what came of it.
    Publish {
        /// The event's place in its object's history.
        sequence: u64,
        /// The stream sequence that the chain must end with.
        expected_last: u64,
        /// With a reference instead of its details.
        by_reference: bool,
        /// How many events before it the object no longer holds and the stream does not have.
        lost: u64,
    },
}

/// How to go on after an attempt to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is stored; take the next step.
    Stored,
    /// It is not known to be stored; take the next step, which is another one now.
    Another,
    /// Take the same step again after some milliseconds.
    Soon,
    /// Make sure that the stream is there, then take the same step again.
    Ensure,
    /// Take the same step again after a while.
    Later,
}

impl Chain {
    /// A chain of which nothing is remembered but that events up to `trusted` are in this stream.
    ///
    /// With 0 it is taken to be new: if it is not, the stream refuses the first message, and that costs no more than
    /// asking would have.
    pub fn new(trusted: u64) -> Self {
        let cursor = match trusted {
            0 => Cursor::At { acked: 0, last: 0 },
            trusted => Cursor::Unread { trusted },
        };
        Self {
            cursor,
            too_large: None,
        }
    }

    /// Events up to this one were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        match self.cursor {
            Cursor::Unread { trusted } => trusted,
            Cursor::At { acked, .. } => acked,
        }
    }

    /// What to do for an object that still holds `history`: sequences and times of its events, in order.
    pub fn step(&self, history: &[(u64, Time)]) -> Step {
        let (acked, last) = match self.cursor {
            Cursor::Unread { trusted } => {
                return Step::Read {
                    acknowledged: trusted,
                };
            }
            Cursor::At { acked, last } => (acked, last),
        };
        match history.iter().find(|(sequence, _)| *sequence > acked) {
            None => Step::Done,
            Some((sequence, _)) => Step::Publish {
                sequence: *sequence,
                expected_last: last,
                by_reference: self.too_large == Some(*sequence),
                lost: sequence - acked - 1,
            },
        }
    }

    /// Finds the place again from the chain's last message.
    pub fn read(
        &mut self,
        uid: &str,
        stored: Option<&Stored>,
        history: &[(u64, Time)],
        stream: &StreamIdentity,
    ) {
        let trusted = self.acknowledged();
        let acked = match stored {
            None if went_back(trusted, history, stream) => 0,
            None => trusted,
            Some(stored) => match own_sequence(uid, stored) {
                // Acknowledged events that the object holds and the stream does not: the server lost them.
                Some(told) if holds_between(told, trusted, history) => told,
                Some(told) => told.max(trusted),
                None => trusted,
            },
        };
        let last = stored.map_or(0, |stored| stored.stream_sequence);
        self.cursor = Cursor::At { acked, last };
    }

    /// Takes note of what came of publishing the event `sequence`.
    pub fn published(&mut self, sequence: u64, result: &Result<PublishAck, PublishError>) -> Next {
        match result {
            // A duplicate was stored by an earlier attempt, and its sequence is as good.
            Ok(ack) => {
                self.cursor = Cursor::At {
                    acked: sequence,
                    last: ack.sequence,
                };
                Next::Stored
            }
            // Ours of an earlier attempt, or somebody else's: only the stream can tell.
            Err(PublishError::WrongLastSequence) => {
                self.cursor = Cursor::Unread {
                    trusted: self.acknowledged(),
                };
                Next::Another
            }
            Err(PublishError::TooLarge(_)) if self.too_large != Some(sequence) => {
                self.too_large = Some(sequence);
                Next::Another
            }
            Err(PublishError::InFlight) => Next::Soon,
            Err(PublishError::StreamMissing) => Next::Ensure,
            // After a timeout it may be stored; the same message again does no harm.
            Err(
                PublishError::Timeout | PublishError::TooLarge(_) | PublishError::Unavailable(_),
            ) => Next::Later,
        }
    }
}

/// The place in the history that the stored message says, if it is one of this object's.
fn own_sequence(uid: &str, stored: &Stored) -> Option<u64> {
    let sequence = stored.event_sequence?;
    (stored.id.as_deref()? == format!("{uid}:{sequence}")).then_some(sequence)
}

fn holds_between(told: u64, trusted: u64, history: &[(u64, Time)]) -> bool {
    history
        .iter()
        .any(|(sequence, _)| *sequence > told && *sequence <= trusted)
}

/// Whether a chain that is empty, though events up to `trusted` were stored, is empty because the server lost them.
/// Otherwise they had their time. Limits take the oldest messages first: if none was ever removed, and for events
/// younger than the oldest message that is left, it cannot have been that.
fn went_back(trusted: u64, history: &[(u64, Time)], stream: &StreamIdentity) -> bool {
    let mut acknowledged = history.iter().filter(|(sequence, _)| *sequence <= trusted);
    let newest = acknowledged.next_back().map(|(_, at)| *at);
    let oldest = stream
        .oldest
        .map(|oldest| Time(oldest).after(CLOCK_TOLERANCE));
    stream.first_sequence <= 1
        || matches!((newest, oldest), (Some(newest), Some(oldest)) if newest > oldest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use rstest::rstest;

    const UID: &str = "u";

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    /// Events `from..=to`, a second apart.
    fn history(from: u64, to: u64) -> Vec<(u64, Time)> {
        (from..=to)
            .map(|sequence| (sequence, at(1000 + i64::try_from(sequence).unwrap())))
            .collect()
    }

    fn stream(first_sequence: u64, oldest: Option<i64>) -> StreamIdentity {
        let oldest = oldest.map(|second| at(second).0);
        StreamIdentity {
            created: "c".into(),
            first_sequence,
            last_sequence: 90,
            oldest,
        }
    }

    fn told(sequence: u64, stream_sequence: u64) -> Stored {
        Stored {
            stream_sequence,
            id: Some(format!("{UID}:{sequence}")),
            event_sequence: Some(sequence),
        }
    }

    fn publish(sequence: u64, expected_last: u64, lost: u64) -> Step {
        Step::Publish {
            sequence,
            expected_last,
            by_reference: false,
            lost,
        }
    }

    fn ack(sequence: u64, duplicate: bool) -> Result<PublishAck, PublishError> {
        Ok(PublishAck {
            sequence,
            duplicate,
        })
    }

    #[test]
    fn a_new_chain_publishes_in_order_without_reading() {
        let mut chain = Chain::new(0);
        let history = history(1, 2);
        assert_eq!(chain.step(&history), publish(1, 0, 0));
        assert_eq!(chain.published(1, &ack(57, false)), Next::Stored);
        assert_eq!(chain.step(&history), publish(2, 57, 0));
        assert_eq!(chain.published(2, &ack(60, true)), Next::Stored);
        assert_eq!(chain.step(&history), Step::Done);
        assert_eq!(chain.acknowledged(), 2);
        assert_eq!(chain.step(&[]), Step::Done);
    }

    #[rstest]
    #[case(PublishError::InFlight, Next::Soon)]
    #[case(PublishError::StreamMissing, Next::Ensure)]
    #[case(PublishError::Timeout, Next::Later)]
    #[case(PublishError::Unavailable("x".into()), Next::Later)]
    fn what_may_pass_is_tried_again_as_it_was(#[case] error: PublishError, #[case] next: Next) {
        let mut chain = Chain::new(0);
        chain.published(1, &ack(5, false));
        let before = chain.step(&history(1, 3));
        assert_eq!(chain.published(2, &Err(error)), next);
        assert_eq!(chain.step(&history(1, 3)), before);
    }

    #[test]
    fn what_is_too_large_goes_by_reference_and_only_that() {
        let mut chain = Chain::new(0);
        let history = history(1, 2);
        let too_large = Err(PublishError::TooLarge("1 MiB".into()));
        assert_eq!(chain.published(1, &too_large), Next::Another);
        let by_reference = Step::Publish {
            sequence: 1,
            expected_last: 0,
            by_reference: true,
            lost: 0,
        };
        assert_eq!(chain.step(&history), by_reference);
        // A server that refuses even that is tried again, with pauses.
        assert_eq!(chain.published(1, &too_large), Next::Later);
        assert_eq!(chain.step(&history), by_reference);
        assert_eq!(chain.published(1, &ack(1, false)), Next::Stored);
        assert_eq!(chain.step(&history), publish(2, 1, 0));
    }

    #[rstest]
    #[case::stored_by_an_earlier_attempt(told(2, 9), publish(3, 9, 0))]
    #[case::not_stored(told(1, 5), publish(2, 5, 0))]
    #[case::somebody_knows_more(told(4, 11), Step::Done)]
    fn a_wrong_sequence_is_resolved_by_the_last_message(
        #[case] stored: Stored,
        #[case] step: Step,
    ) {
        let mut chain = Chain::new(0);
        chain.published(1, &ack(4, false));
        let history = history(1, 3);
        assert_eq!(
            chain.published(2, &Err(PublishError::WrongLastSequence)),
            Next::Another
        );
        assert_eq!(chain.step(&history), Step::Read { acknowledged: 1 });
        chain.read(UID, Some(&stored), &history, &stream(20, Some(0)));
        assert_eq!(chain.step(&history), step);
    }

    #[rstest]
    #[case::stream_is_ahead(2, Some(told(3, 30)), publish(4, 30, 0))]
    #[case::both_agree(3, Some(told(3, 30)), publish(4, 30, 0))]
    #[case::server_lost_the_end(3, Some(told(1, 10)), publish(2, 10, 0))]
    #[case::retention_took_all(3, None, publish(4, 0, 0))]
    fn after_a_restart_the_stream_and_the_status_tell(
        #[case] trusted: u64,
        #[case] stored: Option<Stored>,
        #[case] step: Step,
    ) {
        let mut chain = Chain::new(trusted);
        let history = history(1, 5);
        assert_eq!(
            chain.step(&history),
            Step::Read {
                acknowledged: trusted
            }
        );
        // The oldest message that is left is younger than all of this object's.
        chain.read(UID, stored.as_ref(), &history, &stream(40, Some(5000)));
        assert_eq!(chain.step(&history), step);
    }

    #[test]
    fn what_was_pruned_after_it_was_stored_is_not_lost() {
        let mut chain = Chain::new(3);
        // Events 1 to 3 were pruned. A message of somebody else's is the last one.
        let foreign = Stored {
            stream_sequence: 8,
            id: None,
            event_sequence: Some(1),
        };
        chain.read(UID, Some(&foreign), &history(4, 5), &stream(8, None));
        assert_eq!(chain.step(&history(4, 5)), publish(4, 8, 0));
    }

    #[rstest]
    #[case::nothing_was_ever_removed(stream(1, Some(5000)))]
    #[case::older_messages_are_left(stream(40, Some(0)))]
    fn a_stream_that_lost_the_chain_gets_it_again(#[case] stream: StreamIdentity) {
        let mut chain = Chain::new(4);
        let history = history(3, 5);
        chain.read(UID, None, &history, &stream);
        // 1 and 2 are nowhere any more: lost, and said so.
        assert_eq!(chain.step(&history), publish(3, 0, 2));
    }
}
