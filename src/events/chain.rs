//! Which message of an object goes next: the cursor of its outbox. Pure, so that every answer of the stream can be tried.
//!
//! The stream takes a message only behind the one that was expected, so two writers, lost answers and stale memories
//! cannot disturb the order. This decides how to find the place again after any of them.

use crate::api::Time;
use crate::ports::{PublishAck, PublishError, Stored};

/// How far one object's events are in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Events up to this one were acknowledged.
    acked: u64,
    /// The stream sequence of the last of them; 0 if there is none.
    last: u64,
    certainty: Certainty,
    /// The event that the server found too large.
    too_large: Option<u64>,
}

/// How sure it is that the stream is as remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    /// It was so once: the stream has to be asked.
    Remembered,
    /// The stream has said so.
    Placed,
    /// The stream has said so and then refused what was to follow: it has to be asked again.
    Refused,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: all that the object holds is stored.
    Done,
    /// Read the chain's last message and say so to [`Chain::read`].
    Read,
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
    /// A chain of which is remembered that events up to `acked` are in this stream, the last of them at `last`.
    ///
    /// With 0 it is taken to be new: if it is not, the stream refuses the first message, and that costs no more than
    /// asking would have.
    pub fn new(acked: u64, last: u64) -> Self {
        Self {
            acked,
            last: if acked == 0 { 0 } else { last },
            certainty: match acked {
                0 => Certainty::Placed,
                _ => Certainty::Remembered,
            },
            too_large: None,
        }
    }

    /// Events up to this one were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acked
    }

    /// Events up to this one are stored, as far as the stream itself has said. What was true of another life of it may
    /// be lost.
    pub fn confirmed(&self) -> u64 {
        match self.certainty {
            Certainty::Remembered => 0,
            Certainty::Placed | Certainty::Refused => self.acked,
        }
    }

    /// The stream sequence of the last event that was acknowledged.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// What to do for an object that still holds `history`: sequences and times of its events, in order.
    pub fn step(&self, history: &[(u64, Time)]) -> Step {
        if self.certainty != Certainty::Placed {
            return Step::Read;
        }
        match history.iter().find(|(sequence, _)| *sequence > self.acked) {
            None => Step::Done,
            Some((sequence, _)) => Step::Publish {
                sequence: *sequence,
                expected_last: self.last,
                by_reference: self.too_large == Some(*sequence),
                lost: sequence - self.acked - 1,
            },
        }
    }

    /// Finds the place again from the chain's last message. `first` is the oldest sequence that the stream still had
    /// after it was asked. True if the stream lost what it had said to have: then it lost more than this.
    pub fn read(&mut self, uid: &str, stored: Option<&Stored>, first: u64) -> bool {
        let acked = match stored {
            None if had_its_time(self.last, first) => self.acked,
            None => 0,
            // Not ours: nothing is known but what was before.
            Some(stored) => own_sequence(uid, stored).unwrap_or(self.acked),
        };
        let contradicted = self.certainty == Certainty::Refused && acked < self.acked;
        self.acked = acked;
        self.last = stored.map_or(0, |stored| stored.stream_sequence);
        self.certainty = Certainty::Placed;
        contradicted
    }

    /// Takes note of what came of publishing the event `sequence`.
    pub fn published(&mut self, sequence: u64, result: &Result<PublishAck, PublishError>) -> Next {
        match result {
            // A duplicate was stored by an earlier attempt, and its sequence is as good.
            Ok(ack) => {
                self.acked = sequence;
                self.last = ack.sequence;
                Next::Stored
            }
            // Ours of an earlier attempt, or somebody else's: only the stream can tell.
            Err(PublishError::WrongLastSequence) => {
                self.certainty = Certainty::Refused;
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
pub fn own_sequence(uid: &str, stored: &Stored) -> Option<u64> {
    let sequence = stored.event_sequence?;
    (stored.id.as_deref()? == format!("{uid}:{sequence}")).then_some(sequence)
}

/// Whether a message that stood at `sequence` is missing because limits took it: they take the oldest first, so all
/// before the `first` that is left went that way. What is missing behind it was lost.
pub fn had_its_time(sequence: u64, first: u64) -> bool {
    sequence < first
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
        let mut chain = Chain::new(0, 0);
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
        let mut chain = Chain::new(0, 0);
        chain.published(1, &ack(5, false));
        let before = chain.step(&history(1, 3));
        assert_eq!(chain.published(2, &Err(error)), next);
        assert_eq!(chain.step(&history(1, 3)), before);
    }

    #[test]
    fn what_is_too_large_goes_by_reference_and_only_that() {
        let mut chain = Chain::new(0, 0);
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
        let mut chain = Chain::new(0, 0);
        chain.published(1, &ack(4, false));
        let history = history(1, 3);
        assert_eq!(
            chain.published(2, &Err(PublishError::WrongLastSequence)),
            Next::Another
        );
        assert_eq!(chain.step(&history), Step::Read);
        assert!(!chain.read(UID, Some(&stored), 1));
        assert_eq!(chain.step(&history), step);
    }

    #[rstest]
    #[case::stream_is_ahead(2, Some(told(3, 30)), publish(4, 30, 0))]
    #[case::both_agree(3, Some(told(3, 30)), publish(4, 30, 0))]
    #[case::server_lost_the_end(3, Some(told(1, 10)), publish(2, 10, 0))]
    #[case::retention_took_all(3, None, publish(4, 0, 0))]
    fn after_a_restart_the_stream_and_the_status_tell(
        #[case] acked: u64,
        #[case] stored: Option<Stored>,
        #[case] step: Step,
    ) {
        let mut chain = Chain::new(acked, 30);
        let history = history(1, 5);
        assert_eq!(chain.step(&history), Step::Read);
        // What a status says may be old: it is no word of this stream that was broken.
        assert!(!chain.read(UID, stored.as_ref(), 40));
        assert_eq!(chain.step(&history), step);
    }

    #[test]
    fn what_was_pruned_after_it_was_stored_is_not_lost() {
        let mut chain = Chain::new(3, 7);
        // Events 1 to 3 were pruned. A message of somebody else's is the last one.
        let foreign = Stored {
            stream_sequence: 8,
            id: None,
            event_sequence: Some(1),
        };
        chain.read(UID, Some(&foreign), 8);
        assert_eq!(chain.step(&history(4, 5)), publish(4, 8, 0));
    }

    #[rstest]
    #[case::nothing_was_ever_removed(1)]
    #[case::older_messages_are_left(20)]
    fn a_stream_that_lost_the_chain_gets_it_again(#[case] first: u64) {
        let mut chain = Chain::new(4, 20);
        let history = history(3, 5);
        chain.read(UID, None, first);
        // 1 and 2 are nowhere any more: lost, and said so.
        assert_eq!(chain.step(&history), publish(3, 0, 2));
    }

    #[rstest]
    #[case::all_of_it(None)]
    #[case::its_end(Some(told(1, 10)))]
    fn a_stream_that_does_not_have_what_it_acknowledged_is_found_out(
        #[case] stored: Option<Stored>,
    ) {
        let mut chain = Chain::new(0, 0);
        chain.published(1, &ack(10, false));
        chain.published(2, &ack(11, false));
        chain.published(3, &Err(PublishError::WrongLastSequence));
        assert!(chain.read(UID, stored.as_ref(), 5));
    }
}
