//! Which message of an object goes next: the cursor of its outbox. Pure, so that every answer of the stream can be tried.
//!
//! The stream takes a message only behind the one that was expected, so two writers, lost answers and stale memories
//! cannot disturb the order. This decides how to find the place again after any of them.
//!
//! A task execution's events go to subjects of its own and of the tools' calls, and the stream's condition is about one
//! [`Filter`] alone. So what goes to another filter than the event before it does only after that one was looked for.

#[cfg(test)]
mod tests;

use crate::api::Time;
use crate::ports::{PublishAck, PublishError, Stored};

/// The subjects among which an event has to be the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Those of the object's own events.
    Own,
    /// Those of the call of a tool that has this id.
    Call(String),
}

/// A change of state that an object knows of.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place in the object's history.
    pub sequence: u64,
    /// When it happened.
    pub at: Time,
    /// Where its event goes.
    pub filter: Filter,
}

/// How far one object's events are in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Events up to this one were acknowledged.
    acked: u64,
    /// The stream sequence of the last of them; 0 if there is none, or none any more.
    last: u64,
    /// Where that one went.
    filter: Filter,
    certainty: Certainty,
    own: End,
    /// The call that was told or asked about last.
    call: Option<(String, End)>,
    /// An event was stored from here: none behind it can be there yet.
    told: bool,
    /// Filters that were looked at before that.
    asked: Vec<Filter>,
    /// The event that the server found too large.
    too_large: Option<u64>,
}

/// How sure it is that the stream has the last event that was acknowledged, and so all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    /// It was so once: the stream has to be asked.
    Remembered,
    /// The stream has said so. Whether it still is shows when the next event of that filter is sent.
    Told,
    /// It was there just now, so that the next event may go to another filter.
    Seen,
}

/// Where a filter's messages end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// The last of the object's events that the stream has said to have there; 0 if of none.
    sequence: u64,
    /// The stream sequence of the last message; 0 if there is none.
    last: u64,
    /// The stream has not refused it since. Otherwise it has to be asked.
    stands: bool,
}

impl End {
    /// A filter that is taken to be new: if it is not, the stream refuses its first message, and that costs no more than
    /// asking would have.
    const NEW: End = End {
        sequence: 0,
        last: 0,
        stands: true,
    };

    /// A filter of which nothing is known.
    const UNKNOWN: End = End {
        stands: false,
        ..End::NEW
    };
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: all that the object holds is stored.
    Done,
    /// Read the filter's last message and say so to [`Chain::read`].
    Read(Filter),
    /// Publish an event and say to [`Chain::published`] what came of it.
    Publish(Turn),
}

