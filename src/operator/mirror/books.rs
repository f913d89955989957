//! What the mirror remembers: which stream it writes to, and how far each object is in it.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::api::{MirrorPosition, Time};
use crate::events::{Chain, Turn};
use crate::ports::StreamIdentity;

/// The stream as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    pub identity: StreamIdentity,
    /// Counts how often its contents turned out not to be what they were; 0: it is not known.
    pub epoch: u64,
}

impl Stream {
    /// No stream has been seen yet.
    pub fn unknown() -> Self {
        let identity = StreamIdentity {
            created: String::new(),
            first_sequence: 0,
            last_sequence: 0,
        };
        Self { identity, epoch: 0 }
    }

    pub fn is_known(&self) -> bool {
        self.epoch > 0
    }
}

/// What is remembered of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub chain: Chain,
    /// The stream that the chain is in.
    pub created: String,
    pub epoch: u64,
    /// How many of its events were not stored when it was last looked at.
    pub pending: u64,
    /// When the oldest of them happened.
    pub oldest: Option<Time>,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// The event that was sent without an answer.
    pub unsure: Option<Unsure>,
}

/// An event that was sent without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsure {
    pub turn: Turn,
    /// The highest sequence that the stream was known to have given before: if it is stored at that or a lower one, the
    /// stream had lost messages.
    pub floor: u64,
}

/// The memory. One entry for each object that is not gone.
#[derive(Debug, Default)]
pub(super) struct Books {
    stream: Option<Stream>,
    /// When a call failed since: whatever the reason was, the stream may be another one now.
    doubted: Option<Instant>,
    /// The highest sequence that the stream is known to have given.
    highest: u64,
    started_over: bool,
    objects: HashMap<String, Kept>,
}

impl Books {
    /// The stream; or since when there is a reason to ask about it.
    pub fn stream(&self) -> Result<Stream, Instant> {
        match (&self.stream, self.doubted) {
            (Some(stream), None) => Ok(stream.clone()),
            (_, doubted) => Err(doubted.unwrap_or_else(Instant::now)),
        }
    }

    /// The stream as it was last seen.
    pub fn last_seen(&self) -> Stream {
        self.stream.clone().unwrap_or_else(Stream::unknown)
    }

    /// Which life of the stream it is; 0 if it was never seen.
    pub fn epoch(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.epoch)
    }

    /// The stream has to be asked about before anything else.
    pub fn doubt(&mut self) {
        self.doubted = Some(Instant::now());
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// What is known of an object in this stream. What was acknowledged by a stream of another making does not count.
    pub fn recall(&self, uid: &str, position: Option<&MirrorPosition>, stream: &Stream) -> Kept {
        let created = &stream.identity.created;
        let known = self.objects.get(uid);
        if let Some(kept) = known
            && kept.epoch == stream.epoch
            && kept.created == *created
        {
            return kept.clone();
        }
        let written = position
            .filter(|position| position.stream == *created || !stream.is_known())
            .map_or((0, 0), |position| (position.seq, position.stream_seq));
        let remembered = known
            .filter(|kept| kept.created == *created)
            .map_or((0, 0), |kept| {
                (kept.chain.acknowledged(), kept.chain.last())
            });
        let (acked, last) = match written.0 > remembered.0 {
            true => written,
            false => remembered,
        };
        Kept {
            chain: Chain::new(acked, last),
            created: created.clone(),
            epoch: stream.epoch,
            pending: known.map_or(0, |kept| kept.pending),
            oldest: known.and_then(|kept| kept.oldest),
            failures: known.map_or(0, |kept| kept.failures),
            unsure: None,
        }
    }

    pub fn keep(&mut self, uid: &str, kept: Kept) {
        self.objects.insert(uid.to_owned(), kept);
    }

    /// Forgets an object; returns how many of its events were not stored.
    pub fn forget(&mut self, uid: &str) -> u64 {
        self.objects.remove(uid).map_or(0, |kept| kept.pending)
    }

    /// When the oldest event happened that is not stored.
    pub fn oldest(&self) -> Option<Time> {
        self.objects.values().filter_map(|kept| kept.oldest).min()
    }

    /// How many objects are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether what was found out about an object is about the stream as it is now.
    pub fn confirm(&self, kept: &Kept) -> bool {
        self.epoch() == kept.epoch
    }

    /// Takes note of an answer to which stream it is. `floor` is the highest sequence that was known when it was asked:
    /// less than that means that the server lost messages. True if everything starts over.
    pub fn note_stream(&mut self, identity: StreamIdentity, floor: u64) -> (Stream, bool) {
        let (epoch, starts_over) = match &self.stream {
            None => (1, false),
            Some(known) => {
                let lost = known.identity.created != identity.created
                    || identity.last_sequence < floor.min(self.highest);
                (known.epoch + u64::from(lost), lost)
            }
        };
        self.highest = match starts_over {
            true => identity.last_sequence,
            false => self.highest.max(identity.last_sequence),
        };
        self.started_over |= starts_over;
        let stream = Stream { identity, epoch };
        self.doubted = None;
        self.stream = Some(stream.clone());
        (stream, starts_over)
    }

    /// Takes note of where a message of ours stands that was first sent when `floor` was the highest known sequence. A
    /// new message gets a higher one, unless the server lost messages. True if everything starts over.
    pub fn note_sequence(&mut self, sequence: u64, floor: u64) -> bool {
        let lost = sequence <= floor.min(self.highest);
        if lost {
            self.start_over(sequence);
        } else {
            self.note_highest(sequence);
        }
        lost
    }

    /// Takes note of a message that the stream has.
    pub fn note_highest(&mut self, sequence: u64) {
        self.highest = self.highest.max(sequence);
    }

    /// The stream does not have what it had. Its highest sequence has to be asked for.
    pub fn note_contradiction(&mut self, kept: &Kept) -> bool {
        let news = self.confirm(kept);
        if news {
            self.start_over(0);
            self.doubt();
        }
        news
    }

    fn start_over(&mut self, highest: u64) {
        self.highest = highest;
        self.started_over = true;
        self.stream.iter_mut().for_each(|stream| stream.epoch += 1);
    }

    /// Whether everything started over since this was last asked.
    pub fn take_started_over(&mut self) -> bool {
        std::mem::take(&mut self.started_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Filter;
    use crate::ports::PublishAck;

    fn identity(created: &str, last_sequence: u64) -> StreamIdentity {
        StreamIdentity {
            created: created.into(),
            first_sequence: 1,
            last_sequence,
        }
    }

    fn ack(sequence: u64) -> PublishAck {
        PublishAck {
            sequence,
            duplicate: false,
        }
    }

    /// The turn of an object's first event.
    fn first() -> Turn {
        Turn {
            sequence: 1,
            filter: Filter::Own,
            expected_last: 0,
            by_reference: false,
            lost: 0,
        }
    }

    #[test]
    fn a_growing_stream_stays_the_same() {
        let mut books = Books::default();
        assert_eq!(books.note_stream(identity("a", 5), 0).0.epoch, 1);
        assert!(!books.note_sequence(6, books.highest()));
        // Two at once: the answers come in any order, and a question was answered in between.
        let floor = books.highest();
        assert!(!books.note_sequence(8, floor));
        assert!(!books.note_stream(identity("a", 8), floor).1);
        assert!(!books.note_sequence(7, floor));
        books.note_highest(2);
        assert_eq!(books.highest(), 8);
        assert!(!books.take_started_over());
    }

    #[test]
    fn a_stream_that_is_another_or_went_back_starts_over_once() {
        for (created, last) in [("b", 9), ("a", 4)] {
            let mut books = Books::default();
            books.note_stream(identity("a", 5), 0);
            let (stream, started_over) = books.note_stream(identity(created, last), 5);
            assert!(started_over);
            assert_eq!((stream.epoch, books.highest()), (2, last));
            assert!(books.take_started_over());
            assert!(!books.take_started_over());
        }
    }

    #[test]
    fn a_sequence_that_was_given_before_starts_over_once() {
        let mut books = Books::default();
        books.note_stream(identity("a", 50), 0);
        // Two messages were under way when the server lost its end.
        let floor = books.highest();
        assert!(books.note_sequence(41, floor));
        assert!(!books.note_sequence(42, floor));
        assert_eq!((books.epoch(), books.highest()), (2, 42));
    }

    #[test]
    fn memory_and_status_count_only_in_their_stream() {
        let mut books = Books::default();
        let at = |seq| MirrorPosition {
            seq,
            stream: "a".into(),
            stream_seq: seq,
        };
        let trusted = |kept: Kept| kept.chain.acknowledged();
        let stream = books.note_stream(identity("a", 5), 0).0;
        assert_eq!(trusted(books.recall("u", None, &stream)), 0);
        assert_eq!(trusted(books.recall("u", Some(&at(3)), &stream)), 3);
        let mut kept = books.recall("u", None, &stream);
        kept.chain.published(&first(), &Ok(ack(5)));
        books.keep("u", kept.clone());
        assert_eq!(books.recall("u", Some(&at(3)), &stream), kept);
        assert!(books.confirm(&kept));

        let gone_back = books.note_stream(identity("a", 2), 5).0;
        assert!(!books.confirm(&kept));
        assert_eq!(trusted(books.recall("u", None, &gone_back)), 1);
        assert_eq!(trusted(books.recall("u", Some(&at(3)), &gone_back)), 3);
        let another = books.note_stream(identity("b", 0), 2).0;
        assert_eq!(trusted(books.recall("u", Some(&at(3)), &another)), 0);
        assert_eq!(books.epoch(), 3);
        // It does not have what it had: one who says so is enough.
        let kept = books.recall("u", None, &another);
        assert!(books.note_contradiction(&kept));
        assert!(!books.note_contradiction(&kept));
        assert_eq!(books.epoch(), 4);
        assert!(books.stream().is_err());
        assert_eq!(books.forget("u"), 0);
    }
}