/// An event whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Its place in its object's history.
    pub sequence: u64,
    /// Where it goes.
    pub filter: Filter,
    /// The stream sequence that the filter must end with.
    pub expected_last: u64,
    /// With a reference instead of its details.
    pub by_reference: bool,
    /// How many events before it the object no longer holds and the stream does not have.
    pub lost: u64,
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
    /// A chain of which is remembered that events up to `acked` are in this stream, the last of them at `last`. With 0
    /// it is taken to be new.
    pub fn new(acked: u64, last: u64) -> Self {
        let (last, certainty, own) = match acked {
            0 => (0, Certainty::Told, End::NEW),
            _ => (last, Certainty::Remembered, End::UNKNOWN),
        };
        Self {
            acked,
            last,
            filter: Filter::Own,
            certainty,
            own,
            call: None,
            told: false,
            asked: Vec::new(),
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
            Certainty::Told | Certainty::Seen => self.acked,
        }
    }

    /// The stream sequence of the last event that was acknowledged.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Time has passed: what was seen may be gone.
    pub fn resume(&mut self) {
        if self.certainty == Certainty::Seen {
            self.certainty = Certainty::Told;
        }
    }

    /// What to do for an object that still holds `history`, in order.
    pub fn step(&self, history: &[Entry]) -> Step {
        if self.certainty == Certainty::Remembered {
            // One that is not held any more is taken for one of the object's own.
            let last = history.iter().find(|entry| entry.sequence == self.acked);
            return Step::Read(last.map_or(Filter::Own, |entry| entry.filter.clone()));
        }
        let Some(next) = history.iter().find(|entry| entry.sequence > self.acked) else {
            return Step::Done;
        };
        let end = self.end(&next.filter);
        if end.last == 0
            && let Some(filter) = self.unasked(next, history)
        {
            return Step::Read(filter);
        }
        if !end.stands {
            return Step::Read(next.filter.clone());
        }
        if self.certainty == Certainty::Told && self.filter != next.filter {
            return Step::Read(self.filter.clone());
        }
        Step::Publish(Turn {
            sequence: next.sequence,
            filter: next.filter.clone(),
            expected_last: end.last,
            by_reference: self.too_large == Some(next.sequence),
            lost: next.sequence - self.acked - 1,
        })
    }

    /// What else to look at before `next` goes to a filter that has nothing, and so nothing to compare with. Limits take
    /// the oldest messages first: it may have been told and gone, and one behind it be there still. The newest says the
    /// most.
    fn unasked(&self, next: &Entry, history: &[Entry]) -> Option<Filter> {
        if self.told {
            return None;
        }
        let behind = history
            .iter()
            .rev()
            .take_while(|entry| entry.sequence > next.sequence);
        let mut filters = behind.map(|entry| &entry.filter);
        let unasked =
            filters.find(|filter| **filter != next.filter && !self.asked.contains(filter));
        unasked.cloned()
    }

    /// Finds the place again from a filter's last message. `first` is the oldest sequence that the stream still had
    /// after it was asked. True if the stream lost what it had said to have: then it lost more than this.
    pub fn read(
        &mut self,
        uid: &str,
        filter: &Filter,
        stored: Option<&Stored>,
        first: u64,
    ) -> bool {
        let remembered = self.certainty == Certainty::Remembered;
        let end = self.end(filter);
        let known = match remembered || *filter == self.filter && !self.keeps(filter) {
            true => (self.acked, self.last),
            false => (end.sequence, end.last),
        };
        let sequence = match stored {
            None if had_its_time(known.1, first) => known.0,
            None => 0,
            // Not ours: nothing is known but what was before.
            Some(stored) => own_sequence(uid, stored).unwrap_or(known.0),
        };
        let last = stored.map_or(0, |stored| stored.stream_sequence);
        *self.end_mut(filter) = End {
            sequence,
            last,
            stands: true,
        };
        // What the filter ended with is still its end: what was acknowledged behind it had gone before, see `published`.
        let lost = sequence < known.0 && (last == 0 || last != known.1);
        if !self.told && !self.asked.contains(filter) {
            self.asked.push(filter.clone());
        }
        if remembered && sequence == 0 && *filter != Filter::Own {
            // Nothing is left of the call: the object's own events tell how far it was.
            (self.acked, self.last) = (0, 0);
        } else if remembered || sequence >= self.acked && (sequence > 0 || *filter == Filter::Own) {
            // What is there was stored behind all that comes before it.
            self.see(filter.clone(), sequence, last);
        } else if lost {
            self.see_what_is_left(filter, known.1);
        } else if *filter == self.filter {
            self.certainty = Certainty::Seen;
        }
        lost && !remembered
    }

    /// Takes note of what came of publishing an event.
    pub fn published(&mut self, turn: &Turn, result: &Result<PublishAck, PublishError>) -> Next {
        let sequence = turn.sequence;
        match result {
            // Stored once and gone since: the server knows ids for longer than limits leave messages. The filter ends
            // as before, with an event that came before this one and was told again.
            Ok(ack) if ack.duplicate && ack.sequence <= turn.expected_last => {
                self.see(turn.filter.clone(), sequence, turn.expected_last);
                self.certainty = Certainty::Told;
                Next::Stored
            }
            // A duplicate was stored by an earlier attempt, and its sequence is as good.
            Ok(ack) => {
                self.see(turn.filter.clone(), sequence, ack.sequence);
                self.certainty = Certainty::Told;
                self.told |= !ack.duplicate;
                *self.end_mut(&turn.filter) = End {
                    sequence,
                    last: ack.sequence,
                    stands: true,
                };
                Next::Stored
            }
            // Ours of an earlier attempt, or somebody else's: only the stream can tell.
            Err(PublishError::WrongLastSequence) => {
                self.end_mut(&turn.filter).stands = false;
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

    fn see(&mut self, filter: Filter, sequence: u64, last: u64) {
        (self.filter, self.acked, self.last) = (filter, sequence, last);
        self.certainty = Certainty::Seen;
    }

    /// The stream lost what stood at `lost` and behind it. Of the filter that was read the end is known.
    fn see_what_is_left(&mut self, read: &Filter, lost: u64) {
        if *read != Filter::Own && self.own.last >= lost {
            self.own = End::UNKNOWN;
        }
        let left = |(id, end): &(String, End)| *read == Filter::Call(id.clone()) || end.last < lost;
        self.call = self.call.take().filter(left);
        self.told = false;
        self.asked.clear();
        match &self.call {
            Some((id, end)) if end.sequence > self.own.sequence => {
                self.see(Filter::Call(id.clone()), end.sequence, end.last);
            }
            _ => self.see(Filter::Own, self.own.sequence, self.own.last),
        }
    }

    /// Whether the filter's end is remembered.
    fn keeps(&self, filter: &Filter) -> bool {
        match filter {
            Filter::Own => true,
            Filter::Call(id) => self.call.as_ref().is_some_and(|(call, _)| call == id),
        }
    }

    fn end(&self, filter: &Filter) -> End {
        match (filter, &self.call) {
            (Filter::Own, _) => self.own,
            (Filter::Call(id), Some((call, end))) if id == call => *end,
            (Filter::Call(_), _) => End::NEW,
        }
    }

    fn end_mut(&mut self, filter: &Filter) -> &mut End {
        let Filter::Call(id) = filter else {
            return &mut self.own;
        };
        let call = self.call.take().filter(|(call, _)| call == id);
        let (_, end) = self
            .call
            .insert(call.unwrap_or_else(|| (id.clone(), End::NEW)));
        end
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
